/**
 * Message content as it stands inside the encryption: kinds, their fields and limits, and their bytes.
 *
 * A content is a MessagePack array `[kind, message id, sequence, sentAtMs, …fields of the kind]`. Kinds that this
 * version does not know are kept as `Unknown` with all their bytes, so that a later version can show them; fields that a
 * newer version appends are ignored. What a content does to the store is decided in inbox.ts.
 * Source: docs/protocol/content.md (CNT-01 ff.).
 */

import { type Packable, PackingError, pack, type Unpacked, unpack } from "../wire/packing";

export const MAX_CONTENT_BYTES = 60_000;
export const MAX_TEXT_BYTES = 16_384;
export const MAX_NAME_BYTES = 128;
export const MAX_PHOTO_BYTES = 32_768;
export const MAX_RECEIPT_IDS = 512;
export const MAX_RESEND_SEQUENCES = 256;
export const MAX_MEDIA_BYTES = 2 ** 30;
export const MAX_MEDIA_TYPE_BYTES = 100;
export const MAX_FILE_NAME_BYTES = 200;
export const MAX_THUMBHASH_BYTES = 64;
export const REPLY_BYTES = 48;

export const DELIVERED = 1;
export const READ = 2;

/** The bytes are no content, or the content breaks a limit; the text names the first thing that is wrong. */
export class ContentError extends Error {
  override readonly name = "ContentError";
}

/** What every content begins with. */
export interface Header {
  /** 16 random bytes, the same when a message is protected again. */
  readonly messageId: Uint8Array;
  /** 1, 2, 3, … for what a device sends to a chat and a receiver must not miss; 0 for what it may. */
  readonly sequence: number;
  readonly sentAtMs: number;
}

/** Words for people: 1 to 16,384 bytes of UTF-8. */
export interface Text extends Header {
  readonly type: "Text";
  readonly text: string;
  /** What is answered: message id (16) ‖ account id of its sender (32); empty when it is no answer. */
  readonly replyTo: Uint8Array;
}

/** These messages of yours are on my device (DELIVERED), or were shown to me (READ). */
export interface Receipt extends Header {
  readonly type: "Receipt";
  readonly status: number;
  readonly messages: readonly Uint8Array[];
}

/** I am writing, or stopped; sent as an ephemeral envelope only, sequence 0. */
export interface Typing extends Header {
  readonly type: "Typing";
  readonly active: boolean;
}

/** The name that I go by: 1 to 128 bytes of UTF-8. The receiver may know me by another. */
export interface Profile extends Header {
  readonly type: "Profile";
  readonly name: string;
  /** A small picture, JPEG or WebP, up to 32,768 bytes; empty: none. */
  readonly photo: Uint8Array;
}

/** These of your sequence numbers never came: protect them again under the same message ids. */
export interface ResendRequest extends Header {
  readonly type: "ResendRequest";
  readonly sequences: readonly number[];
}

/** I leave this chat: whoever may, remove me. */
export interface Leave extends Header {
  readonly type: "Leave";
}

/** A file, sealed in the blob *blob* of the sender's server under *key*; its bytes are fetched when wanted. */
export interface Media extends Header {
  readonly type: "Media";
  /** 32 bytes: the blob's name. */
  readonly blob: Uint8Array;
  /** 32 bytes. */
  readonly key: Uint8Array;
  /** 32 bytes: SHA-256 of the sealed bytes. */
  readonly hash: Uint8Array;
  /** Bytes of the file before it was sealed, up to 2^30. */
  readonly size: number;
  /** Such as image/jpeg; what the sender claims. */
  readonly mediaType: string;
  /** Pixels; 0: not known. */
  readonly width: number;
  readonly height: number;
  readonly thumbhash: Uint8Array;
  readonly caption: string;
  readonly replyTo: Uint8Array;
  /** The file's name; what the sender claims. */
  readonly name: string;
}

/** A kind that this version does not know: its header as far as it could be read, and all of its bytes. */
export interface Unknown extends Header {
  readonly type: "Unknown";
  readonly kind: number;
  readonly raw: Uint8Array;
}

export type Known = Text | Receipt | Typing | Profile | ResendRequest | Leave | Media;
export type Content = Known | Unknown;

/** A media type of RFC 6838 in small letters, without parameters. */
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]*\/[a-z0-9][a-z0-9!#$&^_.+-]*$/;
const MOST = 2 ** 53;
const NONE = new Uint8Array();

/** The bytes of *content*. Throws ContentError when it breaks a limit: what is sent can always be read again. */
export function encode(content: Content): Uint8Array<ArrayBuffer> {
  if (content.type === "Unknown") return content.raw.slice();
  const { messageId, sequence, sentAtMs } = content;
  const [kind, ...fields] = fieldsOf(content);
  let data: Uint8Array<ArrayBuffer>;
  try {
    data = pack([kind, messageId, sequence, sentAtMs, ...fields]);
  } catch (error) {
    throw refusal(error);
  }
  decode(data);
  return data;
}

/** The content in *data*: 1 to 60,000 bytes. Throws ContentError for anything that no version could have sent. */
export function decode(data: Uint8Array): Content {
  if (data.length > MAX_CONTENT_BYTES) {
    throw new ContentError(`content of ${data.length} bytes is above the limit of ${MAX_CONTENT_BYTES}`);
  }
  let fields: Unpacked;
  try {
    fields = unpack(data);
  } catch (error) {
    throw refusal(error);
  }
  if (!Array.isArray(fields)) throw new ContentError("no array");
  const kind = whole(fields[0], 0, 2 ** 32);
  const header = {
    messageId: bytes(fields[1], 16, 16),
    sequence: whole(fields[2], 0, MOST),
    sentAtMs: whole(fields[3], 0, MOST),
  };
  return knownOf(kind, header, fields.slice(4)) ?? { type: "Unknown", ...header, kind, raw: data.slice() };
}

/** Whether *data* begins as a JPEG or WebP picture does. */
export function isPhoto(data: Uint8Array): boolean {
  const startsWith = (at: number, mark: readonly number[]) => mark.every((byte, step) => data[at + step] === byte);
  return startsWith(0, [0xff, 0xd8, 0xff]) || (startsWith(0, RIFF) && startsWith(8, WEBP));
}

const RIFF = [0x52, 0x49, 0x46, 0x46];
const WEBP = [0x57, 0x45, 0x42, 0x50];

function fieldsOf(content: Known): [kind: number, ...fields: Packable[]] {
  switch (content.type) {
    case "Text":
      return [1, content.text, content.replyTo];
    case "Receipt":
      return [2, content.status, content.messages];
    case "Typing":
      return [3, content.active];
    case "Profile":
      return [4, content.name, content.photo];
    case "ResendRequest":
      return [5, content.sequences];
    case "Leave":
      return [6];
    case "Media": {
      const { blob, key, hash, size, mediaType, width, height, thumbhash, caption, replyTo, name } = content;
      return [7, blob, key, hash, size, mediaType, width, height, thumbhash, caption, replyTo, name];
    }
  }
}

function knownOf(kind: number, header: Header, fields: Unpacked[]): Known | null {
  switch (kind) {
    case 1:
      return { type: "Text", ...header, text: words(fields[0], 1, MAX_TEXT_BYTES), replyTo: reply(fields[1]) };
    case 2: {
      const messages = list(fields[1], MAX_RECEIPT_IDS).map((id) => bytes(id, 16, 16));
      return { type: "Receipt", ...header, status: whole(fields[0], DELIVERED, READ), messages };
    }
    case 3: {
      const [active] = fields;
      if (typeof active !== "boolean") throw new ContentError("typing is true or false");
      if (header.sequence !== 0) throw new ContentError("typing has no sequence number");
      return { type: "Typing", ...header, active };
    }
    case 4: {
      const photo = bytes(fields[1] === undefined ? NONE : fields[1], 0, MAX_PHOTO_BYTES);
      if (photo.length > 0 && !isPhoto(photo)) throw new ContentError("the photo is neither JPEG nor WebP");
      return { type: "Profile", ...header, name: words(fields[0], 1, MAX_NAME_BYTES), photo };
    }
    case 5: {
      const sequences = list(fields[0], MAX_RESEND_SEQUENCES).map((sequence) => whole(sequence, 1, MOST));
      return { type: "ResendRequest", ...header, sequences };
    }
    case 6:
      return { type: "Leave", ...header };
    case 7:
      return media(header, fields);
    default:
      return null;
  }
}

/** Fields behind the media type may be missing, which means 0 or empty. */
function media(header: Header, fields: Unpacked[]): Media {
  const [blob, key, hash, size, type, width = 0, height = 0, thumbhash = NONE, caption = "", replyTo, name = ""] =
    fields;
  const mediaType = words(type, 1, MAX_MEDIA_TYPE_BYTES);
  if (!MEDIA_TYPE.test(mediaType)) throw new ContentError("the media type is none");
  return {
    type: "Media",
    ...header,
    blob: bytes(blob, 32, 32),
    key: bytes(key, 32, 32),
    hash: bytes(hash, 32, 32),
    size: whole(size, 0, MAX_MEDIA_BYTES),
    mediaType,
    width: whole(width, 0, 65_535),
    height: whole(height, 0, 65_535),
    thumbhash: bytes(thumbhash, 0, MAX_THUMBHASH_BYTES),
    caption: words(caption, 0, MAX_TEXT_BYTES),
    replyTo: reply(replyTo),
    name: words(name, 0, MAX_FILE_NAME_BYTES),
  };
}

function reply(value: Unpacked | undefined): Uint8Array {
  const data = bytes(value === undefined ? NONE : value, 0, REPLY_BYTES);
  if (data.length !== 0 && data.length !== REPLY_BYTES) throw new ContentError(`a reply names ${REPLY_BYTES} bytes`);
  return data;
}

function whole(value: Unpacked | undefined, least: number, most: number): number {
  if (typeof value !== "number" || value < least || value > most) {
    throw new ContentError(`not a whole number from ${least} to ${most}`);
  }
  return value;
}

function bytes(value: Unpacked | undefined, least: number, most: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length < least || value.length > most) {
    throw new ContentError(`not ${least} to ${most} bytes`);
  }
  return value;
}

/** Text of *least* to *most* bytes of UTF-8. */
function words(value: Unpacked | undefined, least: number, most: number): string {
  if (typeof value !== "string") throw new ContentError("no text");
  const size = new TextEncoder().encode(value).length;
  if (size < least || size > most) throw new ContentError(`text of ${size} bytes, not ${least} to ${most}`);
  return value;
}

function list(value: Unpacked | undefined, most: number): Unpacked[] {
  if (!Array.isArray(value) || value.length < 1 || value.length > most)
    throw new ContentError(`not 1 to ${most} items`);
  return value;
}

function refusal(error: unknown): unknown {
  return error instanceof PackingError ? new ContentError(error.message) : error;
}
