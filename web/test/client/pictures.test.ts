/** What is shown as a picture is decided by a file's bytes: its kind, and how much memory it would take. */

import { describe, expect, it } from "vitest";
import { headOf, PORTRAIT_PIXELS_MOST, shownAs } from "../../src/client/pictures.ts";
import { pictureOf } from "../../src/client/snapshots.ts";

const bytes = (...parts: (string | number[])[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((each) => (typeof each === "string" ? [...each].map((x) => x.charCodeAt(0)) : each)));
const big = (value: number, size: number) =>
  Array.from({ length: size }, (_, at) => Math.floor(value / 256 ** (size - 1 - at)) % 256);
const little = (value: number, size: number) => big(value, size).reverse();

const png = (width: number, height: number) =>
  bytes("\x89PNG\r\n\x1a\n", big(13, 4), "IHDR", big(width, 4), big(height, 4), [8, 6, 0, 0, 0]);
const jpeg = (width: number, height: number, before: number[] = []) =>
  bytes([0xff, 0xd8], before, [0xff, 0xc2], big(17, 2), [8], big(height, 2), big(width, 2), [3, 1, 0x22, 0]);
const lossless = (width: number, height: number) =>
  bytes("RIFF", little(99, 4), "WEBPVP8L", little(50, 4), [0x2f], little(width - 1 + (height - 1) * 2 ** 14, 4), [0]);
const lossy = (width: number, height: number) =>
  bytes(
    "RIFF",
    little(99, 4),
    "WEBPVP8 ",
    little(50, 4),
    [1, 2, 3, 0x9d, 1, 0x2a],
    little(width, 2),
    little(height, 2),
  );
const extended = (width: number, height: number) =>
  bytes("RIFF", little(99, 4), "WEBPVP8X", little(10, 4), [0, 0, 0, 0], little(width - 1, 3), little(height - 1, 3));
const gif = (width: number, height: number, frame: [number, number]) =>
  bytes(
    "GIF89a",
    little(width, 2),
    little(height, 2),
    [0x80, 0, 0],
    [0, 0, 0, 9, 9, 9],
    [0x21, 0xf9, 4, 0, 0, 0, 0, 0],
    [0x2c, ...[0, 0, ...frame].flatMap((each) => little(each, 2))],
  );

describe("the size of a picture is read before it is decoded", () => {
  it.each([
    ["PNG", png(640, 480), "image/png"],
    ["JPEG", jpeg(640, 480), "image/jpeg"],
    ["JPEG with metadata", jpeg(640, 480, [0xff, 0xe1, 0, 6, 0xff, 0xc0, 9, 9, 0xff]), "image/jpeg"],
    ["WebP without loss", lossless(640, 480), "image/webp"],
    ["WebP with loss", lossy(640, 480), "image/webp"],
    ["WebP with more", extended(640, 480), "image/webp"],
    ["GIF", gif(640, 480, [10, 10]), "image/gif"],
    ["GIF whose first frame is larger", gif(1, 1, [640, 480]), "image/gif"],
  ])("%s", (_, data, type) => {
    expect(headOf(data)).toEqual({ type, width: 640, height: 480 });
    for (let end = 0; end < 10; end += 1) expect(headOf(data.subarray(0, end))).toBeNull();
    expect(shownAs(data)).toBe(type);
  });
});

it("a picture that would fill the memory is not shown", () => {
  for (const data of [png(65_535, 65_535), jpeg(30_000, 30_000), lossless(16_384, 16_384), gif(1, 1, [65_535, 65_535])])
    expect(shownAs(data)).toBe("application/octet-stream");
  expect(shownAs(png(8_160, 6_120))).toBe("image/png");
});

it("what is no picture, or could hold a script, is not shown", () => {
  for (const text of [
    "",
    "<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "<!doctype html>",
    "%PDF-",
  ])
    expect(shownAs(bytes(text))).toBe("application/octet-stream");
  for (const data of [png(0, 9), jpeg(9, 0), bytes([0xff, 0xd8, 0xff, 0xda, 0, 2]), bytes([0xff, 0xd8, 1, 2])])
    expect(headOf(data)).toBeNull();
});

it("a picture beside a name is small, or not shown at all", () => {
  expect(pictureOf(lossy(256, 256))).toMatchObject({ type: "image/webp" });
  expect(pictureOf(jpeg(256, 256))).toMatchObject({ type: "image/jpeg" });
  expect(pictureOf(lossless(16_384, 16_384))).toBeNull();
  expect(pictureOf(png(16, 16))).toBeNull();
  expect(pictureOf(bytes([0xff, 0xd8, 0xff, 0xe0]))).toBeNull();
  expect(pictureOf(new Uint8Array())).toBeNull();
  expect(256 * 256).toBeLessThan(PORTRAIT_PIXELS_MOST);
});
