/**
 * The encrypted local database of one account in one browser: its transactions, and every query.
 *
 * All tabs and the service worker share it. Who changes something holds the one lock from before the first read until
 * it is stored, so no two ever work from the same state; what `write` has left is durable before any byte of it leaves
 * for the network. The methods of `Tx` are those of src/taube/client/store.py, and beside them what the screens need:
 * settings, pages, search, files. What a chat has of unread and waiting messages is counted when it changes.
 *
 * A message whose record does not open is told as one: it keeps its place, can be counted as read, and its bytes stay.
 *
 * What the rows are stands in tables.ts; how they are sealed and stored is database.ts'. It does not know what MLS rows
 * contain, what a content means, or the network. Source: docs/protocol/device.md, "State".
 */

import { compare, hex, same } from "../bytes";
import type { Failure, PageRequest } from "./api";
import {
  bytesOf,
  Database,
  type Key,
  type Locks,
  nameOf,
  type Small,
  type StoreError,
  type Transaction,
  Unreadable,
} from "./database";
import { browserRandom } from "./e2e";
import {
  ADDRESSES,
  type Address,
  ASIDE,
  ASIDE_BODIES,
  type Aside,
  BUCKETS,
  type CameAs,
  CHATS,
  CHORES,
  type Chat,
  type Chore,
  CONTACTS,
  type Contact,
  DECIDED,
  type Entry,
  FILE_BODIES,
  FILES,
  type FileLine,
  type Found,
  GAPS,
  type Gap,
  GRANTS,
  GROUPS,
  type Group,
  HEARD,
  JOINS,
  JOURNAL,
  LARGE,
  MESSAGES,
  META,
  type MediaRow,
  type Message,
  type MessageExtras,
  type MessagePage,
  MLS,
  type NewChat,
  NUMBERS,
  OUTBOX,
  type Outgoing,
  PACKAGES,
  PASSED,
  type Package,
  type Passed,
  PENDING,
  type Pending,
  RECEIPTS,
  REQUESTS,
  type Receipt,
  type Request,
  SCOPES,
  SENT,
  type SearchRequest,
  type Sent,
  type Settings,
  TOLD,
  type Told,
  TYPING,
} from "./tables";

export { StoreError } from "./database";

export const SCHEMA_VERSION = 1;
export const DAY_MS = 86_400_000;
export const KEEP_SENT_MS = 30 * DAY_MS;
export const KEEP_DECIDED_MS = 45 * DAY_MS;
export const KEEP_ASIDE_MS = 30 * DAY_MS;
/** The longest that anything is put off: rows of the outbox, chores, gaps. */
const MOST_OUTBOX_WAIT_MS = 3_600_000;
const MOST_CHORE_WAIT_MS = DAY_MS;
const MOST_GAP_WAIT_MS = 6 * 3_600_000;
export const KEEP_JOURNAL = 5_000;
const TRIM_JOURNAL_EVERY = 500;
export const MAX_ASIDE_PER_SERIAL = 64;
export const MAX_TOLD = 32;
/** Of the files that the server still has, so much is kept here, too. */
export const MAX_FILES_BYTES = 64 * 1024 * 1024;
/** So long after it came, a file can be fetched again whenever that is; later it is kept: the server's may be gone. */
export const LOOSE_MS = 14 * DAY_MS;
const SCAN_AT_ONCE = 400;
const MESSAGE_ID_BYTES = 16;
const NONE = new Uint8Array();

const letters = new TextEncoder();

// ---------------------------------------------------------------- a transaction

/**
 * One transaction. In `read` only the reading methods may be called. Reads see what the same transaction wrote. What is
 * given out is not to be changed, and what writes is called one after the other.
 */
export class Tx {
  constructor(
    private readonly tx: Transaction,
    private readonly used: Map<string, number>,
    private readonly mostFilesBytes: number,
  ) {}

  // -------------------------------------------------------------- meta

  async meta(name: string): Promise<Uint8Array | null> {
    return (await this.tx.row(META, name))?.value ?? null;
  }

  async metaText(name: string): Promise<string> {
    return new TextDecoder().decode((await this.meta(name)) ?? NONE);
  }

  async metaInt(name: string): Promise<number> {
    return Number((await this.metaText(name)) || 0);
  }

  async setMeta(name: string, value: Uint8Array | string | number | null): Promise<void> {
    const data = value === null || value instanceof Uint8Array ? value : letters.encode(String(value));
    await this.tx.setRow(META, name, data === null ? null : { value: data });
  }

  // -------------------------------------------------------------- rows of the core

  /** Rises with every change of the scope's rows; 0 when it never had any. */
  async scopeVersion(scope: Uint8Array): Promise<number> {
    return (await this.tx.row(SCOPES, hex(scope)))?.n ?? 0;
  }

  async scopeRows(scope: Uint8Array): Promise<[name: Uint8Array, value: Uint8Array][]> {
    const found = await this.tx.scan(MLS, await this.scopeRange(scope));
    return found.map(({ row }) => [row.name, row.value]);
  }

  /** Store a row; null deletes it, and all rows of the scope if *name* is empty. */
  async putRow(scope: Uint8Array, name: Uint8Array, value: Uint8Array | null): Promise<void> {
    if (value === null && name.length === 0) return this.clearScope(scope);
    const key = [await this.tx.blind(scope), await this.tx.blind(scope, name)];
    this.tx.setRecord(MLS, key, value === null ? null : { name, value });
  }

  async clearScope(scope: Uint8Array): Promise<void> {
    await this.tx.deleteRange(MLS, await this.scopeRange(scope));
  }

  async bumpScope(scope: Uint8Array): Promise<number> {
    const n = (await this.scopeVersion(scope)) + 1;
    await this.tx.setRow(SCOPES, hex(scope), { n });
    return n;
  }

  private async scopeRange(scope: Uint8Array): Promise<{ from: Key; to: Key }> {
    const tag = await this.tx.blind(scope);
    return { from: [tag], to: [tag, []] };
  }

  // -------------------------------------------------------------- addresses and key packages

  async addAddress(
    serial: Uint8Array,
    address: Uint8Array,
    purpose: string,
    chat: Uint8Array | null,
    nowMs: number,
  ): Promise<void> {
    const rows = await this.tx.rows(ADDRESSES);
    if (rows.has(hex(serial)) || [...rows.values()].some((one) => same(one.address, address))) return;
    await this.tx.setRow(ADDRESSES, hex(serial), { serial, address, purpose, chat, madeMs: nowMs });
  }

  async address(serial: Uint8Array): Promise<Address | null> {
    return this.tx.row(ADDRESSES, hex(serial));
  }

  /** Oldest first. */
  async addresses(purpose: string): Promise<Address[]> {
    const found = await this.where(ADDRESSES, (one) => one.purpose === purpose);
    return found.sort((one, other) => one.madeMs - other.madeMs || compare(one.serial, other.serial));
  }

  async addressesOfChat(chat: Uint8Array): Promise<Address[]> {
    return this.where(ADDRESSES, (one) => same(one.chat, chat));
  }

  async useAddress(serial: Uint8Array, purpose: string, chat: Uint8Array | null = null): Promise<void> {
    await this.change(ADDRESSES, hex(serial), (one) => ({ ...one, purpose, chat }));
  }

  async buryAddresses(purpose: string, nowMs: number): Promise<void> {
    for (const one of await this.addresses(purpose)) {
      await this.tx.setRow(ADDRESSES, hex(one.serial), { ...one, purpose: "dead", madeMs: nowMs });
    }
  }

  async forgetDeadAddresses(beforeMs: number): Promise<void> {
    await this.forget(ADDRESSES, (one) => one.purpose === "dead" && one.madeMs < beforeMs);
  }

  async forgetAddress(serial: Uint8Array): Promise<void> {
    await this.tx.setRow(ADDRESSES, hex(serial), null);
  }

  async forgetAllAddresses(): Promise<void> {
    await this.forget(ADDRESSES, () => true);
  }

  async addPackage(
    ref: Uint8Array,
    suite: number,
    serial: Uint8Array,
    chat: Uint8Array | null,
    lastResort: boolean,
    nowMs: number,
    retiredMs: number | null = null,
  ): Promise<void> {
    await this.tx.setRow(PACKAGES, hex(ref), { ref, suite, serial, chat, lastResort, madeMs: nowMs, retiredMs });
  }

  async package(ref: Uint8Array): Promise<Package | null> {
    return this.tx.row(PACKAGES, hex(ref));
  }

  async packages(): Promise<Package[]> {
    return this.where(PACKAGES, () => true);
  }

  /** Those that the server may still give out. */
  async packagesOnOffer(suite: number): Promise<Package[]> {
    return this.where(PACKAGES, (one) => one.suite === suite && one.retiredMs === null && one.chat === null);
  }

  async retirePackage(ref: Uint8Array, nowMs: number): Promise<void> {
    await this.change(PACKAGES, hex(ref), (one) => ({ ...one, retiredMs: nowMs }));
  }

  async packagesRetiredBefore(atMs: number): Promise<Package[]> {
    return this.where(PACKAGES, (one) => one.retiredMs !== null && one.retiredMs < atMs);
  }

  /** When the oldest package on offer was made. */
  async oldestPackageMs(suite: number): Promise<number | null> {
    return least((await this.packagesOnOffer(suite)).map((one) => one.madeMs));
  }

  async forgetPackage(ref: Uint8Array): Promise<void> {
    await this.tx.setRow(PACKAGES, hex(ref), null);
  }

  async forgetAllPackages(): Promise<void> {
    await this.forget(PACKAGES, () => true);
  }

  // -------------------------------------------------------------- contacts and chats

  async contact(account: Uint8Array): Promise<Contact | null> {
    return this.tx.row(CONTACTS, hex(account));
  }

  async contacts(): Promise<Contact[]> {
    return this.where(CONTACTS, () => true);
  }

  async putContact(contact: Contact): Promise<void> {
    await this.tx.setRow(CONTACTS, hex(contact.account), contact);
  }

  /** Throws when the id, the name or the peer has a chat already. */
  async addChat(chat: NewChat): Promise<void> {
    const { id, name, namedBy, kind, state, peer, groupId, nextSequence, lastAtMs } = chat;
    const chats = await this.where(CHATS, () => true);
    if (chats.some((one) => same(one.id, id) || one.name === name || (peer !== null && same(one.peer, peer)))) {
      throw new Error("there is such a chat already");
    }
    const begun = { id, name, namedBy, kind, state, peer, groupId, nextSequence, lastAtMs };
    await this.tx.setRow(CHATS, hex(id), { ...begun, ...UNSET, ...UNCOUNTED });
  }

  async chat(chat: Uint8Array): Promise<Chat | null> {
    return this.tx.row(CHATS, hex(chat));
  }

  async chatNamed(name: string): Promise<Chat | null> {
    return (await this.where(CHATS, (one) => one.name === name))[0] ?? null;
  }

  async chatOfPeer(account: Uint8Array): Promise<Chat | null> {
    return (await this.where(CHATS, (one) => same(one.peer, account)))[0] ?? null;
  }

  /** The one with the newest message first. */
  async chats(): Promise<Chat[]> {
    const chats = await this.where(CHATS, () => true);
    return chats.sort((one, other) => other.lastAtMs - one.lastAtMs || (one.name < other.name ? -1 : 1));
  }

  async renameChat(chat: Uint8Array, name: string, namedBy: string): Promise<void> {
    const [other] = await this.where(CHATS, (one) => one.name === name && !same(one.id, chat));
    if (other !== undefined) throw new Error("there is a chat of that name already");
    await this.changeChat(chat, () => ({ name, namedBy }));
  }

  async setChatState(chat: Uint8Array, state: string): Promise<void> {
    await this.changeChat(chat, () => ({ state }));
    if (state === "open") await this.tx.setRow(REQUESTS, hex(chat), null);
  }

  /** The chat waits to be accepted: who began it, and the address that its Welcome was for. Blocking keeps it. */
  async addRequest(chat: Uint8Array, account: Uint8Array, serial: Uint8Array): Promise<void> {
    await this.tx.setRow(REQUESTS, hex(chat), { chat, account, serial });
  }

  /** How many chats that this account began, and how many that came to this address, wait to be accepted. */
  async countRequests(account: Uint8Array, serial: Uint8Array): Promise<[byAccount: number, bySerial: number]> {
    const chats = await this.tx.rows(CHATS);
    const waiting = await this.where(REQUESTS, (one) => chats.get(hex(one.chat))?.state === "request");
    const count = (isOne: (one: Request) => boolean): number => waiting.filter(isOne).length;
    return [count((one) => same(one.account, account)), count((one) => same(one.serial, serial))];
  }

  /** Whether a stranger began the chat, and it was never accepted. */
  async isUndecided(chat: Uint8Array): Promise<boolean> {
    return (await this.tx.row(REQUESTS, hex(chat))) !== null;
  }

  /** Use this group from now on; what waits to be protected is protected in it. */
  async setChatGroup(chat: Uint8Array, groupId: Uint8Array, nowMs: number): Promise<void> {
    await this.hurryOutgoing(chat, nowMs);
    await this.changeChat(chat, () => ({ groupId }));
  }

  async setChatSettings(chat: Uint8Array, settings: Partial<Settings>): Promise<void> {
    await this.changeChat(chat, () => settings);
  }

  async touchChat(chat: Uint8Array, atMs: number): Promise<void> {
    await this.changeChat(chat, (one) => ({ lastAtMs: Math.max(one.lastAtMs, atMs) }));
  }

  /** The next number for what we send to the chat. */
  async takeSequence(chat: Uint8Array): Promise<number> {
    const sequence = (await this.chat(chat))?.nextSequence;
    if (sequence === undefined) throw new Error("there is no such chat");
    await this.changeChat(chat, () => ({ nextSequence: sequence + 1 }));
    return sequence;
  }

  /** A new device counts from 1; what the old one sent can no longer be asked for by number. What still waits is
   * numbered anew by the outbox. */
  async restartSequences(): Promise<void> {
    for (const { id } of await this.chats()) await this.changeChat(id, () => ({ nextSequence: 1 }));
    await this.tx.deleteRange(SENT, {});
  }

  private async changeChat(chat: Uint8Array, change: (one: Chat) => Partial<Chat>): Promise<void> {
    await this.change(CHATS, hex(chat), (one) => ({ ...one, ...change(one) }));
  }

  /** The number that stands for the chat in keys; 0: it has none, so there is nothing of it in any large table. */
  private async numberOf(chat: Uint8Array): Promise<number> {
    return (await this.tx.row(NUMBERS, hex(chat)))?.n ?? 0;
  }

  private async takeNumber(chat: Uint8Array): Promise<number> {
    await this.tx.update(NUMBERS, hex(chat), (known) => known ?? { n: this.tx.take("chats") });
    return this.numberOf(chat);
  }

  // -------------------------------------------------------------- groups

  async putGroup(group: Group): Promise<void> {
    await this.tx.setRow(GROUPS, hex(group.id), group);
  }

  async group(groupId: Uint8Array): Promise<Group | null> {
    return this.tx.row(GROUPS, hex(groupId));
  }

  async groups(): Promise<Group[]> {
    return this.where(GROUPS, () => true);
  }

  /** The one in use first, then the newest. */
  async groupsOfChat(chat: Uint8Array): Promise<Group[]> {
    return this.inUseFirst((one) => same(one.chat, chat));
  }

  /** The groups that were joined by this address; several, if its key package was a last resort. */
  async groupsOfSerial(serial: Uint8Array): Promise<Group[]> {
    const found = await this.where(GROUPS, (one) => same(one.serial, serial));
    return found.sort((one, other) => other.sinceMs - one.sinceMs);
  }

  /** The group in use among those that carry this chat id. */
  async groupOfMlsChat(mlsChat: Uint8Array): Promise<Group | null> {
    return (await this.inUseFirst((one) => same(one.mlsChat, mlsChat)))[0] ?? null;
  }

  private async inUseFirst(wanted: (one: Group) => boolean): Promise<Group[]> {
    const chats = await this.tx.rows(CHATS);
    const inUse = (one: Group) => same(chats.get(hex(one.chat))?.groupId, one.id);
    const found = await this.where(GROUPS, (one) => wanted(one) && chats.has(hex(one.chat)));
    return found.sort(
      (one, other) =>
        Number(inUse(other)) - Number(inUse(one)) || other.sinceMs - one.sinceMs || compare(one.id, other.id),
    );
  }

  /** All rows about the group but those of the core. */
  async forgetGroup(groupId: Uint8Array): Promise<void> {
    await this.tx.setRow(GROUPS, hex(groupId), null);
    await this.tx.setRow(PENDING, hex(groupId), null);
    await this.tx.setRow(PASSED, hex(groupId), null);
    await this.forget(TOLD, (one) => same(one.groupId, groupId));
    await this.forget(CHORES, (one) => same(one.subject, groupId));
  }

  async setEpoch(groupId: Uint8Array, epoch: number): Promise<void> {
    await this.change(GROUPS, hex(groupId), (one) => ({ ...one, epoch }));
  }

  async setStanding(groupId: Uint8Array, standing: string, nowMs: number): Promise<void> {
    await this.change(GROUPS, hex(groupId), (one) => ({ ...one, standing, sinceMs: nowMs }));
  }

  async putPending(pending: Pending): Promise<void> {
    await this.tx.setRow(PENDING, hex(pending.groupId), pending);
  }

  async pending(groupId: Uint8Array): Promise<Pending | null> {
    return this.tx.row(PENDING, hex(groupId));
  }

  async allPending(): Promise<Pending[]> {
    return this.where(PENDING, () => true);
  }

  async forgetPending(groupId: Uint8Array): Promise<void> {
    await this.tx.setRow(PENDING, hex(groupId), null);
  }

  async putPassed(passed: Passed): Promise<void> {
    await this.tx.setRow(PASSED, hex(passed.groupId), passed);
  }

  async passed(groupId: Uint8Array): Promise<Passed | null> {
    return this.tx.row(PASSED, hex(groupId));
  }

  /** Once only, and no more than MAX_TOLD of a group: the gate itself is asked in any case. */
  async putTold(groupId: Uint8Array, epoch: number, k: number, value: Uint8Array): Promise<void> {
    const told = await this.told(groupId);
    const isKnown = told.some((one) => one.epoch === epoch && one.k === k && same(one.value, value));
    if (isKnown || told.length >= MAX_TOLD) return;
    const n = this.tx.take("told");
    await this.tx.setRow(TOLD, String(n), { n, groupId, epoch, k, value });
  }

  /** What members said about the gates of a group, oldest first. */
  async told(groupId: Uint8Array): Promise<Told[]> {
    return (await this.where(TOLD, (one) => same(one.groupId, groupId))).sort(byNumber);
  }

  async forgetTold(groupId: Uint8Array, upto: number): Promise<void> {
    await this.forget(TOLD, (one) => same(one.groupId, groupId) && one.n <= upto);
  }

  /** These accounts came to the chat after us. */
  async putJoined(chat: Uint8Array, accounts: Iterable<Uint8Array>, nowMs: number): Promise<void> {
    for (const account of accounts) await this.tx.setRow(JOINS, nameOf(chat, account), { atMs: nowMs });
  }

  /** When this account came to the chat, as far as we saw it; 0 for one that was there when we came. */
  async joinedMs(chat: Uint8Array, account: Uint8Array): Promise<number> {
    return (await this.tx.row(JOINS, nameOf(chat, account)))?.atMs ?? 0;
  }

  /** When a rejoin was last granted to this device. */
  async grantedMs(device: Uint8Array, chat: Uint8Array): Promise<number | null> {
    return (await this.tx.row(GRANTS, nameOf(device, chat)))?.atMs ?? null;
  }

  async putGrant(device: Uint8Array, chat: Uint8Array, nowMs: number): Promise<void> {
    await this.tx.setRow(GRANTS, nameOf(device, chat), { atMs: nowMs });
  }

  // -------------------------------------------------------------- messages and receipts

  /** Whether it was new; the same id from the same account in the same chat is the same message. */
  async addMessage(
    chat: Uint8Array,
    message: Uint8Array,
    sender: Uint8Array,
    sequence: number,
    sentAtMs: number,
    kind: string,
    text: string,
    state: string,
    unread: boolean,
    extras: Partial<MessageExtras> = {},
  ): Promise<boolean> {
    if ((await this.message(chat, message, sender)) !== null) return false;
    const n = this.tx.take("messages");
    const fields = { n, id: message, chat, sender, sequence, sentAtMs, kind, text, state, unread };
    await this.setMessage({ ...fields, replyTo: NONE, media: null, notice: null, gapCount: 0, ...extras });
    await this.changeChat(chat, (one) => ({
      messageCount: one.messageCount + 1,
      lastN: n,
      unread: one.unread + Number(unread),
      firstUnread: unread && one.firstUnread === 0 ? n : one.firstUnread,
      queued: one.queued + Number(state === "queued"),
    }));
    return true;
  }

  async message(chat: Uint8Array, message: Uint8Array, sender: Uint8Array): Promise<Message | null> {
    return (await this.messagesWithId(chat, message)).find((one) => same(one.sender, sender)) ?? null;
  }

  async messageAt(n: number): Promise<Message | null> {
    return (await this.messagesAt([n]))[0] ?? null;
  }

  /** The messages with these numbers that there are, read together. */
  async messagesAt(numbers: readonly number[]): Promise<Message[]> {
    const rows = await this.tx.records(MESSAGES, numbers);
    return this.opened(rows.flatMap((row, at) => (row === null ? [] : [{ key: numbers[at] ?? 0, row }])));
  }

  /** The newest *limit*, oldest first. */
  async messages(chat: Uint8Array, limit: number): Promise<Message[]> {
    return (await this.page(chat, { limit })).messages;
  }

  async page(chat: Uint8Array, request: PageRequest): Promise<MessagePage> {
    const number = await this.numberOf(chat);
    if (number === 0) return { messages: [], before: false, after: false };
    const page = await this.pageOf(number, request);
    if (page.messages.every((one) => one.damaged === undefined)) return page;
    return { ...page, messages: timed(page.messages, (await this.chat(chat))?.lastAtMs ?? 0) };
  }

  private async pageOf(number: number, request: PageRequest): Promise<MessagePage> {
    const { limit, around, after } = request;
    if (around !== undefined) {
      const older = await this.older(number, around, Math.floor(limit / 2));
      const newer = await this.newer(number, around, limit - Math.floor(limit / 2));
      return { messages: [...older.messages, ...newer.messages], before: older.more, after: newer.more };
    }
    if (after !== undefined) {
      const { messages, more } = await this.newer(number, after + 1, limit);
      return { messages, before: (await this.older(number, after + 1, 0)).more, after: more };
    }
    const { messages, more } = await this.older(number, request.before ?? END, limit);
    const after_ = request.before !== undefined && (await this.newer(number, request.before, 0)).more;
    return { messages, before: more, after: after_ };
  }

  /** All words, anywhere in the text, in any case; newest first. */
  async search(words: string, request: SearchRequest): Promise<Found> {
    const wanted = fold(words).split(/\s+/).filter(Boolean);
    const number = request.chat === undefined ? null : await this.numberOf(request.chat);
    const messages: Message[] = [];
    let before = request.before ?? this.tx.taken("messages") + 1;
    let left = request.scan ?? Number.POSITIVE_INFINITY;
    if (wanted.length === 0) before = 1;
    while (before > 1) {
      if (left <= 0) return { messages, next: before };
      const atOnce = Math.min(SCAN_AT_ONCE, left);
      const batch = await this.batchBefore(before, number, atOnce);
      left -= atOnce;
      for (const message of batch.messages) {
        if (!isFound(message, wanted)) continue;
        messages.push(message);
        if (messages.length >= request.limit) return { messages, next: message.n };
      }
      before = batch.next;
    }
    return { messages, next: null };
  }

  /** Newest first: some messages of one chat, or of all of them, and where to go on; 1: that was all. */
  private async batchBefore(
    before: number,
    number: number | null,
    limit: number,
  ): Promise<{ messages: Message[]; next: number }> {
    if (number !== null) {
      const { messages, more } = await this.older(number, before, limit);
      return { messages: messages.reverse(), next: more ? (messages.at(-1)?.n ?? 1) : 1 };
    }
    // numbers run on without holes to speak of, and a range is read faster than a cursor walks
    const from = Math.max(1, before - limit);
    const found = await this.tx.scan(MESSAGES, { from, to: before - 1 });
    return { messages: (await this.opened(found)).reverse(), next: from };
  }

  /** Oldest first; null: of all chats. */
  async unread(chat: Uint8Array | null, limit: number): Promise<Message[]> {
    const chats = chat === null ? (await this.chats()).filter((one) => one.unread > 0).map((one) => one.id) : [chat];
    const found: Message[] = [];
    for (const one of chats) found.push(...(await this.unreadOf(one, limit)));
    return found.sort(byNumber).slice(0, limit);
  }

  async countUnread(chat: Uint8Array): Promise<number> {
    return (await this.chat(chat))?.unread ?? 0;
  }

  async countQueued(chat: Uint8Array): Promise<number> {
    return (await this.chat(chat))?.queued ?? 0;
  }

  async markRead(numbers: readonly number[]): Promise<void> {
    const read = (await this.messagesAt(numbers)).filter((one) => one.unread);
    const chats = new Map<string, { id: Uint8Array; count: number }>();
    for (const one of read) {
      await this.setMessage({ ...one, unread: false });
      const counted = chats.get(hex(one.chat))?.count ?? 0;
      chats.set(hex(one.chat), { id: one.chat, count: counted + 1 });
    }
    for (const { id, count } of chats.values()) {
      const [first] = await this.unreadOf(id, 1);
      await this.changeChat(id, (one) => ({ unread: one.unread - count, firstUnread: first?.n ?? 0 }));
    }
  }

  /** Whether the state changed; only states in *onlyFrom* do. *failure*: why it failed. */
  async setMessageState(
    chat: Uint8Array,
    message: Uint8Array,
    state: string,
    onlyFrom: readonly string[],
    failure: Failure | null = null,
  ): Promise<boolean> {
    const found = (await this.messagesWithId(chat, message)).filter((one) => onlyFrom.includes(one.state));
    for (const one of found) {
      await this.setMessage({ ...one, state, failure });
      const queued = Number(state === "queued") - Number(one.state === "queued");
      if (queued !== 0) await this.changeChat(chat, (row) => ({ queued: row.queued + queued }));
    }
    return found.length === 1;
  }

  /** What became of the message's file. */
  async setMedia(n: number, media: Partial<MediaRow>): Promise<void> {
    const one = await this.messageAt(n);
    if (one?.media) await this.setMessage({ ...one, media: { ...one.media, ...media } });
  }

  async oweReceipt(chat: Uint8Array, message: Uint8Array, status: number): Promise<void> {
    const owed = (await this.tx.row(RECEIPTS, nameOf(chat, message)))?.status ?? 0;
    await this.tx.setRow(RECEIPTS, nameOf(chat, message), { chat, message, status: Math.max(status, owed) });
  }

  /** Only for chats that are open. */
  async receiptsOwed(): Promise<Receipt[]> {
    const chats = await this.tx.rows(CHATS);
    const found = await this.where(RECEIPTS, (one) => chats.get(hex(one.chat))?.state === "open");
    return found.sort((one, other) => compare(one.chat, other.chat) || one.status - other.status);
  }

  async forgetReceipts(receipts: Iterable<Pick<Receipt, "chat" | "message">>): Promise<void> {
    for (const { chat, message } of receipts) await this.tx.setRow(RECEIPTS, nameOf(chat, message), null);
  }

  async forgetReceiptsOf(chat: Uint8Array): Promise<void> {
    await this.forget(RECEIPTS, (one) => same(one.chat, chat));
  }

  private async messagesWithId(chat: Uint8Array, message: Uint8Array): Promise<Message[]> {
    const tag = await this.tx.blind(chat, message);
    return this.opened(await this.tx.scan(MESSAGES, { index: "id", from: tag, to: tag }));
  }

  /** What was read, with a notice in the place of each that does not open. */
  private async opened(found: readonly { key: Key; row: Message | Unreadable }[]): Promise<Message[]> {
    const messages: Message[] = [];
    for (const { key, row } of found) {
      messages.push(row instanceof Unreadable ? await this.standIn(Number(key), row) : row);
    }
    return messages;
  }

  private async standIn(n: number, damaged: Unreadable): Promise<Message> {
    const { c, u } = damaged.plain;
    const id = new Uint8Array(MESSAGE_ID_BYTES);
    new DataView(id.buffer).setFloat64(MESSAGE_ID_BYTES - 8, n);
    const chat = [...(await this.tx.rows(NUMBERS))].find(([, number]) => number.n === c)?.[0] ?? "";
    const nobody = { sender: NONE, sequence: 0, sentAtMs: 0, text: "", replyTo: NONE, media: null, gapCount: 0 };
    return {
      ...nobody,
      n,
      id,
      chat: bytesOf(chat),
      kind: "notice",
      state: "received",
      unread: u !== undefined,
      notice: { code: "damaged", params: {} },
      damaged,
    };
  }

  private async setMessage(message: Message): Promise<void> {
    if (message.damaged !== undefined) {
      const { u: _, ...rest } = message.damaged.plain;
      const plain = message.unread && rest.c !== undefined ? { ...rest, u: rest.c } : rest;
      this.tx.setRecord(MESSAGES, message.n, new Unreadable(plain, message.damaged.sealed), plain);
      return;
    }
    const c = await this.takeNumber(message.chat);
    const k = await this.tx.blind(message.chat, message.id);
    const plain = { n: message.n, c, k };
    this.tx.setRecord(MESSAGES, message.n, message, message.unread ? { ...plain, u: c } : plain);
  }

  private async unreadOf(chat: Uint8Array, limit: number): Promise<Message[]> {
    const u = await this.numberOf(chat);
    return this.opened(await this.tx.scan(MESSAGES, { index: "unread", from: [u, 0], to: [u, END], limit }));
  }

  /** The newest *limit* below *n*, oldest first, and whether there are more. */
  private async older(number: number, n: number, limit: number): Promise<{ messages: Message[]; more: boolean }> {
    const range = { index: "chat", from: [number, 0], to: [number, n - 1], newestFirst: true };
    const { found, more } = await this.tx.part(MESSAGES, { ...range, limit });
    return { messages: (await this.opened(found)).reverse(), more };
  }

  /** The oldest *limit* from *n* on, oldest first, and whether there are more. */
  private async newer(number: number, n: number, limit: number): Promise<{ messages: Message[]; more: boolean }> {
    const range = { index: "chat", from: [number, n], to: [number, END] };
    const { found, more } = await this.tx.part(MESSAGES, { ...range, limit });
    return { messages: await this.opened(found), more };
  }

  // -------------------------------------------------------------- gaps

  /** The highest sequence number that came from this device. */
  async heard(chat: Uint8Array, device: Uint8Array): Promise<number | null> {
    return (await this.tx.row(HEARD, nameOf(chat, device)))?.highest ?? null;
  }

  async setHeard(chat: Uint8Array, device: Uint8Array, highest: number): Promise<void> {
    await this.tx.setRow(HEARD, nameOf(chat, device), { highest });
  }

  async addGap(
    chat: Uint8Array,
    device: Uint8Array,
    sequence: number,
    sender: Uint8Array,
    nowMs: number,
    askMs: number,
  ): Promise<void> {
    const name = gapName(chat, device, sequence);
    if ((await this.tx.row(GAPS, name)) !== null) return;
    await this.tx.setRow(GAPS, name, { chat, device, sequence, sender, sinceMs: nowMs, askMs });
  }

  async countGaps(chat: Uint8Array, device: Uint8Array): Promise<number> {
    return (await this.where(GAPS, (one) => same(one.chat, chat) && same(one.device, device))).length;
  }

  async closeGap(chat: Uint8Array, device: Uint8Array, sequence: number): Promise<void> {
    await this.tx.setRow(GAPS, gapName(chat, device, sequence), null);
  }

  /** Those to ask for now, in the order of chat, device, sequence. */
  async gapsDue(nowMs: number): Promise<Gap[]> {
    const found = await this.where(GAPS, (one) => one.askMs <= nowMs);
    return found.sort(
      (one, other) =>
        compare(one.chat, other.chat) || compare(one.device, other.device) || one.sequence - other.sequence,
    );
  }

  async nextGapMs(): Promise<number | null> {
    return least((await this.where(GAPS, () => true)).map((one) => one.askMs));
  }

  async postponeGap(chat: Uint8Array, device: Uint8Array, sequence: number, askMs: number): Promise<void> {
    await this.change(GAPS, gapName(chat, device, sequence), (one) => ({ ...one, askMs }));
  }

  // -------------------------------------------------------------- outbox and archive

  async queueContent(
    chat: Uint8Array,
    message: Uint8Array | null,
    content: Uint8Array,
    nowMs: number,
    onlyDevice: Uint8Array | null = null,
  ): Promise<void> {
    await this.queue({ chat, message, content, onlyDevice, body: null, targets: [], madeMs: nowMs, dueMs: nowMs });
  }

  /** Bytes that are ready to go: a commit, a Welcome, a request to rejoin. */
  async queueBody(body: Uint8Array, targets: readonly Uint8Array[], nowMs: number): Promise<void> {
    if (targets.length === 0) return;
    const nobody = { chat: null, message: null, content: null, onlyDevice: null };
    await this.queue({ ...nobody, body, targets, madeMs: nowMs, dueMs: nowMs });
  }

  private async queue(row: Omit<Outgoing, "n" | "kept" | "tries">): Promise<void> {
    const n = this.tx.take("outbox");
    await this.tx.setRow(OUTBOX, String(n), { ...row, n, kept: 0, tries: 0 });
  }

  /** Everything in the outbox, in order; handshakes first, since contents may be of the epoch that they bring. */
  async outgoing(): Promise<Outgoing[]> {
    const rows = await this.where(OUTBOX, () => true);
    return rows.sort((one, other) => Number(one.chat !== null) - Number(other.chat !== null) || one.n - other.n);
  }

  async outboxSize(): Promise<number> {
    return (await this.tx.rows(OUTBOX)).size;
  }

  /** When the next row is due; one of a chat not before those that were written before it. */
  async outboxDueMs(): Promise<number | null> {
    const times: number[] = [];
    const firsts = new Map<string, Outgoing>();
    for (const row of (await this.tx.rows(OUTBOX)).values()) {
      if (row.chat === null) {
        times.push(row.dueMs);
        continue;
      }
      const chat = hex(row.chat);
      const first = firsts.get(chat);
      if (first === undefined || row.n < first.n) firsts.set(chat, row);
    }
    return least([...times, ...[...firsts.values()].map((row) => row.dueMs)]);
  }

  async postponeOutgoing(n: number, dueMs: number): Promise<void> {
    await this.change(OUTBOX, String(n), (one) => ({ ...one, dueMs }));
  }

  /** The chat can be written to again. */
  async hurryOutgoing(chat: Uint8Array, nowMs: number): Promise<void> {
    for (const { n } of await this.where(OUTBOX, (one) => same(one.chat, chat) && one.content !== null)) {
      await this.postponeOutgoing(n, nowMs);
    }
  }

  /** Other bytes for a content that waits. */
  async setContent(n: number, content: Uint8Array): Promise<void> {
    await this.change(OUTBOX, String(n), (one) => ({ ...one, content }));
  }

  async setProtected(n: number, body: Uint8Array, targets: readonly Uint8Array[]): Promise<void> {
    await this.change(OUTBOX, String(n), (one) => ({ ...one, content: null, body, targets }));
  }

  async setOutgoing(
    n: number,
    targets: readonly Uint8Array[],
    kept: number,
    dueMs: number,
    tries: number,
  ): Promise<void> {
    await this.change(OUTBOX, String(n), (one) => ({ ...one, targets, kept, dueMs, tries }));
  }

  async forgetOutgoing(n: number): Promise<void> {
    await this.tx.setRow(OUTBOX, String(n), null);
  }

  /** The messages that will not be sent. */
  async forgetOutgoingOf(chat: Uint8Array): Promise<Uint8Array[]> {
    const rows = (await this.where(OUTBOX, (one) => same(one.chat, chat))).sort(byNumber);
    for (const { n } of rows) await this.forgetOutgoing(n);
    return rows.map(({ message }) => message).filter((message) => message !== null);
  }

  async archive(
    chat: Uint8Array,
    sequence: number,
    message: Uint8Array,
    content: Uint8Array,
    nowMs: number,
  ): Promise<void> {
    const key = [await this.takeNumber(chat), sequence];
    this.tx.setRecord(SENT, key, { sequence, message, content, atMs: nowMs, resent: 0 });
  }

  async archived(chat: Uint8Array, sequence: number): Promise<Sent | null> {
    return this.tx.record(SENT, [await this.numberOf(chat), sequence]);
  }

  /** When we wrote this; -1 when it is not kept. */
  async sentMs(chat: Uint8Array, sequence: number): Promise<number> {
    return (await this.archived(chat, sequence))?.atMs ?? -1;
  }

  /** (message, content) of our newest *limit* texts since then, still kept, that no receipt came for, in order. */
  async unconfirmed(chat: Uint8Array, limit: number, sinceMs: number): Promise<[Uint8Array, Uint8Array][]> {
    const number = await this.numberOf(chat);
    const found: [Uint8Array, Uint8Array][] = [];
    let to = END;
    while (found.length < limit) {
      const range = { from: [number, 0], to: [number, to], newestFirst: true };
      const batch = (await this.tx.scan(SENT, { ...range, limit: SCAN_AT_ONCE })).map(({ row }) => row);
      for (const { sequence, message, content, atMs } of batch) {
        to = sequence - 1;
        if (atMs < sinceMs || found.length >= limit) continue;
        const states = (await this.messagesWithId(chat, message)).map(({ state }) => state);
        if (states.includes("kept") || states.includes("failed")) found.push([message, content]);
      }
      if (batch.length < SCAN_AT_ONCE) break;
    }
    return found.reverse();
  }

  async countResent(chat: Uint8Array, sequence: number): Promise<void> {
    const key = [await this.numberOf(chat), sequence];
    const row = await this.tx.record(SENT, key);
    if (row !== null) this.tx.setRecord(SENT, key, { ...row, resent: row.resent + 1 });
  }

  // -------------------------------------------------------------- envelopes

  /** Whether this envelope came before; one that was set aside counts. */
  async isDecided(envelope: Uint8Array): Promise<boolean> {
    if ((await this.tx.row(ASIDE, hex(envelope))) !== null) return true;
    return (await this.tx.record(DECIDED, await this.tx.blind(envelope))) !== null;
  }

  async decide(envelope: Uint8Array, nowMs: number): Promise<void> {
    const key = await this.tx.blind(envelope);
    if ((await this.tx.record(DECIDED, key)) === null) {
      this.tx.setRecord(DECIDED, key, {}, { b: await this.bucketAt(nowMs) });
    }
  }

  /** The bucket for what is decided now; a new one each day. */
  private async bucketAt(nowMs: number): Promise<number> {
    const newest = (await this.where(BUCKETS, () => true)).sort(byNumber).at(-1);
    if (newest !== undefined && nowMs < newest.atMs + DAY_MS) return newest.n;
    const n = this.tx.take("buckets");
    await this.tx.setRow(BUCKETS, String(n), { n, atMs: nowMs });
    return n;
  }

  /** Keep an envelope that may become readable. False when the serial has as many as it may. */
  async setAside(envelope: Uint8Array, serial: Uint8Array, body: Uint8Array, nowMs: number): Promise<boolean> {
    const lines = await this.where(ASIDE, (one) => same(one.serial, serial));
    if (lines.length >= MAX_ASIDE_PER_SERIAL) return false;
    if ((await this.tx.row(ASIDE, hex(envelope))) !== null) return true;
    const n = this.tx.take("aside");
    await this.tx.setRow(ASIDE, hex(envelope), { n, id: envelope, serial, atMs: nowMs });
    this.tx.setRecord(ASIDE_BODIES, n, { body });
    return true;
  }

  /** Oldest first: of the chat's addresses, and of those by which its groups were joined. */
  async asideOfChat(chat: Uint8Array): Promise<Aside[]> {
    const addresses = await this.tx.rows(ADDRESSES);
    const groups = await this.where(GROUPS, (one) => same(one.chat, chat) && one.serial !== null);
    const joinedBy = new Set(groups.map(({ serial }) => hex(serial ?? NONE)));
    const lines = await this.where(ASIDE, ({ serial }) => {
      const address = addresses.get(hex(serial));
      return address !== undefined && (same(address.chat, chat) || joinedBy.has(hex(serial)));
    });
    lines.sort(byNumber);
    const bodies = await this.tx.records(
      ASIDE_BODIES,
      lines.map(({ n }) => n),
    );
    return lines.map(({ id, serial }, at) => ({ envelope: id, serial, body: bodies[at]?.body ?? NONE }));
  }

  async chatsWithAside(): Promise<Uint8Array[]> {
    const addresses = await this.tx.rows(ADDRESSES);
    const found = new Map<string, Uint8Array>();
    for (const { serial } of await this.where(ASIDE, () => true)) {
      const chat = addresses.get(hex(serial))?.chat;
      if (chat) found.set(hex(chat), chat);
    }
    return [...found.values()];
  }

  async forgetAside(envelope: Uint8Array): Promise<void> {
    const line = await this.tx.row(ASIDE, hex(envelope));
    if (line === null) return;
    await this.tx.setRow(ASIDE, hex(envelope), null);
    this.tx.setRecord(ASIDE_BODIES, line.n, null);
  }

  // -------------------------------------------------------------- chores and journal

  /** Remember work to be done; the same kind for the same subject once only, at the earlier of two times. */
  async addChore(
    kind: string,
    subject: Uint8Array,
    payload: Uint8Array,
    nowMs: number,
    dueMs: number | null = null,
  ): Promise<void> {
    const due = dueMs ?? nowMs;
    const known = await this.chore(kind, subject);
    const n = known?.n ?? this.tx.take("chores");
    const fresh = { n, kind, subject, payload, madeMs: nowMs, dueMs: due, tries: 0 };
    const chore = known === null ? fresh : { ...known, dueMs: Math.min(known.dueMs, due) };
    await this.tx.setRow(CHORES, choreName(kind, subject), chore);
  }

  async chore(kind: string, subject: Uint8Array): Promise<Chore | null> {
    return this.tx.row(CHORES, choreName(kind, subject));
  }

  async choresDue(nowMs: number): Promise<Chore[]> {
    return (await this.where(CHORES, (one) => one.dueMs <= nowMs)).sort(byNumber);
  }

  /** All of this kind, whenever they are due. */
  async chores(kind: string): Promise<Chore[]> {
    return (await this.where(CHORES, (one) => one.kind === kind)).sort(byNumber);
  }

  /** With *about*, only those whose subject begins with it. */
  async countChores(kind: string, about: Uint8Array = NONE): Promise<number> {
    const isAbout = (one: Chore) => same(one.subject.subarray(0, about.length), about);
    return (await this.where(CHORES, (one) => one.kind === kind && isAbout(one))).length;
  }

  async nextChoreMs(): Promise<number | null> {
    return least((await this.where(CHORES, () => true)).map((one) => one.dueMs));
  }

  async setChore(n: number, payload: Uint8Array, dueMs: number, tries: number): Promise<void> {
    const [known] = await this.where(CHORES, (one) => one.n === n);
    if (known === undefined) return;
    await this.tx.setRow(CHORES, choreName(known.kind, known.subject), { ...known, payload, dueMs, tries });
  }

  async forgetChore(kind: string, subject: Uint8Array): Promise<void> {
    await this.tx.setRow(CHORES, choreName(kind, subject), null);
  }

  /** Write a line of the journal: what the screens of every tab are told after the commit. */
  async note(kind: string, chat: Uint8Array, about: Uint8Array = NONE, text = ""): Promise<void> {
    const n = this.tx.take("journal");
    if (kind === "typing") {
      // only how it is now matters, and anyone may send any number
      const name = nameOf(chat, about);
      const before = await this.tx.row(TYPING, name);
      if (before !== null) this.tx.setRecord(JOURNAL, before.n, null);
      await this.tx.setRow(TYPING, name, { n });
    }
    this.tx.setRecord(JOURNAL, n, { n, kind, chat, about, text });
    if (n % TRIM_JOURNAL_EVERY === 0) await this.trimJournal();
  }

  async journalEnd(): Promise<number> {
    return this.tx.taken("journal");
  }

  /** At most 1,000. */
  async journalAfter(n: number): Promise<Entry[]> {
    return (await this.tx.scan(JOURNAL, { from: n + 1, limit: 1000 })).map(({ row }) => row);
  }

  /** Keep the newest lines: who has not read the older ones by now does not listen. */
  private async trimJournal(): Promise<void> {
    const last = this.tx.taken("journal") - KEEP_JOURNAL;
    if (last <= 0) return;
    await this.tx.deleteRange(JOURNAL, { to: last });
    await this.forget(TYPING, ({ n }) => n <= last);
  }

  // -------------------------------------------------------------- housekeeping

  /** What is due later than anything may wait was put off under another clock, which has been set back: it is due now. */
  async hurryMisdated(nowMs: number): Promise<void> {
    for (const { n } of await this.where(OUTBOX, (one) => one.dueMs > nowMs + MOST_OUTBOX_WAIT_MS)) {
      await this.postponeOutgoing(n, nowMs);
    }
    for (const { n, payload, tries } of await this.where(CHORES, (one) => one.dueMs > nowMs + MOST_CHORE_WAIT_MS)) {
      await this.setChore(n, payload, nowMs, tries);
    }
    for (const one of await this.where(GAPS, ({ askMs }) => askMs > nowMs + MOST_GAP_WAIT_MS)) {
      await this.postponeGap(one.chat, one.device, one.sequence, nowMs);
    }
  }

  /** Forget what has served its time. */
  async expire(nowMs: number): Promise<void> {
    for (const { n } of await this.where(NUMBERS, () => true)) await this.expireSent(n, nowMs - KEEP_SENT_MS);
    for (const { n, atMs } of await this.where(BUCKETS, () => true)) {
      if (atMs + DAY_MS >= nowMs - KEEP_DECIDED_MS) continue;
      await this.tx.deleteRange(DECIDED, { index: "bucket", from: n, to: n });
      await this.tx.setRow(BUCKETS, String(n), null);
    }
    for (const { id } of await this.where(ASIDE, (one) => one.atMs < nowMs - KEEP_ASIDE_MS)) await this.forgetAside(id);
    await this.forget(GRANTS, ({ atMs }) => atMs < nowMs - 2 * DAY_MS);
    await this.trimJournal();
  }

  /** What was sent to the chat of this number, from its oldest on, until something is to be kept. */
  private async expireSent(number: number, beforeMs: number): Promise<void> {
    for (let from = 0; ; ) {
      const limit = from === 0 ? 1 : SCAN_AT_ONCE; // mostly, the first tells that there is nothing to do
      const batch = await this.tx.scan(SENT, { from: [number, from], to: [number, END], limit });
      for (const { key, row } of batch) {
        if (row.atMs >= beforeMs) return;
        this.tx.setRecord(SENT, key, null);
        from = row.sequence + 1;
      }
      if (batch.length < limit) return;
    }
  }

  // -------------------------------------------------------------- files

  /** The decrypted bytes of a file, if they are here, and of that *hash*; it counts as used. Source: CNT-41. */
  async file(blob: Uint8Array, hash: Uint8Array | null = null): Promise<Uint8Array | null> {
    const line = await this.tx.row(FILES, hex(blob));
    if (line === null || (hash !== null && line.hash !== undefined && line.hash !== hex(hash))) return null;
    this.used.set(hex(blob), Date.now());
    return (await this.tx.record(FILE_BODIES, line.n))?.body ?? null;
  }

  /** Keep a file: our own, or one that came. */
  async putFile(blob: Uint8Array, data: Uint8Array, nowMs: number, came: CameAs | null): Promise<void> {
    await this.forgetFile(blob);
    const n = this.tx.take("files");
    const loose = came && { chat: hex(came.chat), looseUntilMs: nowMs + LOOSE_MS, hash: hex(came.hash) };
    await this.tx.setRow(FILES, hex(blob), { n, size: data.length, usedMs: nowMs, ...loose });
    this.tx.setRecord(FILE_BODIES, n, { body: data });
    await this.makeRoom(nowMs);
  }

  /** Our own was sealed for its message. */
  async setFileHash(blob: Uint8Array, hash: Uint8Array): Promise<void> {
    await this.change(FILES, hex(blob), (one) => ({ ...one, hash: hex(hash) }));
  }

  async forgetFile(blob: Uint8Array): Promise<void> {
    const line = await this.tx.row(FILES, hex(blob));
    if (line === null) return;
    await this.tx.setRow(FILES, hex(blob), null);
    this.tx.setRecord(FILE_BODIES, line.n, null);
  }

  /**
   * Throw away files until the rest fits, of those that can be fetched again: of the chat that has most, what was not
   * used for longest. So no chat drives out what came in another.
   */
  private async makeRoom(nowMs: number): Promise<void> {
    const chats = new Map<string, { size: number; files: (FileLine & { name: string })[] }>();
    let size = 0;
    for (const [name, line] of await this.tx.rows(FILES)) {
      if (line.chat === undefined || (line.looseUntilMs ?? 0) <= nowMs) continue;
      const chat = chats.get(line.chat) ?? { size: 0, files: [] };
      chat.files.push({ ...line, name, usedMs: Math.max(line.usedMs, this.used.get(name) ?? 0) });
      chat.size += line.size;
      size += line.size;
      chats.set(line.chat, chat);
    }
    if (size <= this.mostFilesBytes) return;
    for (const { files } of chats.values()) files.sort((a, b) => b.usedMs - a.usedMs || b.n - a.n);
    while (size > this.mostFilesBytes) {
      const most = [...chats.values()].reduce((one, other) => (other.size > one.size ? other : one));
      const gone = most.files.pop();
      if (gone === undefined) return;
      await this.forgetFile(bytesOf(gone.name));
      most.size -= gone.size;
      size -= gone.size;
    }
  }

  // -------------------------------------------------------------- plumbing

  /** The rows that are wanted, as an array of their own. */
  private async where<R extends object>(table: Small<R>, wanted: (row: R) => boolean): Promise<R[]> {
    return [...(await this.tx.rows(table)).values()].filter(wanted);
  }

  /** Does nothing when there is no such row. */
  private async change<R extends object>(table: Small<R>, key: string, change: (row: R) => R): Promise<void> {
    await this.tx.update(table, key, (row) => (row === null ? null : change(row)));
  }

  private async forget<R extends object>(table: Small<R>, unwanted: (row: R) => boolean): Promise<void> {
    for (const [key, row] of [...(await this.tx.rows(table))])
      if (unwanted(row)) await this.tx.setRow(table, key, null);
  }
}

const END = Number.MAX_SAFE_INTEGER;
const UNSET: Settings = { pinned: false, archived: false, mutedUntilMs: 0, draft: "", verifiedNumber: "" };
const UNCOUNTED = { unread: 0, firstUnread: 0, messageCount: 0, queued: 0, lastN: 0 };

function byNumber(one: { n: number }, other: { n: number }): number {
  return one.n - other.n;
}

function least(numbers: readonly number[]): number | null {
  return numbers.length === 0 ? null : numbers.reduce((one, other) => Math.min(one, other));
}

function gapName(chat: Uint8Array, device: Uint8Array, sequence: number): string {
  return `${nameOf(chat, device)}.${sequence}`;
}

function choreName(kind: string, subject: Uint8Array): string {
  return `${kind}.${hex(subject)}`;
}

/** Those that do not open at the time of the message before, else after, else at *otherwiseMs*. */
function timed(messages: readonly Message[], otherwiseMs: number): Message[] {
  let lastMs = messages.find((one) => one.damaged === undefined)?.sentAtMs ?? otherwiseMs;
  return messages.map((one) => {
    if (one.damaged !== undefined) return { ...one, sentAtMs: lastMs };
    lastMs = one.sentAtMs;
    return one;
  });
}

function isFound(message: Message, words: readonly string[]): boolean {
  if (message.kind !== "text" && message.kind !== "media") return false;
  const text = fold(message.text);
  return words.every((word) => text.includes(word));
}

/** Text as it is compared when searching: without case, accents and forms. */
function fold(text: string): string {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

// ---------------------------------------------------------------- the store

/** A second place beside the database that remembers only whether there is an account here. */
export interface SecondPlace {
  has(): Promise<boolean>;
  set(): Promise<void>;
  clear(): Promise<void>;
}

export interface StoreOptions {
  readonly name?: string;
  readonly locks?: Locks;
  readonly random?: (size: number) => Uint8Array;
  readonly secondPlace?: SecondPlace;
  readonly mostFilesBytes?: number;
}

/** The open database, for one worker. */
export class Store {
  /** Called when the database was taken away under us; nothing can be read or written any more. */
  onLost: (error: StoreError) => void = () => {};
  private readonly callbacks = new Set<(mine: boolean) => void>();
  private readonly channel: BroadcastChannel;
  /** When files were used, as far as no transaction has stored it. */
  private readonly used = new Map<string, number>();

  private constructor(
    private readonly database: Database,
    private readonly secondPlace: SecondPlace,
    private readonly mostFilesBytes: number,
    /** The second place knows that an account was here, and the database has none: the browser threw it away. */
    readonly evicted: boolean,
    name: string,
  ) {
    this.channel = new BroadcastChannel(name);
    this.channel.onmessage = ({ data }: MessageEvent<unknown>) => {
      if (typeof data === "object" && data !== null && "type" in data && data.type === "commit") this.tell(false);
    };
    database.onCommit = () => {
      this.channel.postMessage({ type: "commit" });
      this.tell(true);
    };
    database.onLost = (error) => this.onLost(error);
  }

  /** The database of this browser, made if there is none. Throws StoreError "newer", "damaged" or "storage", and has
   * changed nothing then. */
  static async open(options: StoreOptions = {}): Promise<Store> {
    const { name = "taube", locks = navigator.locks, random = browserRandom } = options;
    const secondPlace = options.secondPlace ?? cachePlace(name);
    const database = await Database.open({ name, schema: SCHEMA_VERSION, large: LARGE, locks: locks as Locks, random });
    const wasHere = await secondPlace.has();
    const evicted = wasHere && (await database.committed(META, "account")) === null;
    return new Store(database, secondPlace, options.mostFilesBytes ?? MAX_FILES_BYTES, evicted, name);
  }

  /** One transaction that changes something: durable when the promise resolves, undone when *work* throws. It holds the
   * lock of all tabs: never call `write` or `read` inside, hand *tx* on. Throws StoreError. */
  async write<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.database.write((tx) => work(new Tx(tx, this.used, this.mostFilesBytes)));
  }

  /** One consistent view; nothing may be changed. The same: never inside another. */
  async read<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.database.read((tx) => work(new Tx(tx, this.used, this.mostFilesBytes)));
  }

  /** A meta value as it was last committed, without any lock: may be called inside `write`. */
  async committedMeta(name: string): Promise<Uint8Array | null> {
    return (await this.database.committed(META, name))?.value ?? null;
  }

  /** Called after each transaction that changed something; *mine*: by this worker, else by another tab. Returns what
   * ends it. */
  onCommit(callback: (mine: boolean) => void): () => void {
    this.callbacks.add(callback);
    return () => this.callbacks.delete(callback);
  }

  /** Tell the second place that there is an account here now. */
  async rememberAccount(): Promise<void> {
    await this.secondPlace.set();
  }

  /** Delete everything. The second place forgets first: cut off in between, the account is still here, not thrown away. */
  async erase(): Promise<void> {
    await this.secondPlace.clear();
    await this.database.erase();
    this.channel.close();
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.database.close();
    this.channel.close();
  }

  private tell(mine: boolean): void {
    for (const callback of [...this.callbacks]) callback(mine);
  }
}

/** The mark lies where the browser keeps the app's files; where there is no such place, nothing is known. */
function cachePlace(name: string): SecondPlace {
  const cache = `${name}-mark`;
  return {
    async has() {
      return typeof caches !== "undefined" && (await caches.has(cache));
    },
    async set() {
      if (typeof caches !== "undefined") await caches.open(cache);
    },
    async clear() {
      if (typeof caches !== "undefined") await caches.delete(cache);
    },
  };
}
