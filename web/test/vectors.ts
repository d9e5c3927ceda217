/** The vectors that every implementation shares: tests/vectors/*.json. */

import { readFileSync } from "node:fs";
import { unhex } from "../src/bytes";

/** The file *name* of tests/vectors/. */
// biome-ignore lint/suspicious/noExplicitAny: each file has a shape of its own, which its test knows
export function vectors(name: string): any {
  return JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}`, import.meta.url), "utf-8"));
}

/** A value of wire.json as ours: `{"hex": …}` as bytes, names in camelCase. */
export function fromVector(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromVector);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  if (entries.length === 1 && entries[0]?.[0] === "hex") return unhex(String(entries[0][1]));
  return Object.fromEntries(entries.map(([name, each]) => [camel(name), fromVector(each)]));
}

function camel(name: string): string {
  return name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
