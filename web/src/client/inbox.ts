/**
 * What one envelope does: opened, decided and stored in the transaction that also stores the core's new state.
 *
 *     serial → chat → its groups: content, a commit, a hint to look at the gate
 *            → or mail from a stranger: a Welcome, a request to rejoin
 *            → or set aside, bounded, and tried again after each change of epoch
 *
 * After the transaction the envelope may be acknowledged: it is stored, a duplicate, junk, or set aside. This file starts
 * no network traffic; work that needs the network is left as a chore.
 * Source: docs/protocol/device.md, DEV-02; docs/protocol/groups.md.
 */

import { encodeBase64, hex, joined as join, NO_BYTES, same } from "../bytes";
import { type Contacts, includes } from "./contacts";
import { type Content, ContentError, DELIVERED, decode, READ, type Receipt } from "./content";
import {
  CoreError,
  CoreTrapped,
  DEVICE_SCOPE,
  KIND_GROUP,
  KIND_PAIR,
  NotForUs,
  PACKAGES_SCOPE,
  type Received,
} from "./e2e";
import type { Gates } from "./gates";
import type { Outbox } from "./outbox";
import type { Rejoin } from "./rejoin";
import { shownName } from "./snapshots";
import type { Tx } from "./store";
import type { Address, Chat, Group, MediaRow, MessageExtras } from "./tables";
import type { Vault } from "./vault";

/** Envelopes of one sender may overtake each other: a gap is asked for only after this time. */
const GAP_GRACE_MS = 3_000;
/** Messages of one device that are asked for at a time. */
const MAX_GAPS = 256;
/** Requests to rejoin kept for one account: it has no more devices. */
const MAX_GRANTS = 16;
/** No group of people gets that far; one that pretends to would not fit the store in the end. */
const MAX_EPOCH_JOINED = 2 ** 32;
const WALK_WAIT_MS = 1_000;

/** An envelope as it was delivered; an ephemeral one is never seen twice. */
export interface Delivery {
  serial: Uint8Array;
  body: Uint8Array;
  ephemeral: boolean;
}

interface Envelope extends Delivery {
  id: Uint8Array;
}

/** What the envelope did to the core must not be kept. */
class Undo extends Error {}

/** 16 bytes that name an envelope at the address where it arrived: elsewhere, the same bytes may mean nothing. */
export async function envelopeId(serial: Uint8Array, body: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", join(serial, body))).slice(0, 16);
}

/** Decides envelopes. */
export class Inbox {
  /** Told of what an envelope broke that nobody foresaw; the envelope is decided as junk. */
  onBug: (error: unknown) => void = () => {};

  constructor(
    private readonly vault: Vault,
    gates: Gates,
    private readonly rejoin: Rejoin,
    private readonly contacts: Contacts,
    private readonly outbox: Outbox,
  ) {
    gates.onEpoch = this.retryAside;
  }

  /** Decide all of them, durably, in one transaction; one by one if one of them has to be undone. */
  async receive(deliveries: readonly Delivery[]): Promise<void> {
    const envelopes = await Promise.all(
      deliveries.map(async (one) => ({ ...one, id: await envelopeId(one.serial, one.body) })),
    );
    await this.decideAll(envelopes);
  }

  private async decideAll(envelopes: readonly Envelope[]): Promise<void> {
    const [first] = envelopes;
    if (first === undefined) return;
    try {
      await this.vault.work(async (tx) => {
        for (const envelope of envelopes) await this.decide(tx, envelope);
      });
    } catch (error) {
      if (!isOfTheEnvelope(error)) throw error;
      if (envelopes.length > 1) {
        for (const envelope of envelopes) await this.decideAll([envelope]);
      } else {
        if (!(error instanceof Undo)) this.onBug(error);
        if (!first.ephemeral) await this.refuse(first);
      }
    }
  }

  /** Decided as junk; should it have been a commit that we alone cannot apply, the gate will tell. */
  private async refuse(envelope: Envelope): Promise<void> {
    await this.vault.store.write(async (tx) => {
      const nowMs = this.vault.nowMs();
      await tx.decide(envelope.id, nowMs);
      const chat = await chatOfAddress(tx, await tx.address(envelope.serial));
      if (chat !== null && chat.groupId !== null) await tx.addChore("walk", chat.groupId, NO_BYTES, nowMs);
    });
  }

  /** Try again what was set aside for this chat; inside `work`. */
  retryAside = async (tx: Tx, chat: Uint8Array): Promise<void> => {
    for (const { envelope, serial, body } of await tx.asideOfChat(chat)) {
      const address = await tx.address(serial);
      if (address !== null && (await this.open(tx, address, body))) {
        await tx.forgetAside(envelope);
        await tx.decide(envelope, this.vault.nowMs());
      }
    }
  };

  // ---------------------------------------------------------------- one envelope

  private async decide(tx: Tx, { id, serial, body, ephemeral }: Envelope): Promise<void> {
    if (await tx.isDecided(id)) return;
    const address = await tx.address(serial);
    const opened = address === null || (await this.open(tx, address, body));
    if (ephemeral) return;
    const nowMs = this.vault.nowMs();
    const later =
      address !== null && (address.chat !== null || address.purpose === "package" || address.purpose === "dead");
    if (opened || !later || !(await tx.setAside(id, serial, body, nowMs))) {
      await tx.decide(id, nowMs);
      return;
    }
    const chat = await chatOfAddress(tx, address);
    if (chat !== null && chat.groupId !== null) {
      await tx.addChore("walk", chat.groupId, NO_BYTES, nowMs, nowMs + WALK_WAIT_MS);
    }
  }

  /** Whether the envelope is decided; false when it may become readable later. */
  private async open(tx: Tx, address: Address, body: Uint8Array): Promise<boolean> {
    const ofChat = address.chat === null ? [] : await tx.groupsOfChat(address.chat);
    const ofSerial = await tx.groupsOfSerial(address.serial);
    const groups = new Map([...ofChat, ...ofSerial].map((group) => [hex(group.id), group]));
    for (const group of groups.values()) {
      await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, group.id);
      const results = attempt(() => this.vault.core.receive(group.id, [body], this.vault.nowS()));
      if (results instanceof CoreError) continue;
      const [received] = results;
      if (received === undefined || received.kind === "later") continue;
      await this.take(tx, group, received);
      return true;
    }
    return this.openFromStranger(tx, address, body);
  }

  private async take(tx: Tx, group: Group, received: Received): Promise<void> {
    if (received.kind === "content") {
      await this.takeContent(tx, group, received);
    } else if (group.standing !== "current" || received.epoch < group.epoch) {
      return;
    } else if (received.kind === "commit" || received.kind === "look_at_gate") {
      await tx.putTold(group.id, received.epoch, received.k, received.gateValue);
      await tx.addChore("walk", group.id, NO_BYTES, this.vault.nowMs());
    }
  }

  private async openFromStranger(tx: Tx, address: Address, body: Uint8Array): Promise<boolean> {
    await this.vault.useKeys(tx);
    const mail = attempt(() => this.vault.core.openFromStranger(body));
    if (mail instanceof NotForUs) return false;
    if (mail instanceof CoreError) return true;
    if (mail.kind === "welcome") {
      await this.join(tx, address, body);
    } else if (mail.kind === "rejoin" && (await this.mayAsk(tx, mail.accountId, mail.chatId))) {
      const subject = join(mail.accountId, mail.deviceId, mail.chatId);
      await tx.addChore("grant", subject, body, this.vault.nowMs());
    }
    return true;
  }

  /** Whether a request to rejoin is kept: the account is in the group that the chat uses, and asked for few. */
  private async mayAsk(tx: Tx, account: Uint8Array, mlsChat: Uint8Array): Promise<boolean> {
    const group = await tx.groupOfMlsChat(mlsChat);
    if (group === null || group.standing === "left") return false;
    if ((await tx.countChores("grant", account)) >= MAX_GRANTS) return false;
    await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, group.id);
    return this.vault.core.group(group.id).members.some((member) => same(member.accountId, account));
  }

  /** Join by a Welcome. Throws Undo when the group is none that we want to be in. */
  private async join(tx: Tx, address: Address, body: Uint8Array): Promise<void> {
    const lost = address.chat === null ? null : await this.rejoin.lostGroups(tx, address.chat);
    await this.vault.forgetLoadedGroups(tx);
    const accounts = await this.vault.known(tx);
    const joined = attempt(() => this.vault.core.join(body, accounts, this.vault.nowS()));
    if (joined instanceof CoreError) return;
    const offered = await tx.package(joined.packageRef);
    if (offered === null || joined.epoch > MAX_EPOCH_JOINED) throw new Undo();
    const known = await tx.group(joined.groupId);
    const { predecessor } = joined.context;
    const before = predecessor === null ? null : await tx.group(predecessor[0]);
    let wanted: boolean;
    if (known !== null) {
      wanted = await this.rejoin.returned(tx, joined, known, lost?.get(hex(joined.groupId)) ?? null);
    } else if (before !== null) {
      wanted = await this.rejoin.succeeded(tx, joined, before, offered.serial);
    } else {
      wanted = await this.contacts.met(tx, joined, offered.serial);
    }
    if (!wanted) throw new Undo();
    await this.vault.flush(tx);
    const group = await tx.group(joined.groupId);
    if (group === null) throw new Undo();
    const sentTo = await tx.address(offered.serial);
    if (sentTo?.purpose === "dead") await tx.addChore("update", group.id, NO_BYTES, this.vault.nowMs());
    if (offered.lastResort) {
      await this.contacts.leaveLastResort(tx, group);
    } else {
      await tx.forgetPackage(offered.ref);
      await tx.useAddress(offered.serial, "chat", group.chat);
    }
    await this.retryAside(tx, group.chat);
  }

  // ---------------------------------------------------------------- contents

  private async takeContent(tx: Tx, group: Group, received: Received): Promise<void> {
    const chat = await tx.chat(group.chat);
    if (chat === null || chat.state === "blocked" || received.sender === null) return;
    const [sender, device] = received.sender;
    if (same(sender, await this.vault.account(tx))) return;
    let what: Content;
    try {
      what = decode(received.content);
    } catch (error) {
      if (error instanceof ContentError) return;
      throw error;
    }
    if (what.sequence > 0) await this.heard(tx, chat, sender, device, what.sequence);
    switch (what.type) {
      case "Text":
      case "Media":
      case "Unknown":
        await this.show(tx, chat, sender, what);
        break;
      case "Receipt":
        await this.takeReceipt(tx, chat, what);
        break;
      case "Profile":
        await this.contacts.heardProfile(tx, chat, sender, what);
        break;
      case "ResendRequest":
        if (chat.state === "open") {
          const sinceMs = await tx.joinedMs(chat.id, sender);
          const numbers: number[] = [];
          for (const n of what.sequences) if ((await tx.sentMs(chat.id, n)) >= sinceMs) numbers.push(n);
          await this.outbox.resend(tx, chat.id, numbers, device);
        }
        break;
      case "Typing":
        await tx.note("typing", chat.id, sender, what.active ? "1" : "");
        break;
      case "Leave":
        await this.show(tx, chat, sender, what);
        if (chat.kind === KIND_GROUP && chat.state === "open") {
          const { admins } = this.vault.core.group(group.id).context;
          if (!includes(admins, await this.vault.account(tx))) break;
          await tx.addChore("remove", join(group.id, sender, device), NO_BYTES, this.vault.nowMs());
        }
        break;
    }
  }

  /** Put a message in the history, once. */
  private async show(tx: Tx, chat: Chat, sender: Uint8Array, what: Shown): Promise<void> {
    if (what.type === "Unknown" && what.sequence === 0) return;
    const { kind, text, extras } = await this.lineOf(tx, chat, sender, what);
    const { messageId, sequence, sentAtMs } = what;
    const isNew = await tx.addMessage(
      chat.id,
      messageId,
      sender,
      sequence,
      sentAtMs,
      kind,
      text,
      "received",
      true,
      extras,
    );
    if (what.type === "Text" || what.type === "Media") {
      // also when it comes again: whoever sends it again has not heard of its receipt (CNT-11)
      const row = isNew ? null : await tx.message(chat.id, messageId, sender);
      await tx.oweReceipt(chat.id, messageId, row?.unread === false ? READ : DELIVERED);
    }
    if (!isNew) return;
    await tx.touchChat(chat.id, this.vault.nowMs());
    await tx.note("message", chat.id, join(messageId, sender));
  }

  /** How a content stands in the history. */
  private async lineOf(tx: Tx, chat: Chat, sender: Uint8Array, what: Shown): Promise<Line> {
    switch (what.type) {
      case "Text":
        return { kind: "text", text: what.text, extras: { replyTo: what.replyTo } };
      case "Media":
        return { kind: "media", text: what.caption, extras: { replyTo: what.replyTo, media: mediaRow(what) } };
      case "Leave": {
        const name = same(chat.peer, sender) ? shownName(chat) : ((await tx.contact(sender))?.name ?? "");
        return { kind: "notice", text: "", extras: { notice: { code: "left", params: { name } } } };
      }
      case "Unknown": // all of its bytes are kept: a later version may show what it is (CNT-06)
        return { kind: "unknown", text: encodeBase64(what.raw), extras: {} };
    }
  }

  private async takeReceipt(tx: Tx, chat: Chat, receipt: Receipt): Promise<void> {
    const delivered = receipt.status === DELIVERED;
    const state = delivered ? "delivered" : "read";
    const before = delivered
      ? (["queued", "kept", "failed"] as const)
      : (["queued", "kept", "failed", "delivered"] as const);
    for (const message of receipt.messages) {
      if (await tx.setMessageState(chat.id, message, state, before)) await tx.note("changed", chat.id, message);
    }
  }

  /** Notice what is missing before *sequence*. */
  private async heard(tx: Tx, chat: Chat, sender: Uint8Array, device: Uint8Array, sequence: number): Promise<void> {
    const highest = (await tx.heard(chat.id, device)) ?? (chat.kind === KIND_PAIR ? 0 : sequence - 1);
    if (sequence <= highest) {
      await tx.closeGap(chat.id, device, sequence);
      return;
    }
    if (chat.state === "open") await this.askFor(tx, chat, sender, device, highest + 1, sequence);
    await tx.setHeard(chat.id, device, sequence);
  }

  /** Remember the numbers from *first* up to *end*, the newest of them if they are too many. */
  private async askFor(
    tx: Tx,
    chat: Chat,
    sender: Uint8Array,
    device: Uint8Array,
    first: number,
    end: number,
  ): Promise<void> {
    const nowMs = this.vault.nowMs();
    const room = MAX_GAPS - (await tx.countGaps(chat.id, device));
    const start = Math.max(first, end - room);
    for (let missing = start; missing < end; missing++) {
      await tx.addGap(chat.id, device, missing, sender, nowMs, nowMs + GAP_GRACE_MS);
    }
    if (start > first) await this.vault.notice(tx, chat.id, "many_missing");
  }
}

type Shown = Extract<Content, { type: "Text" | "Media" | "Leave" | "Unknown" }>;

interface Line {
  kind: "text" | "media" | "notice" | "unknown";
  text: string;
  extras: Partial<MessageExtras>;
}

/** What a message says of its file; its bytes are not here yet. */
function mediaRow(media: Extract<Content, { type: "Media" }>): MediaRow {
  const { blob, key, hash, size, mediaType, width, height, thumbhash, name } = media;
  return { blob, key, hash, size, mediaType, width, height, thumbhash, name, state: "remote" };
}

/** What *call* gives, or what the core refused with; a trap goes on up. */
function attempt<T>(call: () => T): T | CoreError {
  try {
    return call();
  } catch (error) {
    if (error instanceof CoreError && !(error instanceof CoreTrapped)) return error;
    throw error;
  }
}

async function chatOfAddress(tx: Tx, address: Address | null): Promise<Chat | null> {
  return address === null || address.chat === null ? null : tx.chat(address.chat);
}

/** What data of a stranger can bring about; a store that fails is not among it, and is tried again. */
function isOfTheEnvelope(error: unknown): boolean {
  return (
    error instanceof CoreTrapped || error instanceof Undo || error instanceof RangeError || error instanceof TypeError
  );
}
