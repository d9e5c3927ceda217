/**
 * What a field may be: a type with its limits, for values that came out of MessagePack.
 *
 * Reading gives the value or throws PackingError; nothing is converted. Fields that a newer peer appended are ignored,
 * fields with a default may be missing. Which messages there are stands in messages.ts.
 */

import { type Packable, PackingError, type Unpacked } from "./packing";

export const CEILING = 2 ** 53;

export interface Shape<T> {
  read(value: Unpacked | undefined): T;
  write(value: Given<T>): Packable;
}

/** What may be given where T is read: any bytes, and lists that others keep. */
export type Given<T> = T extends Uint8Array ? Uint8Array : T extends (infer Item)[] ? readonly Given<Item>[] : T;

export type Fields = Readonly<Record<string, Shape<unknown>>>;
export type FieldsOf<F> = { -readonly [Name in keyof F]: F[Name] extends Shape<infer T> ? T : never };

function refuse(expected: string): never {
  throw new PackingError(`expected ${expected}`);
}

/** A whole number in a range. */
export function whole(least: number, most: number): Shape<number> {
  return {
    read: (value) =>
      typeof value === "number" && value >= least && value <= most ? value : refuse(`a number, ${least} to ${most}`),
    write: (value) => value,
  };
}

/** Bytes, by their number. */
export function bytes(least: number, most: number): Shape<Uint8Array<ArrayBuffer>> {
  return {
    read: (value) =>
      value instanceof Uint8Array && value.length >= least && value.length <= most
        ? value
        : refuse(`${least} to ${most} bytes`),
    write: (value) => value,
  };
}

/** Text of at most so many Unicode characters. */
export function text(most: number): Shape<string> {
  return {
    read: (value) =>
      typeof value === "string" && (value.length <= most || [...value].length <= most)
        ? value
        : refuse(`text, at most ${most} characters`),
    write: (value) => value,
  };
}

/** True or false. */
export const flag: Shape<boolean> = {
  read: (value) => (typeof value === "boolean" ? value : refuse("true or false")),
  write: (value) => value,
};

/** Values of one shape, by their number. */
export function list<T>(least: number, most: number, item: Shape<T>): Shape<T[]> {
  return {
    read: (value) =>
      Array.isArray(value) && value.length >= least && value.length <= most
        ? value.map((each) => item.read(each))
        : refuse(`${least} to ${most} items`),
    write: (value) => value.map((each) => item.write(each)),
  };
}

/** A field that may be missing at the end. */
export function optional<T>(shape: Shape<T>, missing: T): Shape<T> {
  return { read: (value) => (value === undefined ? missing : shape.read(value)), write: shape.write };
}

/** An array of fields in order. */
export function record<F extends Fields>(fields: F): Shape<FieldsOf<F>> {
  return {
    read: (value) => (Array.isArray(value) ? readFields(fields, value) : refuse("an array of fields")),
    write: (value) => writeFields(fields, value as object),
  };
}

export function readFields<F extends Fields>(fields: F, values: readonly Unpacked[]): FieldsOf<F> {
  const found: Record<string, unknown> = {};
  let at = 0;
  for (const [name, shape] of Object.entries(fields)) found[name] = shape.read(values[at++]);
  return found as FieldsOf<F>;
}

export function writeFields(fields: Fields, values: object): Packable[] {
  return Object.entries(fields).map(([name, shape]) => shape.write((values as Record<string, unknown>)[name]));
}
