/**
 * What the screens ask of the engine and what they are told: the one boundary between them, as plain values.
 *
 * The engine runs in a worker (`engine_worker.ts`), the screens on the page; everything here survives
 * `structuredClone`. Ids are hexadecimal, times milliseconds since 1970, sizes bytes. What a person reads is not made
 * here: refusals, notices and facts are codes with parameters, which the screens put into words (`error.<code>`,
 * `notice.<code>` of the catalogues). This file knows neither the DOM nor the protocol.
 */

export type Hex = string;

export type ChatState = "open" | "request" | "blocked";
/** One's own message goes queued → kept → delivered → read, or failed; anybody else's is received. */
export type MessageState = "received" | "queued" | "kept" | "delivered" | "read" | "failed";
export type MessageKind = "text" | "media" | "notice" | "gap" | "unknown";

/** Why something was refused; the screens have a sentence `error.<code>` for each. */
export type ErrorCode =
  | "link_malformed" // no link of Taube
  | "link_is_invitation" // an invitation where a contact link was asked for
  | "link_is_contact" // a contact link where an invitation was asked for
  | "link_own" // one's own contact link
  | "link_other_server" // {server}: a link of another server
  | "link_gone" // revoked, altered, or its account deleted
  | "link_drained" // nobody can be added by it at the moment; try again later
  | "invitation_elsewhere" // {server}: of another server than the one that this app came from
  | "invitation_unknown"
  | "invitation_used"
  | "invitation_expired"
  | "name_empty"
  | "name_too_long"
  | "text_empty"
  | "text_too_long" // {bytes} {most}
  | "file_too_large" // {bytes} {most}
  | "file_not_taken" // {bytes}: larger than what the server takes
  | "file_not_a_picture"
  | "file_gone" // expired or never there
  | "file_altered" // does not have the hash that the message names
  | "nobody_there" // whoever was to get it takes nothing any more
  | "undelivered" // not for 30 days
  | "chat_blocked"
  | "chat_unknown"
  | "message_unknown"
  | "no_safety_number"
  | "offline" // the server does not answer
  | "later" // {code}: the server refuses for now
  | "refused" // {code}: the server refuses
  | "replaced" // this device is no longer the account's
  | "storage" // the browser does not let us store
  | "newer" // the store was written by a newer version of the app
  | "damaged" // what is stored here cannot be read; it was left as it is
  | "internal"; // a bug

export interface Failure {
  code: ErrorCode;
  params: Record<string, string | number>;
}

/** Whether what was thrown has a code of the screens already. */
export function isFailure(error: unknown): error is Failure {
  return typeof error === "object" && error !== null && "code" in error && "params" in error;
}

/** What a chat says about itself; `notice.<code>` of the catalogues. */
export type NoticeCode =
  | "new_device" // {name}
  | "account_key" // {name}
  | "same_name" // {name}: another account that uses the name of someone known
  | "asked_back" // this device asks to be let in again
  | "not_let_in" // {anew: 1 or 0}: nobody has answered for a day; 1: the chat is started anew
  | "came_back" // this device is in again
  | "new_start" // the chat goes on in a new group
  | "left" // {name}
  | "added" // {name}
  | "removed" // {name}
  | "you_removed" // this account is no longer a member
  | "old_list" // {name}: came with a device list that is out of date, perhaps a device that was taken off since
  | "many_missing" // more messages are missing than are asked for
  | "damaged"; // a message is stored here that cannot be read; it was left as it is

export type Params = Record<string, string | number>;

export interface Media {
  mediaType: string;
  /** Plaintext bytes. */
  size: number;
  /** 0: not known. */
  width: number;
  height: number;
  thumbhash: Uint8Array;
  name: string;
  /** Whether the bytes are on this device, and what becomes of them. */
  state: "remote" | "loading" | "here" | "uploading" | "gone" | "failed";
  /** 0 … 1 while loading or uploading. */
  progress: number;
}

/** The message that another one answers, as far as this device has it. */
export interface Reply {
  id: Hex;
  sender: Hex;
  senderName: string;
  mine: boolean;
  kind: MessageKind | "missing";
  /** At most 200 characters. */
  text: string;
}

export interface Message {
  /** Order within this device; rises with arrival. */
  n: number;
  id: Hex;
  chat: Hex;
  sender: Hex;
  /** Empty: nobody has said it yet. */
  senderName: string;
  mine: boolean;
  sentAtMs: number;
  kind: MessageKind;
  /** Text or caption; empty for a notice. */
  text: string;
  state: MessageState;
  /** Why it failed, where that is known. */
  failure: Failure | null;
  unread: boolean;
  media: Media | null;
  reply: Reply | null;
  /** For a notice: what it says. For a gap: {count}. */
  notice: { code: NoticeCode; params: Params } | null;
  gapCount: number;
}

export interface Chat {
  id: Hex;
  /** Empty: nobody has said it yet. */
  name: string;
  kind: "pair" | "group";
  state: ChatState;
  /** The other account of a chat of two. */
  peer: Hex | null;
  /** What the other's profile shows: a small picture, or null. */
  photo: Blob | null;
  /** Nothing while it is blocked. */
  unread: number;
  /** `n` of the first message that is unread; 0: none. */
  firstUnread: number;
  lastAtMs: number;
  last: Message | null;
  /** Messages of one's own that wait to be sent. */
  queued: number;
  /** Another device of the chat has to let this one in first. */
  waiting: boolean;
  pinned: boolean;
  archived: boolean;
  /** 0: not muted; Number.MAX_SAFE_INTEGER: for ever. */
  mutedUntilMs: number;
  draft: string;
  /** What the draft answers. */
  draftReply: Reply | null;
  /** Somebody here said that the safety number is right, and it has not changed since. */
  verified: boolean;
  /** The request is of another account that uses the name of someone known. */
  sameNameAs: string;
  messageCount: number;
}

export interface ChatSettings {
  pinned?: boolean;
  archived?: boolean;
  mutedUntilMs?: number;
  draft?: string;
  /** null, or a message that is not here: it answers nothing. */
  draftReply?: MessageRef | null;
  name?: string;
}

export interface Me {
  id: Hex;
  name: string;
  photo: Blob | null;
  server: string;
  /** null until the server was reached once. */
  contactLink: string | null;
}

/** Where the account of this browser stands.
 *
 * - none: no account here. - ready. - replaced: another copy of this profile, or another device, took over: nothing is
 * sent any more, history can be read; `takeOver` makes this the device. - deleted. - evicted: the browser threw away
 * what was stored here. - unreadable: the store is damaged, was written by a newer version, or the browser keeps it
 * from us, and nothing was changed; or there is a bug.
 */
export interface Status {
  phase: "none" | "ready" | "replaced" | "deleted" | "evicted" | "unreadable";
  failure: Failure | null;
  me: Me | null;
  /**
   * The server was asked to delete the account, and whether it did is not known yet. With its answer, or the next login,
   * either nothing of the account is here, or it was not deleted and this is false again.
   */
  deleting: boolean;
  connection: Connection;
  /** Whether the browser promised to keep what is stored. */
  persisted: boolean;
  push: PushState;
}

export interface Connection {
  state: "offline" | "connecting" | "online";
  /** Whether the mailbox was read to its end. */
  caughtUp: boolean;
  failure: Failure | null;
  retryAtMs: number;
  /** Another tab of this browser holds the connection. */
  elsewhere: boolean;
}

export interface PushState {
  /** unsupported: this browser cannot; install: only once installed (iOS); off; on; denied; broken: see failure. */
  state: "unsupported" | "install" | "off" | "on" | "denied" | "broken";
  /** A code `push.why.<why>` of the catalogues. */
  why: "" | "no_answer" | "refused_by_browser" | "refused_by_server" | "endpoint_gone";
}

export interface Page {
  messages: Message[];
  /** Whether there are older and newer ones. */
  before: boolean;
  after: boolean;
}

export interface PageRequest {
  /** Older than this `n` (exclusive); newest if neither is given. */
  before?: number;
  /** Newer than this `n` (exclusive). */
  after?: number;
  /** Half before and half from this `n` on. */
  around?: number;
  limit: number;
}

export interface MessageRef {
  chat: Hex;
  id: Hex;
  sender: Hex;
}

export interface LinkInfo {
  kind: "invitation" | "contact";
  server: string;
  /** The name that a contact link carries; may be empty. */
  name: string;
  /** Whose contact link it is; null for an invitation. */
  account: Hex | null;
  /** The chat that there is already with whoever gave out the link. */
  chat: Hex | null;
}

export interface SafetyNumber {
  /** 60 digits. */
  digits: string;
  /** What the QR code holds. */
  code: string;
  verified: boolean;
}

export interface Photo {
  /** Already compressed, without metadata. */
  data: Blob;
  width: number;
  height: number;
  thumbhash: Uint8Array;
  name: string;
}

export interface Fact {
  /** The ledger's entry. */
  entry: string;
  value: string;
}

export interface SearchResult {
  chats: Chat[];
  messages: Message[];
  /** Whether the whole history was looked through. */
  complete: boolean;
}

/** What the screens may ask. Every method rejects with a `Failure`. */
export interface Engine {
  status(): Promise<Status>;
  join(link: string, name: string, photo: Blob | null): Promise<Me>;
  inspectLink(link: string): Promise<LinkInfo>;
  setProfile(name: string, photo: Blob | null): Promise<Me>;
  add(link: string): Promise<Chat>;
  chats(): Promise<Chat[]>;
  chat(chat: Hex): Promise<Chat>;
  messages(chat: Hex, page: PageRequest): Promise<Page>;
  sendText(chat: Hex, text: string, reply: MessageRef | null): Promise<Message>;
  sendPhoto(chat: Hex, photo: Photo, caption: string, reply: MessageRef | null): Promise<Message>;
  /**
   * The decrypted bytes: from this device, else fetched; progress comes as `changed` events. Their type is that of a
   * picture where they are one that may be shown; all else is application/octet-stream, whatever the sender claims.
   */
  media(message: MessageRef): Promise<Blob>;
  /** Send again what failed. */
  retry(message: MessageRef): Promise<Message>;
  markRead(chat: Hex, upto: number): Promise<void>;
  typing(chat: Hex, active: boolean): Promise<void>;
  accept(chat: Hex): Promise<Chat>;
  /** A stranger's request goes out of sight and is told nothing. */
  ignore(chat: Hex): Promise<Chat>;
  block(chat: Hex): Promise<Chat>;
  /** Who was never accepted asks again. */
  unblock(chat: Hex): Promise<Chat>;
  setChat(chat: Hex, settings: ChatSettings): Promise<Chat>;
  search(words: string): Promise<SearchResult>;
  safetyNumber(chat: Hex): Promise<SafetyNumber>;
  /** Compare what a camera read with the chat's safety number; a match marks it as verified. */
  compare(chat: Hex, scanned: string): Promise<"match" | "mismatch" | "no_code">;
  setVerified(chat: Hex, verified: boolean): Promise<Chat>;
  knows(): Promise<Fact[]>;
  /** At the server first, then here. After a failure nothing happened and nothing will, unless `Status.deleting`. */
  deleteAccount(): Promise<void>;
  /** Something suggests that the network is there again, or a person is looking: try to connect at once. */
  hurry(): Promise<void>;
  takeOver(): Promise<void>;
  /** Hand the browser's push subscription to the server; null takes it back. */
  setPush(subscription: PushSubscriptionJSON | null): Promise<PushState>;
  /** The server's public key for push (65 bytes, uncompressed P-256). */
  pushKey(): Promise<Uint8Array>;
}

export type EngineEvent =
  | { type: "status"; status: Status }
  | { type: "connection"; connection: Connection }
  /** A chat is new or changed in anything. */
  | { type: "chat"; chat: Chat }
  | { type: "message"; message: Message }
  | { type: "changed"; message: Message }
  | { type: "typing"; chat: Hex; senderName: string; active: boolean };
