/**
 * What the engines of one browser say to each other: each tab has one, and only one of them has the device connection.
 *
 *     ask          the holder is to do what only it can; answered by its number, or not at all if that is empty
 *     connection   how the holder's connection stands; who: asks for it
 *     restart      the account is there, or is another device now; deleted: it is gone
 *
 * What is asked for is done in account.ts. Nobody relies on an answer: the holder may be closed at any time, and then
 * whoever asked becomes it.
 */

import type { Connection, Failure, Hex } from "./api";

/** What one posts, all others hear. A BroadcastChannel fits. */
export interface Channel {
  post(message: unknown): void;
  listen(hear: (message: unknown) => void): () => void;
}

/** What engines ask the holder of the device connection for. */
export type Asked =
  | { method: "knows" }
  /** Not to be begun once it is *beforeMs*: whoever asked has given it up. */
  | { method: "deleteAccount"; beforeMs: number }
  | { method: "typing"; chat: Hex; active: boolean }
  | { method: "push" }
  | { method: "connect" };

export type Word =
  | { taube: "ask"; id: string; asked: Asked }
  | { taube: "answer"; id: string; value: unknown; failure: Failure | null }
  | { taube: "connection"; connection: Connection }
  | { taube: "who" }
  | { taube: "restart" }
  | { taube: "deleted" };

/** An answer of the holder. */
export type Answer = Extract<Word, { taube: "answer" }>;

/** Others may use the channel, too. */
export function isWord(message: unknown): message is Word {
  return typeof message === "object" && message !== null && "taube" in message;
}
