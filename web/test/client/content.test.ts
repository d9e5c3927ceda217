/** Message content: the shared vectors, limits, unknown kinds, and any bytes at all. */

import { describe, expect, test } from "vitest";
import { hex, unhex } from "../../src/bytes";
import { type Content, ContentError, decode, encode, MAX_CONTENT_BYTES } from "../../src/client/content";
import { pack } from "../../src/wire/packing";
import { vectors } from "../vectors";

interface Vector {
  name: string;
  kind: string;
  number: number;
  sequence: number;
  fields: (string | number | boolean | (string | number)[])[];
  bytes: string;
}

const VECTORS: Record<"good" | "newer" | "older" | "unknown" | "bad", Vector[]> = vectors("content.json");
const HEADER = ["messageId", "sequence", "sentAtMs"];
const MEDIA = [
  "blob",
  "key",
  "hash",
  "size",
  "mediaType",
  "width",
  "height",
  "thumbhash",
  "caption",
  "replyTo",
  "name",
];
const KINDS: Record<string, [type: string, fields: string[]]> = {
  text: ["Text", ["text", "replyTo"]],
  receipt: ["Receipt", ["status", "messages"]],
  typing: ["Typing", ["active"]],
  profile: ["Profile", ["name", "photo"]],
  resend_request: ["ResendRequest", ["sequences"]],
  leave: ["Leave", []],
  media: ["Media", MEDIA],
};
const ID = unhex("000102030405060708090a0b0c0d0e0f");

function plain<T>(value: T): T | Uint8Array {
  return typeof value === "string" && value.startsWith("hex:") ? unhex(value.slice(4)) : value;
}

function fromFields(vector: Vector): Content {
  const [type, names] = KINDS[vector.kind] ?? ["", []];
  const values = vector.fields.map((value) => (Array.isArray(value) ? value.map((one) => plain(one)) : plain(value)));
  const fields = [...HEADER, ...names].map((name, at) => [name, values[at]] as const);
  return { type, ...Object.fromEntries(fields) } as Content;
}

describe("content", () => {
  test.each(VECTORS.good)("the vector “$name” encodes and decodes to itself (CNT-01)", (vector) => {
    const expected = fromFields(vector);
    expect(hex(encode(expected))).toBe(vector.bytes);
    expect(decode(unhex(vector.bytes))).toEqual(expected);
  });

  test.each([...VECTORS.newer, ...VECTORS.older])("“$name” is read as what it says to us (CNT-05)", (vector) => {
    expect(decode(unhex(vector.bytes))).toEqual(fromFields(vector));
  });

  test.each(VECTORS.unknown)("the unknown “$name” is kept with all its bytes (CNT-06)", (vector) => {
    const raw = unhex(vector.bytes);
    const kept = decode(raw);
    expect(kept).toMatchObject({ type: "Unknown", kind: vector.number, sequence: vector.sequence, raw });
    expect(encode(kept)).toEqual(raw);
  });

  test.each(VECTORS.bad)("“$name” is refused (CNT-07)", (vector) => {
    expect(() => decode(unhex(vector.bytes))).toThrow(ContentError);
  });

  test("altered bytes are a content or a ContentError (CNT-07)", () => {
    let seed = 1;
    const random = (below: number) => {
      seed = (seed * 1103515245 + 12345) & 0x7fffffff;
      return seed % below;
    };
    for (let round = 0; round < 5_000; round++) {
      const vector = VECTORS.good[random(VECTORS.good.length)];
      const data = unhex(vector?.bytes ?? "");
      if (data.length > 2000) continue;
      data[random(data.length)] = random(256);
      try {
        decode(data);
      } catch (error) {
        expect(error).toBeInstanceOf(ContentError);
      }
    }
  });

  test("a sender cannot make what would be refused (CNT-08)", () => {
    const header = { messageId: ID, sequence: 1, sentAtMs: 0 };
    const none = new Uint8Array();
    const jpeg = Uint8Array.of(0xff, 0xd8, 0xff);
    const large = new Uint8Array(32_769);
    large.set(jpeg);
    const refused: Content[] = [
      { type: "Text", ...header, text: "", replyTo: none },
      { type: "Text", ...header, text: "ß".repeat(8193), replyTo: none },
      { type: "Text", ...header, text: "\udc80", replyTo: none },
      { type: "Text", ...header, text: "x", replyTo: ID },
      { type: "Text", ...header, sequence: 2 ** 53 + 2, text: "x", replyTo: none },
      { type: "Text", ...header, sequence: 0.5, text: "x", replyTo: none },
      { type: "Text", ...header, messageId: ID.slice(1), text: "x", replyTo: none },
      { type: "Receipt", ...header, status: 3, messages: [ID] },
      { type: "Receipt", ...header, status: 1, messages: [] },
      { type: "Typing", ...header, active: true },
      { type: "Profile", ...header, name: "ß".repeat(65), photo: none },
      { type: "Profile", ...header, name: "x", photo: ID },
      { type: "Profile", ...header, name: "x", photo: large },
      { type: "ResendRequest", ...header, sequences: [0] },
    ];
    for (const content of refused) expect(() => encode(content), JSON.stringify(content)).toThrow(ContentError);
    expect(encode({ type: "Profile", ...header, name: "x", photo: large.slice(0, 32_768) }).length).toBeGreaterThan(
      32_768,
    );
  });

  test("a content above the limit is refused even if its kind is unknown (CNT-01)", () => {
    expect(decode(pack([99, ID, 1, 1, new Uint8Array(59_900)])).type).toBe("Unknown");
    expect(() => decode(pack([99, ID, 1, 1, new Uint8Array(MAX_CONTENT_BYTES)]))).toThrow(ContentError);
  });
});
