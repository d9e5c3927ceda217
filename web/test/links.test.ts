/** Whoever pastes more than a link is understood. */

import { expect, it } from "vitest";
import { linkIn } from "../src/model/links.ts";

const CONTACT = "https://taube.example:8443/c#kwHEIH3x_q9-A";
const INVITATION = "http://127.0.0.1:8080/i#AAECAwQFBgcICQoLDA0ODw";

it.each([
  [CONTACT, CONTACT],
  [`  ${INVITATION}\n`, INVITATION],
  [`Write to me on Taube:\n${CONTACT}`, CONTACT],
  [`Write to me on Taube:${CONTACT}`, CONTACT],
  [`Here: <${CONTACT}>, see you.`, CONTACT],
  [`“${INVITATION}”.`, INVITATION],
  [`(${CONTACT}), or ${INVITATION}`, CONTACT],
  [`see https://example.org/x and ${INVITATION}\nBye`, INVITATION],
  [`*${CONTACT}*`, CONTACT],
  ["hello", ""],
  ["https://example.org/c#", ""],
  ["https://example.org/about#c#abc", ""],
  ["", ""],
])("%j", (text, found) => expect(linkIn(text)).toBe(found));

it("a text made to be slow is not", () => {
  const begun = performance.now();
  for (const part of ["https://", "https://a", "https:/", "https://a/c#", "/i#", "a", " ", "http://a.b/i"])
    linkIn(part.repeat(Math.ceil(60_000 / part.length)));
  expect(performance.now() - begun).toBeLessThan(1_000);
});
