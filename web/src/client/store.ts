/**
 * The encrypted local database of one account in one browser: its rows, its transactions, and every query.
 *
 * Source: docs/protocol/device.md, "State".
 */

import type { NoticeCode, PageRequest, Params } from "./api";

export const DAY_MS = 86_400_000;

/** A sealed address of ours. *purpose*: spare, link, package, chat (then *chat* says whose), revoked, or dead (of a
 * mailbox that was renewed: nothing new arrives, what waits there is still read; *madeMs*: since when). */
export interface Address {
  readonly serial: Uint8Array;
  readonly address: Uint8Array;
  readonly purpose: string;
  readonly chat: Uint8Array | null;
  readonly madeMs: number;
}

/** A key package of ours. *chat*: made for asking that chat to take us back. *retiredMs*: not offered since (or from
 * then on). */
export interface Package {
  readonly ref: Uint8Array;
  readonly suite: number;
  readonly serial: Uint8Array;
  readonly chat: Uint8Array | null;
  readonly lastResort: boolean;
  readonly madeMs: number;
  readonly retiredMs: number | null;
}

/** Another account: the name it gave itself, the lowest list counter still acceptable, its newest certificate, and the
 * small picture of its profile (empty: none). */
export interface Contact {
  readonly account: Uint8Array;
  readonly name: string;
  readonly counter: number;
  readonly certificate: Uint8Array;
  readonly photo: Uint8Array;
}

/** A conversation as it is begun. *groupId*: the MLS group that it uses now. */
export interface NewChat {
  readonly id: Uint8Array;
  readonly name: string;
  readonly namedBy: string;
  readonly kind: number;
  readonly state: string;
  readonly peer: Uint8Array | null;
  readonly groupId: Uint8Array | null;
  readonly nextSequence: number;
  readonly lastAtMs: number;
}

/** What a person set for a chat. */
export interface Settings {
  readonly pinned: boolean;
  readonly archived: boolean;
  /** 0: not muted; Number.MAX_SAFE_INTEGER: for ever. */
  readonly mutedUntilMs: number;
  readonly draft: string;
  /** The safety number that was found to be right; empty: none. It is verified while it is still the chat's. */
  readonly verifiedNumber: string;
}

/** A conversation with what the store counts itself: these are never set from outside. */
export interface Chat extends NewChat, Settings {
  readonly unread: number;
  /** `n` of the first unread message; 0: none. */
  readonly firstUnread: number;
  readonly messageCount: number;
  /** Messages in the state "queued". */
  readonly queued: number;
  /** `n` of the newest message; 0: none. */
  readonly lastN: number;
}

/** An MLS group of a chat. *standing*: current, rejoin (not usable), left. *serial*: the address we joined by. */
export interface Group {
  readonly id: Uint8Array;
  readonly chat: Uint8Array;
  readonly mlsChat: Uint8Array;
  readonly epoch: number;
  readonly standing: string;
  readonly sinceMs: number;
  readonly predecessor: Uint8Array | null;
  readonly serial: Uint8Array | null;
}

/** What a message says of its file. *state*: remote, here, uploading, gone or failed; while it loads it is remote. */
export interface MediaRow {
  readonly blob: Uint8Array;
  readonly key: Uint8Array;
  readonly hash: Uint8Array;
  readonly size: number;
  readonly mediaType: string;
  readonly width: number;
  readonly height: number;
  readonly thumbhash: Uint8Array;
  readonly name: string;
  readonly state: "remote" | "here" | "uploading" | "gone" | "failed";
}

/** What only some messages have. */
export interface MessageExtras {
  /** What is answered: message id (16) ‖ account (32); empty: nothing. */
  readonly replyTo: Uint8Array;
  readonly media: MediaRow | null;
  readonly notice: { readonly code: NoticeCode; readonly params: Params } | null;
  /** For a gap: how many are missing. */
  readonly gapCount: number;
}

/** One message of the history; *sender* is an account. */
export interface Message extends MessageExtras {
  readonly n: number;
  readonly id: Uint8Array;
  readonly chat: Uint8Array;
  readonly sender: Uint8Array;
  readonly sequence: number;
  readonly sentAtMs: number;
  readonly kind: string;
  readonly text: string;
  readonly state: string;
  readonly unread: boolean;
}

/** Messages in the order of `n`, and whether there are older and newer ones. */
export interface MessagePage {
  readonly messages: Message[];
  readonly before: boolean;
  readonly after: boolean;
}

/** Newest first. *next*: where to go on (`SearchRequest.before`); null when all was looked through. */
export interface Found {
  readonly messages: Message[];
  readonly next: number | null;
}

export interface SearchRequest {
  /** Only in this chat. */
  chat?: Uint8Array;
  /** Only messages older than this `n`. */
  before?: number;
  /** Stop after so many were found. */
  limit: number;
  /** Stop after so many were looked at. */
  scan?: number;
}

/** One row of the outbox: *content* until it is protected, then *body* and the *targets* that do not have it yet. */
export interface Outgoing {
  readonly n: number;
  readonly chat: Uint8Array | null;
  readonly message: Uint8Array | null;
  readonly content: Uint8Array | null;
  readonly onlyDevice: Uint8Array | null;
  readonly body: Uint8Array | null;
  readonly targets: readonly Uint8Array[];
  readonly kept: number;
  readonly madeMs: number;
  readonly dueMs: number;
  readonly tries: number;
}

/** A commit of ours that waits for its gate, with the exact bytes of the claim. */
export interface Pending {
  readonly groupId: Uint8Array;
  readonly epoch: number;
  readonly k: number;
  readonly name: Uint8Array;
  readonly value: Uint8Array;
  readonly body: Uint8Array;
  readonly welcomes: readonly Welcomed[];
  readonly atMs: number;
}

/** A Welcome and the address that it goes to. */
export interface Welcomed {
  readonly address: Uint8Array;
  readonly body: Uint8Array;
}

/** The gate that a group passed last. */
export interface Passed {
  readonly groupId: Uint8Array;
  readonly epoch: number;
  readonly k: number;
  readonly name: Uint8Array;
  readonly value: Uint8Array;
  readonly atMs: number;
}

/** A member said that gate *k* of this epoch holds *value* (empty: too large to be said). */
export interface Told {
  readonly n: number;
  readonly groupId: Uint8Array;
  readonly epoch: number;
  readonly k: number;
  readonly value: Uint8Array;
}

/** Work that has to be done once, even if this worker ends before. */
export interface Chore {
  readonly n: number;
  readonly kind: string;
  readonly subject: Uint8Array;
  readonly payload: Uint8Array;
  readonly madeMs: number;
  readonly dueMs: number;
  readonly tries: number;
}

/** One line of the journal, from which every tab makes its events. */
export interface Entry {
  readonly n: number;
  readonly kind: string;
  readonly chat: Uint8Array;
  readonly about: Uint8Array;
  readonly text: string;
}

/** An envelope that may become readable. */
export interface Aside {
  readonly envelope: Uint8Array;
  readonly serial: Uint8Array;
  readonly body: Uint8Array;
}

/** A message number that was skipped and is asked for. */
export interface Gap {
  readonly chat: Uint8Array;
  readonly device: Uint8Array;
  readonly sequence: number;
  readonly sender: Uint8Array;
  readonly sinceMs: number;
  readonly askMs: number;
}

export interface Receipt {
  readonly chat: Uint8Array;
  readonly message: Uint8Array;
  readonly status: number;
}

/** What we sent and keep, to send it again when asked. */
export interface Sent {
  readonly message: Uint8Array;
  readonly content: Uint8Array;
  readonly atMs: number;
  /** How often it was sent again. */
  readonly resent: number;
}

/** One transaction. In `read` only the reading methods may be called. Reads see what the same transaction wrote. */
export interface Tx {
  meta(name: string): Promise<Uint8Array | null>;
  metaText(name: string): Promise<string>;
  metaInt(name: string): Promise<number>;
  setMeta(name: string, value: Uint8Array | string | number | null): Promise<void>;

  /** Rises with every change of the scope's rows; 0 when it never had any. */
  scopeVersion(scope: Uint8Array): Promise<number>;
  scopeRows(scope: Uint8Array): Promise<[name: Uint8Array, value: Uint8Array][]>;
  /** Store a row; null deletes it, and all rows of the scope if *name* is empty. */
  putRow(scope: Uint8Array, name: Uint8Array, value: Uint8Array | null): Promise<void>;
  clearScope(scope: Uint8Array): Promise<void>;
  bumpScope(scope: Uint8Array): Promise<number>;

  addAddress(
    serial: Uint8Array,
    address: Uint8Array,
    purpose: string,
    chat: Uint8Array | null,
    nowMs: number,
  ): Promise<void>;
  address(serial: Uint8Array): Promise<Address | null>;
  /** Oldest first. */
  addresses(purpose: string): Promise<Address[]>;
  addressesOfChat(chat: Uint8Array): Promise<Address[]>;
  useAddress(serial: Uint8Array, purpose: string, chat?: Uint8Array | null): Promise<void>;
  buryAddresses(purpose: string, nowMs: number): Promise<void>;
  forgetDeadAddresses(beforeMs: number): Promise<void>;
  forgetAddress(serial: Uint8Array): Promise<void>;
  forgetAllAddresses(): Promise<void>;
  addPackage(
    ref: Uint8Array,
    suite: number,
    serial: Uint8Array,
    chat: Uint8Array | null,
    lastResort: boolean,
    nowMs: number,
    retiredMs?: number | null,
  ): Promise<void>;
  package(ref: Uint8Array): Promise<Package | null>;
  packages(): Promise<Package[]>;
  /** Those that the server may still give out. */
  packagesOnOffer(suite: number): Promise<Package[]>;
  retirePackage(ref: Uint8Array, nowMs: number): Promise<void>;
  packagesRetiredBefore(atMs: number): Promise<Package[]>;
  /** When the oldest package on offer was made. */
  oldestPackageMs(suite: number): Promise<number | null>;
  forgetPackage(ref: Uint8Array): Promise<void>;
  forgetAllPackages(): Promise<void>;

  contact(account: Uint8Array): Promise<Contact | null>;
  contacts(): Promise<Contact[]>;
  putContact(contact: Contact): Promise<void>;
  /** Throws when the id, the name or the peer has a chat already. */
  addChat(chat: NewChat): Promise<void>;
  chat(chat: Uint8Array): Promise<Chat | null>;
  chatNamed(name: string): Promise<Chat | null>;
  chatOfPeer(account: Uint8Array): Promise<Chat | null>;
  /** The one with the newest message first. */
  chats(): Promise<Chat[]>;
  renameChat(chat: Uint8Array, name: string, namedBy: string): Promise<void>;
  setChatState(chat: Uint8Array, state: string): Promise<void>;
  /** The chat waits to be accepted: who began it, and the address that its Welcome was for. Until its state changes. */
  addRequest(chat: Uint8Array, account: Uint8Array, serial: Uint8Array): Promise<void>;
  /** How many chats that this account began, and how many that came to this address, wait to be accepted. */
  countRequests(account: Uint8Array, serial: Uint8Array): Promise<[byAccount: number, bySerial: number]>;
  /** Use this group from now on; what waits to be protected is protected in it. */
  setChatGroup(chat: Uint8Array, groupId: Uint8Array, nowMs: number): Promise<void>;
  setChatSettings(chat: Uint8Array, settings: Partial<Settings>): Promise<void>;
  touchChat(chat: Uint8Array, atMs: number): Promise<void>;
  /** The next number for what we send to the chat. */
  takeSequence(chat: Uint8Array): Promise<number>;
  /** A new device counts from 1; what the old one sent can no longer be asked for by number. */
  restartSequences(): Promise<void>;

  putGroup(group: Group): Promise<void>;
  group(groupId: Uint8Array): Promise<Group | null>;
  groups(): Promise<Group[]>;
  /** The one in use first, then the newest. */
  groupsOfChat(chat: Uint8Array): Promise<Group[]>;
  /** The groups that were joined by this address; several, if its key package was a last resort. */
  groupsOfSerial(serial: Uint8Array): Promise<Group[]>;
  /** The group in use among those that carry this chat id. */
  groupOfMlsChat(mlsChat: Uint8Array): Promise<Group | null>;
  /** All rows about the group but those of the core. */
  forgetGroup(groupId: Uint8Array): Promise<void>;
  setEpoch(groupId: Uint8Array, epoch: number): Promise<void>;
  setStanding(groupId: Uint8Array, standing: string, nowMs: number): Promise<void>;
  putPending(pending: Pending): Promise<void>;
  pending(groupId: Uint8Array): Promise<Pending | null>;
  allPending(): Promise<Pending[]>;
  forgetPending(groupId: Uint8Array): Promise<void>;
  putPassed(passed: Passed): Promise<void>;
  passed(groupId: Uint8Array): Promise<Passed | null>;
  /** Once only, and no more than MAX_TOLD of a group: the gate itself is asked in any case. */
  putTold(groupId: Uint8Array, epoch: number, k: number, value: Uint8Array): Promise<void>;
  /** What members said about the gates of a group, oldest first. */
  told(groupId: Uint8Array): Promise<Told[]>;
  forgetTold(groupId: Uint8Array, upto: number): Promise<void>;
  /** These accounts came to the chat after us. */
  putJoined(chat: Uint8Array, accounts: Iterable<Uint8Array>, nowMs: number): Promise<void>;
  /** When this account came to the chat, as far as we saw it; 0 for one that was there when we came. */
  joinedMs(chat: Uint8Array, account: Uint8Array): Promise<number>;
  /** When a rejoin was last granted to this device. */
  grantedMs(device: Uint8Array, chat: Uint8Array): Promise<number | null>;
  putGrant(device: Uint8Array, chat: Uint8Array, nowMs: number): Promise<void>;

  /** Whether it was new; the same id from the same account in the same chat is the same message. */
  addMessage(
    chat: Uint8Array,
    message: Uint8Array,
    sender: Uint8Array,
    sequence: number,
    sentAtMs: number,
    kind: string,
    text: string,
    state: string,
    unread: boolean,
    extras?: Partial<MessageExtras>,
  ): Promise<boolean>;
  message(chat: Uint8Array, message: Uint8Array, sender: Uint8Array): Promise<Message | null>;
  messageAt(n: number): Promise<Message | null>;
  /** The messages with these numbers that there are, read together. */
  messagesAt(numbers: readonly number[]): Promise<Message[]>;
  /** The newest *limit*, oldest first. */
  messages(chat: Uint8Array, limit: number): Promise<Message[]>;
  page(chat: Uint8Array, request: PageRequest): Promise<MessagePage>;
  /** All words, anywhere in the text, in any case; newest first. */
  search(words: string, request: SearchRequest): Promise<Found>;
  /** Oldest first; null: of all chats. */
  unread(chat: Uint8Array | null, limit: number): Promise<Message[]>;
  countUnread(chat: Uint8Array): Promise<number>;
  countQueued(chat: Uint8Array): Promise<number>;
  markRead(numbers: readonly number[]): Promise<void>;
  /** Whether the state changed; only states in *onlyFrom* do. */
  setMessageState(chat: Uint8Array, message: Uint8Array, state: string, onlyFrom: readonly string[]): Promise<boolean>;
  /** What became of the message's file. */
  setMedia(n: number, media: Partial<MediaRow>): Promise<void>;
  oweReceipt(chat: Uint8Array, message: Uint8Array, status: number): Promise<void>;
  /** Only for chats that are open. */
  receiptsOwed(): Promise<Receipt[]>;
  forgetReceipts(receipts: Iterable<Pick<Receipt, "chat" | "message">>): Promise<void>;
  forgetReceiptsOf(chat: Uint8Array): Promise<void>;

  /** The highest sequence number that came from this device. */
  heard(chat: Uint8Array, device: Uint8Array): Promise<number | null>;
  setHeard(chat: Uint8Array, device: Uint8Array, highest: number): Promise<void>;
  addGap(
    chat: Uint8Array,
    device: Uint8Array,
    sequence: number,
    sender: Uint8Array,
    nowMs: number,
    askMs: number,
  ): Promise<void>;
  countGaps(chat: Uint8Array, device: Uint8Array): Promise<number>;
  closeGap(chat: Uint8Array, device: Uint8Array, sequence: number): Promise<void>;
  /** Those to ask for now, in the order of chat, device, sequence. */
  gapsDue(nowMs: number): Promise<Gap[]>;
  nextGapMs(): Promise<number | null>;
  postponeGap(chat: Uint8Array, device: Uint8Array, sequence: number, askMs: number): Promise<void>;

  queueContent(
    chat: Uint8Array,
    message: Uint8Array | null,
    content: Uint8Array,
    nowMs: number,
    onlyDevice?: Uint8Array | null,
  ): Promise<void>;
  /** Bytes that are ready to go: a commit, a Welcome, a request to rejoin. */
  queueBody(body: Uint8Array, targets: readonly Uint8Array[], nowMs: number): Promise<void>;
  /** Everything in the outbox, in order; handshakes first, since contents may be of the epoch that they bring. */
  outgoing(): Promise<Outgoing[]>;
  outboxSize(): Promise<number>;
  /** When the next row is due. */
  outboxDueMs(): Promise<number | null>;
  postponeOutgoing(n: number, dueMs: number): Promise<void>;
  /** The chat can be written to again. */
  hurryOutgoing(chat: Uint8Array, nowMs: number): Promise<void>;
  /** Other bytes for a content that waits. */
  setContent(n: number, content: Uint8Array): Promise<void>;
  setProtected(n: number, body: Uint8Array, targets: readonly Uint8Array[]): Promise<void>;
  setOutgoing(n: number, targets: readonly Uint8Array[], kept: number, dueMs: number, tries: number): Promise<void>;
  forgetOutgoing(n: number): Promise<void>;
  /** The messages that will not be sent. */
  forgetOutgoingOf(chat: Uint8Array): Promise<Uint8Array[]>;
  archive(chat: Uint8Array, sequence: number, message: Uint8Array, content: Uint8Array, nowMs: number): Promise<void>;
  archived(chat: Uint8Array, sequence: number): Promise<Sent | null>;
  /** When we wrote this; -1 when it is not kept. */
  sentMs(chat: Uint8Array, sequence: number): Promise<number>;
  /** (message, content) of our newest *limit* texts since then, still kept, that no receipt came for, in order. */
  unconfirmed(chat: Uint8Array, limit: number, sinceMs: number): Promise<[Uint8Array, Uint8Array][]>;
  countResent(chat: Uint8Array, sequence: number): Promise<void>;

  /** Whether this envelope came before; one that was set aside counts. */
  isDecided(envelope: Uint8Array): Promise<boolean>;
  decide(envelope: Uint8Array, nowMs: number): Promise<void>;
  /** Keep an envelope that may become readable. False when the serial has as many as it may. */
  setAside(envelope: Uint8Array, serial: Uint8Array, body: Uint8Array, nowMs: number): Promise<boolean>;
  /** Oldest first: of the chat's addresses, and of those by which its groups were joined. */
  asideOfChat(chat: Uint8Array): Promise<Aside[]>;
  chatsWithAside(): Promise<Uint8Array[]>;
  forgetAside(envelope: Uint8Array): Promise<void>;

  /** Remember work to be done; the same kind for the same subject once only, at the earlier of two times. */
  addChore(kind: string, subject: Uint8Array, payload: Uint8Array, nowMs: number, dueMs?: number | null): Promise<void>;
  chore(kind: string, subject: Uint8Array): Promise<Chore | null>;
  choresDue(nowMs: number): Promise<Chore[]>;
  /** All of this kind, whenever they are due. */
  chores(kind: string): Promise<Chore[]>;
  /** With *about*, only those whose subject begins with it. */
  countChores(kind: string, about?: Uint8Array): Promise<number>;
  nextChoreMs(): Promise<number | null>;
  setChore(n: number, payload: Uint8Array, dueMs: number, tries: number): Promise<void>;
  forgetChore(kind: string, subject: Uint8Array): Promise<void>;
  /** Write a line of the journal: what the screens of every tab are told after the commit. */
  note(kind: string, chat: Uint8Array, about?: Uint8Array, text?: string): Promise<void>;
  journalEnd(): Promise<number>;
  /** At most 1,000. */
  journalAfter(n: number): Promise<Entry[]>;
  /** Forget what has served its time. */
  expire(nowMs: number): Promise<void>;

  /** The decrypted bytes of a file, if they are here; it counts as used. */
  file(blob: Uint8Array): Promise<Uint8Array | null>;
  /** Keep a file. *pinned*: not to be thrown away for others, because it is not sent yet. */
  putFile(blob: Uint8Array, data: Uint8Array, nowMs: number, pinned: boolean): Promise<void>;
  /** It was sent: it may go when there is no more room. */
  unpinFile(blob: Uint8Array): Promise<void>;
  forgetFile(blob: Uint8Array): Promise<void>;
}

/** The open database, for one worker. */
export interface Store {
  /** One transaction that changes something: durable when the promise resolves, undone when *work* throws. It holds the
   * lock of all tabs: never call `write` or `read` inside, hand *tx* on. Throws UserError "storage". */
  write<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** One consistent view; nothing may be changed. The same: never inside another. */
  read<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** A meta value as it was last committed, without any lock: may be called inside `write`. */
  committedMeta(name: string): Promise<Uint8Array | null>;
  /** Called after each transaction that changed something; *mine*: by this worker, else by another tab. */
  onCommit(callback: (mine: boolean) => void): () => void;
  /** The second place knows that an account was here, and the database is empty: the browser threw it away. */
  readonly evicted: boolean;
  /** Tell the second place that there is an account here now. */
  rememberAccount(): Promise<void>;
  /** Delete everything: the key first, without which the rest is noise. */
  erase(): Promise<void>;
  close(): Promise<void>;
}
