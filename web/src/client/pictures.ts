/**
 * What the first bytes of a file say: whether it is a picture that can be shown, and how many pixels it would take.
 *
 * Nothing is decoded here. A browser draws whatever it is handed, at any size, and a few bytes can claim a picture that
 * fills a phone's memory; so whoever shows one asks first. Only kinds that every browser draws and that cannot hold
 * scripts count. What a sender claims of a file decides nothing. This file knows neither messages nor screens.
 * Source: docs/protocol/content.md, CNT-18.
 */

export interface PictureHead {
  type: "image/png" | "image/jpeg" | "image/webp" | "image/gif";
  width: number;
  height: number;
}

/** The most that is drawn of a message's picture: 256 MB once it is decoded. */
export const PIXELS_MOST = 64e6;
/** The same of a picture beside a name. */
export const PORTRAIT_PIXELS_MOST = 4e6;
/** What a file is that is not shown. */
export const ANY_TYPE = "application/octet-stream";

/** The type under which *data* may be shown; `ANY_TYPE` for anything that is no picture, or one of too many pixels. */
export function shownAs(data: Uint8Array, pixelsMost = PIXELS_MOST): string {
  const head = headOf(data);
  return head !== null && head.width * head.height <= pixelsMost ? head.type : ANY_TYPE;
}

/** What kind of picture *data* begins as, and its size in pixels; null: none that is known here. */
export function headOf(data: Uint8Array): PictureHead | null {
  try {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const head = png(view) ?? jpeg(view) ?? webp(view) ?? gif(view);
    return head !== null && head.width > 0 && head.height > 0 ? head : null;
  } catch (error) {
    if (error instanceof RangeError) return null; // it ends before it has said what it is
    throw error;
  }
}

function startsWith(view: DataView, at: number, mark: string): boolean {
  for (let step = 0; step < mark.length; step += 1) {
    if (view.getUint8(at + step) !== mark.charCodeAt(step)) return false;
  }
  return true;
}

function png(view: DataView): PictureHead | null {
  if (!startsWith(view, 0, "\x89PNG\r\n\x1a\n") || !startsWith(view, 12, "IHDR")) return null;
  return { type: "image/png", width: view.getUint32(16), height: view.getUint32(20) };
}

function jpeg(view: DataView): PictureHead | null {
  if (view.getUint16(0) !== 0xffd8) return null;
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) return null;
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1; // filled up
      continue;
    }
    if (isFrame(marker)) {
      return { type: "image/jpeg", width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    }
    const isSegment = marker >= 0xc0 && marker !== 0xd9 && marker !== 0xda && !(marker >= 0xd0 && marker <= 0xd8);
    if (!isSegment) return null;
    at += 2 + view.getUint16(at + 2);
  }
}

/** Whether a JPEG's segment says how large the picture is (SOF0 to SOF15). */
function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}

function webp(view: DataView): PictureHead | null {
  if (!startsWith(view, 0, "RIFF") || !startsWith(view, 8, "WEBP")) return null;
  const type = "image/webp";
  if (startsWith(view, 12, "VP8X")) {
    const [width, height] = [24, 27].map((at) => 1 + view.getUint16(at, true) + view.getUint8(at + 2) * 65_536);
    return { type, width: width ?? 0, height: height ?? 0 };
  }
  if (startsWith(view, 12, "VP8L")) {
    if (view.getUint8(20) !== 0x2f) return null;
    const bits = view.getUint32(21, true);
    return { type, width: 1 + (bits & 0x3fff), height: 1 + ((bits >>> 14) & 0x3fff) };
  }
  if (!startsWith(view, 12, "VP8 ") || !startsWith(view, 23, "\x9d\x01\x2a")) return null;
  return { type, width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
}

/** A first frame that is larger than the screen of a GIF makes the picture larger. */
function gif(view: DataView): PictureHead | null {
  if (!startsWith(view, 0, "GIF87a") && !startsWith(view, 0, "GIF89a")) return null;
  const colours = view.getUint8(10);
  let at = 13 + (colours & 0x80 ? 3 << ((colours & 7) + 1) : 0);
  while (view.getUint8(at) === 0x21) {
    at += 2;
    for (let size = view.getUint8(at); size > 0; size = view.getUint8(at)) at += 1 + size;
    at += 1;
  }
  if (view.getUint8(at) !== 0x2c) return null;
  const [left, top, width, height] = [1, 3, 5, 7].map((step) => view.getUint16(at + step, true));
  return {
    type: "image/gif",
    width: Math.max(view.getUint16(6, true), (left ?? 0) + (width ?? 0)),
    height: Math.max(view.getUint16(8, true), (top ?? 0) + (height ?? 0)),
  };
}
