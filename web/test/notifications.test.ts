/** What a notification says of what is new. */

import { expect, test } from "vitest";
import type { Chat, Message } from "../src/client/api";
import { joined, NO_WORDS, notesOf } from "../src/model/notifications";

const NOW_MS = 1_000_000;
let count = 0;

function news(name: string, text: string, chat: Partial<Chat> = {}, message: Partial<Message> = {}) {
  count += 1;
  const defaults = { id: `${count}`, sender: name, kind: "text", text, sentAtMs: NOW_MS + count };
  return {
    chat: { id: name, name, state: "open", mutedUntilMs: 0, ...chat } as Chat,
    message: { ...defaults, ...message } as Message,
  };
}

function said(...arrived: ReturnType<typeof news>[]): [string, ...string[]][] {
  return notesOf(arrived, NO_WORDS, NOW_MS).map(({ title, lines }) => [title, ...lines.map(({ text }) => text)]);
}

test("one note for each chat tells its newest messages; the chat of the newest comes last", () => {
  const many = Array.from({ length: 7 }, (_, at) => news("Ann", `${at}`));
  expect(said(news("Bob", "one"), ...many, news("Bob", "two"))).toEqual([
    ["Ann", "2", "3", "4", "5", "6"],
    ["Bob", "one", "two"],
  ]);
});

test("a muted or blocked chat and a notice say nothing, and a request does not show what a stranger wrote", () => {
  expect(said(news("Ann", "x", { mutedUntilMs: NOW_MS + 1 }), news("Bob", "y", { state: "blocked" }))).toEqual([]);
  expect(said(news("Ann", "", {}, { kind: "notice" }), news("Cat", "z", { mutedUntilMs: NOW_MS }))).toEqual([
    ["Cat", "z"],
  ]);
  expect(said(news("Eve", "spam", { state: "request" }), news("Eve", "more", { state: "request" }))).toEqual([
    ["Eve", NO_WORDS.request],
  ]);
});

test("photos and what is not known are named, and a long text is cut between characters", () => {
  const media = { kind: "media" } as const;
  expect(
    said(news("Ann", "", {}, media), news("Ann", "A tree", {}, media), news("Ann", "", {}, { kind: "unknown" })),
  ).toEqual([["Ann", "Photo", "Photo: A tree", "New message"]]);
  expect(said(news("Ann", "🐦".repeat(400)))).toEqual([["Ann", "🐦".repeat(300)]]);
});

test("a text is told without its marks", () => {
  const caption = { kind: "media" } as const;
  expect(said(news("Ann", "*bold*, _so **to** say_ 2*3*4"), news("Ann", "`a`\n*b*", {}, caption))).toEqual([
    ["Ann", "bold, so to say 2*3*4", "Photo: a b"],
  ]);
});

test("what comes later stands below what is shown, and nothing is said twice", () => {
  const one = news("Ann", "one");
  const two = news("Ann", "two");
  const [first] = notesOf([one], NO_WORDS, NOW_MS);
  const [both] = notesOf([one, two], NO_WORDS, NOW_MS);
  if (!first || !both) throw new Error("there is no note");
  expect(joined(first, [])).toEqual(first);
  expect(joined(both, first.lines)?.lines.map(({ text }) => text)).toEqual(["one", "two"]);
  expect(joined(first, both.lines)).toBeNull();
  const [later] = notesOf(
    Array.from({ length: 4 }, (_, at) => news("Ann", `${at}`)),
    NO_WORDS,
    NOW_MS,
  );
  expect(later && joined(later, both.lines)?.lines.map(({ text }) => text)).toEqual(["two", "0", "1", "2", "3"]);
});
