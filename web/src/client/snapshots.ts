/**
 * Rows of the store as the screens see them: chats, messages, events, with names, states and codes put together.
 *
 * Everything is read inside a transaction that the caller holds. Nothing here changes anything, or knows the network.
 * Source: api.ts.
 */

import { hex, NO_BYTES, same } from "../bytes";
import type { Chat, ChatState, Media, Message, MessageKind, MessageState, Reply } from "./api";
import { skeleton } from "./contacts";
import { KIND_PAIR } from "./e2e";
import { PORTRAIT_PIXELS_MOST, shownAs } from "./pictures";
import type { Tx } from "./store";
import type { Chat as ChatRow, Contact, MediaRow, Message as MessageRow } from "./tables";
import type { Vault } from "./vault";

const REPLY_CHARACTERS = 200;
const ID_BYTES = 16;
const SAFETY_DIGITS = 60;
const CODE_PREFIX = "taube:safety:";

/** Makes snapshots; remembers safety numbers, which take a moment to compute. */
export class Snapshots {
  private readonly numbers = new Map<string, string>();

  constructor(
    private readonly vault: Vault,
    /** How much of a message's file has moved, 0 … 1; null: nothing is under way. */
    private readonly part: (message: MessageRow) => number | null,
  ) {}

  // ---------------------------------------------------------------- chats

  /** All of them; their newest messages are read together. */
  async chats(tx: Tx, rows: readonly ChatRow[]): Promise<Chat[]> {
    const newest = await tx.messagesAt(rows.map((row) => row.lastN).filter((n) => n > 0));
    const byNumber = new Map(newest.map((message) => [message.n, message]));
    const chats: Chat[] = [];
    for (const row of rows) chats.push(await this.chat(tx, row, byNumber.get(row.lastN) ?? null));
    return chats;
  }

  /** *newest*: the row of its newest message, where that was read already. */
  async chat(tx: Tx, row: ChatRow, newest: MessageRow | null = null): Promise<Chat> {
    const contact = row.peer === null ? null : await tx.contact(row.peer);
    const last = row.lastN > 0 ? (newest ?? (await tx.messageAt(row.lastN))) : null;
    const group = row.groupId === null ? null : await tx.group(row.groupId);
    return {
      id: hex(row.id),
      name: shownName(row),
      kind: row.kind === KIND_PAIR ? "pair" : "group",
      state: chatState(row.state),
      peer: row.peer === null ? null : hex(row.peer),
      photo: pictureOf(contact?.photo ?? NO_BYTES),
      unread: row.state === "blocked" ? 0 : row.unread,
      firstUnread: row.state === "blocked" ? 0 : row.firstUnread,
      lastAtMs: row.lastAtMs,
      last: last === null ? null : await this.message(tx, last, row),
      queued: row.queued,
      waiting: group?.standing === "rejoin",
      pinned: row.pinned,
      archived: row.archived,
      mutedUntilMs: row.mutedUntilMs,
      draft: row.draft,
      draftReply: await this.draftReply(tx, row),
      verified: await this.isVerified(tx, row, contact),
      sameNameAs: await this.sameNameAs(tx, row, contact),
      messageCount: row.messageCount,
    };
  }

  /** For a request of an account that uses the name of someone known: that name. */
  private async sameNameAs(tx: Tx, row: ChatRow, contact: Contact | null): Promise<string> {
    if (row.state !== "request" || contact === null || contact.name === "") return "";
    const like = skeleton(contact.name);
    for (const other of await tx.contacts()) {
      if (!same(other.account, contact.account) && skeleton(other.name) === like) return other.name;
    }
    for (const other of await tx.chats()) {
      if (other.peer !== null && !same(other.peer, contact.account) && skeleton(other.name) === like) return other.name;
    }
    return "";
  }

  /** Without the core as long as the contact's certificate is the one that was compared: lists have to open at once. */
  private async isVerified(tx: Tx, row: ChatRow, contact: Contact | null): Promise<boolean> {
    if (row.verifiedNumber === "" || contact === null) return false;
    if (same(await tx.meta(comparedName(row)), contact.certificate)) return true;
    return (await this.safetyNumber(tx, contact)) === row.verifiedNumber;
  }

  /** Someone says that these digits are right; none: that nothing was compared. Inside a transaction. */
  async setVerified(tx: Tx, row: ChatRow, digits: string): Promise<void> {
    const contact = row.peer === null ? null : await tx.contact(row.peer);
    await tx.setChatSettings(row.id, { verifiedNumber: digits });
    await tx.setMeta(comparedName(row), digits === "" ? null : (contact?.certificate ?? null));
    await tx.note("chat", row.id);
  }

  /** The 60 digits for this contact, or null while there are none. */
  async safetyNumber(tx: Tx, contact: Contact | null): Promise<string | null> {
    if (contact === null || contact.certificate.length === 0) return null;
    const own = await this.vault.certificate(tx);
    const key = `${hex(own)} ${hex(contact.certificate)}`;
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    const core = await this.vault.ready();
    const digits = core.safetyNumber(own, contact.certificate);
    this.numbers.set(key, digits);
    return digits;
  }

  // ---------------------------------------------------------------- messages

  /** *chat*: the row of the message's chat. */
  async message(tx: Tx, row: MessageRow, chat: ChatRow): Promise<Message> {
    const mine = same(row.sender, await this.vault.account(tx));
    return {
      n: row.n,
      id: hex(row.id),
      chat: hex(row.chat),
      sender: hex(row.sender),
      senderName: await this.nameOf(tx, row.sender, chat, mine),
      mine,
      sentAtMs: row.sentAtMs,
      kind: messageKind(row.kind),
      text: row.kind === "unknown" ? "" : row.text,
      state: messageState(row.state),
      failure: row.failure ?? null,
      unread: row.unread,
      media: row.media === null ? null : this.media(row, row.media, mine),
      reply: await this.reply(tx, row.replyTo, chat),
      notice: row.notice === null ? null : { code: row.notice.code, params: { ...row.notice.params } },
      gapCount: row.gapCount,
    };
  }

  private media(row: MessageRow, media: MediaRow, mine: boolean): Media {
    const part = this.part(row);
    const moving = mine && row.state === "queued" ? "uploading" : "loading";
    return {
      mediaType: media.mediaType,
      size: media.size,
      width: media.width,
      height: media.height,
      thumbhash: media.thumbhash,
      name: media.name,
      state: part === null ? media.state : moving,
      progress: part ?? (media.state === "here" ? 1 : 0),
    };
  }

  private async draftReply(tx: Tx, chat: ChatRow): Promise<Reply | null> {
    const reply = await this.reply(tx, chat.draftReplyTo ?? NO_BYTES, chat);
    return reply?.kind === "missing" ? null : reply;
  }

  private async reply(tx: Tx, replyTo: Uint8Array, chat: ChatRow): Promise<Reply | null> {
    if (replyTo.length === 0) return null;
    const id = replyTo.slice(0, ID_BYTES);
    const sender = replyTo.slice(ID_BYTES);
    const mine = same(sender, await this.vault.account(tx));
    const answered = await tx.message(chat.id, id, sender);
    const text = answered === null || answered.kind === "unknown" ? "" : answered.text;
    return {
      id: hex(id),
      sender: hex(sender),
      senderName: await this.nameOf(tx, sender, chat, mine),
      mine,
      kind: answered === null ? "missing" : messageKind(answered.kind),
      text: Array.from(text.slice(0, 2 * REPLY_CHARACTERS))
        .slice(0, REPLY_CHARACTERS)
        .join(""),
    };
  }

  /** In a chat of two, the chat's own name for them: it is unique here. Empty: nobody said. */
  async nameOf(tx: Tx, sender: Uint8Array, chat: ChatRow, mine: boolean): Promise<string> {
    if (mine) return tx.metaText("name");
    if (same(chat.peer, sender)) return shownName(chat);
    return (await tx.contact(sender))?.name ?? "";
  }
}

/** A chat's name; empty while it only has the one that it was given so that it has one. */
export function shownName(row: Pick<ChatRow, "name" | "namedBy">): string {
  return row.namedBy === "nobody" ? "" : row.name;
}

/** Where the certificate stands that the chat's safety number was compared for. */
function comparedName(row: ChatRow): string {
  return `compared:${hex(row.id)}`;
}

// ------------------------------------------------------------------ values

/** What the QR code of a safety number holds. */
export function safetyCode(digits: string): string {
  return CODE_PREFIX + digits;
}

/** The digits in what a camera read, or a person typed; null: that is no safety number. */
export function digitsOf(scanned: string): string | null {
  const text = scanned.trim();
  const digits = (text.startsWith(CODE_PREFIX) ? text.slice(CODE_PREFIX.length) : text).replace(/\s/g, "");
  return digits.length === SAFETY_DIGITS && /^[0-9]+$/.test(digits) ? digits : null;
}

/** A profile's small picture, if it is one: JPEG or WebP, and no larger than can be drawn beside each of many names. */
export function pictureOf(photo: Uint8Array): Blob | null {
  const type = shownAs(photo, PORTRAIT_PIXELS_MOST);
  return type === "image/jpeg" || type === "image/webp" ? new Blob([photo.slice()], { type }) : null;
}

function chatState(state: string): ChatState {
  return state === "open" || state === "request" ? state : "blocked";
}

function messageKind(kind: string): MessageKind {
  return kind === "text" || kind === "media" || kind === "notice" || kind === "gap" ? kind : "unknown";
}

function messageState(state: string): MessageState {
  switch (state) {
    case "received":
    case "queued":
    case "kept":
    case "delivered":
    case "read":
      return state;
    default:
      return "failed";
  }
}
