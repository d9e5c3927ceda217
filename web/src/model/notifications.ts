/**
 * What a device shows when it was woken: one notification for each chat in which something is new.
 *
 * The words are left by the page in the language that a person chose, since whoever shows notifications has no
 * catalogues. A muted chat is not shown. This file knows neither the engine nor how a notification is shown.
 */

import type { Chat, Hex, Message } from "../client/api";
import { plain } from "./format";

const KEPT_IN = "taube-words";
const WORDS_PATH = "/words";
const BODY_CHARACTERS = 300;
/** The messages of a chat that one notification tells. */
const LINES = 5;
const REQUEST = "request";
/** The tag of the notification for what could not be told apart. */
export const SOMETHING = "something";

/** What notifications say beside what people wrote. */
export interface Words {
  locale: string;
  direction: "ltr" | "rtl";
  /** "You have new messages": for what could not be fetched in time. */
  something: string;
  photo: string;
  request: string;
  unknown: string;
}

export const NO_WORDS: Words = {
  locale: "en",
  direction: "ltr",
  something: "You may have new messages",
  photo: "Photo",
  request: "Somebody wants to write to you",
  unknown: "New message",
};

/** What a notification says of one message; the id keeps it from being said twice. */
export interface Line {
  id: string;
  text: string;
}

/** A notification that is to be shown, of what is new in one chat. */
export interface Note {
  chat: Hex;
  title: string;
  lines: Line[];
  direction: "ltr" | "rtl";
  locale: string;
  atMs: number;
}

/** Leave the words where `readWords` finds them. */
export async function keepWords(caches: CacheStorage, words: Words): Promise<void> {
  const cache = await caches.open(KEPT_IN);
  await cache.put(WORDS_PATH, new Response(JSON.stringify(words)));
}

export async function readWords(caches: CacheStorage): Promise<Words> {
  try {
    const kept = await (await caches.open(KEPT_IN)).match(WORDS_PATH);
    return kept ? { ...NO_WORDS, ...((await kept.json()) as Words) } : NO_WORDS;
  } catch {
    return NO_WORDS;
  }
}

/** One note for each chat that is not muted, in the order of the newest message; *news* is oldest first. */
export function notesOf(news: readonly { chat: Chat; message: Message }[], words: Words, nowMs: number): Note[] {
  const chats = new Map<Hex, { chat: Chat; messages: Message[] }>();
  for (const { chat, message } of news) {
    if (chat.mutedUntilMs > nowMs || chat.state === "blocked" || message.kind === "notice") continue;
    const found = chats.get(chat.id);
    chats.delete(chat.id);
    chats.set(chat.id, { chat, messages: [...(found?.messages ?? []), message] });
  }
  return [...chats.values()].map(({ chat, messages }) => ({
    chat: chat.id,
    title: chat.name || "Taube",
    lines:
      chat.state === "request"
        ? [{ id: REQUEST, text: words.request }]
        : messages.slice(-LINES).map((one) => ({ id: `${one.sender} ${one.id}`, text: line(one, words) })),
    direction: words.direction,
    locale: words.locale,
    atMs: messages.at(-1)?.sentAtMs ?? nowMs,
  }));
}

/** *note* after the *shown* lines of its chat, the newest ones; null if all of it is shown already. */
export function joined(note: Note, shown: readonly Line[]): Note | null {
  const known = new Set(shown.map(({ id }) => id));
  const added = note.lines.filter(({ id }) => !known.has(id));
  return added.length === 0 ? null : { ...note, lines: [...shown, ...added].slice(-LINES) };
}

function line(message: Message, words: Words): string {
  const text = [...plain(message.text, 2 * BODY_CHARACTERS)].slice(0, BODY_CHARACTERS).join("");
  if (message.kind === "text") return text;
  if (message.kind === "media") return text ? `${words.photo}: ${text}` : words.photo;
  return words.unknown;
}
