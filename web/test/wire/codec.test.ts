import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { hex, unhex } from "../../src/bytes";
import { decodeCommand, decodeReplyOrEvent, encode } from "../../src/wire/codec";
import { CATALOGUE, FrameError, TOO_LARGE } from "../../src/wire/errors";
import { COMMANDS, EVENTS, MESSAGES, type Message, type MessageType, REPLIES } from "../../src/wire/messages";
import { pack } from "../../src/wire/packing";
import { Random } from "../random";
import { PYTHON } from "../server";
import { fromVector, vectors } from "../vectors";

interface Vector {
  why?: string;
  message: MessageType;
  fields: Record<string, unknown>;
  frame: string;
}

const VECTORS: {
  messages: Vector[];
  other_forms: Vector[];
  malformed: { why: string; frame: string; error: number; request: number }[];
} = vectors("wire.json");

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const MUTATED = 6000;

function decode(type: MessageType, frame: Uint8Array): Message {
  return (COMMANDS as readonly string[]).includes(type) ? decodeCommand(frame) : decodeReplyOrEvent(frame);
}

function messageOf(vector: Vector): Message {
  return { type: vector.message, ...(fromVector(vector.fields) as object) } as Message;
}

describe("the bytes that all implementations share", () => {
  test.each(VECTORS.messages)("a $message is these bytes, read and written", (vector) => {
    const message = messageOf(vector);
    expect(hex(encode(message))).toBe(vector.frame);
    expect(decode(vector.message, unhex(vector.frame))).toEqual(message);
  });

  test("show every message", () => {
    const shown = new Set(VECTORS.messages.map((vector) => vector.message));
    expect([...shown].sort()).toEqual([...COMMANDS, ...REPLIES, ...EVENTS].sort());
    expect(Object.keys(MESSAGES).sort()).toEqual([...shown].sort());
  });

  test.each(VECTORS.other_forms)("another form is read: $why", (vector) => {
    expect(decode(vector.message, unhex(vector.frame))).toEqual(messageOf(vector));
  });

  test.each(VECTORS.malformed)("is refused: $why", ({ frame, error, request }) => {
    const refused = refusalOf(() => decodeCommand(unhex(frame)));
    expect([refused.kind.code, refused.request]).toEqual([error, request]);
  });
});

test("a frame above 128 KiB is refused unread", () => {
  expect(refusalOf(() => decodeReplyOrEvent(new Uint8Array(128 * 1024 + 1))).kind).toBe(TOO_LARGE);
});

test("text is limited by characters, not by halves of them", () => {
  const failed = (detail: string) => decodeReplyOrEvent(pack([66, 1, 9, 0, detail]));
  expect(failed("🕊".repeat(200))).toMatchObject({ detail: "🕊".repeat(200) });
  expect(() => failed("🕊".repeat(201))).toThrow(FrameError);
});

test("bytes of a message do not refer to the frame that it came in", () => {
  const frame = encode({ type: "Deliver", number: 1, serial: new Uint8Array(8), body: Uint8Array.of(7) });
  const message = decodeReplyOrEvent(frame);
  frame.fill(0);
  expect(message).toMatchObject({ body: Uint8Array.of(7) });
});

test(`of ${MUTATED} damaged frames each is a message or a FrameError, and Python finds the same`, () => {
  const random = new Random(20261125);
  const frames = Array.from({ length: MUTATED }, () => damaged(random, unhex(random.pick(VECTORS.messages).frame)));
  const input = frames.map((frame) => `${hex(frame)}\n`).join("");
  const said = execFileSync(PYTHON, ["-m", "tests.wire.verdicts"], { cwd: ROOT, input, maxBuffer: 2 ** 28 });
  const verdicts = said.toString().trimEnd().split("\n");
  expect(verdicts).toHaveLength(MUTATED);
  const ours = frames.map((frame) => `${verdict(decodeCommand, frame)} ${verdict(decodeReplyOrEvent, frame)}`);
  const different = frames.map((frame, at) => ({ frame: hex(frame), ours: ours[at], python: verdicts[at] }));
  expect(different.filter(({ ours, python }) => ours !== python)).toEqual([]);
  expect(ours.filter((each) => each.includes("!")).length).toBeGreaterThan(MUTATED / 3);
});

function verdict(read: (frame: Uint8Array) => Message, frame: Uint8Array): string {
  let message: Message;
  try {
    message = read(frame);
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    expect(CATALOGUE.get(error.kind.code)).toBe(error.kind);
    return `!${error.kind.code}/${error.request}`;
  }
  return hex(encode(message));
}

/** *frame* with bytes that were changed, put in, taken out, or cut off; mostly near its head, where the types are. */
function damaged(random: Random, frame: Uint8Array): Uint8Array {
  const data = [...frame.subarray(0, 400)];
  for (let times = 1 + random.below(4); times > 0; times--) {
    const at = random.below(random.below(2) ? Math.min(12, data.length) : data.length);
    const byte = random.below(2) ? random.below(256) : random.pick([0, 0x7f, 0x80, 0x90, 0xc0, 0xc4, 0xcb, 0xcf, 0xd9]);
    data.splice(at, random.below(3), ...(random.below(4) ? [byte] : []));
  }
  return Uint8Array.from(random.below(4) ? data : data.slice(0, random.below(data.length + 1)));
}

function refusalOf(act: () => unknown): FrameError {
  try {
    act();
  } catch (error) {
    if (error instanceof FrameError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}
