/** Every language says everything that the screens ask for, with the same values put in, and nothing that they do not. */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type MessageFormatElement, parse, TYPE } from "@formatjs/icu-messageformat-parser";
import { describe, expect, it } from "vitest";
import { compile } from "../catalogues.ts";
import { type Locale, regionOf } from "../src/model/i18n";

const SRC = fileURLToPath(new URL("../src/", import.meta.url));
const FILES = readdirSync(`${SRC}i18n`).filter((name) => name.endsWith(".json"));
const read = (name: string) => readFileSync(`${SRC}i18n/${name}`, "utf8");
const catalogue = (name: string) => JSON.parse(read(name)) as Record<string, string>;
const english = catalogue("en.json");

/** Prefixes whose ends are codes of the engine or of the server: the screens put the key together. */
const MADE = /^(error|notice|state|push|theme|safety|install|settings|list|knows\.entry)\./;

function values(elements: MessageFormatElement[]): Set<string> {
  const found = new Set<string>();
  for (const each of elements) {
    if (each.type === TYPE.literal || each.type === TYPE.pound) continue;
    found.add(each.value);
    if (each.type !== TYPE.plural && each.type !== TYPE.select) continue;
    for (const option of Object.values(each.options)) for (const name of values(option.value)) found.add(name);
  }
  return found;
}

const tree = (text: string) => parse(text, { ignoreTag: true });

describe.each(FILES)("%s", (name) => {
  const locale = name.replace(".json", "");
  const messages = catalogue(name);

  it("has every message and no other", () => {
    expect(Object.keys(messages)).toEqual(Object.keys(english));
  });

  it("can be compiled, and leaves no message empty", () => {
    expect(Object.keys(compile(read(name)))).toHaveLength(Object.keys(english).length);
    for (const [key, text] of Object.entries(messages)) expect(text.trim(), key).not.toBe("");
  });

  it("puts the same values in", () => {
    for (const [key, text] of Object.entries(messages))
      expect([...values(tree(text))].sort(), key).toEqual([...values(tree(english[key] ?? ""))].sort());
  });

  it("has all plural forms of its language", () => {
    const forms = new Intl.PluralRules(locale).resolvedOptions().pluralCategories;
    for (const [key, text] of Object.entries(messages)) {
      for (const each of tree(text)) {
        if (each.type !== TYPE.plural) continue;
        const given = Object.keys(each.options);
        if (given.some((form) => form.startsWith("="))) continue;
        expect(given.sort(), key).toEqual([...forms].sort());
      }
    }
  });
});

describe("the screens", () => {
  const sources = readdirSync(SRC, { recursive: true, encoding: "utf8" })
    .filter((path) => /^(ui|model)\/.*\.tsx?$/.test(path))
    .map((path) => readFileSync(SRC + path, "utf8"))
    .join("\n");
  const asked = new Set(
    [...sources.matchAll(/"([a-z]+(?:\.[A-Za-z_]+)+)"/g)]
      .map(([, key]) => key ?? "")
      .filter((key) => !key.startsWith("./")),
  );

  it("use every message", () => {
    const unused = Object.keys(english).filter((key) => !asked.has(key) && !MADE.test(key));
    expect(unused).toEqual([]);
  });

  it("have a sentence for every code of the engine", () => {
    const api = readFileSync(`${SRC}client/api.ts`, "utf8");
    const codes = (type: string) => {
      const text = new RegExp(`type ${type} =([^;]+);`).exec(api.replace(/\/\/.*$/gm, ""))?.[1] ?? "";
      return [...text.matchAll(/"([a-z_]+)"/g)].map(([, code]) => code);
    };
    for (const code of codes("ErrorCode")) expect(english, `error.${code}`).toHaveProperty([`error.${code}`]);
    for (const code of codes("NoticeCode")) expect(english, `notice.${code}`).toHaveProperty([`notice.${code}`]);
    for (const code of codes("MessageState")) expect(english).toHaveProperty([`state.${code}`]);
  });

  it("have a sentence for every reason that is given for push not working, and for no other", () => {
    const api = readFileSync(`${SRC}client/api.ts`, "utf8");
    const codes = [...(/\bwhy: ([^;]+);/.exec(api)?.[1] ?? "").matchAll(/"(\w+)"/g)].map(([, code]) => code);
    expect(codes.map((code) => `push.why.${code}`)).toEqual(
      Object.keys(english).filter((key) => key.startsWith("push.why.")),
    );
    const engine = readFileSync(`${SRC}client/account.ts`, "utf8");
    for (const code of codes) {
      const given = new RegExp(`[:?,] "${code}"`); // not only compared with
      expect(given.test(engine + sources), code).toBe(true);
    }
  });

  it("explain every entry of the ledger that is about a person", () => {
    const ledger = readFileSync(fileURLToPath(new URL("../../docs/privacy-ledger.md", import.meta.url)), "utf8");
    const entries = [...ledger.matchAll(/^\| ([a-z ]+) \|.*\| yes \|$/gm)].map(([, entry]) => entry ?? "");
    expect(entries.length).toBeGreaterThan(8);
    for (const entry of entries) {
      const key = `knows.entry.${entry.replaceAll(" ", "_")}`;
      expect(english).toHaveProperty([key]);
      expect(english).toHaveProperty([`${key}.why`]);
    }
  });
});

describe("times and numbers", () => {
  it.each([
    ["en", ["en-GB", "en"], "en-GB"],
    ["en", ["de-AT", "en-IN", "en-GB"], "en-IN"],
    ["pt-BR", ["pt-PT"], "pt-PT"],
    ["de", ["fr-FR"], "de"],
    ["en", [], "en"],
    ["en", ["en-US@posix"], "en"],
  ] as [Locale, string[], string][])("in %s for %j are as in %s", (locale, preferred, region) => {
    expect(regionOf(locale, preferred)).toBe(region);
  });
});
