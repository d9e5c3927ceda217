/** What is in a text: marks, links and emoji are found, and whatever a stranger writes stays text. */

import { describe, expect, it } from "vitest";
import { emojiOnly, initials, type Piece, pieces, plain, shortened } from "../src/model/format.ts";

/** A tree on one line: `bold(a) b`. */
function told(list: Piece[]): string {
  return list
    .map((each) => {
      if (each.kind === "text") return each.text;
      if (each.kind === "link") return `<${each.text}→${each.href}>`;
      return `${each.kind}(${told(each.children)})`;
    })
    .join("");
}
const seen = (text: string) => told(pieces(text));

describe("marks", () => {
  it.each([
    ["*bold* and _italic_ and ~struck~", "bold(bold) and italic(italic) and struck(struck)"],
    ["*_both_*", "bold(italic(both))"],
    ["`a*b*c`", "mono(a*b*c)"],
    ["```\nx = *y*\n```", "block(x = *y*)"],
    ["2*3*4 snake_case_name", "2*3*4 snake_case_name"],
    ["* not * bold", "* not * bold"],
    ["*over\nlines*", "*over\nlines*"],
    ["**", "**"],
    ["*ひと*", "bold(ひと)"],
  ])("%j", (text, expected) => expect(seen(text)).toBe(expected));
});

describe("links", () => {
  it.each([
    ["see https://example.org/a_b_c.", "see <https://example.org/a_b_c→https://example.org/a_b_c>."],
    ["(https://example.org/x)", "(<https://example.org/x→https://example.org/x>)"],
    ["https://example.org/x_(y)", "<https://example.org/x_(y)→https://example.org/x_(y)>"],
    ["www.example.org!", "<www.example.org→https://www.example.org/>!"],
    ["write to a@example.org", "write to <a@example.org→mailto:a@example.org>"],
    ["javascript:alert(1) data:text/html,x file:///etc", "javascript:alert(1) data:text/html,x file:///etc"],
    ["https://", "https://"],
    ["<b onclick=x>hi</b>", "<b onclick=x>hi</b>"],
  ])("%j", (text, expected) => expect(seen(text)).toBe(expected));

  it("end where a mark turns the direction", () => {
    expect(seen("https://example.org/\u202egnp.exe")).toBe("<https://example.org/→https://example.org/>\u202egnp.exe");
  });
});

it("nothing of a text is lost, whatever it is", () => {
  const signs = ["*", "_", "~", "`", "```", " ", "\n", "a", "https://x.y", "(", ")", "\u0300", "\u202e", "😀", "<"];
  let seed = 7;
  const next = (most: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed % most;
  };
  const flat = (list: Piece[]): string =>
    list.map((each) => ("text" in each ? each.text : flat(each.children))).join("");
  const letters = (text: string) => text.replace(/[*_~`\n]/g, "");
  for (let round = 0; round < 2_000; round += 1) {
    const text = Array.from({ length: next(30) }, () => signs[next(signs.length)]).join("");
    expect(letters(flat(pieces(text)))).toBe(letters(text));
  }
});

it("a text made to be slow is not", () => {
  const begun = performance.now();
  for (const part of ["*a ", "_", "`", "```", "https://", "a@", "(((", "*a*", "\u0300", "www.a."]) {
    pieces(part.repeat(Math.floor(60_000 / part.length)));
    pieces(part.repeat(Math.floor(7_900 / part.length)));
    plain(part.repeat(20_000));
  }
  expect(performance.now() - begun).toBeLessThan(5_000);
});

it("few emoji alone are large", () => {
  expect(emojiOnly("😀")).toBe(1);
  expect(emojiOnly("👍🏽 🏳️‍🌈")).toBe(2);
  expect(emojiOnly("🇩🇪🇹🇷🇮🇳")).toBe(3);
  expect(emojiOnly("😀😀😀😀")).toBe(0);
  expect(emojiOnly("ok 😀")).toBe(0);
  expect(emojiOnly("1")).toBe(0);
});

it("a name has initials in its own script", () => {
  expect(initials("Amina Okafor")).toBe("AO");
  expect(initials("Jonas")).toBe("J");
  expect(initials("ليلى حداد")).toBe("لح");
  expect(initials("😀")).toBe("");
  expect(initials(`Z${"\u0316".repeat(40)}`)).toBe("Z");
});

it("a long text is cut at a word, and never within a sign", () => {
  expect(shortened("short", 10, 2)).toBe("short");
  expect(shortened("one\ntwo\nthree", 100, 2)).toBe("one\ntwo");
  expect(shortened("word ".repeat(100), 102, 99)).toBe(`${"word ".repeat(20).trim()}`);
  expect(shortened("😀".repeat(50), 11, 9)).toBe("😀".repeat(5));
});

it("a preview is one line without marks", () => {
  expect(plain("*Hello*\n_there_ `code`")).toBe("Hello there code");
});
