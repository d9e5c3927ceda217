/**
 * Bytes as values: comparing, joining, and writing them as hexadecimal and base64url.
 *
 * A Uint8Array is no key of a Map and is not compared by ===, so ids travel between functions as bytes and stand in
 * maps as `hex(id)`. This file knows nothing of what the bytes mean.
 */

export const NO_BYTES: Uint8Array<ArrayBuffer> = new Uint8Array(0);

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Lower-case hexadecimal digits, two for each byte. */
export function hex(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += HEX[byte];
  return text;
}

/** The inverse of `hex`. Throws RangeError for anything else than pairs of lower-case digits. */
export function unhex(text: string): Uint8Array<ArrayBuffer> {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) throw new RangeError("not hexadecimal");
  const data = new Uint8Array(text.length / 2);
  for (let at = 0; at < data.length; at++) data[at] = Number.parseInt(text.slice(2 * at, 2 * at + 2), 16);
  return data;
}

/** Whether both are the same bytes; null equals null only. */
export function same(one: Uint8Array | null | undefined, other: Uint8Array | null | undefined): boolean {
  if (!one || !other) return (one ?? null) === (other ?? null);
  if (one.length !== other.length) return false;
  for (let at = 0; at < one.length; at++) if (one[at] !== other[at]) return false;
  return true;
}

/** Below, equal or above zero, as Python compares bytes. */
export function compare(one: Uint8Array, other: Uint8Array): number {
  const shared = Math.min(one.length, other.length);
  for (let at = 0; at < shared; at++) {
    const difference = (one[at] ?? 0) - (other[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return one.length - other.length;
}

/** All of them, one behind the other. */
export function joined(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Base64url without padding, as links carry it. */
export function encodeBase64(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The inverse. Throws RangeError for text that `encodeBase64` would not have written. */
export function decodeBase64(text: string): Uint8Array<ArrayBuffer> {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) throw new RangeError("not base64url");
  const decoded = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const data = Uint8Array.from(decoded, (letter) => letter.charCodeAt(0));
  if (encodeBase64(data) !== text) throw new RangeError("not how these bytes are written: mistyped at its end");
  return data;
}
