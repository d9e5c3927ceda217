/** MessagePack, written as short as it can be and read strictly. */

import { describe, expect, test } from "vitest";
import { hex, unhex } from "../../src/bytes";
import { Opaque, type Packable, PackingError, pack, unpack } from "../../src/wire/packing";

const NUMBERS = [0, 127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 53];
const NEGATIVE = [-1, -32, -33, -128, -129, -32_768, -32_769, -(2 ** 31), -(2 ** 31) - 1, -(2 ** 53)];
const VALUES: Packable[] = [
  null,
  true,
  false,
  ...NUMBERS,
  ...NEGATIVE,
  "",
  "ß".repeat(15),
  "x".repeat(32),
  "鳩".repeat(100),
  "x".repeat(70_000),
  new Uint8Array(),
  new Uint8Array(300).fill(9),
  new Uint8Array(70_000),
  [],
  Array.from({ length: 16 }, (_, at) => at),
  Array.from({ length: 70_000 }, () => null),
  [[["deep", [1, 2]]]],
];

describe("packing", () => {
  test("what is packed unpacks to the same", () => {
    for (const value of VALUES) expect(unpack(pack(value))).toEqual(value);
    const map = new Map<Packable, Packable>([[Uint8Array.of(1), 5]]);
    expect(unpack(pack(map))).toEqual(map);
    expect(unpack(pack({ a: [1], b: { c: null } }))).toEqual(
      new Map<string, unknown>([
        ["a", [1]],
        ["b", new Map([["c", null]])],
      ]),
    );
  });

  test("each value has its shortest form", () => {
    const forms: [Packable, string][] = [
      [127, "7f"],
      [128, "cc80"],
      [256, "cd0100"],
      [2 ** 32, "cf0000000100000000"],
      [-32, "e0"],
      [-33, "d0df"],
      ["x".repeat(31), `bf${"78".repeat(31)}`],
      ["x".repeat(32), `d920${"78".repeat(32)}`],
      [Uint8Array.of(1, 2), "c4020102"],
      [[1, [2]], "920191" + "02"],
    ];
    for (const [value, form] of forms) expect(hex(pack(value))).toBe(form);
  });

  test("values that no field may have are told from all that one may", () => {
    for (const data of [
      "cb3ff0000000000000",
      "ca3f800000",
      "d40105",
      "c7020105ff",
      "cf0020000000000001",
      "a1ff",
      "a2c181",
    ]) {
      expect(unpack(unhex(data)), data).toBeInstanceOf(Opaque);
    }
  });

  test("arrays and maps stand 64 deep in one another, and no deeper (CNT-01, CON-12)", () => {
    const [array, map, key] = ["91", "8101", "81"];
    for (const [one, innermost, rest] of [
      [array, "90", ""],
      [array, "9105", ""],
      [map, "80", ""],
      [map, "8101a0", ""],
      [key, "90", "05"],
    ] as const) {
      const nested = (depth: number) => unhex(one.repeat(depth - 1) + innermost + rest.repeat(depth - 1));
      expect(() => unpack(nested(64)), one).not.toThrow();
      expect(() => unpack(nested(65)), one).toThrow("nested too deeply");
    }
    expect(unpack(unhex(`93${"90".repeat(3)}`))).toEqual([[], [], []]);
  });

  test("anything but exactly one whole value is refused", () => {
    for (const data of ["", "c1", "92", "9201", "0101", "a5ff", "c4", "dd7fffffff", "df7fffffff01", "91".repeat(100)]) {
      expect(() => unpack(unhex(data)), data).toThrow(PackingError);
    }
    expect(() => pack("\ud800")).toThrow(PackingError);
    expect(() => pack(0.5)).toThrow(PackingError);
    expect(() => pack(2 ** 53 + 2)).toThrow(PackingError);
  });
});
