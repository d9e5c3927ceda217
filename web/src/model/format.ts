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
const LINK =
  /(?:https?:\/\/|www\.)[^\s<>"\u2028\u2029\u202a-\u202e\u2066-\u2069]+|[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}/giu;
const NESTING_MOST = 8;
/** Marks in a longer text are left as they are: looking for their other half costs too much. */
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
  const dead = new Set<string>();
  while (at < text.length) {
    const sign = text.startsWith("**", at) ? "**" : text.charAt(at);
    if (sign === "`" && text.startsWith("```", at)) {
      const end = text.indexOf("```", at + 3);
      if (end > at + 3) {
        out.push(...links(text.slice(start, at)));
        const body = text.slice(at + 3, end).replace(/^\n|\n$/g, "");
        out.push({ kind: "block", children: [{ kind: "text", text: body }] });
        at = end + 3;
        start = at;
        continue;
      }
      at += 3;
      continue;
    }
    const mark = MARKS[sign];
    if (mark && !dead.has(sign) && opens(text, at, sign) && !insideLink(text, start, at)) {
      const end = closing(text, at, sign);
      if (end > 0) {
        out.push(...links(text.slice(start, at)));
        const body = text.slice(at + sign.length, end);
        out.push({ kind: mark, children: mark === "mono" ? [{ kind: "text", text: body }] : inline(body, depth + 1) });
        at = end + sign.length;
        start = at;
        continue;
      }
      if (end === -1) dead.add(sign);
    }
    at += 1;
  }
  out.push(...links(text.slice(start)));
  return out;
}

function opens(text: string, at: number, sign: string): boolean {
  const before = before1(text, at);
  const after = text.charAt(at + sign.length);
  if (sign === "*" && before === "*") return false; // the second half of a doubled one
  return after !== "" && !/\s/.test(after) && after !== text.charAt(at) && !(before && WORD.test(before));
}

function before1(text: string, at: number): string {
  return at > 0 ? text.charAt(at - 1) : "";
}

/** Where the mark at *at* is closed; 0 if not on this line, -1 if nowhere in the text. */
function closing(text: string, at: number, sign: string): number {
  let end = text.indexOf(sign, at + sign.length);
  if (end < 0) return -1;
  const line = text.indexOf("\n", at);
  while (end > 0 && (line < 0 || end < line)) {
    const after = text.charAt(end + sign.length);
    const doubled = sign === "*" && text.startsWith("**", end);
    if (!doubled && end > at + sign.length && !/\s/.test(text.charAt(end - 1)) && !(after && WORD.test(after)))
      return end;
    const next = text.indexOf(sign, end + (doubled ? 2 : 1));
    if (next < 0) return 0;
    end = next;
  }
  return 0;
}

/** Whether the mark stands in the middle of an address such as https://example.org/a_b_c. */
function insideLink(text: string, start: number, at: number): boolean {
  let from = at;
  while (from > start && at - from < 2_048 && !/\s/.test(text.charAt(from - 1))) from -= 1;
  return /^(?:[("'[]*)(?:https?:\/\/|www\.)/i.test(text.slice(from, at));
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
  while (end > 0) {
    const last = link.charAt(end - 1);
    if (/[.,;:!?'"*_~`»”’…]/.test(last)) end -= 1;
    else if (last === ")" && !link.slice(0, end).includes("(")) end -= 1;
    else if (last === "]" && !link.slice(0, end).includes("[")) end -= 1;
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

/** A text on one line, without its marks: for previews and notifications. */
export function plain(text: string, most = 200): string {
  return unmarked(pieces(flat(text.slice(0, most * 4)).slice(0, most * 2)))
    .replace(/```/g, "") // one that is open, or was cut off
    .replace(/\s+/g, " ")
    .slice(0, most);
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
