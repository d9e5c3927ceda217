/**
 * What is in a text: links, *bold* or **bold**, _italic_, ~struck~ and `mono`, as a tree of plain values.
 *
 * One pass, linear in the length; nothing is ever markup, so there is nothing to escape. A mark counts only around a word
 * (`2*3*4` stays as it is). This file knows no DOM; `ui/text.tsx` makes elements of the tree.
 */

export type Mark = "bold" | "italic" | "struck" | "mono" | "block";
export type Piece =
  | { kind: "text"; text: string }
  /** *host*: where it leads, if that is not what its text says; else empty. */
  | { kind: "link"; text: string; href: string; host: string }
  | { kind: Mark; children: Piece[] };

const MARKS: Record<string, Mark> = { "*": "bold", "**": "bold", _: "italic", "~": "struck", "`": "mono" };
const WORD = /[\p{L}\p{N}]/u;
const SPACE = /\s/;
const SCHEME = /[("'[]*(?:https?:\/\/|www\.)/iy;
const LINK =
  /(?:https?:\/\/|www\.)[^\s<>"\u2028\u2029\u202a-\u202e\u2066-\u2069]+|[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}/giu;
const NESTING_MOST = 8;
/** Marks in a longer text are left as they are: each is an element of its own on the screen. */
const MARKED_CHARACTERS_MOST = 8_000;

/** *text* as pieces. */
export function pieces(text: string): Piece[] {
  return text.length > MARKED_CHARACTERS_MOST ? links(text) : inline(text, 0);
}

function inline(text: string, depth: number): Piece[] {
  const out: Piece[] = [];
  if (depth >= NESTING_MOST) return links(text);
  let start = 0;
  let at = 0;
  let scheme = schemeEnd(text, 0); // of the word at hand
  const closing = closings(text);
  const goOn = (next: number) => {
    at = start = next;
    scheme = schemeEnd(text, next);
  };
  while (at < text.length) {
    const sign = text.startsWith("**", at) ? "**" : text.charAt(at);
    if (sign === "`" && text.startsWith("```", at)) {
      const end = text.indexOf("```", at + 3);
      if (end > at + 3) {
        out.push(...links(text.slice(start, at)));
        const body = text.slice(at + 3, end).replace(/^\n|\n$/g, "");
        out.push({ kind: "block", children: [{ kind: "text", text: body }] });
        goOn(end + 3);
        continue;
      }
      at += 3;
      continue;
    }
    const mark = MARKS[sign];
    if (mark && at < scheme && opens(text, at, sign)) {
      const end = closing(at, sign);
      if (end > 0) {
        out.push(...links(text.slice(start, at)));
        const body = text.slice(at + sign.length, end);
        out.push({ kind: mark, children: mark === "mono" ? [{ kind: "text", text: body }] : inline(body, depth + 1) });
        goOn(end + sign.length);
        continue;
      }
    }
    if (SPACE.test(sign)) scheme = schemeEnd(text, at + 1);
    at += 1;
  }
  out.push(...links(text.slice(start)));
  return out;
}

function opens(text: string, at: number, sign: string): boolean {
  const before = before1(text, at);
  const after = text.charAt(at + sign.length);
  if (sign === "*" && before === "*") return false; // the second half of a doubled one
  return after !== "" && !SPACE.test(after) && after !== text.charAt(at) && !(before && WORD.test(before));
}

function before1(text: string, at: number): string {
  return at > 0 ? text.charAt(at - 1) : "";
}

/** What tells where the mark at a place is closed, 0 if not on its line; for places that only grow. Whether a sign closes
 * depends on what stands around it alone, never on the mark that it would close: so none is looked for twice. */
function closings(text: string): (at: number, sign: string) => number {
  const line = ahead((from) => text.indexOf("\n", from));
  const signs = new Map(Object.keys(MARKS).map((sign) => [sign, ahead((from) => closer(text, from, sign))]));
  return (at, sign) => {
    const end = signs.get(sign)?.(at + sign.length) ?? Infinity;
    return end < line(at) ? end : 0;
  };
}

/** *find* for places that only grow: what it found is still the next one until it is passed. */
function ahead(find: (from: number) => number): (from: number) => number {
  let found = -1;
  return (from) => {
    if (found < from) found = find(from);
    if (found < 0) found = Infinity;
    return found;
  };
}

/** The first place from *from* on where *sign* may close; -1 if there is none. */
function closer(text: string, from: number, sign: string): number {
  let end = text.indexOf(sign, from);
  while (end >= 0) {
    const after = text.charAt(end + sign.length);
    const doubled = sign === "*" && after === "*";
    if (!doubled && !SPACE.test(text.charAt(end - 1)) && !(after && WORD.test(after))) return end;
    end = text.indexOf(sign, end + (doubled ? 2 : 1));
  }
  return -1;
}

/** Where the `https://` ends that the word at *at* begins with, Infinity if it does not: marks behind it are part of an
 * address such as https://example.org/a_b_c. */
function schemeEnd(text: string, at: number): number {
  SCHEME.lastIndex = at;
  return SCHEME.test(text) ? SCHEME.lastIndex : Infinity;
}

function links(text: string): Piece[] {
  const out: Piece[] = [];
  let start = 0;
  for (const match of text.matchAll(LINK)) {
    const shown = trimmed(match[0]);
    const found = target(shown);
    if (!found) continue;
    if (match.index > start) out.push({ kind: "text", text: text.slice(start, match.index) });
    out.push({ kind: "link", text: shown, ...found });
    start = match.index + shown.length;
  }
  if (start < text.length) out.push({ kind: "text", text: text.slice(start) });
  return out;
}

/** Without the full stop or bracket that ends the sentence around it. */
function trimmed(link: string): string {
  let end = link.length;
  const round = link.indexOf("(");
  const square = link.indexOf("[");
  while (end > 0) {
    const last = link.charAt(end - 1);
    if (/[.,;:!?'"*_~`»”’…]/.test(last)) end -= 1;
    else if (last === ")" && (round < 0 || round >= end)) end -= 1;
    else if (last === "]" && (square < 0 || square >= end)) end -= 1;
    else break;
  }
  return link.slice(0, end);
}

function target(shown: string): { href: string; host: string } | null {
  if (!/^(https?:\/\/|www\.)/i.test(shown)) return shown.includes("@") ? { href: `mailto:${shown}`, host: "" } : null;
  const text = /^www\./i.test(shown) ? `https://${shown}` : shown;
  try {
    const url = new URL(text);
    if (!url.hostname || (url.protocol !== "https:" && url.protocol !== "http:")) return null;
    return { href: url.href, host: saysItself(text, url) ? "" : url.host };
  } catch {
    return null;
  }
}

/** Whether the host that a browser would go to stands there to be read: letters that look like others, numbers in other
 * writing, and a name before an `@` can hide it. */
function saysItself(text: string, url: URL): boolean {
  const [, written = ""] = /^https?:\/\/([^/?#\\]*)/i.exec(text) ?? [];
  return [url.host, `${url.hostname}:${url.protocol === "https:" ? 443 : 80}`].includes(written.toLowerCase());
}

const EMOJI =
  /^(?:\p{Regional_Indicator}{2}|[#*0-9]\ufe0f?\u20e3|\p{Extended_Pictographic}(?:\ufe0f|[\u{1f3fb}-\u{1f3ff}])?(?:\u200d\p{Extended_Pictographic}(?:\ufe0f|[\u{1f3fb}-\u{1f3ff}])?)*)$/u;

/** How many emoji a text is made of, if it is made of nothing else; 0 otherwise, or for more than three. */
export function emojiOnly(text: string): number {
  if (text.length > 40 || !/\p{Extended_Pictographic}|\p{Regional_Indicator}|\u20e3/u.test(text)) return 0;
  const signs = graphemes(text.replace(/\s/g, ""));
  return signs.length <= 3 && signs.every((each) => EMOJI.test(each)) ? signs.length : 0;
}

/** What a reader takes for single signs. */
export function graphemes(text: string): string[] {
  if (typeof Intl.Segmenter !== "function") return [...text];
  return Array.from(new Intl.Segmenter().segment(text), (each) => each.segment);
}

/** The one or two letters that stand for a name. */
export function initials(name: string): string {
  const words = name
    .slice(0, 64)
    .split(/[\s._-]+/)
    .filter((each) => WORD.test(each));
  const first = (word: string | undefined) => (word ? (graphemes(word).find((each) => WORD.test(each)) ?? "") : "");
  const last = words.length > 1 ? first(words.at(-1)) : "";
  return (first(words[0]) + last).replace(/\p{M}{3,}/gu, "").toLocaleUpperCase();
}

/** The beginning of a long text, cut where a line or a word ends; the same text if it is short. */
export function shortened(text: string, characters: number, lines: number): string {
  let cut = text.length > characters * 1.25 ? characters : text.length;
  let at = -1;
  for (let line = 0; line < lines; line += 1) {
    at = text.indexOf("\n", at + 1);
    if (at < 0) break;
  }
  if (at >= 0 && at < cut) cut = at;
  if (cut === text.length) return text;
  const space = text.lastIndexOf(" ", cut);
  const end = space > cut - 80 && space > 0 ? space : cut;
  return text.slice(0, end).replace(/[\ud800-\udbff]$/, "");
}

/** *text* with no more than a few marks on one letter: piled up, they would cover what stands around it. */
export function flat(text: string): string {
  return text.replace(/(\p{M}{4})\p{M}+/gu, "$1");
}

/** A text on one line, without its marks unless it is made of nothing else: for previews and notifications. */
export function plain(text: string, most = 200): string {
  const begun = flat(text.slice(0, most * 4)).slice(0, most * 2);
  const words = unmarked(pieces(begun)).replace(/```/g, ""); // one that is open, or was cut off
  return (words.trim() ? words : begun).replace(/\s+/g, " ").slice(0, most);
}

function unmarked(list: Piece[]): string {
  return list.map((each) => ("children" in each ? unmarked(each.children) : each.text)).join("");
}

const ENDINGS: Record<string, string> = {
  "image/png": "png",
  "image/jpeg": "jpg",
  "image/webp": "webp",
  "image/gif": "gif",
};
const ENDING_MOST = 12;
const STEM_MOST = 80;

/** A name to save a file under that a stranger named: one part of a path, plain characters, no leading dot; a picture
 * ends as its bytes say (*type*). Empty if nothing is left. Source: CNT-44. */
export function fileName(claimed: string, type: string): string {
  const [last = ""] = claimed.split(/[/\\]/).slice(-1);
  const [, stem = "", ending = ""] = /^(.*?)(?:\.([^.]*))?$/su.exec(tidy(last)) ?? [];
  const long = ending.length > ENDING_MOST;
  const name = [...tidy(long ? `${stem}.${ending}` : stem)].slice(0, STEM_MOST).join("").trim();
  if (name === "") return "";
  const end = ENDINGS[type] ?? (long ? "" : tidy(ending));
  return end ? `${name}.${end}` : name;
}

/** Without what is not seen, turns directions, or means something to a file system. */
function tidy(text: string): string {
  return flat(text.replace(/[\p{C}\p{Z}]+/gu, " "))
    .replace(/[<>:"|?*\\/]/g, "_")
    .replace(/^[\s.]+|[\s.]+$/g, "");
}
