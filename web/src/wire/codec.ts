/**
 * Frames to messages and back: the only place that turns bytes of the wire into commands, replies and events.
 *
 * A frame is one MessagePack array, `[number, field, …]`. Decoding checks types, lengths and ranges and ignores fields
 * that a newer peer appended. Whatever bytes come in, the answer is a message or a FrameError, which carries the request
 * id whenever one stands where it belongs.
 *
 * This file does not know when a message is allowed (see session) or what it means.
 * Source: docs/protocol/connection.md, CON-10 to CON-16.
 */

import { BAD_FRAME, FrameError, TOO_LARGE, UNKNOWN_TYPE } from "./errors";
import {
  COMMANDS,
  type Command,
  EVENTS,
  type Event,
  MAX_FRAME_BYTES,
  MESSAGES,
  type Message,
  type MessageType,
  REPLIES,
  type Reply,
} from "./messages";
import { PackingError, pack, unpack } from "./packing";
import { readFields, writeFields } from "./shapes";

const MAX_REQUEST_ID = 0xffff_ffff;

type Known = ReadonlyMap<number, MessageType>;

function numbered(types: readonly MessageType[]): Known {
  return new Map(types.map((type) => [MESSAGES[type].number, type]));
}

const FROM_CLIENT = numbered(COMMANDS);
const FROM_SERVER = numbered([...REPLIES, ...EVENTS]);

/** The frame that carries *message*. The limits of its fields are the caller's to keep; the reader checks them. */
export function encode(message: Message): Uint8Array<ArrayBuffer> {
  const { number, fields } = MESSAGES[message.type];
  return pack([number, ...writeFields(fields, message)]);
}

/** The command in *frame*; what a server calls. Throws FrameError: TOO_LARGE, UNKNOWN_TYPE or BAD_FRAME. */
export function decodeCommand(frame: Uint8Array): Command {
  return decode(frame, FROM_CLIENT) as Command;
}

/** The reply or event in *frame*; what a client calls. Throws FrameError like decodeCommand. */
export function decodeReplyOrEvent(frame: Uint8Array): Reply | Event {
  return decode(frame, FROM_SERVER) as Reply | Event;
}

function decode(frame: Uint8Array, known: Known): Message {
  if (frame.length > MAX_FRAME_BYTES) throw new FrameError(TOO_LARGE);
  try {
    const values = unpack(frame);
    const type = Array.isArray(values) && typeof values[0] === "number" ? known.get(values[0]) : undefined;
    if (!Array.isArray(values) || type === undefined) throw new PackingError("no number of a message");
    return { type, ...readFields(MESSAGES[type].fields, values.slice(1)) } as Message;
  } catch (error) {
    if (!(error instanceof PackingError)) throw error;
    throw refusal(frame, known, error);
  }
}

/** Why *frame* was refused, found from its head alone: nothing behind the second field is looked at. */
function refusal(frame: Uint8Array, known: Known, error: PackingError): FrameError {
  const [number, request] = head(frame.subarray(0, 16));
  const kind = number !== null && !known.has(number) ? UNKNOWN_TYPE : BAD_FRAME;
  const isRequest = request !== null && request >= 1 && request <= MAX_REQUEST_ID;
  return new FrameError(kind, isRequest ? request : 0, error.message.slice(0, 200));
}

/** Message number and request id from the first bytes of a MessagePack array; null for what is not there. */
function head(start: Uint8Array): [number | null, number | null] {
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const first = start[0] ?? 0;
  let fields = 0;
  let at = 0;
  if (first >= 0x90 && first <= 0x9f) [fields, at] = [first & 0x0f, 1];
  else if (first === 0xdc && start.length >= 3) [fields, at] = [view.getUint16(1), 3];
  else if (first === 0xdd && start.length >= 5) [fields, at] = [view.getUint32(1), 5];
  const found: [number | null, number | null] = [null, null];
  for (let field = 0; field < Math.min(fields, 2); field++) {
    const [value, behind] = wholeNumber(view, at);
    if (value === null) break;
    found[field] = value;
    at = behind;
  }
  return found;
}

/** The unsigned MessagePack number at *at*, and the place behind it. */
function wholeNumber(view: DataView, at: number): [number | null, number] {
  if (at >= view.byteLength) return [null, at];
  const first = view.getUint8(at);
  if (first <= 0x7f) return [first, at + 1];
  const size = { 204: 1, 205: 2, 206: 4, 207: 8 }[first];
  if (size === undefined || at + 1 + size > view.byteLength) return [null, at];
  let value = 0;
  for (let each = 0; each < size; each++) value = value * 256 + view.getUint8(at + 1 + each);
  return [value, at + 1 + size];
}
