/** What is in a text: marks, links and emoji are found, and whatever a stranger writes stays text. */

import { describe, expect, it } from "vitest";
import { emojiOnly, fileName, flat, initials, type Piece, pieces, plain, shortened } from "../src/model/format.ts";

/** A tree on one line: `bold(a) b`. */
function told(list: Piece[]): string {
  return list
    .map((each) => {
      if (each.kind === "text") return each.text;
      if (each.kind === "link") return `<${each.text}→${each.href}${each.host && ` at ${each.host}`}>`;
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
    ["**bold** and **more bold**!", "bold(bold) and bold(more bold)!"],
    ["**_both_** *one **two** one*", "bold(italic(both)) bold(one bold(two) one)"],
    ["2**3**4 ** no ** **open", "2**3**4 ** no ** **open"],
    ["**over\nlines**", "**over\nlines**"],
    ["`**a**`", "mono(**a**)"],
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

  it.each([
    ["https://\u0430pple.com/id", "xn--pple-43d.com"], // a Cyrillic letter
    ["https://xn--pple-43d.com/id", ""],
    ["https://münchen.example", "xn--mnchen-3ya.example"],
    ["https://EXAMPLE.org:443/", ""],
    ["http://example.org:8080/", ""],
    ["https://bank.example@evil.example/", "evil.example"],
    ["https://bank.example\u200b.evil.example/", "bank.example.evil.example"],
    ["https://bank.example%2eevil.example/", "bank.example.evil.example"],
    ["http://2130706433/", "127.0.0.1"],
    ["https://bank.example\\@evil.example/", ""], // goes to bank.example
    ["www.ｅxample.org", "www.example.org"],
  ])("whose text does not say where they lead say it: %j", (text, host) => {
    const [link] = pieces(text);
    expect(link).toMatchObject({ kind: "link", host });
  });

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
  const joined = (list: Piece[]): string =>
    list.map((each) => ("text" in each ? each.text : joined(each.children))).join("");
  const letters = (text: string) => text.replace(/[*_~`\n]/g, "");
  for (let round = 0; round < 2_000; round += 1) {
    const text = Array.from({ length: next(30) }, () => signs[next(signs.length)]).join("");
    expect(letters(joined(pieces(text)))).toBe(letters(text));
  }
});

it("a text made to be slow is not", () => {
  const begun = performance.now();
  for (const part of [
    "*a ",
    "**a ",
    "**a*",
    "**a**",
    "_",
    "`",
    "```",
    "https://",
    "a@",
    "(((",
    "*a*",
    "\u0300",
    "www.a.",
  ]) {
    pieces(part.repeat(Math.floor(60_000 / part.length)));
    pieces(part.repeat(Math.floor(7_900 / part.length)));
    plain(part.repeat(20_000));
  }
  expect(performance.now() - begun).toBeLessThan(5_000);
});

it.each(["(*a", "*a ", "**a ", "_a ", "`a ", "*a\n", "(((", "https://a*b "])(
  "twice the text takes twice the steps: %j",
  (part) => {
    const half = steps(() => pieces(part.repeat(Math.floor(3_900 / part.length))));
    const whole = steps(() => pieces(part.repeat(2 * Math.floor(3_900 / part.length))));
    expect(whole).toBeLessThan(3 * half);
    expect(whole).toBeLessThan(20 * 3_900 * 2);
  },
);

it("the brackets behind a link are looked at once", () => {
  expect(steps(() => pieces(`https://a${")".repeat(50_000)}`))).toBeLessThan(10 * 50_000);
});

/** How many characters of texts *work* looks at, one by one or in search of another. */
function steps(work: () => void): number {
  const { charAt, startsWith, indexOf, includes } = String.prototype;
  let count = 0;
  const travelled = (text: string, from: number, found: number) => (found < 0 ? text.length : found) - from + 1;
  Object.assign(String.prototype, {
    charAt(this: string, at: number) {
      count += 1;
      return charAt.call(this, at);
    },
    startsWith(this: string, part: string, at?: number) {
      count += 1;
      return startsWith.call(this, part, at);
    },
    indexOf(this: string, part: string, from = 0) {
      const found = indexOf.call(this, part, from);
      count += travelled(this, from, found);
      return found;
    },
    includes(this: string, part: string) {
      count += travelled(this, 0, indexOf.call(this, part));
      return includes.call(this, part);
    },
  });
  try {
    work();
  } finally {
    Object.assign(String.prototype, { charAt, startsWith, indexOf, includes });
  }
  return count;
}

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
  expect(plain("*_both_* www.example.org/a_b_c `*as it is*` ```x\n")).toBe("both www.example.org/a_b_c *as it is* x ");
  expect(plain("**Hello** you, **and you**: 2**3**4")).toBe("Hello you, and you: 2**3**4");
});

it("a preview of nothing but marks is what was typed", () => {
  expect(plain("```")).toBe("```");
  expect(plain("``` \n ```")).toBe("``` ```");
  expect(plain("```".repeat(300), 60)).toBe("`".repeat(60));
  expect(plain(" \n ")).toBe(" ");
});

it("few marks stay on a letter where a line is short", () => {
  expect(flat(`Z${"\u0301".repeat(500)}oe\u0308`)).toBe(`Z${"\u0301".repeat(4)}oe\u0308`);
  expect(plain(`a${"\u0489".repeat(3_000)}b`)).toBe(`a${"\u0489".repeat(4)}`);
  for (const word of ["क्षत्रिय", "ឯកឧត្ដម", "בְּרֵאשִׁית", "Việt"]) expect(flat(word)).toBe(word);
});

describe("a file is saved under a name that means no harm", () => {
  it.each([
    ["dove.jpg", "image/jpeg", "dove.jpg"],
    ["dove.jpg", "image/png", "dove.png"],
    ["dove.html", "image/png", "dove.png"],
    ["paper.pdf", "", "paper.pdf"],
    ["../../etc/passwd", "", "passwd"],
    ["C:\\x\\.bashrc", "", "bashrc"],
    ["...", "", ""],
    ["", "image/png", ""],
    ["a\u202egpj.exe", "", "a gpj.exe"],
    ["a\nb\u0000.txt", "", "a b.txt"],
    ['<b>"x"|?*.txt', "", "_b__x____.txt"],
    ["archive.tar.gz", "", "archive.tar.gz"],
    ["x. thisisnoending", "", "x. thisisnoending"],
    [`${"n".repeat(200)}.txt`, "", `${"n".repeat(80)}.txt`],
  ])("%j", (claimed, type, name) => expect(fileName(claimed, type)).toBe(name));
});
