/**
 * The one place that knows MessagePack: values packed as bytes, and bytes unpacked strictly.
 *
 * A reader has to tell what libraries do not: text that is no UTF-8, numbers with a fraction and whole numbers beyond
 * 2^53. All of these, and extension types, become `Opaque`, which is no value of any field but may stand where a newer
 * peer appended one. Nothing here knows what a record means; limits are checked by whoever does.
 */

/** A value that no field of ours may have. */
export class Opaque {}

/** What can be packed. Objects become maps with text as keys, a Map may have other keys. */
export type Packable =
  | null
  | boolean
  | number
  | string
  | Uint8Array
  | readonly Packable[]
  | ReadonlyMap<Packable, Packable>
  | { readonly [name: string]: Packable };

/** What comes out of `unpack`; maps always as Map. */
export type Unpacked =
  | null
  | boolean
  | number
  | string
  | Uint8Array<ArrayBuffer>
  | Unpacked[]
  | Map<Unpacked, Unpacked>
  | Opaque;

/** The bytes are not what they were said to be; the text names the first thing that is wrong. */
export class PackingError extends Error {
  override readonly name = "PackingError";
}

/** So many arrays and maps may stand in one another; the outermost is the first of them. */
const MAX_DEPTH = 64;
const OPAQUE = new Opaque();
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The MessagePack form of *value*. Throws PackingError for text or numbers that no reader would take. */
export function pack(value: Packable): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writer.write(value);
  return writer.taken();
}

/** The value in *data*. Throws PackingError for anything else than exactly one value. */
export function unpack(data: Uint8Array): Unpacked {
  const reader = new Reader(data);
  const value = reader.read(0);
  if (!reader.atEnd) throw new PackingError("there is something behind the value");
  return value;
}

class Writer {
  private bytes = new Uint8Array(256);
  private view = new DataView(this.bytes.buffer);
  private end = 0;

  taken(): Uint8Array<ArrayBuffer> {
    return this.bytes.slice(0, this.end);
  }

  write(value: Packable): void {
    if (value === null) this.byte(0xc0);
    else if (value === false) this.byte(0xc2);
    else if (value === true) this.byte(0xc3);
    else if (typeof value === "number") this.number(value);
    else if (typeof value === "string") this.text(value);
    else if (value instanceof Uint8Array) {
      this.head(value.length, [], [0xc4, 0xc5, 0xc6]);
      this.raw(value);
    } else if (Array.isArray(value)) {
      this.head(value.length, [0x90, 15], [0, 0xdc, 0xdd]);
      for (const item of value as readonly Packable[]) this.write(item);
    } else {
      const entries = value instanceof Map ? [...value] : Object.entries(value);
      this.head(entries.length, [0x80, 15], [0, 0xde, 0xdf]);
      for (const [key, item] of entries as [Packable, Packable][]) {
        this.write(key);
        this.write(item);
      }
    }
  }

  private text(value: string): void {
    if (value.length <= 31 && this.ascii(value)) return;
    if (/\p{Surrogate}/u.test(value)) throw new PackingError("text is not Unicode");
    const data = encoder.encode(value);
    this.head(data.length, [0xa0, 31], [0xd9, 0xda, 0xdb]);
    this.raw(data);
  }

  /** Short names and words are most of all text; false when *value* is no such. */
  private ascii(value: string): boolean {
    this.room(1 + value.length);
    for (let at = 0; at < value.length; at++) {
      const code = value.charCodeAt(at);
      if (code >= 0x80) return false;
      this.bytes[this.end + 1 + at] = code;
    }
    this.bytes[this.end] = 0xa0 | value.length;
    this.end += 1 + value.length;
    return true;
  }

  private number(value: number): void {
    if (!Number.isInteger(value) || Math.abs(value) > 2 ** 53) throw new PackingError("not a whole number up to 2^53");
    if (value >= 0) {
      if (value < 0x80) this.byte(value);
      else if (value < 0x100) this.sized(0xcc, 1, value);
      else if (value < 0x1_0000) this.sized(0xcd, 2, value);
      else if (value < 0x1_0000_0000) this.sized(0xce, 4, value);
      else this.long(0xcf, value);
    } else if (value >= -0x20) this.byte(value & 0xff);
    else if (value >= -0x80) this.sized(0xd0, 1, value);
    else if (value >= -0x8000) this.sized(0xd1, 2, value);
    else if (value >= -0x8000_0000) this.sized(0xd2, 4, value);
    else this.long(0xd3, value);
  }

  /** A length: inside the first byte if there is such a form (its mark and its most), else in 1, 2 or 4 bytes. */
  private head(length: number, inside: readonly number[], marks: readonly [number, number, number]): void {
    const [mark, most] = inside;
    if (mark !== undefined && most !== undefined && length <= most) this.byte(mark | length);
    else if (length < 0x100 && marks[0] !== 0) this.sized(marks[0], 1, length);
    else if (length < 0x1_0000) this.sized(marks[1], 2, length);
    else this.sized(marks[2], 4, length);
  }

  private sized(mark: number, size: 1 | 2 | 4, value: number): void {
    this.byte(mark);
    this.room(size);
    if (size === 1) this.view.setInt8(this.end, value);
    else if (size === 2) this.view.setInt16(this.end, value);
    else this.view.setInt32(this.end, value);
    this.end += size;
  }

  private long(mark: number, value: number): void {
    this.byte(mark);
    this.room(8);
    this.view.setBigInt64(this.end, BigInt(value));
    this.end += 8;
  }

  private byte(value: number): void {
    this.room(1);
    this.bytes[this.end++] = value;
  }

  private raw(data: Uint8Array): void {
    this.room(data.length);
    this.bytes.set(data, this.end);
    this.end += data.length;
  }

  private room(size: number): void {
    if (this.end + size <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this.bytes.length, this.end + size));
    larger.set(this.bytes.subarray(0, this.end));
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
  }
}

class Reader {
  private readonly view: DataView;
  private at = 0;

  constructor(private readonly data: Uint8Array) {
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  get atEnd(): boolean {
    return this.at === this.data.length;
  }

  /** The next value, which stands in *depth* arrays and maps. */
  read(depth: number): Unpacked {
    const mark = this.unsigned(1);
    if (mark < 0x80) return mark;
    if (mark < 0x90) return this.map(mark & 15, depth);
    if (mark < 0xa0) return this.array(mark & 15, depth);
    if (mark < 0xc0) return this.text(mark & 31);
    if (mark >= 0xe0) return mark - 0x100;
    switch (mark) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.take(this.unsigned(sizeOf(mark - 0xc4))).slice();
      case 0xc7:
      case 0xc8:
      case 0xc9:
        return this.opaque(1 + this.unsigned(sizeOf(mark - 0xc7)));
      case 0xca:
        return this.opaque(4);
      case 0xcb:
        return this.opaque(8);
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.unsigned(sizeOf(mark - 0xcc));
      case 0xcf:
        return whole(this.view.getBigUint64(this.passed(8)));
      case 0xd0:
        return this.view.getInt8(this.passed(1));
      case 0xd1:
        return this.view.getInt16(this.passed(2));
      case 0xd2:
        return this.view.getInt32(this.passed(4));
      case 0xd3:
        return whole(this.view.getBigInt64(this.passed(8)));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.opaque(1 + (1 << (mark - 0xd4)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.text(this.unsigned(sizeOf(mark - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.array(this.unsigned(sizeOf(mark - 0xdb)), depth);
      case 0xde:
      case 0xdf:
        return this.map(this.unsigned(sizeOf(mark - 0xdd)), depth);
      default:
        throw new PackingError("no MessagePack");
    }
  }

  private array(length: number, depth: number): Unpacked[] {
    if (depth === MAX_DEPTH) throw new PackingError("nested too deeply");
    if (length > this.data.length - this.at) throw new PackingError("cut off");
    const items: Unpacked[] = [];
    for (let left = length; left > 0; left--) items.push(this.read(depth + 1));
    return items;
  }

  private map(length: number, depth: number): Map<Unpacked, Unpacked> {
    if (depth === MAX_DEPTH) throw new PackingError("nested too deeply");
    if (2 * length > this.data.length - this.at) throw new PackingError("cut off");
    const entries = new Map<Unpacked, Unpacked>();
    for (let left = length; left > 0; left--) {
      const key = this.read(depth + 1);
      entries.set(key, this.read(depth + 1));
    }
    return entries;
  }

  private text(length: number): string | Opaque {
    const data = this.take(length);
    if (length <= 31 && data.every((byte) => byte < 0x80)) return String.fromCharCode(...data);
    try {
      return decoder.decode(data);
    } catch (error) {
      if (error instanceof TypeError) return OPAQUE;
      throw error;
    }
  }

  private opaque(length: number): Opaque {
    this.passed(length);
    return OPAQUE;
  }

  private unsigned(size: 1 | 2 | 4): number {
    const at = this.passed(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  private take(length: number): Uint8Array {
    const start = this.passed(length);
    return this.data.subarray(start, start + length);
  }

  /** Where the next *length* bytes begin. */
  private passed(length: number): number {
    const start = this.at;
    if (length > this.data.length - start) throw new PackingError("cut off");
    this.at = start + length;
    return start;
  }
}

function sizeOf(step: number): 1 | 2 | 4 {
  return step === 0 ? 1 : step === 1 ? 2 : 4;
}

function whole(value: bigint): number | Opaque {
  const most = 2n ** 53n;
  return value <= most && value >= -most ? Number(value) : OPAQUE;
}
