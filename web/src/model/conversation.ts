/**
 * One chat's messages as a window that grows in both directions, with what is being written below it.
 *
 * A message that is sent stands in the window at once, before the engine has answered; when it has, the same row goes on
 * under its real id. Rows keep their key (`keyOf`) through that. This file knows no DOM and no scroll position; the list
 * says what it sees (`stands`, `seen`) and asks for more (`older`, `newer`).
 *
 * Many may write at once. What arrives is put in by the handful, and the window is bounded: whoever reads at its end
 * lets its oldest rows go, and whoever reads further up finds what arrived when they come down. The window has no hole:
 * a page that was asked for is put in only where it still joins what is there.
 */

import { batch, type Signal, signal } from "@preact/signals";
import type { Chat, Failure, Hex, Message, MessageRef, Page, PageRequest, Photo, Reply } from "../client/api";
import type { App } from "./app";
import { failureOf } from "./failures";

/** `n` of a row whose message is not in the engine, and of the end. */
const LAST = Number.MAX_SAFE_INTEGER;
const END: Target = { n: LAST, flash: false };
const FIRST_PAGE = 40;
const PAGE = 80;
/** What is typed within this time is kept together, as is what is typed while an engine that is slow keeps the last. */
const DRAFT_MS = 150;
const READ_MS = 250;
const TYPING_AGAIN_MS = 4_000;
/** Of the window; they are let go of by the page, so there may be one page more. */
const ROWS_MOST = 1_000;
/** What arrives within this time after a message is shown together. */
const ARRIVALS_MS = 50;
const ARRIVALS_MOST = 200;
const MEDIA_MOST = 40;
const MEDIA_BYTES_MOST = 64 * 1024 * 1024;

/** The row to be shown next, whether it flashes, and whether it was just added at the end. */
interface Target {
  n: number;
  flash: boolean;
  added?: boolean;
}

export class Conversation {
  readonly chat: Hex;
  readonly messages: Signal<readonly Message[]> = signal([]);
  /** Whether there are messages before and after the window. */
  readonly before = signal(false);
  readonly after = signal(false);
  readonly loaded = signal(false);
  readonly failure: Signal<Failure | null> = signal(null);
  /** What is answered by what is being written, and how often that was chosen here since the chat was opened. */
  readonly reply: Signal<Reply | null> = signal(null);
  readonly answers = signal(0);
  readonly draft = signal("");
  /** `n` of the first message that was unread when the chat was opened; 0: none. */
  readonly divider = signal(0);
  /** How many arrived below what is seen. */
  readonly below = signal(0);
  readonly target: Signal<Target | null> = signal(null);
  /** A message of the other that has just arrived, to be read out. */
  readonly arrived: Signal<Message | null> = signal(null);

  #app: App;
  #keys = new Map<Hex, string>();
  #pending = 0;
  /** The page that the window grows by; one at a time. */
  #growing: Promise<Failure | null> | null = null;
  /** How often another window was asked for, and where the chat was opened last. */
  #asked = 0;
  #at = 0;
  #opened = false;
  #seenUpto = 0;
  /** What is seen is about to be marked as read. */
  #reading = false;
  /** Of others, and not yet in the window. */
  #arriving = new Map<string, Message>();
  #gathering = false;
  /** `n` of the newest message that was heard of. */
  #newest = 0;
  /** `n` of the first row in sight, and whether the list stands at its end. */
  #top = 0;
  #atEnd = false;
  #media = new Map<Hex, Promise<Blob>>();
  #mediaBytes = new Map<Hex, number>();
  /** Photos that the engine did not take, and how each is sent again. */
  #unsent = new Map<Hex, { row: Message; send: () => Promise<Message> }>();
  /** The draft that was handed to the engine last; null: that failed. */
  #handed: string | null = writtenAs("", null);
  /** How many are on their way to it. */
  #handing = 0;
  #stopDraft: (() => void) | null = null;
  #typingSentMs = 0;

  constructor(app: App, chat: Hex) {
    this.#app = app;
    this.chat = chat;
  }

  /** The key of a message's row: stays the same while a message goes from this page into the engine. */
  keyOf(message: Message): string {
    return this.#keys.get(message.id) ?? nameOf(message);
  }

  /** Show the chat: at its first unread message, at *at*, or at its end. */
  async open(at = 0): Promise<void> {
    const known = this.#app.chats.peek().get(this.chat);
    if (known) this.heard(known);
    const unread = known?.firstUnread ?? 0;
    const first = !this.#opened;
    this.#opened = true;
    this.#at = at;
    this.divider.value = unread;
    this.arrived.value = null; // what came before is not read out any more
    const around = at || unread;
    if (!first && !at && this.loaded.value && !this.after.value) {
      if (unread) this.target.value = { n: unread, flash: false };
      return;
    }
    try {
      if (around) await this.#show({ around, limit: FIRST_PAGE * 2 }, { n: around, flash: at > 0 });
      else await this.#show({ limit: FIRST_PAGE }, null);
    } catch (error) {
      this.failure.value = failureOf(error);
    }
  }

  /** The chat as the engine has it now. Its draft counts here unless somebody writes: another tab has changed or sent it. */
  heard({ draft, draftReply }: Chat): void {
    const told = writtenAs(draft, draftReply);
    if (this.#handing > 0 || this.#written !== this.#handed || told === this.#handed) return;
    this.#handed = told;
    batch(() => {
      this.draft.value = draft;
      this.reply.value = draftReply ?? null;
    });
  }

  get #written(): string {
    return writtenAs(this.draft.peek(), this.reply.peek());
  }

  /** Hand to the engine what is written, if it does not have it. */
  keepDraft(): void {
    this.#stopDraft?.();
    this.#stopDraft = null;
    const written = this.#written;
    if (written === this.#handed) return; // not what the list has: a draft may be on its way there
    this.#handed = written;
    this.#handing += 1;
    this.#app
      .set(this.chat, { draft: this.draft.peek(), draftReply: this.#refOf(this.reply.peek()) })
      .catch(() => {
        if (this.#handed === written) this.#handed = null;
      })
      .finally(() => {
        this.#handing -= 1;
        const known = this.#app.chats.peek().get(this.chat);
        if (known) this.heard(known); // what was changed elsewhere meanwhile
        if (this.#handed !== null && this.#written !== this.#handed) this.#keepSoon();
      });
  }

  #keepSoon(): void {
    if (this.#handing === 0) this.#stopDraft ??= this.#app.platform.later(DRAFT_MS, () => this.keepDraft());
  }

  /** The chat is left: what was written is kept. */
  close(): void {
    this.keepDraft();
    this.#stopTyping();
    this.divider.value = 0;
    this.answers.value = 0;
    this.below.value = 0;
    this.stands(0, false);
  }

  /** Look again at what is in the window, and at what follows it: the engine began anew, and told less than happened. */
  async reload(): Promise<void> {
    this.keepDraft(); // what could not be kept
    if (!this.loaded.value) {
      if (this.failure.value) await this.open(this.#at);
      return;
    }
    const stored = this.#stored;
    const [first] = stored;
    const limit = stored.length + FIRST_PAGE;
    const page = await this.#app.engine.messages(this.chat, first ? { after: first.n - 1, limit } : { limit });
    if (this.#stored[0]?.n !== first?.n) return this.reload(); // the window is another by now
    batch(() => {
      this.#takeArrivals();
      this.before.value = page.before;
      this.#letGo(merged(this.messages.value, page.messages));
      this.#endsAt(page);
    });
  }

  /** Resolves to why there is no older page, if there should be one. */
  async older(): Promise<Failure | null> {
    const [first] = this.#stored;
    if (!this.before.value || !first) return null;
    return this.#grow({ before: first.n, limit: PAGE }, (page) => {
      if (this.#stored[0]?.n !== first.n) return;
      this.messages.value = [...page.messages, ...this.messages.value];
      this.before.value = page.before;
    });
  }

  async newer(): Promise<void> {
    const last = this.#stored.at(-1);
    if (!this.after.value || !last) return;
    await this.#grow({ after: last.n, limit: PAGE }, (page) => {
      if (!this.messages.value.some(({ n }) => n === last.n)) return;
      this.#takeArrivals();
      this.#letGo(merged(this.messages.value, page.messages));
      this.#endsAt(page);
    });
  }

  /** Go to the end, whatever is loaded. */
  async toEnd(): Promise<void> {
    if (!this.after.value) this.target.value = END;
    else await this.#show({ limit: FIRST_PAGE }, END).catch(() => {}); // the way to the end is still there
  }

  /** Go to the message that is answered. Resolves to why that cannot be. */
  async toReply(reply: Reply): Promise<Failure | null> {
    for (;;) {
      const found = this.messages.value.find((each) => same(each, reply));
      if (found) {
        this.target.value = { n: found.n, flash: true };
        return null;
      }
      if (reply.kind === "missing" || !this.before.value) return { code: "message_unknown", params: {} };
      const failure = await this.older();
      if (failure) return failure;
    }
  }

  /** The first row in sight is that of message *n*; *atEnd*: the list stays at its end, whatever comes. */
  stands(n: number, atEnd: boolean): void {
    this.#top = n;
    this.#atEnd = atEnd;
  }

  /** Everything up to *n* is before a person's eyes. What the chat does not count yet is read once it does. */
  seen(n: number): void {
    if (n === LAST) return;
    if (n > this.#seenUpto) {
      this.#seenUpto = n;
      this.below.value = this.messages.value.filter((each) => !each.mine && each.unread && each.n > n).length;
    }
    const chat = this.#app.chats.peek().get(this.chat);
    if (chat?.state !== "open") return; // what is seen of a request counts as read once it is accepted
    if (this.#reading || chat.unread === 0 || chat.firstUnread > this.#seenUpto) return;
    this.#reading = true;
    this.#app.platform.later(READ_MS, () => {
      this.#reading = false;
      this.#app.engine.markRead(this.chat, this.#seenUpto).catch(() => {}); // as long as it is unread it is tried again
      this.#app.platform.closeNotes(this.chat).catch(() => {});
    });
  }

  received(message: Message): void {
    this.#newest = Math.max(this.#newest, message.n);
    if (!this.loaded.value) return;
    if (message.mine) {
      this.#takeArrivals();
      if (!this.#adopt(message)) this.#arrive([message]);
      return;
    }
    this.#arriving.set(nameOf(message), message);
    if (this.#arriving.size >= ARRIVALS_MOST || !this.#gathering) this.#takeArrivals();
    if (this.#gathering) return;
    this.#gathering = true;
    const gathered = () => {
      this.#gathering = this.#arriving.size > 0;
      this.#takeArrivals();
      if (this.#gathering) this.#app.platform.later(ARRIVALS_MS, gathered);
    };
    this.#app.platform.later(ARRIVALS_MS, gathered);
  }

  /** Put what has arrived into the window. */
  #takeArrivals(): void {
    if (this.#arriving.size === 0) return;
    const arrived = [...this.#arriving.values()];
    this.#arriving.clear();
    this.#arrive(arrived);
  }

  #arrive(messages: readonly Message[]): void {
    const list = this.messages.value;
    const have = new Set(list.map(nameOf));
    const fresh = messages.filter((each) => !have.has(nameOf(each)));
    const others = fresh.filter((each) => !each.mine);
    batch(() => {
      for (const each of messages) if (have.has(nameOf(each))) this.changed(each);
      this.below.value += others.length;
      if (this.after.value || fresh.length === 0) return;
      if (!this.#letGo(merged(this.messages.value, fresh), ROWS_MOST + PAGE)) {
        this.after.value = true; // there is no room for them here: they are loaded when somebody comes down to them
        return;
      }
      this.arrived.value = others.at(-1) ?? this.arrived.value;
    });
  }

  /** Show *rows* without the oldest of too many, as far as nobody sees those; false: that would be more than *most*. */
  #letGo(rows: readonly Message[], most = Number.POSITIVE_INFINITY): boolean {
    const tooMany = rows.length - ROWS_MOST;
    const unseen = this.#atEnd ? rows.length : rows.findIndex((each) => each.n >= this.#top) - PAGE;
    const gone = tooMany < PAGE ? 0 : Math.max(0, Math.min(tooMany, unseen));
    if (rows.length - gone > most) return false;
    this.messages.value = rows.slice(gone);
    if (gone > 0) this.before.value = true;
    return true;
  }

  /** The rows whose messages are in the engine. */
  get #stored(): Message[] {
    return this.messages.value.filter(({ n }) => n !== LAST);
  }

  /** Let the window be the page that *request* asks for, and nothing else, unless another was asked for since. */
  async #show(request: PageRequest, target: Target | null): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    const page = await this.#app.engine.messages(this.chat, request);
    if (asked !== this.#asked) return;
    batch(() => {
      this.#takeArrivals();
      this.messages.value = page.messages;
      this.before.value = page.before;
      this.#endsAt(page);
      this.loaded.value = true;
      this.failure.value = null;
      this.target.value = target ?? this.target.value;
    });
  }

  /** Let the window take one page more; while one is on its way, that is the one. Resolves to why it did not come. */
  #grow(request: PageRequest, take: (page: Page) => void): Promise<Failure | null> {
    this.#growing ??= this.#app.engine
      .messages(this.chat, request)
      .then((page) => batch(() => take(page)))
      .then(() => null, failureOf)
      .finally(() => {
        this.#growing = null;
      });
    return this.#growing;
  }

  /** The window ends with *page*. What was heard of after the engine had made it comes after the window. */
  #endsAt(page: Page): void {
    const last = page.messages.at(-1);
    this.after.value = page.after || (last !== undefined && last.n < this.#newest);
    this.#showUnsent();
  }

  /** What could not be sent stands at the end. */
  #showUnsent(): void {
    const rows = this.messages.value.filter((each) => !this.#unsent.has(each.id));
    const unsent = [...this.#unsent.values()].map(({ row }) => row);
    this.messages.value = this.after.value ? rows : [...rows, ...unsent];
  }

  changed(message: Message): void {
    const name = nameOf(message);
    if (this.#arriving.has(name)) this.#arriving.set(name, message);
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

  /** What is being written answers *message*, or nothing. */
  answer(message: Reply | null): void {
    this.reply.value = message;
    if (message) this.answers.value += 1;
    this.#keepSoon();
  }

  write(text: string): void {
    this.draft.value = text;
    this.#keepSoon();
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
    this.keepDraft();
    this.#typingSentMs = 0;
    const failure = await this.#finish(local, () => this.#app.engine.sendText(this.chat, text, this.#refOf(answered)));
    if (failure && !this.reply.value) this.answer(answered);
    return failure;
  }

  async sendPhoto(photo: Photo, caption: string): Promise<Failure | null> {
    const answered = this.reply.value;
    const local = this.#place(caption.trim(), answered, photo);
    this.answer(null);
    this.#media.set(local.id, Promise.resolve(photo.data));
    return this.#finish(local, () =>
      this.#app.engine.sendPhoto(this.chat, photo, caption.trim(), this.#refOf(answered)),
    );
  }

  /** Send a message that failed again; nothing happens to one that is being sent. */
  async retry(message: Message): Promise<Failure | null> {
    if (this.messages.value.find((each) => same(each, message))?.state !== "failed") return null;
    const unsent = this.#unsent.get(message.id);
    if (unsent) {
      this.#unsent.delete(message.id);
      this.changed({ ...message, state: "queued" });
      return this.#finish(message, unsent.send);
    }
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
      found.then(
        ({ size }) => this.#makeRoom(key, size),
        () => this.#media.delete(key),
      );
    }
    return found;
  }

  /** *newest* is here: let go of those that were asked for first until the rest are few, and not too large together. */
  #makeRoom(newest: Hex, bytes: number): void {
    this.#mediaBytes.set(newest, bytes);
    const sizeOf = (key: Hex) => this.#mediaBytes.get(key) ?? 0;
    let size = [...this.#media.keys()].reduce((sum, key) => sum + sizeOf(key), 0);
    for (const key of [...this.#media.keys()]) {
      if ((this.#media.size <= MEDIA_MOST && size <= MEDIA_BYTES_MOST) || key === newest) break;
      size -= sizeOf(key);
      this.#media.delete(key);
    }
    for (const key of this.#mediaBytes.keys()) if (!this.#media.has(key)) this.#mediaBytes.delete(key);
  }

  #refOf(answered: Reply | null): MessageRef | null {
    return answered && { chat: this.chat, id: answered.id, sender: answered.sender };
  }

  #place(text: string, answered: Reply | null, photo: Photo | null): Message {
    this.#pending += 1;
    const me = this.#app.status.peek()?.me;
    const message: Message = {
      n: LAST,
      id: `local-${this.#pending}`,
      chat: this.chat,
      sender: me?.id ?? "",
      senderName: me?.name ?? "",
      mine: true,
      sentAtMs: this.#app.platform.now(),
      kind: photo ? "media" : "text",
      text,
      state: "queued",
      failure: null,
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
    this.target.value = { ...END, added: !this.after.value };
    return message;
  }

  async #finish(local: Message, send: () => Promise<Message>): Promise<Failure | null> {
    try {
      this.#sent(local, await send());
    } catch (error) {
      const failure = failureOf(error);
      if (failure.code !== "internal" || !(await this.#wasStored(local))) {
        this.#putBack(local, send, failure);
        return failure;
      }
    }
    if (this.after.value) await this.toEnd();
    return null;
  }

  #sent(local: Message, sent: Message): void {
    if (!this.#adopt(sent, local.id) && !this.messages.value.some((each) => same(each, sent))) this.received(sent);
  }

  /** The engine was ended while it had *local*, and may have stored it before. It answers once it has begun anew. */
  async #wasStored(local: Message): Promise<boolean> {
    try {
      const { messages } = await this.#app.engine.messages(this.chat, { limit: FIRST_PAGE });
      const own = messages.filter((each) => each.mine && each.sentAtMs >= local.sentAtMs && alike(each, local));
      const found = own.find(({ id }) => (this.#keys.get(id) ?? local.id) === local.id); // no other row's
      if (found) this.#sent(local, found);
      return found !== undefined;
    } catch {
      return false;
    }
  }

  /** What cannot be sent is not lost: a photo stays at the end, a text stands before the one that is being written. */
  #putBack(local: Message, send: () => Promise<Message>, failure: Failure): void {
    if (local.kind === "media") {
      const media = local.media && { ...local.media, state: "here" as const };
      this.#unsent.set(local.id, { row: { ...local, state: "failed", failure, media }, send });
      this.#showUnsent();
      return;
    }
    this.messages.value = this.messages.value.filter((each) => each.id !== local.id);
    this.draft.value = [local.text, this.draft.value].filter(Boolean).join("\n");
    this.keepDraft(); // a reload does not lose it either
  }

  /** Let a message of the engine take the row that stands for it; false if there is none. */
  #adopt(message: Message, id?: Hex): boolean {
    if (this.messages.value.some((each) => same(each, message))) {
      if (id) {
        this.messages.value = this.messages.value.filter((each) => each.id !== id);
        this.#keys.set(message.id, this.keyOf(message)); // it stands for no other row
      }
      return false;
    }
    const at = this.messages.value.findIndex((each) =>
      id ? each.id === id : each.n === LAST && !this.#unsent.has(each.id) && alike(each, message),
    );
    const local = this.messages.value[at];
    if (!local) return false;
    this.#keys.set(message.id, this.keyOf(local));
    const next = this.messages.value.slice();
    next[at] = message;
    this.messages.value = next;
    return true;
  }

  #stopTyping(): void {
    if (this.#typingSentMs === 0) return;
    this.#typingSentMs = 0;
    this.#app.engine.typing(this.chat, false).catch(() => {});
  }
}

function same(one: Message, other: Pick<Message, "id" | "sender">): boolean {
  return one.id === other.id && one.sender === other.sender;
}

/** Whether they say the same. */
function alike(one: Message, other: Message): boolean {
  return one.kind === other.kind && one.text === other.text && one.media?.size === other.media?.size;
}

function nameOf(message: Message): string {
  return message.id + message.sender;
}

/** A draft and what it answers, to be compared. */
function writtenAs(draft: string, reply: Reply | null | undefined): string {
  return `${reply ? reply.id + reply.sender : ""} ${draft}`;
}

/** Both lists as one, by `n`, each message once and as *fresh* has it. */
function merged(old: readonly Message[], fresh: readonly Message[]): Message[] {
  const newer = new Map(fresh.map((each) => [nameOf(each), each]));
  const have = new Set(old.map(nameOf));
  const added = fresh.filter((each) => !have.has(nameOf(each)));
  const all = [...old.map((each) => newer.get(nameOf(each)) ?? each), ...added];
  const last = old.at(-1);
  const [first] = added;
  return last && first && first.n < last.n ? all.sort((a, b) => a.n - b.n) : all;
}
