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
  Failure,
  Hex,
  PushState,
  SearchResult,
  Status,
} from "../client/api";
import type { Platform } from "../platform";
import { Conversation } from "./conversation";
import { choose, direction, LOCALES, type Locale, locale, setLocale, t } from "./i18n";

/** The engine, and how one is told of what happens in it. */
export interface EngineHandle {
  engine: Engine;
  listen(handler: (event: EngineEvent) => void): void;
}

export type Theme = "system" | "light" | "dark";
export const TEXT_SIZES = [100, 125, 150, 175, 200] as const;
const TYPING_MS = 10_000;
const CONVERSATIONS_MOST = 6;

export class App {
  readonly engine: Engine;
  readonly platform: Platform;
  readonly status: Signal<Status | null> = signal(null);
  readonly chats: Signal<ReadonlyMap<Hex, Chat>> = signal(new Map());
  /** False until the chats were read for the first time. */
  readonly loaded = signal(false);
  readonly typing: Signal<ReadonlyMap<Hex, string>> = signal(new Map());
  readonly theme: Signal<Theme>;
  readonly textSize: Signal<number>;
  /** Cards that a person has closed. */
  readonly closed: Signal<ReadonlySet<string>>;
  /** Takes over the new build that waits on the device; null while there is none. */
  readonly update: Signal<(() => void) | null> = signal(null);
  /** Why push could not be turned on here, before the server was asked. */
  readonly pushProblem = signal<PushState["why"]>("");
  /** A page that a person asked for, over what the status alone would show. */
  readonly shown: Signal<"" | "replaced" | "history" | "welcome"> = signal("");
  /** The link that the app was opened with, until it is used; it outlives a visit, for it may need an account first. */
  readonly openedLink: Signal<string>;
  readonly listed: ReadonlySignal<Chat[]>;
  readonly archived: ReadonlySignal<Chat[]>;
  readonly requests: ReadonlySignal<Chat[]>;
  readonly unread: ReadonlySignal<number>;

  #conversations = new Map<Hex, Conversation>();
  #typingEnds = new Map<Hex, () => void>();

  constructor(handle: EngineHandle, platform: Platform) {
    this.engine = handle.engine;
    this.platform = platform;
    const theme = platform.remembered("theme");
    this.theme = signal(theme === "light" || theme === "dark" ? theme : "system");
    const size = Number(platform.remembered("text-size"));
    this.textSize = signal(TEXT_SIZES.find((each) => each === size) ?? 100);
    this.closed = signal(new Set((platform.remembered("closed") ?? "").split(" ").filter(Boolean)));
    this.openedLink = signal(platform.remembered("link") ?? "");
    const sorted = computed(() => [...this.chats.value.values()].sort(byTime));
    this.listed = computed(() => sorted.value.filter((each) => each.state !== "request" && !each.archived));
    this.archived = computed(() => sorted.value.filter((each) => each.state !== "request" && each.archived));
    this.requests = computed(() => sorted.value.filter((each) => each.state === "request" && !each.archived));
    this.unread = computed(() => sorted.value.reduce((sum, each) => sum + (each.archived ? 0 : each.unread), 0));
    handle.listen((event) => this.#on(event));
  }

  /** Choose the language, ask the engine where the account stands, and read the chats. */
  async start(): Promise<void> {
    const chosen = this.platform.remembered("locale");
    const wanted = chosen && chosen in LOCALES ? (chosen as Locale) : choose(this.platform.languages());
    const words = setLocale(wanted).then((done) => done || setLocale("en"));
    const [status] = await Promise.all([this.engine.status(), words]);
    this.status.value = status;
    if (hasAccount(status)) await this.refresh();
    this.#keepWords();
  }

  /** The engine began anew: what it tells from now on starts from what it has stored. */
  async restarted(): Promise<void> {
    this.status.value = await this.engine.status();
    if (hasAccount(this.status.value)) await this.refresh();
    for (const conversation of this.#conversations.values()) conversation.reload().catch(() => {});
  }

  /** What the browser says of push, against what the engine believes: a person may have taken the permission back, a
   * browser may have forgotten its subscription or taken another. */
  async checkPush(): Promise<void> {
    const status = this.status.value;
    if (!status || !hasAccount(status)) return;
    const now = await this.platform.pushNow();
    const isOn = status.push.state === "on" || status.push.state === "broken";
    if (!now.can) this.#push({ state: this.platform.install() === "ios" ? "install" : "unsupported", why: "" });
    else if (now.permission === "denied") this.#push({ state: "denied", why: "" });
    else if (isOn && (now.permission !== "granted" || !now.subscription))
      this.#push({ state: "broken", why: "endpoint_gone" });
    else if (isOn && now.subscription) this.#push(await this.engine.setPush(now.subscription));
  }

  #keepWords(): void {
    const words = {
      locale: locale(),
      direction: direction(),
      something: t("notification.something"),
      photo: t("message.photo"),
      request: t("notification.request"),
      unknown: t("notification.unknown"),
    };
    this.platform.keepWords(words).catch(() => {});
  }

  async refresh(): Promise<void> {
    const chats = await this.engine.chats();
    this.chats.value = new Map(chats.map((each) => [each.id, each]));
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

  async join(link: string, name: string, photo: Blob | null): Promise<void> {
    await this.engine.join(link, name, photo);
    this.status.value = await this.engine.status();
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

  put(chat: Chat): void {
    const next = new Map(this.chats.value);
    next.set(chat.id, chat);
    this.chats.value = next;
  }

  isMuted(chat: Chat): boolean {
    return chat.mutedUntilMs > this.platform.now();
  }

  async search(words: string): Promise<SearchResult> {
    return this.engine.search(words);
  }

  async chooseLocale(chosen: Locale): Promise<boolean> {
    const done = await setLocale(chosen);
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
    this.pushProblem.value = "";
    if ((await this.platform.askForNotifications()) !== "granted") {
      this.#push({ state: "denied", why: "" });
      return;
    }
    const key = await this.engine.pushKey();
    let subscription: PushSubscriptionJSON;
    try {
      subscription = await this.platform.subscribePush(key);
    } catch (error) {
      const why = error === "no_answer" ? "no_answer" : "refused_by_browser";
      this.pushProblem.value = why;
      this.#push({ state: "broken", why });
      return;
    }
    this.#push(await this.engine.setPush(subscription));
  }

  async turnPushOff(): Promise<void> {
    await this.platform.unsubscribePush();
    this.#push(await this.engine.setPush(null));
  }

  async deleteAccount(): Promise<void> {
    await this.engine.deleteAccount();
    this.status.value = await this.engine.status();
  }

  async takeOver(): Promise<void> {
    await this.engine.takeOver();
    this.status.value = await this.engine.status();
    await this.refresh();
  }

  #push(push: PushState): void {
    if (this.status.value) this.status.value = { ...this.status.value, push };
  }

  #on(event: EngineEvent): void {
    switch (event.type) {
      case "status": {
        const before = this.status.value;
        this.status.value = event.status;
        if (hasAccount(event.status) && !(before && hasAccount(before))) this.refresh().catch(() => {});
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

/** Whether there is something of an account to show. */
export function hasAccount(status: Status): boolean {
  return status.phase === "ready" || status.phase === "replaced";
}

/** What was thrown, as a failure; whatever is no failure is a bug. */
export function failureOf(error: unknown): Failure {
  if (typeof error === "object" && error !== null && "code" in error && "params" in error) return error as Failure;
  return { code: "internal", params: {} };
}

function byTime(one: Chat, other: Chat): number {
  if (one.pinned !== other.pinned) return one.pinned ? -1 : 1;
  return other.lastAtMs - one.lastAtMs;
}
