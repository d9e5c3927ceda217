/**
 * What leaves: contents are queued with their sequence number, protected when their time has come, sent until kept.
 *
 *     queue      content in the outbox, the archive and the history, one transaction
 *     protect    in order: content becomes one envelope body and the addresses that need it, stored
 *     send       pipelined on the anonymous "send" connection; the same bytes again until every address has answered
 *
 * Only the engine that has the device connection protects and sends; all others queue, and poke it.
 * Source: docs/protocol/device.md, "Sending".
 */

import { hex, joined, same } from "../bytes";
import { Retry, WireError } from "../wire/errors";
import { FLAG_EPHEMERAL, FLAG_URGENT, MAX_ADDRESSES, STATUS_BUSY, STATUS_FULL, STATUS_KEPT } from "../wire/messages";
import type { Failure } from "./api";
import { type Content, decode, encode, MAX_RECEIPT_IDS, MAX_RESEND_SEQUENCES } from "./content";
import { CoreError, CoreTrapped, DEVICE_SCOPE, type GroupInfo } from "./e2e";
import { failureOf } from "./errors";
import type { Link, Network } from "./network";
import { DAY_MS, type Tx } from "./store";
import type { Chat, MediaRow, Outgoing } from "./tables";
import type { Vault } from "./vault";

/** What was sent is kept so long, to be sent again when asked. */
const KEEP_SENT_MS = 30 * DAY_MS;
/** Rows protected in one transaction and sent pipelined. */
const BATCH = 32;
/** A chat that cannot be written to is looked at again after this time, or as soon as it can. */
const WAITING_MS = 60_000;
const BUSY_WAIT_MS = 500;
const FULL_WAIT_MS = 60_000;
const MOST_WAIT_MS = 3_600_000;
const MAX_RESENT = 5;
const NOBODY_THERE: Failure = { code: "nobody_there", params: {} };
const UNDELIVERED: Failure = { code: "undelivered", params: {} };
const MAX_SENT_AGAIN = 256;

/** Makes a content of (message id, sequence, sent at). */
export type Make = (messageId: Uint8Array, sequence: number, sentAtMs: number) => Content;

/** How a message of one's own stands in the history. */
export interface Shown {
  kind: "text" | "media";
  text: string;
  replyTo: Uint8Array;
  media: MediaRow | null;
}

/** The outbox of this profile. */
export class Outbox {
  private draining = false;

  constructor(
    private readonly vault: Vault,
    private readonly network: Network,
  ) {}

  // ---------------------------------------------------------------- queue

  /**
   * Queue what *make* gives; returns the message id. With *shown* it stands in the history. Inside a transaction, and
   * durable when that is left; nothing has left for the network yet. *messageId*: of what stands in the history already.
   */
  async queue(
    tx: Tx,
    chat: Chat,
    make: Make,
    { shown = null, messageId = null }: { shown?: Shown | null; messageId?: Uint8Array | null } = {},
  ): Promise<Uint8Array> {
    const nowMs = this.vault.nowMs();
    const message = messageId ?? this.vault.random(16);
    const sequence = await tx.takeSequence(chat.id);
    const data = encode(make(message, sequence, nowMs));
    await tx.archive(chat.id, sequence, message, data, nowMs);
    if (shown !== null) await this.show(tx, chat, message, sequence, nowMs, shown);
    await tx.queueContent(chat.id, message, data, nowMs);
    return message;
  }

  /** Put a message of one's own into the history; inside a transaction. */
  async show(
    tx: Tx,
    chat: Chat,
    message: Uint8Array,
    sequence: number,
    nowMs: number,
    { kind, text, replyTo, media }: Shown,
  ): Promise<void> {
    const sender = await this.vault.account(tx);
    const extras = { replyTo, media };
    await tx.addMessage(chat.id, message, sender, sequence, nowMs, kind, text, "queued", false, extras);
    await tx.touchChat(chat.id, nowMs);
    await tx.note("message", chat.id, joined(message, sender));
  }

  /**
   * Give what waits to be protected the numbers of a new device; inside the caller's transaction.
   *
   * What is to be sent again to one device only gets none: to all others it would be missing.
   */
  renumber = async (tx: Tx): Promise<void> => {
    for (const row of await tx.outgoing()) {
      if (row.chat === null || row.message === null || row.content === null) continue;
      const what = decode(row.content);
      if (what.type === "Unknown" || what.sequence === 0) continue;
      const sequence = row.onlyDevice === null ? await tx.takeSequence(row.chat) : 0;
      const data = encode({ ...what, sequence });
      await tx.setContent(row.n, data);
      if (sequence !== 0) await tx.archive(row.chat, sequence, row.message, data, what.sentAtMs);
    }
  };

  /** Make contents of the receipts that are owed, as few as possible. */
  async queueReceipts(): Promise<void> {
    await this.vault.store.write(async (tx) => {
      const owed = new Map<string, { chat: Uint8Array; status: number; messages: Uint8Array[] }>();
      for (const { chat, message, status } of await tx.receiptsOwed()) {
        const key = `${hex(chat)} ${status}`;
        const entry = owed.get(key) ?? { chat, status, messages: [] };
        entry.messages.push(message);
        owed.set(key, entry);
      }
      const nowMs = this.vault.nowMs();
      for (const { chat, status, messages } of owed.values()) {
        for (let start = 0; start < messages.length; start += MAX_RECEIPT_IDS) {
          const ids = messages.slice(start, start + MAX_RECEIPT_IDS);
          const receipt = { type: "Receipt", ...this.unnumbered(nowMs), status, messages: ids } as const;
          await tx.queueContent(chat, null, encode(receipt), nowMs);
        }
        await tx.forgetReceipts(messages.map((message) => ({ chat, message })));
      }
    });
  }

  /** The header of a content that may be missed. */
  private unnumbered(nowMs: number): { messageId: Uint8Array; sequence: number; sentAtMs: number } {
    return { messageId: this.vault.random(16), sequence: 0, sentAtMs: nowMs };
  }

  /** Ask for what never came: now, and again after *retryMs*; give up after 30 days. */
  async queueResendRequests(retryMs: number): Promise<void> {
    await this.vault.store.write(async (tx) => {
      const nowMs = this.vault.nowMs();
      const asked = new Map<string, { chat: Uint8Array; device: Uint8Array; sequences: number[] }>();
      const lost = new Map<string, { chat: Uint8Array; sender: Uint8Array; missing: [number, number][] }>();
      for (const { chat, device, sender, sequence, sinceMs } of await tx.gapsDue(nowMs)) {
        const key = `${hex(chat)} ${hex(device)}`;
        if (sinceMs + KEEP_SENT_MS < nowMs) {
          await tx.closeGap(chat, device, sequence);
          const entry = lost.get(`${key} ${hex(sender)}`) ?? { chat, sender, missing: [] };
          entry.missing.push([sequence, sinceMs]);
          lost.set(`${key} ${hex(sender)}`, entry);
          continue;
        }
        const entry = asked.get(key) ?? { chat, device, sequences: [] };
        entry.sequences.push(sequence);
        asked.set(key, entry);
        await tx.postponeGap(chat, device, sequence, nowMs + retryMs);
      }
      for (const { chat, device, sequences } of asked.values()) {
        if ((await tx.chat(chat))?.state !== "open") continue;
        const some = sequences.slice(0, MAX_RESEND_SEQUENCES);
        const request = { type: "ResendRequest", ...this.unnumbered(nowMs), sequences: some } as const;
        await tx.queueContent(chat, null, encode(request), nowMs, device);
      }
      for (const { chat, sender, missing } of lost.values()) await this.showLost(tx, chat, sender, missing);
    });
  }

  /** One line for each run of numbers that will not come any more; *missing*: [sequence, sinceMs], in order. */
  private async showLost(
    tx: Tx,
    chat: Uint8Array,
    sender: Uint8Array,
    missing: readonly [number, number][],
  ): Promise<void> {
    let start = 0;
    for (let end = 1; end <= missing.length; end++) {
      const first = missing[start];
      if (first === undefined) return;
      if (end < missing.length && missing[end]?.[0] === (missing[end - 1]?.[0] ?? 0) + 1) continue;
      const line = this.vault.random(16);
      const extras = { gapCount: end - start };
      await tx.addMessage(chat, line, sender, first[0], first[1], "gap", "", "received", true, extras);
      await tx.note("message", chat, joined(line, sender));
      start = end;
    }
  }

  /** Queue again, for one device, what it missed; inside the caller's transaction. */
  async resend(tx: Tx, chat: Uint8Array, sequences: readonly number[], device: Uint8Array): Promise<void> {
    const nowMs = this.vault.nowMs();
    for (const sequence of sequences) {
      const kept = await tx.archived(chat, sequence);
      if (kept === null || kept.resent >= MAX_RESENT) continue;
      await tx.countResent(chat, sequence);
      await tx.queueContent(chat, kept.message, kept.content, nowMs, device);
    }
  }

  /**
   * Queue again what was written since then and may have reached nobody (or not this device) while a device changed; in
   * the caller's transaction. A mailbox ends with its device, also with what was kept in it; ids tell what was seen.
   */
  async sendAgain(tx: Tx, chat: Uint8Array, device: Uint8Array | null = null, sinceMs = 0): Promise<void> {
    const nowMs = this.vault.nowMs();
    for (const [message, content] of await tx.unconfirmed(chat, MAX_SENT_AGAIN, sinceMs)) {
      if (await tx.setMessageState(chat, message, "queued", ["failed"])) await tx.note("changed", chat, message);
      await tx.queueContent(chat, message, content, nowMs, device);
    }
  }

  // ---------------------------------------------------------------- send

  /**
   * Protect and send everything that is due while *mayProtect*. Rejects with TransportError or WireError: then what was
   * not answered stays queued, to be sent with the same bytes.
   */
  async drain(mayProtect: () => boolean): Promise<void> {
    if (this.draining) return;
    this.draining = true;
    try {
      while (mayProtect()) {
        const rows = await this.protect(mayProtect);
        if (rows.length === 0) return;
        const link = await this.network.anonymous("send");
        const answers = await Promise.allSettled(rows.map((row) => send(link, row)));
        await this.settle(rows, answers);
        for (const answer of answers) {
          if (answer.status === "rejected" && !(answer.reason instanceof WireError)) throw answer.reason;
        }
      }
    } finally {
      this.draining = false;
    }
  }

  /** Protect and send what may be missed, once. Rejects with TransportError or WireError. */
  async sendEphemeral(chat: Uint8Array, what: Content): Promise<void> {
    const ready = await this.vault.work(async (tx) => {
      const row = await tx.chat(chat);
      if (row?.state !== "open") return null;
      const protectedContent = await this.protectContent(tx, row, encode(what));
      return protectedContent && { ...protectedContent, targets: targetsOf(protectedContent.info, null) };
    });
    if (ready === null || ready.targets.length === 0) return;
    const link = await this.network.anonymous("send");
    await link.expect("Sent", (request) => ({
      type: "Send",
      request,
      flags: FLAG_EPHEMERAL,
      addresses: ready.targets,
      body: ready.body,
    }));
  }

  /** The next rows that are due, all of them protected and stored. */
  private async protect(mayProtect: () => boolean): Promise<Outgoing[]> {
    const nowMs = this.vault.nowMs();
    const due = await this.vault.store.read((tx) => tx.outboxDueMs());
    if (due === null || due > nowMs) return [];
    return this.vault.work(async (tx) => {
      const rows: Outgoing[] = [];
      if (!mayProtect()) return rows; // the mailbox has to be read again first, as became known while the store was busy
      const waiting = new Set<string>();
      for (const row of await tx.outgoing()) {
        if (row.madeMs + KEEP_SENT_MS < nowMs) {
          await this.finish(tx, row, row.kept, UNDELIVERED); // Source: DEV-12
          continue;
        }
        const chat = row.chat === null ? null : hex(row.chat);
        if (chat !== null && (waiting.has(chat) || row.dueMs > nowMs)) {
          waiting.add(chat); // what was written first arrives first
          continue;
        }
        if (row.dueMs > nowMs) continue;
        const ready = row.body !== null ? row : await this.protectRow(tx, row);
        if (ready === null) {
          if (chat !== null) waiting.add(chat);
          await tx.postponeOutgoing(row.n, nowMs + WAITING_MS);
        } else if (ready.targets.length > 0) {
          rows.push(ready);
        } else {
          await this.finish(tx, ready, 0, NOBODY_THERE);
        }
        if (rows.length >= BATCH) break;
      }
      return rows;
    });
  }

  /** null when the chat cannot be written to now: it waits to be taken back, or has nobody else yet. */
  private async protectRow(tx: Tx, row: Outgoing): Promise<Outgoing | null> {
    const chat = row.chat === null ? null : await tx.chat(row.chat);
    if (chat === null || row.content === null) {
      await tx.forgetOutgoing(row.n);
      return { ...row, targets: [] };
    }
    const ready = await this.protectContent(tx, chat, row.content);
    if (ready === null) return null;
    const targets = targetsOf(ready.info, row.onlyDevice);
    await tx.setProtected(row.n, ready.body, targets);
    return { ...row, content: null, body: ready.body, targets };
  }

  private async protectContent(
    tx: Tx,
    chat: Chat,
    content: Uint8Array,
  ): Promise<{ body: Uint8Array; info: GroupInfo } | null> {
    const group = chat.groupId === null ? null : await tx.group(chat.groupId);
    if (group?.standing !== "current" || chat.state === "blocked") return null;
    await this.vault.use(tx, DEVICE_SCOPE, group.id);
    const { core } = this.vault;
    const info = core.group(group.id);
    if (info.members.length < 2) return null;
    try {
      const [body] = core.protect(group.id, [content]);
      return body === undefined ? null : { body, info };
    } catch (error) {
      if (error instanceof CoreError && !(error instanceof CoreTrapped)) return null;
      throw error;
    }
  }

  /** Store what each row's answer means. */
  private async settle(rows: readonly Outgoing[], answers: readonly PromiseSettledResult<Uint8Array>[]): Promise<void> {
    await this.vault.store.write(async (tx) => {
      for (const [at, row] of rows.entries()) {
        const answer = answers[at];
        if (answer?.status === "fulfilled") await this.settleRow(tx, row, answer.value);
        else if (answer?.reason instanceof WireError) await this.settleRefused(tx, row, answer.reason);
      }
    });
  }

  private async settleRow(tx: Tx, row: Outgoing, statuses: Uint8Array): Promise<void> {
    const targets = row.targets;
    if (statuses.length !== targets.length) {
      // nobody can tell which address has it: no answer
      await this.tryAgain(tx, row, targets, row.kept, BUSY_WAIT_MS);
      return;
    }
    const left = targets.filter((_, at) => statuses[at] === STATUS_FULL || statuses[at] === STATUS_BUSY);
    const kept = row.kept + statuses.filter((status) => status === STATUS_KEPT).length;
    if (left.length === 0) await this.finish(tx, row, kept, NOBODY_THERE);
    else await this.tryAgain(tx, row, left, kept, statuses.includes(STATUS_FULL) ? FULL_WAIT_MS : BUSY_WAIT_MS);
  }

  private async settleRefused(tx: Tx, row: Outgoing, error: WireError): Promise<void> {
    if (error.kind.retry === Retry.LATER) {
      await this.tryAgain(tx, row, row.targets, row.kept, BUSY_WAIT_MS, error.retryAfterMs);
    } else {
      await this.finish(tx, row, row.kept, failureOf(error));
    }
  }

  private async tryAgain(
    tx: Tx,
    row: Outgoing,
    targets: readonly Uint8Array[],
    kept: number,
    firstMs: number,
    atLeastMs = 0,
  ): Promise<void> {
    const waitMs = Math.min(Math.max(atLeastMs, firstMs * 2 ** Math.min(row.tries, 12)), MOST_WAIT_MS);
    await tx.setOutgoing(row.n, targets, kept, this.vault.nowMs() + waitMs, row.tries + 1);
  }

  /** Nothing more will be tried for this row: somebody has it, or nobody can be reached, because of *failure*. */
  private async finish(tx: Tx, row: Outgoing, kept: number, failure: Failure): Promise<void> {
    await tx.forgetOutgoing(row.n);
    if (row.chat === null || row.message === null) return;
    const changed =
      kept > 0
        ? await tx.setMessageState(row.chat, row.message, "kept", ["queued", "failed"])
        : await tx.setMessageState(row.chat, row.message, "failed", ["queued"], failure);
    if (changed) await tx.note("changed", row.chat, row.message);
  }
}

function targetsOf(info: GroupInfo, onlyDevice: Uint8Array | null): Uint8Array[] {
  return info.members
    .filter(({ leaf, deviceId }) => leaf !== info.ownLeaf && (onlyDevice === null || same(onlyDevice, deviceId)))
    .map(({ address }) => address)
    .slice(0, MAX_ADDRESSES);
}

/** One status for each target. */
async function send(link: Link, row: Outgoing): Promise<Uint8Array> {
  const addresses = row.targets;
  const body = row.body ?? new Uint8Array();
  const flags = row.message !== null ? FLAG_URGENT : 0;
  const sent = await link.expect("Sent", (request) => ({ type: "Send", request, flags, addresses, body }));
  return sent.statuses;
}
