/**
 * What the local database holds: the rows, and the tables that hold them.
 *
 * It says what a field means, no more: how rows are sealed and stored is database.ts', what is asked of them store.ts'.
 */

import type { Failure, NoticeCode, Params } from "./api";
import type { Large, Small, Unreadable } from "./database";

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
  /** What the draft answers, as a content says it; empty or missing: nothing. */
  readonly draftReplyTo?: Uint8Array;
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
  /** Why its state is "failed", where that is known. */
  readonly failure?: Failure | null;
  /** It does not open: a notice stands for it, nobody's, with an id made up for it and the time of a neighbour. */
  readonly damaged?: Unreadable;
}

/** The chat of a message that has a file, and the hash that it names. */
export interface CameAs {
  readonly chat: Uint8Array;
  readonly hash: Uint8Array;
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

// ---------------------------------------------------------------- tables

export interface Meta {
  readonly value: Uint8Array;
}
export interface Dated {
  readonly atMs: number;
}
export interface Count {
  readonly n: number;
}
export interface Request {
  readonly chat: Uint8Array;
  readonly account: Uint8Array;
  readonly serial: Uint8Array;
}
export interface Heard {
  readonly highest: number;
}
export interface AsideLine {
  readonly n: number;
  readonly id: Uint8Array;
  readonly serial: Uint8Array;
  readonly atMs: number;
}
export interface FileLine {
  readonly n: number;
  readonly size: number;
  readonly usedMs: number;
  /** The chat that it came in; without one, it is our own and stays. */
  readonly chat?: string;
  /** Until when it may be thrown away. */
  readonly looseUntilMs?: number;
  /** The hash under which its messages have it; without one, it is not sent yet. */
  readonly hash?: string;
}
export interface Body {
  readonly body: Uint8Array;
}
export interface MlsRow {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}
export interface SentRow extends Sent {
  readonly sequence: number;
}
/** Envelopes are forgotten by the bucket: *n* is plain beside each of them, *atMs* when the bucket was begun. */
export interface Bucket {
  readonly n: number;
  readonly atMs: number;
}

// The numbers stand in the database: never give one to another table.
export const META: Small<Meta> = { id: 1 };
export const SCOPES: Small<Count> = { id: 2 };
export const ADDRESSES: Small<Address> = { id: 3 };
export const PACKAGES: Small<Package> = { id: 4 };
export const CONTACTS: Small<Contact> = { id: 5 };
export const CHATS: Small<Chat> = { id: 6 };
export const GROUPS: Small<Group> = { id: 7 };
export const PENDING: Small<Pending> = { id: 8 };
export const PASSED: Small<Passed> = { id: 9 };
export const TOLD: Small<Told> = { id: 10 };
export const JOINS: Small<Dated> = { id: 11 };
export const GRANTS: Small<Dated> = { id: 12 };
export const RECEIPTS: Small<Receipt> = { id: 13 };
export const HEARD: Small<Heard> = { id: 14 };
export const GAPS: Small<Gap> = { id: 15 };
export const OUTBOX: Small<Outgoing> = { id: 16 };
export const ASIDE: Small<AsideLine> = { id: 17 };
export const CHORES: Small<Chore> = { id: 18 };
export const FILES: Small<FileLine> = { id: 19 };
/** The running number that stands for a chat in the keys of large tables. */
export const NUMBERS: Small<Count> = { id: 20 };
export const BUCKETS: Small<Bucket> = { id: 21 };
/** The newest line of the journal about who is writing in which chat. */
export const TYPING: Small<Count> = { id: 22 };
export const REQUESTS: Small<Request> = { id: 23 };

/** By n. Plain: n, c: the chat's number, k: blinded chat and id, u: the chat's number while it is unread. */
export const MESSAGES: Large<Message | Unreadable> = {
  name: "messages",
  indexes: { chat: ["c", "n"], id: "k", unread: ["u", "n"] },
  keepsUnreadable: true,
};
/** By blinded scope and name. */
export const MLS: Large<MlsRow> = { name: "mls", indexes: {} };
/** By the chat's number and sequence. */
export const SENT: Large<SentRow> = { name: "sent", indexes: {} };
/** By blinded id. Plain: b: the bucket. */
export const DECIDED: Large<object> = { name: "decided", indexes: { bucket: "b" } };
export const ASIDE_BODIES: Large<Body> = { name: "aside", indexes: {} };
export const FILE_BODIES: Large<Body> = { name: "files", indexes: {} };
export const JOURNAL: Large<Entry> = { name: "journal", indexes: {} };
export const LARGE: readonly Large<object>[] = [MESSAGES, MLS, SENT, DECIDED, ASIDE_BODIES, FILE_BODIES, JOURNAL];
