/**
 * The engine of an open account: receive, decide, acknowledge; send; do what is left to do; tell what was stored.
 *
 *     device loop    holds the lock `taube-device` → logs in → each batch: one transaction (inbox.ts) → acknowledge
 *     sender loop    receipts and resend requests → outbox.drain (outbox.ts)
 *     chore loop     commits that wait for their gate, gates to walk, rejoins, successors, revocations
 *     upload loop    files of messages that wait for them (uploads.ts)
 *
 * Any number of tabs and the service worker may run one on the same store. The one with the device lock has the mailbox,
 * and it alone protects, sends, claims and uploads; nothing of that before it has caught up. The others read the store
 * and queue. What happened is read from the journal that each transaction writes, after its commit, so all tell the same.
 * Source: docs/protocol/device.md, "State".
 */

import { hex, NO_BYTES, same } from "../bytes";
import { REPLACED, Retry, TaubeError, WireError } from "../wire/errors";
import type { Event, Welcome } from "../wire/messages";
import { isFailure } from "./api";
import { Contacts, includes } from "./contacts";
import { Devices } from "./devices";
import { CoreError, DEVICE_SCOPE, PACKAGES_SCOPE } from "./e2e";
import { DeviceReplaced, UserError } from "./errors";
import { Gates, type Wanted } from "./gates";
import { type Delivery, Inbox } from "./inbox";
import type { DeviceLink, Network } from "./network";
import { Outbox } from "./outbox";
import { Rejoin } from "./rejoin";
import { DAY_MS, type Tx } from "./store";
import type { Chore, Entry, Group } from "./tables";
import { BackOff, TransportError } from "./transport";
import type { Uploads } from "./uploads";
import type { Vault } from "./vault";
import { Wake } from "./wake";

export const DEVICE_LOCK = "taube-device";
const AWAY_MS = 30 * DAY_MS;
const RECEIPT_DELAY_MS = 100;
const ASK_AGAIN_MS = 6 * 3_600_000;
const SYNCED_EVERY_MS = 3_600_000;
/** How often a claim after a restore is tried before everything else does not wait for it any more. */
const MAX_RECLAIMS = 3;
const CHORE_RETRY_MS = 5_000;
const CHORE_RETRY_MOST_MS = 3_600_000;
const SEND_AGAIN_MS = 5_000;
const LONGEST_WAIT_MS = 30_000;
const BLINK_MS = 10;

/** What of the browser's LockManager is needed. */
export interface Locks {
  request<T>(
    name: string,
    options: { ifAvailable?: boolean; signal?: AbortSignal },
    callback: (lock: unknown) => Promise<T>,
  ): Promise<T>;
}

/** What the engine tells whoever runs it. */
export interface Listener {
  /** New lines of the journal, of this tab or another, in order. */
  journal(entries: readonly Entry[]): Promise<void>;
  /** Something about the connection is different. */
  connection(): void;
  /** A bug that was caught; nothing personal is in it but what an error carries. */
  bug(error: unknown): void;
}

/** One tab's engine. `start` is for the app; tests call the steps one by one. */
export class Sync {
  readonly devices: Devices;
  readonly outbox: Outbox;
  readonly gates: Gates;
  readonly contacts: Contacts;
  readonly rejoin: Rejoin;
  readonly inbox: Inbox;
  link: DeviceLink | null = null;
  /** Whether the mailbox was read to its end since the last login of this engine. */
  caughtUp = false;
  /** Why there is no device link at the moment. */
  offlineReason: Error | null = null;
  /** When it is tried again; 0 while there is a link or one is being made. */
  retryAtMs = 0;
  /** Why the last attempt to send failed; null when it did not. */
  sendProblem: Error | null = null;
  /** Why there will be no link any more. */
  fatal: UserError | null = null;
  /** Whether this engine has the device connection. */
  owner = false;

  private readonly wakeSender = new Wake();
  private readonly wakeChores = new Wake();
  private readonly wakeUploads = new Wake();
  private readonly wakeDevice = new Wake();
  private readonly stopping = new AbortController();
  private readonly changes = new Set<() => void>();
  /** For groups whose claim the server refused: when to try again, how often that was. */
  private readonly refusedClaims = new Map<string, { dueMs: number; tries: number }>();
  private tasks: Promise<void>[] = [];
  private connectedMs = 0;
  private announced = 0;
  private announcing: Promise<void> | null = null;
  private announceAgain = false;
  private stopListening: () => void = () => {};

  constructor(
    private readonly vault: Vault,
    private readonly network: Network,
    private readonly locks: Locks,
    private readonly monotonicMs: () => number,
    private readonly listener: Listener,
    private readonly uploads: Uploads,
  ) {
    this.devices = new Devices(vault, network);
    this.outbox = new Outbox(vault, network);
    this.devices.onNewDevice = this.outbox.renumber;
    this.gates = new Gates(vault, network);
    this.contacts = new Contacts(vault, network, this.devices, this.outbox);
    this.rejoin = new Rejoin(vault, this.gates, this.devices, this.contacts, this.outbox);
    this.inbox = new Inbox(vault, this.gates, this.rejoin, this.contacts, this.outbox);
    this.inbox.onBug = listener.bug;
    this.gates.onStuck = this.rejoin.lost;
    this.gates.onExhausted = this.exhausted;
  }

  private get store() {
    return this.vault.store;
  }

  get stopped(): boolean {
    return this.stopping.signal.aborted;
  }

  // ---------------------------------------------------------------- one step at a time

  /** Log in, and do what comes before the mailbox. Rejects with TransportError, WireError, DeviceReplaced. */
  async connect(): Promise<DeviceLink> {
    this.caughtUp = false;
    await this.devices.publishList();
    let link: DeviceLink;
    try {
      link = await this.login();
    } catch (error) {
      if (!(error instanceof WireError) || error.kind.retry === Retry.LATER) throw error;
      if (!(await this.devices.restoreList())) throw new DeviceReplaced(error);
      link = await this.login();
    }
    try {
      await this.devices.checkContinuity(link);
      await this.dropDeletion();
      await this.greet(link.welcome);
      await this.reclaim();
      await this.devices.upkeep(link);
      await this.devices.checkPush(link);
    } catch (error) {
      await link.close();
      throw error;
    }
    this.link = link;
    return link;
  }

  /** What the server was asked to delete and still knows was not deleted: a person who wants that asks anew (DEV-45). */
  async dropDeletion(): Promise<void> {
    const isWanted = await this.store.read((tx) => tx.metaInt("deleting"));
    if (!isWanted) return;
    await this.store.write(async (tx) => {
      await tx.setMeta("deleting", null);
      await tx.note("me", NO_BYTES);
    });
  }

  private async login(): Promise<DeviceLink> {
    const link = await this.network.device(await this.vault.account(), await this.vault.device(), this.devices.sign);
    this.connectedMs = this.monotonicMs();
    return link;
  }

  /** Decide a batch of the mailbox in one transaction, then acknowledge it. */
  async receive(link: DeviceLink, batch: readonly Event[]): Promise<void> {
    const deliveries: Delivery[] = [];
    let upto = 0;
    for (const event of batch) {
      if (event.type !== "Deliver") continue;
      deliveries.push({ serial: event.serial, body: event.body, ephemeral: event.number === 0 });
      upto = Math.max(upto, event.number);
    }
    await this.inbox.receive(deliveries);
    if (upto > 0) link.acknowledge(upto);
    if (batch.some((event) => event.type === "CaughtUp")) await this.synchronised(link);
  }

  /** The mailbox was read to its end. */
  async synchronised(link: DeviceLink): Promise<void> {
    await this.store.write(async (tx) => {
      await this.setSynced(tx, link.welcome.nowMs);
      const nowMs = this.vault.nowMs();
      for (const id of await tx.chatsWithAside()) {
        const chat = await tx.chat(id);
        if (chat !== null && chat.groupId !== null) await tx.addChore("walk", chat.groupId, NO_BYTES, nowMs);
      }
      await tx.hurryMisdated(nowMs);
      await tx.expire(nowMs);
    });
    this.caughtUp = true;
  }

  /** Send everything that is due. Rejects with TransportError, WireError. */
  async send(): Promise<void> {
    if (this.mustWait()) return;
    const { owed, gapMs } = await this.store.read(async (tx) => ({
      owed: (await tx.receiptsOwed()).length > 0,
      gapMs: await tx.nextGapMs(),
    }));
    if (owed) await this.outbox.queueReceipts();
    if (gapMs !== null && gapMs <= this.vault.nowMs()) await this.outbox.queueResendRequests(ASK_AGAIN_MS);
    await this.outbox.drain(() => !this.mustWait());
  }

  /** Whether something stands before protecting or claiming: the mailbox is not ours, or has more to say. */
  private mustWait(): boolean {
    return !this.owner || !this.caughtUp || this.fatal !== null || this.stopped;
  }

  /** Do everything that is due; what fails is tried again later. Rejects with TransportError. */
  async doChores(): Promise<void> {
    for (const { groupId } of await this.store.read((tx) => tx.allPending())) {
      if (this.mustWait()) return;
      await this.settle(groupId);
    }
    const done = new Set<number>();
    for (;;) {
      const due = await this.store.read((tx) => tx.choresDue(this.vault.nowMs()));
      const chore = due.find(({ n, kind }) => !done.has(n) && kind !== "upload");
      if (chore === undefined || this.mustWait()) return;
      done.add(chore.n);
      try {
        await this.do(chore);
      } catch (error) {
        if (!isRefusal(error)) throw error;
      } finally {
        await this.postpone(chore);
      }
    }
  }

  /** Claim for what waits for its gate; one that the server refuses waits, and holds up nothing else. */
  private async settle(groupId: Uint8Array): Promise<void> {
    const key = hex(groupId);
    const { dueMs, tries } = this.refusedClaims.get(key) ?? { dueMs: 0, tries: 0 };
    const leftMs = dueMs - this.vault.nowMs();
    if (leftMs > 0 && leftMs <= CHORE_RETRY_MOST_MS) return; // a clock may have been set back
    try {
      await this.gates.settle(groupId);
      this.refusedClaims.delete(key);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.refusedClaims.set(key, { dueMs: this.vault.nowMs() + waitMs(tries), tries: tries + 1 });
    }
  }

  private async do(chore: Chore): Promise<void> {
    const group = await this.store.read((tx) => tx.group(chore.subject.slice(0, 32)));
    switch (chore.kind) {
      case "walk":
        if (group !== null) await this.gates.walk(group.id);
        await this.store.write(async (tx) => {
          if ((await tx.told(chore.subject)).length === 0) await tx.forgetChore(chore.kind, chore.subject);
        });
        break;
      case "update":
        if (!takesChanges(group) || (await this.gates.change(group.id, this.withNewAddress(group.chat)))) {
          await this.forget(chore);
        }
        break;
      case "ask":
        await this.rejoin.ask(chore);
        break;
      case "grant":
        await this.rejoin.grant(chore);
        break;
      case "successor":
        await this.rejoin.succeed(chore);
        break;
      case "remove":
        if (!takesChanges(group) || (await this.gates.change(group.id, without(chore)))) await this.forget(chore);
        break;
      case "reclaim":
        await this.claimAgain(chore);
        break;
      case "revoke":
        if (this.link !== null) await this.devices.revoke(this.link, chore.subject);
        break;
    }
  }

  private withNewAddress(chat: Uint8Array): Wanted {
    return async (tx) => {
      const { address } = await this.devices.takeAddress(tx, "chat", chat);
      return { update: true, address };
    };
  }

  private async forget({ kind, subject }: Chore): Promise<void> {
    await this.store.write((tx) => tx.forgetChore(kind, subject));
  }

  /** Try it again later, if it is still there as it was; after 30 days, never. */
  private async postpone(chore: Chore): Promise<void> {
    await this.store.write(async (tx) => {
      const now = await tx.chore(chore.kind, chore.subject);
      if (now === null || now.n !== chore.n || now.dueMs !== chore.dueMs || now.tries !== chore.tries) return;
      if (!same(now.payload, chore.payload)) return;
      const nowMs = this.vault.nowMs();
      if (chore.madeMs + AWAY_MS < nowMs && chore.kind !== "revoke") await tx.forgetChore(chore.kind, chore.subject);
      else await tx.setChore(chore.n, chore.payload, nowMs + waitMs(chore.tries), chore.tries + 1);
    });
  }

  // ---------------------------------------------------------------- the server's clock and generation

  /** What the server's clock and generation mean for our groups, addresses and key packages. */
  private async greet(welcome: Welcome): Promise<void> {
    await this.vault.work(async (tx) => {
      const nowMs = this.vault.nowMs();
      const syncedMs = await tx.metaInt("synced_ms");
      if (syncedMs > 0 && (await this.awayMs(tx, welcome.nowMs)) > AWAY_MS) {
        for (const group of await tx.groups()) await this.rejoin.lost(tx, group.id);
      }
      const generation = await tx.meta("generation");
      const isNew = generation !== null && !same(generation, welcome.generation);
      if (isNew) {
        for (const group of await tx.groups()) {
          if (group.standing !== "current" || (await tx.passed(group.id)) === null) continue;
          await tx.addChore("reclaim", group.id, NO_BYTES, nowMs);
        }
        await this.devices.revokeAgain(tx);
        await this.devices.owePackages(tx);
        await this.devices.owePush(tx);
      }
      if (!same(generation, welcome.generation)) await tx.setMeta("generation", welcome.generation);
      if (syncedMs === 0 || (isNew && welcome.nowMs < syncedMs)) {
        await tx.setMeta("synced_ms", welcome.nowMs);
        await tx.setMeta("synced_own_ms", nowMs);
      }
    });
  }

  /** How long ago we last synchronised: by the server's clock, by our own where that one has fallen. */
  private async awayMs(tx: Tx, serverNowMs: number): Promise<number> {
    const awayMs = serverNowMs - (await tx.metaInt("synced_ms"));
    const ownMs = await tx.metaInt("synced_own_ms");
    return awayMs >= 0 || ownMs === 0 ? awayMs : this.vault.nowMs() - ownMs;
  }

  private async isSyncedOld(tx: Tx, serverNowMs: number): Promise<boolean> {
    return Math.abs(serverNowMs - (await tx.metaInt("synced_ms"))) >= SYNCED_EVERY_MS;
  }

  /** Remember the server's time, also where it has fallen: a clock that was a year ahead would hide a year. */
  private async setSynced(tx: Tx, serverNowMs: number): Promise<void> {
    if (!(await this.isSyncedOld(tx, serverNowMs))) return;
    await tx.setMeta("synced_ms", serverNowMs);
    await tx.setMeta("synced_own_ms", this.vault.nowMs());
  }

  /** While the link lives, we are not away: remember the server's time now and then. */
  async keepSynced(): Promise<void> {
    if (this.link === null || !this.caughtUp) return;
    const nowMs = this.link.welcome.nowMs + Math.round(this.monotonicMs() - this.connectedMs);
    if (!(await this.store.read((tx) => this.isSyncedOld(tx, nowMs)))) return;
    await this.store.write((tx) => this.setSynced(tx, nowMs));
  }

  /**
   * The server was restored from a backup: claim again the gate that each group passed last.
   *
   * A claim that the server refuses for good, or again and again, holds up neither the mailbox nor other groups: it
   * becomes a chore like any other.
   */
  private async reclaim(): Promise<void> {
    for (const chore of await this.store.read((tx) => tx.chores("reclaim"))) {
      try {
        await this.claimAgain(chore);
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        await this.postpone(chore);
        if (error.kind.retry === Retry.LATER && chore.tries < MAX_RECLAIMS) throw error;
      }
    }
  }

  /** The server may have forgotten the gate; a different value there means that someone went another way. */
  private async claimAgain(chore: Chore): Promise<void> {
    const passed = await this.store.read((tx) => tx.passed(chore.subject));
    if (passed !== null && !same(await this.gates.claim(passed.name, passed.value), passed.value)) {
      await this.vault.work((tx) => this.exhausted(tx, chore.subject));
    }
    await this.forget(chore);
  }

  /** No member can go on with this group: found its successor, if that is ours to do; inside `work`. */
  private exhausted = async (tx: Tx, groupId: Uint8Array): Promise<void> => {
    const group = await tx.group(groupId);
    if (group?.standing !== "current") return;
    if ((await tx.pending(groupId)) !== null) await this.gates.drop(tx, groupId);
    await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
    await tx.setStanding(groupId, "rejoin", this.vault.nowMs());
    const { admins } = this.vault.core.group(groupId).context;
    if (includes(admins, await this.vault.account(tx))) {
      await tx.addChore("successor", group.chat, NO_BYTES, this.vault.nowMs());
    }
  };

  // ---------------------------------------------------------------- running

  /** Start the loops; once this resolves, `owner` is known. */
  async start(): Promise<void> {
    this.announced = await this.store.read((tx) => tx.journalEnd());
    this.stopListening = this.store.onCommit(() => this.announce());
    await new Promise<void>((known) => {
      const hold = async (lock: unknown): Promise<void> => {
        if (lock === null) return;
        if ((await this.store.read((tx) => tx.metaInt("registered"))) === 0) return; // deleted meanwhile
        this.owner = true;
        known();
        this.tellConnection();
        await this.run();
        this.owner = false;
      };
      const queue = async (): Promise<void> => {
        await this.locks.request(DEVICE_LOCK, { ifAvailable: true }, hold);
        known();
        if (this.stopped || this.fatal !== null) return;
        await this.locks.request(DEVICE_LOCK, { signal: this.stopping.signal }, hold);
      };
      const task = queue().catch((error: unknown) => {
        known();
        if (!this.stopped) this.listener.bug(error);
      });
      this.tasks = [task];
    });
  }

  /** Whether this engine was never started, as in a service worker, and no other has the device connection. */
  async isAlone(): Promise<boolean> {
    if (this.tasks.length > 0) return false;
    return this.locks.request(DEVICE_LOCK, { ifAvailable: true }, async (lock) => lock !== null);
  }

  /** End the loops and the connections. What was not sent stays in the outbox. Idempotent. */
  async stop(): Promise<void> {
    this.stopping.abort();
    for (const wake of [this.wakeSender, this.wakeChores, this.wakeUploads, this.wakeDevice]) wake.ring();
    this.stopListening();
    await this.network.close();
    await Promise.all(this.tasks);
    await this.network.close(); // what a loop opened while it was told to stop
    await this.announcing;
    this.tasks = [];
    this.pulse();
  }

  /** Whether there is nothing known that stands in the way of sending. */
  get online(): boolean {
    return this.fatal === null && this.offlineReason === null && this.sendProblem === null;
  }

  /** Something suggests that the network is there again: try at once. */
  hurry(): void {
    this.network.check().catch((error: unknown) => this.listener.bug(error));
    this.wakeDevice.ring();
    this.wakeSender.ring();
    this.wakeUploads.ring();
  }

  /** Those who wait in `until` look again. */
  hurryWaiting(): void {
    this.pulse();
  }

  private async run(): Promise<void> {
    await Promise.all([this.deviceLoop(), this.senderLoop(), this.choreLoop(), this.uploadLoop()]);
  }

  private async deviceLoop(): Promise<void> {
    const backOff = new BackOff(() => this.fraction());
    while (!this.stopped) {
      let atLeastMs = 0;
      try {
        this.retryAtMs = 0;
        this.tellConnection();
        const link = await this.connect();
        backOff.succeeded();
        this.offlineReason = null;
        this.tellConnection();
        await this.readAll(link);
        atLeastMs = link.reconnectAfterMs;
        this.offlineReason = link.lost ?? new TransportError("The connection ended.");
      } catch (error) {
        if (error instanceof DeviceReplaced) {
          this.end(error);
          return;
        }
        if (error instanceof WireError) atLeastMs = error.retryAfterMs;
        this.offlineReason = this.explained(error);
      } finally {
        this.link = null;
        this.caughtUp = false;
      }
      if (this.stopped) return;
      const pauseMs = backOff.nextMs(atLeastMs);
      this.retryAtMs = this.vault.nowMs() + pauseMs;
      this.tellConnection();
      await this.wakeDevice.wait(pauseMs);
    }
  }

  /** Receive until the link ends. Throws WireError(REPLACED) when another engine of ours took it over. */
  private async readAll(link: DeviceLink): Promise<void> {
    try {
      for await (const batch of link.events()) {
        if (this.stopped) return;
        await this.receive(link, batch);
        if (batch.some((event) => event.type === "CaughtUp")) {
          this.ringAll();
          this.tellConnection();
        }
        if (batch.some((event) => event.type === "Replaced")) throw new WireError(REPLACED);
      }
    } finally {
      await link.close();
    }
  }

  /** There will be no link any more; what waits stays, in case a person says that this is the device to go on with. */
  private end(error: UserError): void {
    this.fatal = error;
    this.offlineReason = error;
    this.ringAll();
    this.tellConnection();
  }

  private async senderLoop(): Promise<void> {
    const backOff = new BackOff(() => this.fraction());
    while (!this.stopped && this.fatal === null) {
      let pauseMs: number;
      try {
        await this.send();
        backOff.succeeded();
        if (this.sendProblem !== null) {
          this.sendProblem = null;
          this.tellConnection();
        }
        pauseMs = this.caughtUp ? await this.sendAgainInMs() : LONGEST_WAIT_MS;
      } catch (error) {
        this.sendProblem = this.explained(error);
        this.tellConnection();
        pauseMs = Math.min(backOff.nextMs(), SEND_AGAIN_MS);
      }
      await this.wakeSender.wait(pauseMs);
    }
  }

  private async sendAgainInMs(): Promise<number> {
    return this.store.read(async (tx) => {
      const pauseMs = this.untilMs(await tx.outboxDueMs(), await tx.nextGapMs());
      return (await tx.receiptsOwed()).length > 0 ? Math.min(pauseMs, RECEIPT_DELAY_MS) : pauseMs;
    });
  }

  private async choreLoop(): Promise<void> {
    const backOff = new BackOff(() => this.fraction());
    while (!this.stopped && this.fatal === null) {
      let pauseMs = LONGEST_WAIT_MS;
      try {
        if (!this.mustWait() && this.link !== null) {
          await this.keepSynced();
          await this.doChores();
          if (this.link !== null) await this.devices.publishPush(this.link);
          backOff.succeeded();
          pauseMs = this.untilMs(await this.store.read((tx) => this.nextChoreMs(tx)));
        }
      } catch (error) {
        this.explained(error);
        pauseMs = backOff.nextMs();
      }
      await this.wakeChores.wait(pauseMs);
    }
  }

  /** When the next chore of this loop is due: files have a loop of their own. */
  private async nextChoreMs(tx: Tx): Promise<number | null> {
    if ((await tx.countChores("upload")) === 0) return tx.nextChoreMs();
    const due = await tx.choresDue(Number.MAX_SAFE_INTEGER);
    const times = due.filter(({ kind }) => kind !== "upload").map(({ dueMs }) => dueMs);
    return times.length > 0 ? Math.min(...times) : null;
  }

  private async uploadLoop(): Promise<void> {
    const backOff = new BackOff(() => this.fraction());
    while (!this.stopped && this.fatal === null) {
      let pauseMs = LONGEST_WAIT_MS;
      try {
        if (!this.mustWait() && this.link !== null) {
          pauseMs = await this.uploads.uploadAll(this.stopping.signal);
          backOff.succeeded();
        }
      } catch (error) {
        this.explained(error);
        pauseMs = backOff.nextMs();
      }
      await this.wakeUploads.wait(Math.min(Math.max(pauseMs, BLINK_MS), LONGEST_WAIT_MS));
    }
  }

  /** An error of ours as it is; a bug is told, and must not end the loop that met it. */
  private explained(error: unknown): Error {
    if (error instanceof TaubeError || error instanceof CoreError) return error;
    if (error instanceof Error && isFailure(error)) return error;
    this.listener.bug(error);
    return error instanceof Error ? error : new UserError("internal");
  }

  /** Milliseconds until the first of these times, between a blink and half a minute. */
  private untilMs(...timesMs: (number | null)[]): number {
    const known = timesMs.filter((timeMs) => timeMs !== null);
    if (known.length === 0) return LONGEST_WAIT_MS;
    return Math.min(Math.max(Math.min(...known) - this.vault.nowMs(), BLINK_MS), LONGEST_WAIT_MS);
  }

  /** 0 ≤ x < 1, for spreading attempts. */
  private fraction(): number {
    const [high = 0, low = 0] = this.vault.random(2);
    return (high * 256 + low) / 65_536;
  }

  // ---------------------------------------------------------------- telling

  /** Wait until *isSo*; whether it was within *timeoutMs*. It is asked after each commit and change of the connection. */
  async until(isSo: () => boolean | Promise<boolean>, timeoutMs: number): Promise<boolean> {
    const wake = new Wake();
    const ring = (): void => wake.ring();
    this.changes.add(ring);
    try {
      const overMs = this.monotonicMs() + timeoutMs;
      for (;;) {
        if (await isSo()) return true;
        const leftMs = overMs - this.monotonicMs();
        if (leftMs <= 0 || this.stopped) return false;
        await wake.wait(leftMs);
      }
    } finally {
      this.changes.delete(ring);
    }
  }

  /** Tell what the journal has new, and wake what may have work now; called after each commit, of this tab or another. */
  private announce(): void {
    this.ringAll();
    this.announceAgain = true;
    if (this.announcing === null) this.announcing = this.announceAll();
  }

  private async announceAll(): Promise<void> {
    try {
      while (this.announceAgain) {
        this.announceAgain = false;
        const entries = await this.store.read((tx) => tx.journalAfter(this.announced));
        const last = entries.at(-1);
        if (last !== undefined) {
          this.announced = last.n;
          this.announceAgain = true;
          await this.listener.journal(entries);
        }
        this.pulse();
      }
    } catch (error) {
      if (!this.stopped) this.listener.bug(error);
    } finally {
      this.announcing = null; // in the same breath as the last look at `announceAgain`
    }
  }

  /** Resolves once everything that was committed before has been told. */
  async told(): Promise<void> {
    await this.announcing;
  }

  private ringAll(): void {
    for (const wake of [this.wakeSender, this.wakeChores, this.wakeUploads]) wake.ring();
  }

  private tellConnection(): void {
    this.listener.connection();
    this.pulse();
  }

  private pulse(): void {
    for (const ring of [...this.changes]) ring();
  }
}

/** Whether a refusal concerns this one piece of work; a lost connection concerns them all. */
function isRefusal(error: unknown): boolean {
  return error instanceof WireError || error instanceof CoreError || error instanceof UserError;
}

/** Someone left: remove its leaf, if that is still ours to do. */
function without(chore: Chore): Wanted {
  const account = chore.subject.slice(32, 64);
  const device = chore.subject.slice(64);
  return async (_tx, _core, info) => {
    const here = info.members.some(({ accountId, deviceId }) => same(accountId, account) && same(deviceId, device));
    return here ? { removes: [[account, device]] } : null;
  };
}

/** Whether a change of this group may still come about: we are in it, or may come back. */
function takesChanges(group: Group | null): group is Group {
  return group !== null && group.standing !== "left";
}

/** How long to wait after so many failures: seconds first, an hour at most. */
function waitMs(tries: number): number {
  return Math.min(CHORE_RETRY_MS * 2 ** Math.min(tries, 12), CHORE_RETRY_MOST_MS);
}
