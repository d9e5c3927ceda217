/** The app as `make dev` built it last: what a phone fetches at first stays small, and names no other place. */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";

const APP = fileURLToPath(new URL("../../src/taube/web/", import.meta.url));
const FILES = readdirSync(APP, { recursive: true, encoding: "utf8" });
const KB = 1000;
const LANGUAGES = 10;

/** Bars of the design: JavaScript and CSS of the first load, and the core. */
const SCRIPTS_MOST_BYTES = 200 * KB;
const CORE_MOST_BYTES = 550 * KB;

function packedBytes(names: readonly string[]): number {
  return names.reduce((sum, name) => sum + gzipSync(readFileSync(APP + name), { level: 9 }).length, 0);
}

/** What the page names, the engine's worker, what both import at once, and the words of the language that has most. */
function firstLoad(): string[] {
  const page = readFileSync(`${APP}index.html`, "utf8");
  const named = [...page.matchAll(/(?:src|href)="\/([^"]+\.(?:js|css))"/g)].map(([, name]) => name as string);
  const workers = FILES.filter((name) => /^assets\/engine_worker-[\w-]+\.js$/.test(name));
  expect(workers).toHaveLength(1);
  const seen = new Set([...named, ...workers]);
  for (const name of seen) {
    const imports = readFileSync(APP + name, "utf8").matchAll(/(?:from|import)\s*"\.\/([\w.-]+\.js)"/g);
    for (const [, other] of imports) seen.add(`assets/${other}`);
  }
  const words = FILES.filter((name) => /^assets\/_catalogue_[\w-]+\.js$/.test(name));
  expect(words).toHaveLength(LANGUAGES);
  return [...seen, words.reduce((most, each) => (packedBytes([each]) > packedBytes([most]) ? each : most))];
}

test("the first load is small enough for a slow network", () => {
  const bytes = packedBytes(firstLoad());
  console.info(`first load: ${(bytes / KB).toFixed(1)} KB of JavaScript and CSS`);
  expect(bytes).toBeLessThanOrEqual(SCRIPTS_MOST_BYTES);
});

test("so is the core", () => {
  const cores = FILES.filter((name) => name.endsWith(".wasm"));
  expect(cores).toHaveLength(1);
  const bytes = packedBytes(cores);
  console.info(`core: ${(bytes / KB).toFixed(1)} KB`);
  expect(bytes).toBeLessThanOrEqual(CORE_MOST_BYTES);
});

test("whatever may be kept for ever has its hash in its name", () => {
  const kept = FILES.filter((name) => /^assets\/.*\.\w+$/.test(name) && !/\.(gz|br)$/.test(name));
  expect(kept.length).toBeGreaterThan(2);
  expect(kept.filter((name) => !/-[\w-]{8}\.\w+$/.test(name))).toEqual([]);
});

test("no file of the build is loaded from elsewhere or tells where it was built", () => {
  for (const name of FILES.filter((name) => /\.(js|css|html|webmanifest)$/.test(name))) {
    const text = readFileSync(APP + name, "utf8");
    expect(text, name).not.toMatch(/(?:from|import|src=|href=|url\()\s*["'(]?(?:https?:)?\/\//);
    expect(text, name).not.toContain(fileURLToPath(new URL("../..", import.meta.url)));
    expect(text, name).not.toContain("sourceMappingURL");
  }
});
