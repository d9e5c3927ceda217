/**
 * What the screens hand in, checked and turned into what rows and contents hold: ids, names, texts, pictures, keys.
 *
 * Whatever cannot be meant is refused with a code of api.ts. Nothing here changes anything.
 */

import { joined, NO_BYTES, same, unhex } from "../bytes";
import type { Hex, MessageRef } from "./api";
import { cleanName } from "./contacts";
import { isPhoto, MAX_FILE_NAME_BYTES, MAX_NAME_BYTES, MAX_PHOTO_BYTES, MAX_TEXT_BYTES } from "./content";
import type { Push } from "./devices";
import { UserError } from "./errors";
import type { Tx } from "./store";
import type { Chat as ChatRow, Message as MessageRow } from "./tables";

const MAX_NAME = 64;
const ACCOUNT_BYTES = 32;
const UTF8 = new TextEncoder();

export function idOf(chat: Hex): Uint8Array {
  try {
    return unhex(chat);
  } catch (error) {
    throw new UserError("chat_unknown", {}, error);
  }
}

export async function chatRow(tx: Tx, chat: Hex): Promise<ChatRow> {
  const row = await tx.chat(idOf(chat));
  if (row === null) throw new UserError("chat_unknown");
  return row;
}

export async function messageRow(tx: Tx, { chat, id, sender }: MessageRef): Promise<MessageRow> {
  const row = await tx.message(idOf(chat), idOf(id), idOf(sender));
  if (row === null) throw new UserError("message_unknown");
  return row;
}

/** What is answered, as a content says it; empty for none. */
export async function replyBytes(tx: Tx, chat: ChatRow, reply: MessageRef | null): Promise<Uint8Array> {
  if (reply === null) return NO_BYTES;
  const row = await messageRow(tx, reply);
  if (!same(row.chat, chat.id) || row.sender.length !== ACCOUNT_BYTES) throw new UserError("message_unknown");
  return joined(row.id, row.sender);
}

/** A name that others see. Throws UserError. */
export function nameToShow(name: string): string {
  const plain = sound(name).trim();
  if (Array.from(plain).length > MAX_NAME || UTF8.encode(plain).length > MAX_NAME_BYTES) {
    throw new UserError("name_too_long");
  }
  const shown = cleanName(plain);
  if (shown === "") throw new UserError("name_empty");
  return shown;
}

export function checkText(text: string): void {
  if (text.trim() === "") throw new UserError("text_empty");
  const bytes = UTF8.encode(text).length;
  if (bytes > MAX_TEXT_BYTES) throw new UserError("text_too_long", { bytes, most: MAX_TEXT_BYTES });
}

/** Without halves of characters, which are no Unicode. */
export function sound(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}

export async function bytesOfPicture(photo: Blob): Promise<Uint8Array> {
  if (photo.size > MAX_PHOTO_BYTES) throw new UserError("file_too_large", { bytes: photo.size, most: MAX_PHOTO_BYTES });
  const data = new Uint8Array(await photo.arrayBuffer());
  if (!isPhoto(data)) throw new UserError("file_not_a_picture");
  return data;
}

export function pixels(size: number): number {
  return Number.isInteger(size) && size > 0 && size <= 65_535 ? size : 0;
}

/** A file's name as it may travel. */
export function fileName(name: string): string {
  let letters = Array.from(sound(name));
  while (UTF8.encode(letters.join("")).length > MAX_FILE_NAME_BYTES) letters = letters.slice(0, -1);
  return letters.join("");
}

export function pushOf({ endpoint, keys }: PushSubscriptionJSON): Push {
  const { p256dh = "", auth = "" } = keys ?? {};
  return { endpoint: endpoint ?? "", key: decodeKey(p256dh), secret: decodeKey(auth) };
}

/** Base64 of either alphabet, with padding or without: browsers differ. */
export function decodeKey(text: string): Uint8Array {
  const plain = text.replaceAll("-", "+").replaceAll("_", "/").replace(/=+$/, "");
  return Uint8Array.from(atob(plain), (letter) => letter.charCodeAt(0));
}
