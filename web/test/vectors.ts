/** The vectors that every implementation shares: tests/vectors/*.json. */

import { readFileSync } from "node:fs";

/** The file *name* of tests/vectors/. */
// biome-ignore lint/suspicious/noExplicitAny: each file has a shape of its own, which its test knows
export function vectors(name: string): any {
  return JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}`, import.meta.url), "utf-8"));
}
