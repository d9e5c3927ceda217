/**
 * One chat's messages as a window that grows in both directions, with what is being written below it.
 *
 * A message that is sent stands in the window at once, before the engine has answered; when it has, the same row goes on
 * under its real id. Rows keep their key (`keyOf`) through that. This file knows no DOM and no scroll position; the list
 * says what it sees (`seen`) and asks for more (`older`, `newer`).
 */

import { batch, type Signal, signal } from "@preact/signals";
import type { Failure, Hex, Message, MessageRef, Photo, Reply } from "../client/api";
import { type App, failureOf } from "./app";

const FIRST_PAGE = 40;
const PAGE = 80;
const DRAFT_MS = 600;
const READ_MS = 250;
const TYPING_AGAIN_MS = 4_000;
const MEDIA_MOST = 40;

export class Conversation {
  readonly chat: Hex;
  readonly messages: Signal<readonly Message[]> = signal([]);
  /** Whether there are messages before and after the window. */
  readonly before = signal(false);
  readonly after = signal(false);
  readonly loaded = signal(false);
  readonly failure: Signal<Failure | null> = signal(null);
  readonly reply: Signal<Message | null> = signal(null);
  readonly draft = signal("");
  /** `n` of the first message that was unread when the chat was opened; 0: none. */
  readonly divider = signal(0);
  /** How many arrived below what is seen. */
  readonly below = signal(0);
  /** The row to be shown next, and whether it flashes. */
  readonly target: Signal<{ n: number; flash: boolean } | null> = signal(null);
  /** A message of the other that has just arrived, to be read out. */
  readonly arrived: Signal<Message | null> = signal(null);

  #app: App;
  #keys = new Map<Hex, string>();
  #pending = 0;
  #loading = false;
  #opened = false;
  #seenUpto = 0;
  #media = new Map<Hex, Promise<Blob>>();
  #stopDraft = () => {};
  #stopRead = () => {};
  #typingSentMs = 0;

  constructor(app: App, chat: Hex) {
    this.#app = app;
    this.chat = chat;
  }

  /** The key of a message's row: stays the same while a message goes from this page into the engine. */
  keyOf(message: Message): string {
    return this.#keys.get(message.id) ?? message.id + message.sender;
  }

  /** Show the chat: at its first unread message, at *at*, or at its end. */
  async open(at = 0): Promise<void> {
    const known = this.#app.chats.peek().get(this.chat);
    if (!this.#opened) this.draft.value = known?.draft ?? "";
    const unread = known?.firstUnread ?? 0;
    const first = !this.#opened;
    this.#opened = true;
    this.divider.value = unread;
    const around = at || unread;
    if (!first && !at && this.loaded.value && !this.after.value) {
      if (unread) this.target.value = { n: unread, flash: false };
      return;
    }
    try {
      const page = around
        ? await this.#app.engine.messages(this.chat, { around, limit: FIRST_PAGE * 2 })
        : await this.#app.engine.messages(this.chat, { limit: FIRST_PAGE });
      batch(() => {
        this.messages.value = page.messages;
        this.before.value = page.before;
        this.after.value = page.after;
        this.loaded.value = true;
        this.failure.value = null;
        if (around) this.target.value = { n: around, flash: at > 0 };
      });
    } catch (error) {
      this.failure.value = failureOf(error);
    }
  }

  /** The chat is left: what was written is kept. */
  close(): void {
    this.#stopDraft();
    this.#saveDraft();
    this.#stopTyping();
    this.divider.value = 0;
    this.below.value = 0;
  }

  /** Look again at the end of what the engine has: it may have begun anew, and told less than happened. */
  async reload(): Promise<void> {
    if (!this.loaded.value || this.after.value) return;
    const page = await this.#app.engine.messages(this.chat, { limit: FIRST_PAGE });
    this.messages.value = merged(this.messages.value, page.messages);
  }

  async older(): Promise<void> {
    const [first] = this.messages.value;
    if (this.#loading || !this.before.value || !first) return;
    await this.#more(async () => {
      const page = await this.#app.engine.messages(this.chat, { before: first.n, limit: PAGE });
      batch(() => {
        this.messages.value = [...page.messages, ...this.messages.value];
        this.before.value = page.before;
      });
    });
  }

  async newer(): Promise<void> {
    const last = this.messages.value.at(-1);
    if (this.#loading || !this.after.value || !last) return;
    await this.#more(async () => {
      const page = await this.#app.engine.messages(this.chat, { after: last.n, limit: PAGE });
      batch(() => {
        this.messages.value = merged(this.messages.value, page.messages);
        this.after.value = page.after;
      });
    });
  }

  /** Go to the end, whatever is loaded. */
  async toEnd(): Promise<void> {
    if (this.after.value) {
      const page = await this.#app.engine.messages(this.chat, { limit: FIRST_PAGE });
      batch(() => {
        this.messages.value = page.messages;
        this.before.value = page.before;
        this.after.value = page.after;
      });
    }
    this.target.value = { n: Number.MAX_SAFE_INTEGER, flash: false };
  }

  /** Go to the message that is answered. Resolves false if it is not on this device. */
  async toReply(reply: Reply): Promise<boolean> {
    if (reply.kind === "missing") return false;
    const found = this.messages.value.find((each) => each.id === reply.id && each.sender === reply.sender);
    if (found) {
      this.target.value = { n: found.n, flash: true };
      return true;
    }
    while (this.before.value) {
      const count = this.messages.value.length;
      await this.older();
      const older = this.messages.value.find((each) => each.id === reply.id && each.sender === reply.sender);
      if (older) {
        this.target.value = { n: older.n, flash: true };
        return true;
      }
      if (this.messages.value.length === count) break;
    }
    return false;
  }

  /** Everything up to *n* is before a person's eyes. */
  seen(n: number): void {
    if (n <= this.#seenUpto || n === Number.MAX_SAFE_INTEGER) return;
    this.below.value = this.messages.value.filter((each) => !each.mine && each.unread && each.n > n).length;
    const chat = this.#app.chats.peek().get(this.chat);
    if (chat?.state !== "open") return; // what is seen of a request counts as read once it is accepted
    this.#seenUpto = n;
    if (chat.unread === 0) return;
    this.#stopRead();
    this.#stopRead = this.#app.platform.later(READ_MS, () => {
      this.#app.engine.markRead(this.chat, this.#seenUpto).catch(() => {});
      this.#app.platform.closeNotes(this.chat).catch(() => {});
    });
  }

  received(message: Message): void {
    if (!this.loaded.value) return;
    if (message.mine && this.#adopt(message)) return;
    if (this.messages.value.some((each) => same(each, message))) {
      this.changed(message);
      return;
    }
    if (this.after.value) {
      if (!message.mine) this.below.value += 1;
      return;
    }
    batch(() => {
      this.messages.value = merged(this.messages.value, [message]);
      if (!message.mine) {
        this.below.value += 1;
        this.arrived.value = message;
      }
    });
  }

  changed(message: Message): void {
    const list = this.messages.value;
    for (let at = list.length - 1; at >= 0; at -= 1) {
      const each = list[at];
      if (each && same(each, message)) {
        const next = list.slice();
        next[at] = message;
        this.messages.value = next;
        return;
      }
    }
    if (message.mine) this.#adopt(message);
  }

  write(text: string): void {
    this.draft.value = text;
    this.#stopDraft();
    this.#stopDraft = this.#app.platform.later(DRAFT_MS, () => this.#saveDraft());
    if (this.#app.chats.peek().get(this.chat)?.state !== "open") return;
    if (!text.trim()) {
      this.#stopTyping();
      return;
    }
    const now = this.#app.platform.now();
    if (now - this.#typingSentMs < TYPING_AGAIN_MS) return;
    this.#typingSentMs = now;
    this.#app.engine.typing(this.chat, true).catch(() => {});
  }

  /** Send what is written. Resolves to why it was refused. */
  async send(): Promise<Failure | null> {
    const text = this.draft.value.trim();
    if (!text) return null;
    const answered = this.reply.value;
    const local = this.#place(text, answered, null);
    batch(() => {
      this.draft.value = "";
      this.reply.value = null;
    });
    this.#stopDraft();
    this.#saveDraft();
    this.#typingSentMs = 0;
    return this.#finish(local, () => this.#app.engine.sendText(this.chat, text, refOf(answered)));
  }

  async sendPhoto(photo: Photo, caption: string): Promise<Failure | null> {
    const answered = this.reply.value;
    const local = this.#place(caption.trim(), answered, photo);
    this.reply.value = null;
    this.#media.set(local.id, Promise.resolve(photo.data));
    return this.#finish(local, () => this.#app.engine.sendPhoto(this.chat, photo, caption.trim(), refOf(answered)));
  }

  async retry(message: Message): Promise<Failure | null> {
    try {
      this.changed({ ...message, state: "queued" });
      this.changed(await this.#app.engine.retry({ chat: message.chat, id: message.id, sender: message.sender }));
      return null;
    } catch (error) {
      this.changed(message);
      return failureOf(error);
    }
  }

  /** The picture of *message*; asked for once, the last few are kept. */
  media(message: Message): Promise<Blob> {
    const key = this.keyOf(message);
    let found = this.#media.get(key);
    if (!found) {
      found = this.#app.engine.media({ chat: message.chat, id: message.id, sender: message.sender });
      this.#media.set(key, found);
      found.catch(() => this.#media.delete(key));
      const [oldest] = this.#media.keys();
      if (this.#media.size > MEDIA_MOST && oldest) this.#media.delete(oldest);
    }
    return found;
  }

  async #more(load: () => Promise<void>): Promise<void> {
    this.#loading = true;
    try {
      await load();
    } catch (error) {
      this.failure.value = failureOf(error);
    } finally {
      this.#loading = false;
    }
  }

  #place(text: string, answered: Message | null, photo: Photo | null): Message {
    this.#pending += 1;
    const me = this.#app.status.peek()?.me;
    const message: Message = {
      n: Number.MAX_SAFE_INTEGER,
      id: `local-${this.#pending}`,
      chat: this.chat,
      sender: me?.id ?? "",
      senderName: me?.name ?? "",
      mine: true,
      sentAtMs: this.#app.platform.now(),
      kind: photo ? "media" : "text",
      text,
      state: "queued",
      unread: false,
      media: photo && {
        mediaType: photo.data.type,
        size: photo.data.size,
        width: photo.width,
        height: photo.height,
        thumbhash: photo.thumbhash,
        name: photo.name,
        state: "uploading",
        progress: 0,
      },
      reply: answered && {
        id: answered.id,
        sender: answered.sender,
        senderName: answered.senderName,
        mine: answered.mine,
        kind: answered.kind,
        text: answered.text.slice(0, 200),
      },
      notice: null,
      gapCount: 0,
    };
    this.#keys.set(message.id, message.id);
    if (!this.after.value) this.messages.value = [...this.messages.value, message];
    this.divider.value = 0;
    this.target.value = { n: Number.MAX_SAFE_INTEGER, flash: false };
    return message;
  }

  async #finish(local: Message, send: () => Promise<Message>): Promise<Failure | null> {
    try {
      const sent = await send();
      if (!this.#adopt(sent, local.id) && !this.messages.value.some((each) => same(each, sent))) this.received(sent);
      if (this.after.value) await this.toEnd();
      return null;
    } catch (error) {
      this.messages.value = this.messages.value.filter((each) => each.id !== local.id);
      if (local.kind === "text" && !this.draft.value) this.draft.value = local.text;
      return failureOf(error);
    }
  }

  /** Let a message of the engine take the row that stands for it; false if there is none. */
  #adopt(message: Message, id?: Hex): boolean {
    if (this.messages.value.some((each) => same(each, message))) {
      if (id) this.messages.value = this.messages.value.filter((each) => each.id !== id);
      return false;
    }
    const at = this.messages.value.findIndex((each) =>
      id ? each.id === id : each.id.startsWith("local-") && each.kind === message.kind && each.text === message.text,
    );
    const local = this.messages.value[at];
    if (!local) return false;
    this.#keys.set(message.id, this.keyOf(local));
    const next = this.messages.value.slice();
    next[at] = message;
    this.messages.value = next;
    return true;
  }

  #saveDraft(): void {
    const chat = this.#app.chats.peek().get(this.chat);
    if (!chat || chat.draft === this.draft.value) return;
    this.#app.set(this.chat, { draft: this.draft.value }).catch(() => {});
  }

  #stopTyping(): void {
    if (this.#typingSentMs === 0) return;
    this.#typingSentMs = 0;
    this.#app.engine.typing(this.chat, false).catch(() => {});
  }
}

function same(one: Message, other: Message): boolean {
  return one.id === other.id && one.sender === other.sender;
}

function refOf(message: Message | null): MessageRef | null {
  return message && { chat: message.chat, id: message.id, sender: message.sender };
}

/** Both lists as one, by `n`, each message once. */
function merged(old: readonly Message[], fresh: readonly Message[]): Message[] {
  const have = new Set(old.map((each) => each.id + each.sender));
  const added = fresh.filter((each) => !have.has(each.id + each.sender));
  const all = [...old, ...added];
  const last = old.at(-1);
  const [first] = added;
  return last && first && first.n < last.n ? all.sort((a, b) => a.n - b.n) : all;
}
