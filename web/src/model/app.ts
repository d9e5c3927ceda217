/**
 * What all screens share: where the account stands, the chats, who is typing, and the choices of this browser.
 *
 * The engine tells by events what has changed; everything here is a signal that follows them. What only one conversation
 * needs is in `conversation.ts`. This file knows no DOM and makes no sentences.
 */

import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type {
  Chat,
  ChatSettings,
  Connection,
  Engine,
  EngineEvent,
  Hex,
  Message,
  PushState,
  SearchResult,
  Status,
} from "../client/api";
import type { Platform } from "../platform";
import { Conversation } from "./conversation";
import { choose, direction, LOCALES, type Locale, locale, setLocale, t } from "./i18n";
import { NO_WORDS, notesOf, type Words } from "./notifications";

/** The engine, and how one is told of what happens in it. */
export interface EngineHandle {
  engine: Engine;
  listen(handler: (event: EngineEvent) => void): void;
}

export type Theme = "system" | "light" | "dark";
export const TEXT_SIZES = [100, 125, 150, 175, 200] as const;
const TYPING_MS = 10_000;
const CONVERSATIONS_MOST = 6;
/** How long notifications of a page that nobody sees wait for more. */
const NEWS_MS = 200;

export class App {
  readonly engine: Engine;
  readonly platform: Platform;
  readonly status: Signal<Status | null> = signal(null);
  readonly chats: Signal<ReadonlyMap<Hex, Chat>> = signal(new Map());
  /** False until the chats were read for the first time. */
  readonly loaded = signal(false);
  /** Whether this page has asked for the account to be deleted, and waits to hear. */
  readonly deletes = signal(false);
  readonly typing: Signal<ReadonlyMap<Hex, string>> = signal(new Map());
  readonly theme: Signal<Theme>;
  readonly textSize: Signal<number>;
  /** Cards that a person has closed. */
  readonly closed: Signal<ReadonlySet<string>>;
  /** Whether there has been no connection for longer than a moment, on whatever page that was noticed. */
  readonly cutOff: Signal<boolean> = signal(false);
  /** Takes over the new build that waits on the device; null while there is none. */
  readonly update: Signal<(() => void) | null> = signal(null);
  /** A page that a person asked for, over what the status alone would show. */
  readonly shown: Signal<"" | "replaced" | "history" | "welcome"> = signal("");
  /** The contact link that the app was opened with, until it is used; it outlives a visit, for it may need an account
   * first. */
  readonly openedLink: Signal<string>;
  /** The invitation that the app was opened with, until there is an account: the page may be gone before. */
  readonly invitation: Signal<string>;
  readonly listed: ReadonlySignal<Chat[]>;
  readonly archived: ReadonlySignal<Chat[]>;
  readonly requests: ReadonlySignal<Chat[]>;
  readonly aside: ReadonlySignal<Chat[]>;
  readonly unread: ReadonlySignal<number>;

  #conversations = new Map<Hex, Conversation>();
  #typingEnds = new Map<Hex, () => void>();
  #words: Words = NO_WORDS;
  /** What waits to be told by notifications. */
  #news: { chat: Hex; message: Message }[] = [];
  /** What the engine says of push. */
  #enginePush: PushState = { state: "off", why: "" };
  /** What the browser says of it, where that counts for more; null: nothing. */
  #browserPush: PushState | null = null;
  /** Whether a lost subscription was replaced by this page; once is enough. */
  #renewed = false;
  /** The endpoint that the engine was given last. */
  #given = "";
  #checking: Promise<void> = Promise.resolve();

  constructor(handle: EngineHandle, platform: Platform) {
    this.engine = handle.engine;
    this.platform = platform;
    const theme = platform.remembered("theme");
    this.theme = signal(theme === "light" || theme === "dark" ? theme : "system");
    const size = Number(platform.remembered("text-size"));
    this.textSize = signal(TEXT_SIZES.find((each) => each === size) ?? 100);
    this.closed = signal(new Set((platform.remembered("closed") ?? "").split(" ").filter(Boolean)));
    this.openedLink = signal(platform.remembered("link") ?? "");
    this.invitation = signal(platform.remembered("invitation") ?? "");
    const sorted = computed(() => [...this.chats.value.values()].sort(byTime));
    this.listed = computed(() => sorted.value.filter((each) => each.state === "open" && !each.archived));
    this.archived = computed(() => sorted.value.filter((each) => each.state === "open" && each.archived));
    this.requests = computed(() => sorted.value.filter((each) => each.state === "request" && !each.archived));
    this.aside = computed(() => sorted.value.filter(isAside));
    this.unread = computed(() => sorted.value.reduce((sum, each) => sum + (each.archived ? 0 : each.unread), 0));
    handle.listen((event) => this.#on(event));
  }

  /** Choose the language, ask the engine where the account stands, and read the chats. */
  async start(): Promise<void> {
    const chosen = this.platform.remembered("locale");
    const languages = this.platform.languages();
    const wanted = chosen && chosen in LOCALES ? (chosen as Locale) : choose(languages);
    const words = setLocale(wanted, languages).then((done) => done || setLocale("en", languages));
    const [status] = await Promise.all([this.engine.status(), words]);
    this.#heard(status);
    if (hasAccount(status)) {
      this.keepInvitation("");
      await this.refresh();
    }
    this.#keepWords();
  }

  /** The engine began anew: what it tells from now on starts from what it has stored. */
  async restarted(): Promise<void> {
    const status = await this.engine.status();
    this.#heard(status);
    if (hasAccount(status)) await this.#readAgain();
  }

  /** More has happened than was told. */
  async #readAgain(): Promise<void> {
    await this.refresh();
    for (const conversation of this.#conversations.values()) conversation.reload().catch(() => {});
  }

  /**
   * What the browser says of push, against what the engine believes: a person may have taken the permission back, a
   * browser may have forgotten its subscription or taken another. One that is gone is replaced.
   */
  async checkPush(): Promise<void> {
    const checking = this.#checking.then(() => this.#checkPush());
    this.#checking = checking.catch(() => {});
    return checking;
  }

  async #checkPush(): Promise<void> {
    const status = this.status.peek();
    if (!status || !hasAccount(status)) return;
    const { can, permission, subscription } = await this.platform.pushNow();
    if (!can) return this.#browserSays(this.platform.install() === "ios" ? "install" : "unsupported");
    if (permission === "denied") return this.#browserSays("denied");
    if (this.#enginePush.state === "off") return this.#browserSays(null);
    if (subscription && this.#enginePush.why !== "endpoint_gone") {
      this.#browserSays(null);
      await this.#give(subscription);
    } else if (permission !== "granted") {
      this.#browserSays("broken", "endpoint_gone");
    } else if (!this.#renewed) {
      await this.#subscribe(true);
      this.#renewed = true;
    } else if (this.#browserPush?.state !== "broken") {
      this.#browserSays("broken", "endpoint_gone");
    }
  }

  /** Ask the browser for a subscription, and hand it to the engine. Rejects with a failure of the engine. */
  async #subscribe(anew: boolean): Promise<void> {
    const key = await this.engine.pushKey();
    let subscription: PushSubscriptionJSON;
    try {
      subscription = await this.platform.subscribePush(key, anew);
    } catch (error) {
      this.#browserSays("broken", error === "no_answer" ? "no_answer" : "refused_by_browser");
      return;
    }
    this.#given = "";
    await this.#give(subscription);
    this.#browserSays(null);
  }

  async #give(subscription: PushSubscriptionJSON): Promise<void> {
    const endpoint = subscription.endpoint ?? "";
    if (endpoint === this.#given) return;
    this.#enginePush = await this.engine.setPush(subscription);
    this.#given = endpoint;
    this.#showPush();
  }

  #browserSays(state: PushState["state"] | null, why: PushState["why"] = ""): void {
    this.#browserPush = state && { state, why };
    this.#showPush();
  }

  #showPush(): void {
    const push = this.#browserPush ?? this.#enginePush;
    if (this.status.value) this.status.value = { ...this.status.value, push };
  }

  /** The engine says where the account stands; of push, and of what was here, the browser may know better. */
  #heard(told: Status): void {
    const before = this.status.peek();
    const status = this.#remembered(told);
    this.#enginePush = status.push;
    this.status.value = { ...status, push: this.#browserPush ?? status.push };
    const isNew = hasAccount(status) && before !== null && !hasAccount(before);
    if (isNew || status.push.why === "endpoint_gone") this.checkPush().catch(() => {});
  }

  /**
   * A second mark that there is an account here. The store has its own where the app's files lie (`Store.evicted`), but a
   * browser that needs space may throw both places away at once, as Chromium does, which then leaves such choices alone.
   * It goes before the account does: whoever deletes it is never told that the browser did.
   */
  #remembered(status: Status): Status {
    if (hasAccount(status)) this.platform.remember("account", status.deleting ? null : "here");
    if (status.phase === "deleted") {
      this.platform.remember("account", null);
      this.platform.closeNotes().catch(() => {}); // they say who wrote what
    }
    const isLost = status.phase === "none" && this.platform.remembered("account") !== null;
    return isLost ? { ...status, phase: "evicted" } : status;
  }

  #keepWords(): void {
    this.#words = {
      locale: locale(),
      direction: direction(),
      something: t("notification.something"),
      photo: t("message.photo"),
      request: t("notification.request"),
      unknown: t("notification.unknown"),
    };
    this.platform.keepWords(this.#words).catch(() => {});
  }

  async refresh(): Promise<void> {
    const chats = await this.engine.chats();
    this.chats.value = new Map(chats.map((each) => [each.id, each]));
    for (const each of chats) this.#conversations.get(each.id)?.heard(each);
    this.loaded.value = true;
  }

  /** The conversation of *chat*; the last few stay in memory, so that going back and forth costs nothing. */
  conversation(chat: Hex): Conversation {
    let found = this.#conversations.get(chat);
    if (found) this.#conversations.delete(chat);
    else found = new Conversation(this, chat);
    this.#conversations.set(chat, found);
    const [oldest] = this.#conversations.keys();
    if (this.#conversations.size > CONVERSATIONS_MOST && oldest) this.#conversations.delete(oldest);
    return found;
  }

  /** The page may be gone in a moment: what was written is kept. */
  leave(): void {
    for (const conversation of this.#conversations.values()) conversation.keepDraft();
  }

  async join(link: string, name: string, photo: Blob | null): Promise<void> {
    await this.engine.join(link, name, photo);
    this.keepInvitation("");
    this.#heard(await this.engine.status());
    this.shown.value = "";
    await this.refresh();
    this.platform.keepStorage();
  }

  async setProfile(name: string, photo: Blob | null): Promise<void> {
    const me = await this.engine.setProfile(name, photo);
    if (this.status.value) this.status.value = { ...this.status.value, me };
  }

  async set(chat: Hex, settings: ChatSettings): Promise<void> {
    this.put(await this.engine.setChat(chat, settings));
  }

  async unblock(chat: Hex): Promise<void> {
    this.put(await this.engine.unblock(chat));
  }

  put(chat: Chat): void {
    const next = new Map(this.chats.value);
    next.set(chat.id, chat);
    this.chats.value = next;
    this.#conversations.get(chat.id)?.heard(chat);
  }

  isMuted(chat: Chat): boolean {
    return chat.mutedUntilMs > this.platform.now();
  }

  async search(words: string): Promise<SearchResult> {
    return this.engine.search(words);
  }

  async chooseLocale(chosen: Locale): Promise<boolean> {
    const done = await setLocale(chosen, this.platform.languages());
    if (done) {
      this.platform.remember("locale", chosen);
      this.#keepWords();
    }
    return done;
  }

  chooseTheme(theme: Theme): void {
    this.theme.value = theme;
    this.platform.remember("theme", theme);
  }

  chooseTextSize(percent: number): void {
    this.textSize.value = percent;
    this.platform.remember("text-size", String(percent));
  }

  keepLink(link: string): void {
    this.openedLink.value = link;
    this.platform.remember("link", link || null);
  }

  keepInvitation(link: string): void {
    this.invitation.value = link;
    this.platform.remember("invitation", link || null);
  }

  closeCard(name: string): void {
    if (name === "update") {
      this.update.value = null; // the next build is offered again
      return;
    }
    this.closed.value = new Set([...this.closed.value, name]);
    this.platform.remember("closed", [...this.closed.value].join(" "));
  }

  /** Ask the browser for a push subscription and hand it to the server. Must be called from a tap. */
  async turnPushOn(): Promise<void> {
    const permission = await this.platform.askForNotifications();
    if (permission === "denied") this.#browserSays("denied");
    else if (permission === "granted") await this.#subscribe(this.#enginePush.why === "endpoint_gone");
  }

  async turnPushOff(): Promise<void> {
    this.#enginePush = await this.engine.setPush(null);
    this.#given = "";
    this.#browserSays(null);
    await this.platform.unsubscribePush();
  }

  async deleteAccount(): Promise<void> {
    this.platform.remember("account", null); // the page may be gone before it hears that it is done
    this.deletes.value = true;
    try {
      await this.engine.deleteAccount();
      this.platform.unsubscribePush().catch(() => {});
    } finally {
      this.#heard(await this.engine.status());
      this.deletes.value = false;
    }
  }

  async takeOver(): Promise<void> {
    await this.engine.takeOver();
    this.#heard(await this.engine.status());
    await this.#readAgain();
  }

  /** A message came while nobody sees this page: a notification tells of it, as it would if the page were closed. */
  #notify(message: Message): void {
    if (message.mine || !message.unread || this.platform.isVisible()) return;
    const status = this.status.peek();
    const wanted = status?.push.state === "on" || status?.push.state === "broken";
    if (!wanted || status.connection.elsewhere) return; // the tab that has the connection tells it
    this.#news.push({ chat: message.chat, message });
    if (this.#news.length > 1) return;
    this.platform.later(NEWS_MS, () => {
      const chats = this.chats.peek();
      const news = this.#news.splice(0).flatMap(({ chat: id, message }) => {
        const chat = chats.get(id);
        return chat && chat.unread > 0 ? [{ chat, message }] : [];
      });
      const notes = notesOf(news, this.#words, this.platform.now());
      if (notes.length > 0) this.platform.showNotes(notes).catch(() => {});
    });
  }

  #on(event: EngineEvent): void {
    switch (event.type) {
      case "status": {
        const before = this.status.value;
        this.#heard(event.status);
        if (hasAccount(event.status) && event.status.phase !== before?.phase) {
          this.keepInvitation(""); // it was used, even if the page goes before it hears so from `join`
          this.#readAgain().catch(() => {});
        }
        break;
      }
      case "connection":
        this.#connection(event.connection);
        break;
      case "chat":
        this.put(event.chat);
        break;
      case "message":
        this.#typingStopped(event.message.chat);
        this.#conversations.get(event.message.chat)?.received(event.message);
        this.#notify(event.message);
        break;
      case "changed":
        this.#conversations.get(event.message.chat)?.changed(event.message);
        break;
      case "typing":
        if (event.active) this.#typingStarted(event.chat, event.senderName);
        else this.#typingStopped(event.chat);
    }
  }

  #connection(connection: Connection): void {
    if (this.status.value) this.status.value = { ...this.status.value, connection };
  }

  #typingStarted(chat: Hex, name: string): void {
    this.#typingEnds.get(chat)?.();
    this.#typingEnds.set(
      chat,
      this.platform.later(TYPING_MS, () => this.#typingStopped(chat)),
    );
    this.typing.value = new Map(this.typing.value).set(chat, name);
  }

  #typingStopped(chat: Hex): void {
    this.#typingEnds.get(chat)?.();
    this.#typingEnds.delete(chat);
    if (!this.typing.value.has(chat)) return;
    const next = new Map(this.typing.value);
    next.delete(chat);
    this.typing.value = next;
  }
}

/** Whether somebody was put out of sight, ignored or blocked: nothing of theirs counts as new. */
export function isAside(chat: Chat): boolean {
  return chat.state === "blocked" || (chat.state === "request" && chat.archived);
}

/** Whether there is something of an account to show. */
export function hasAccount(status: Status): boolean {
  return status.phase === "ready" || status.phase === "replaced";
}

function byTime(one: Chat, other: Chat): number {
  if (one.pinned !== other.pinned) return one.pinned ? -1 : 1;
  return other.lastAtMs - one.lastAtMs;
}
