/**
 * The build step of the languages: turns `src/i18n/<locale>.json` into modules whose messages are parsed already.
 *
 * `import("catalogue:de")` gives the German catalogue: a plain message stays a string, one with placeholders or plurals
 * becomes its syntax tree, so that the browser gets no parser. It knows nothing of the screens.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parse, TYPE } from "@formatjs/icu-messageformat-parser";
import type { Plugin } from "vite";

const PREFIX = "catalogue:";

export function catalogues(): Plugin {
  return {
    name: "taube-catalogues",
    enforce: "pre",
    config: () => ({
      resolve: { alias: { "@formatjs/icu-messageformat-parser": "@formatjs/icu-messageformat-parser/no-parser.js" } },
    }),
    resolveId: (id) => (id.startsWith(PREFIX) ? `\0${id}` : null),
    load(id) {
      if (!id.startsWith(`\0${PREFIX}`)) return null;
      const path = fileURLToPath(new URL(`src/i18n/${id.slice(PREFIX.length + 1)}.json`, import.meta.url));
      this.addWatchFile(path);
      return `export default ${JSON.stringify(compile(readFileSync(path, "utf8")))}`;
    },
  };
}

/** The messages of a catalogue, parsed. Throws with the message's key when one is malformed. */
export function compile(json: string): Record<string, unknown> {
  const compiled: Record<string, unknown> = {};
  for (const [key, text] of Object.entries(JSON.parse(json) as Record<string, string>)) {
    try {
      const tree = parse(text, { captureLocation: false, ignoreTag: true });
      const plain = tree.every((each) => each.type === TYPE.literal);
      compiled[key] = plain ? tree.map((each) => (each as { value: string }).value).join("") : tree;
    } catch (cause) {
      throw new Error(`The message ${key} is malformed.`, { cause });
    }
  }
  return compiled;
}
