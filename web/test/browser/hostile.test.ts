/** Hostile input: whatever somebody sends is shown as what it is, in its own place; nothing of it runs, nothing is lost. */

import { writeFile } from "node:fs/promises";
import type { Locator } from "playwright-core";
import { expect, test } from "vitest";
import { forge, profile, type Raw, type RawFile, text } from "./forger";
import { gone, PATIENT, pathOf, photo, shown, type User, useStage } from "./people";

const stage = useStage();
const LONGEST = 16_384;

// ------------------------------------------------------------------ what has to hold, whatever was sent

/** Everything that was ever asked for went to the app's own server, or was made on the page. */
function stayedAtHome(user: User): void {
  const elsewhere = user.phone.requests.filter((url) => {
    const { origin, protocol } = new URL(url);
    return protocol !== "blob:" && protocol !== "data:" && origin !== stage.server.origin;
  });
  expect(elsewhere).toEqual([]);
  expect(user.problems).toEqual([]);
}

/** What people wrote has become text, the elements that marks and links make, and nothing else. */
async function isOnlyText(user: User): Promise<void> {
  const found = await user.page.locator(".text, .name, .preview-text, .quote-what, .head-title").evaluateAll((all) => {
    const names = new Set<string>();
    for (const each of all) {
      for (const inner of each.querySelectorAll("*")) {
        names.add(inner.localName);
        for (const { name, value } of inner.attributes) {
          if (name.startsWith("on") || name === "style" || name === "src") names.add(`${inner.localName} ${name}`);
          if (name === "href" && !/^(https?|mailto):/.test(value)) names.add(`${inner.localName} ${value}`);
        }
      }
    }
    return [...names];
  });
  const allowed = ["a", "bdi", "strong", "em", "s", "code", "pre", "span"];
  expect(found.filter((each) => !allowed.includes(each))).toEqual([]);
}

/** Nothing is wider than the window. */
async function fits(user: User): Promise<void> {
  const wide = await user.page.evaluate(() =>
    [...document.querySelectorAll("*")]
      .filter((each) => each.scrollWidth > each.clientWidth && /auto|scroll/.test(getComputedStyle(each).overflowX))
      .map((each) => `${each.localName}.${each.className}`),
  );
  expect(wide).toEqual([]);
  expect(await user.page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
}

/** No text runs into the time that stands beside it. */
async function isApart(user: User): Promise<void> {
  const touching = await user.page.locator(".said").evaluateAll((all) =>
    all
      .filter((each) => {
        const words = each.querySelector(".words");
        const time = each.querySelector(".meta")?.getBoundingClientRect();
        if (!words || !time) return false;
        const range = document.createRange();
        range.selectNodeContents(words);
        return [...range.getClientRects()].some(
          ({ left, right, top, bottom, width }) =>
            width > 0 &&
            left < time.right - 1 &&
            right > time.left + 1 &&
            top < time.bottom - 1 &&
            bottom > time.top + 1,
        );
      })
      .map((each) => each.textContent),
  );
  expect(touching).toEqual([]);
}

/** *what* paints nothing over *others*: they look the same without it. */
async function keepsToItself(what: Locator, others: Locator[]): Promise<void> {
  const look = () => Promise.all(others.map(async (each) => (await each.screenshot()).toString("base64")));
  const before = await look();
  const element = await what.elementHandle();
  await element?.evaluate((shown: Element) => {
    (shown as HTMLElement).style.visibility = "hidden";
  });
  const after = await look();
  await element?.evaluate((shown: Element) => {
    (shown as HTMLElement).style.visibility = "";
  });
  expect(after.map((each, at) => each === before[at])).toEqual(others.map(() => true));
}

// ------------------------------------------------------------------ tests

/** Somebody sends *user* all that. */
async function mallory(user: User, contents: Raw[], files: RawFile[] = []): Promise<void> {
  await forge(stage, [{ name: "Mallory", link: await user.contactLink(), contents, files }]);
}

/** Go through the messages from the first on, until *name* is in the document. */
async function reach(user: User, name: string | RegExp): Promise<Locator> {
  const row = user.message(name).last();
  if ((await row.count()) === 0) await user.messages.first().press("Home");
  const further = async () => {
    if ((await row.count()) > 0) return true;
    await user.messages.last().press("ArrowDown");
    return false;
  };
  await expect.poll(further, PATIENT).toBe(true);
  await row.scrollIntoViewIfNeeded();
  return row;
}

const PILE = `Z${"\u0310\u0324".repeat(1_500)}a${"\u0489".repeat(1_000)}lgo`;
const SCRIPTS = [
  "<script>alert(1)</script>",
  '<img src=x onerror="alert(1)"><svg onload=alert(1)>',
  '"><iframe src="javascript:alert(1)"></iframe>',
  "{{constructor.constructor('alert(1)')()}}",
  "&lt;b&gt; &#60;i&#62; \\u003cscript\\u003e",
];
const LINKS = [
  "javascript:alert(1) data:text/html,<script>alert(1)</script> file:///etc/passwd blob:x vbscript:x",
  "https://example.org/?q=<script>alert(1)</script>",
  "https://\u0430pple.example/login",
  "https://bank.example@evil.example/",
  "https://evil.example/\u202egnp.exe",
];
const TURNED = "read \u202ethis backwards\u202c and \u2067that";

test("a text is text, whatever it says, and stays in its own place", async () => {
  const ada = await stage.phone("Ada");
  const all = [...SCRIPTS, ...LINKS, TURNED, "above", PILE, "below", "\u{fdfd}".repeat(300), "w".repeat(3_000)];
  await mallory(ada, all.map(text));
  await ada.accept("Mallory");
  for (const words of [...SCRIPTS, TURNED]) {
    expect(await (await reach(ada, `, ${words}`)).locator(".text").textContent()).toBe(words);
  }
  const links = await ada.page.locator(".text a").evaluateAll((found) =>
    found.map((each) => {
      const { href, rel, target, textContent } = each as HTMLAnchorElement;
      return { href, rel, target, textContent };
    }),
  );
  expect(links.map(({ href, textContent }) => [href, textContent])).toEqual([
    ["https://example.org/?q=", "https://example.org/?q="],
    ["https://xn--pple-43d.example/login", "https://\u0430pple.example/login (xn--pple-43d.example)"],
    ["https://bank.example@evil.example/", "https://bank.example@evil.example/ (evil.example)"],
    ["https://evil.example/", "https://evil.example/"],
  ]);
  for (const { rel, target } of links) expect([target, rel]).toEqual(["_blank", "noopener noreferrer nofollow"]);
  await isOnlyText(ada);
  await isApart(ada);
  await fits(ada);

  const pile = await reach(ada, PILE.slice(0, 300));
  await keepsToItself(pile.locator(".text"), [await reach(ada, "above"), await reach(ada, "below")]);
  await reach(ada, "w".repeat(300));
  await isApart(ada);
  await fits(ada);

  await reach(ada, "above");
  await ada.choose("above", "Reply");
  await ada.write("and what is answered, too");
  await isOnlyText(ada);
  stayedAtHome(ada);
});

test("the longest text is cut, and opens; one that is too long is not lost", async () => {
  const ada = await stage.phone("Ada");
  const long = "all the words in the world and more ".repeat(500).slice(0, LONGEST);
  const lines = `first line${"\n".repeat(9_000)}last line`;
  await mallory(ada, [text(long), text("x".repeat(40_000)), text(lines), text("still here")]);
  await ada.accept("Mallory");
  const row = await reach(ada, long.slice(0, 200));
  expect(((await row.locator(".text").textContent()) ?? "").length).toBeLessThan(1_300);
  await row.getByRole("button", { name: "Read more" }).click();
  await expect.poll(() => row.locator(".text").textContent(), PATIENT).toBe(long);
  expect(await row.locator("*").count()).toBeLessThan(60);
  await gone(row.getByRole("button", { name: "Read more" }));
  await fits(ada);
  await reach(ada, /first line/);
  await reach(ada, "still here");

  const pasted = "a".repeat(60_000);
  await ada.field("Message").fill(pasted);
  await ada.button("Send").click();
  await ada.see(/That text is too long: \S*60 kB/);
  expect(await ada.field("Message").inputValue()).toBe(pasted);
  await ada.home();
  await ada.see("Draft:");
  await ada.reload();
  await ada.open("Mallory");
  expect(await ada.field("Message").inputValue()).toBe(pasted);
  await ada.field("Message").fill("b".repeat(LONGEST));
  await ada.button("Send").click();
  await ada.tick("b".repeat(300), "sent", "delivered");
  stayedAtHome(ada);
});

test("a name is a name, wherever it stands", async () => {
  const ada = await stage.phone("Ada");
  const link = await ada.contactLink();
  const names = [
    ["<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
    ["\u202eevE\u202c \u2066x", "evE x"],
    [`Z\u0310${"\u0489".repeat(60)}o`, `Z\u0310${"\u0489".repeat(3)}o`],
    ["\u{fdfd}".repeat(40), "\u{fdfd}".repeat(40)],
    ["0".repeat(32), "Somebody"], // could be the id of a chat
  ];
  const bomb = webp(16_384, 16_384).toString("hex");
  const people = names.map(([name = ""], at) => ({
    name: "Somebody",
    link,
    contents: [profile(name, at === 0 ? bomb : ""), text(`I am number ${at}`)],
  }));
  await forge(stage, people);
  await ada.link("Requests").click();
  const rows = ada.page.getByRole("region", { name: "Requests" }).getByRole("listitem");
  await expect.poll(() => rows.count(), PATIENT).toBe(names.length);
  for (const [at, [, name = ""]] of names.entries()) {
    const row = rows.filter({ hasText: `I am number ${at}` });
    await shown(row);
    expect(await row.locator(".name").textContent()).toBe(name);
  }
  await isOnlyText(ada);
  await fits(ada);
  expect(await ada.page.locator(".chats img").count()).toBe(0); // one claimed to be 16,384 pixels wide
  const piled = rows.filter({ hasText: "I am number 2" });
  await keepsToItself(piled.locator(".name"), [
    rows.filter({ hasText: "I am number 1" }),
    rows.filter({ hasText: "I am number 3" }),
  ]);

  for (const at of [0, 1, 2, 3]) {
    await rows
      .filter({ hasText: `I am number ${at}` })
      .getByRole("link")
      .click();
    await shown(ada.button("Accept"));
    await isOnlyText(ada);
    await fits(ada);
    await ada.button("Block").click();
    await shown(ada.page.getByRole("dialog"));
    await fits(ada);
    await ada.button("Cancel").click();
    await gone(ada.page.getByRole("dialog"));
    await ada.button("Back").click();
  }
  for (const at of [2, 3]) {
    await rows
      .filter({ hasText: `I am number ${at}` })
      .getByRole("link")
      .click();
    await ada.button("Accept").click();
    await shown(ada.field("Message"));
    await fits(ada);
    await ada.link("About this chat").click();
    await shown(ada.heading("About this chat"));
    await fits(ada);
    await ada.link("Safety number").click();
    await shown(ada.page.getByRole("img", { name: /^Safety number:/ }));
    await isOnlyText(ada);
    await fits(ada);
    await ada.go("#/requests");
  }
  stayedAtHome(ada);
});

test("whatever a clock says, the message is shown", async () => {
  const ada = await stage.phone("Ada");
  const link = await ada.contactLink();
  const sentAtMs = [0, 2 ** 53, 253_402_300_800_000, 2 ** 53];
  const contents = [text("past"), text("future"), text("near"), [77, "?"] satisfies Raw];
  await forge(stage, [{ name: "Mallory", link, contents, sentAtMs }]);
  await ada.accept("Mallory");
  for (const words of ["past", "future", "near"]) {
    await reach(ada, new RegExp(`^Mallory, .*, ${words}$`));
    await ada.choose(words, "Reply");
    await ada.write(`${words} it is`);
  }
  await ada.home();
  await shown(ada.chat("Mallory"));
  await ada.go("#/search");
  await ada.page.getByRole("searchbox").fill("future");
  await shown(
    ada.page
      .getByRole("region", { name: "Search" })
      .getByRole("link", { name: /Mallory.*future/ })
      .first(),
  );
  stayedAtHome(ada);
});

test("a file is shown as a picture only if it is one, and one that would fill the memory is not", async () => {
  const ada = await stage.phone("Ada");
  const put = async (name: string, data: Buffer | string): Promise<string> => {
    const path = stage.server.home(name);
    await writeFile(path, data);
    return path;
  };
  const svg = `<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="https://evil.example/x"/></svg>`;
  const png = photo(40, 30);
  const huge = Buffer.from(png);
  huge.writeUInt32BE(60_000, 16);
  huge.writeUInt32BE(60_000, 20);
  const image = { mediaType: "image/png", name: "photo.png" };
  const files: RawFile[] = [
    { ...image, path: await put("svg", svg), caption: "a drawing", mediaType: "image/svg+xml", name: "a/../x.svg" },
    { ...image, path: await put("page", "<!doctype html><script>alert(1)</script>"), caption: "a page" },
    { ...image, path: await put("huge", huge), caption: "a bomb" },
    { ...image, path: await put("lie", png), caption: "a lie", width: 1, height: 65_535, thumbhash: "ff".repeat(25) },
    { ...image, path: await put("short", png), caption: "a shorter one", size: 5 },
    { ...image, path: await put("long", png), caption: "a longer one", size: 2 ** 29 },
    {
      path: await put("paper", "%PDF-1.4"),
      mediaType: "application/pdf",
      caption: "a paper",
      name: "..\\\u202efdp.exe",
    },
    { ...image, path: await put("good", png), caption: "a good one", name: "good.html" },
  ];
  await mallory(ada, [text("Look!")], files);
  await ada.openRequest("Mallory");
  const shut = await reach(ada, "Photo: a good one");
  await shown(shut.getByText("Not loaded before you accept."));
  expect(ada.phone.requests.filter((url) => url.includes("/v1/blobs/"))).toEqual([]);
  await ada.button("Accept").click();
  expect(await ada.picture("a good one")).toEqual([40, 30]);

  for (const caption of ["a drawing", "a page", "a bomb"]) {
    const row = await reach(ada, `Photo: ${caption}`);
    await shown(row.getByText("This is not a picture that this device can show."));
    expect(await row.locator("img").count()).toBe(0);
  }
  await reach(ada, "Photo: a lie");
  expect(await ada.picture("a lie")).toEqual([40, 30]);
  await fits(ada);
  await shown((await reach(ada, "Photo: a shorter one")).getByText("This file was altered on its way"));
  await shown((await reach(ada, "Photo: a longer one")).getByRole("button", { name: /^Load photo/ }));

  const paper = await reach(ada, "File: a paper");
  expect(await paper.locator(".file-name").textContent()).toBe("fdp.exe");
  const download = ada.page.waitForEvent("download");
  await paper.getByRole("button", { name: /^Save/ }).click();
  expect((await download).suggestedFilename()).toBe("fdp.exe");
  const good = await reach(ada, "Photo: a good one");
  await good.getByRole("button", { name: /^Open/ }).click();
  await shown(ada.link("Save the photo"));
  expect(await ada.link("Save the photo").getAttribute("download")).toBe("good.png");
  await ada.page.goBack();
  await ada.link("About this chat").click();
  await ada.button("Block").click();
  await ada.page.getByRole("dialog").getByRole("button", { name: "Block" }).click();
  await ada.openRequest("Mallory");
  const blocked = await reach(ada, "Photo: a longer one");
  await shown(blocked.getByText("Not loaded while this chat is blocked."));
  stayedAtHome(ada);
});

test("what only a newer version knows is named and kept, and junk stops nothing", async () => {
  const ada = await stage.phone("Ada");
  const junk: Raw[] = [
    [1, "", { hex: "" }],
    [1, { hex: "ff" }],
    [7, "x"],
    [4, "", { hex: "00" }],
    [77, { hex: "00".repeat(40_000) }],
    [78, "<script>alert(1)</script>", [[[1, "two"]]]],
  ];
  await mallory(ada, [...junk, text("after all that")]);
  await ada.accept("Mallory");
  await reach(ada, "after all that");
  const newer = "A kind of message that this version does not know yet. Update Taube to see it.";
  expect(await ada.message(newer).count()).toBe(2);
  await ada.choose(newer, "Reply");
  await ada.write("What was that?");
  await ada.reload();
  await shown(ada.message("What was that?"));
  expect(await ada.message(newer).count()).toBe(2);
  await shown(ada.message("What was that?").getByRole("button", { name: newer }));
  await isOnlyText(ada);
  stayedAtHome(ada);
});

test("a contact link from elsewhere, altered, cut off, or one's own is refused in one sentence; one opened twice leads to the chat", async () => {
  const [ada, ben] = await Promise.all([stage.phone("Ada"), stage.phone("Ben")]);
  const own = await ada.contactLink();
  const link = await ben.contactLink();
  const [before = "", secret = ""] = link.split("#");
  const bytes = Buffer.from(secret, "base64url");
  const altered = (at: number): string => {
    const other = Buffer.from(bytes);
    other[at] = (other[at] ?? 0) ^ 1;
    return `${before}#${other.toString("base64url")}`;
  };
  const gone = "This link does not work any more. Ask the person for a new one.";
  const none = /^That is not a Taube link\./;
  const refused: [string, string | RegExp][] = [
    [own, "That is your own link. Give it to others, so that they can write to you."],
    [`https://elsewhere.example/c#${secret}`, /^That is a link of .*elsewhere\.example/],
    [link.slice(0, -12), none],
    [`${link}A`, none],
    [`javascript:alert(1)//c#${secret}`, none],
    ["hello", none],
    [stage.server.origin + (await stage.invitation()), /^That is an invitation, not a contact link\./],
  ];
  // the browser's own bubble about a wrong address would cover what the app says
  const bubbles = await ada.page.evaluateHandle(() => {
    const seen: string[] = [];
    addEventListener("invalid", (event) => seen.push(String(event.target)), true);
    return seen;
  });
  for (const [wrong, said] of refused) {
    await ada.paste(wrong);
    await ada.see(said);
    await ada.page.keyboard.press("Enter");
    expect(await ada.button("Start the chat").count()).toBe(0);
  }
  expect(await bubbles.jsonValue()).toEqual([]);
  for (const at of [10, 50, 70]) {
    await ada.paste(altered(at)); // in the account id, and in the address
    await ada.button("Start the chat").click();
    await ada.see(gone);
  }
  expect(await ada.page.evaluate(() => location.hash)).toBe("#/add");
  await ada.add(link);
  await ada.write("Hello Ben!");
  await ada.paste(link);
  await shown(ada.message("Hello Ben!"));
  const { hash } = new URL(ada.page.url());
  await ada.page.goto(stage.server.origin + pathOf(link));
  await shown(ada.message("Hello Ben!"));
  expect(new URL(ada.page.url()).hash).toBe(hash);

  // one that is in a message opens here, too
  await ada.write(`Do you know ${altered(10)}`);
  await ada.message("Do you know").last().getByRole("link").click();
  await ada.see(/This is the link of \S*Ben/);
  stayedAtHome(ada);
});

/** A WebP picture without loss, of any size, in a few bytes: its head. */
function webp(width: number, height: number): Buffer {
  const data = Buffer.alloc(40);
  data.write("RIFF", 0, "latin1");
  data.writeUInt32LE(32, 4);
  data.write("WEBPVP8L", 8, "latin1");
  data.writeUInt32LE(20, 16);
  data[20] = 0x2f;
  data.writeUInt32LE(width - 1 + (height - 1) * 2 ** 14, 21);
  return data;
}
