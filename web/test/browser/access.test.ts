/**
 * Every screen for everybody: WCAG 2.2 AA in both themes and in a system's own colours, targets that a finger hits, text
 * of twice the size, Arabic and German on a small window, the keyboard alone, reduced motion, rows of a long chat.
 *
 * The screens have the engine of `fake_engine.ts`: what is looked at is how they are drawn. TAUBE_SCREENSHOTS=folder
 * keeps a picture of each.
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { idOf } from "../fake_engine";
import type { Gallery } from "../gallery/main";
import { faint, misfits, prepare, smallTargets, violations } from "./accessible";
import { PHONE, startChromium } from "./rig";
import { type Site, serve } from "./site";

declare const gallery: Gallery;

const PICTURE = fileURLToPath(new URL("../../public/icon-512.png", import.meta.url));
const PICTURES = process.env.TAUBE_SCREENSHOTS ?? "";
const AMINA = idOf(0);
const WAIT_MS = 30_000;

let site: Site;
let browser: Browser;

beforeAll(async () => {
  [site, browser] = await Promise.all([serve("../gallery"), startChromium(null)]);
  if (PICTURES) await mkdir(PICTURES, { recursive: true });
});
afterAll(async () => {
  await browser.close();
  await site.close();
});

interface Look {
  locale: "en" | "ar" | "de" | "hi";
  percent: 100 | 200;
  theme: "light" | "dark";
  wide: number;
  high: number;
}

const PLAIN: Look = { locale: "en", percent: 100, theme: "light", wide: 360, high: 640 };
const LOOKS: Look[] = [
  PLAIN,
  { ...PLAIN, locale: "ar", percent: 200, wide: 320 },
  { ...PLAIN, locale: "de", percent: 200, wide: 320 },
];
/** Those that are only to be looked at. */
const MORE: Look[] = [
  { ...PLAIN, theme: "dark" },
  { ...PLAIN, locale: "hi" },
  { ...PLAIN, wide: 390, high: 844 },
  { ...PLAIN, wide: 390, high: 844, theme: "dark", locale: "ar" },
  { ...PLAIN, wide: 390, high: 844, locale: "de" },
];

async function wear(page: Page, look: Look): Promise<void> {
  await page.setViewportSize({ width: look.wide, height: look.high });
  await page.evaluate(async ({ locale, percent, theme }) => {
    await gallery.app.chooseLocale(locale);
    gallery.app.chooseTextSize(percent);
    gallery.app.chooseTheme(theme);
    // rows of a chat find their place in several steps
    let before = "";
    for (let same = 0, n = 0; same < 3 && n < 300; n += 1) {
      await new Promise((drawn) => requestAnimationFrame(drawn));
      const now = [...document.querySelectorAll(".row-place, .scroll")]
        .map((each) => `${each.getBoundingClientRect().top} ${each.scrollHeight} ${each.scrollTop}`)
        .join();
      same = now === before ? same + 1 : 0;
      before = now;
    }
  }, look);
}

let visits = 0;

/** Load the screens anew, as *query* says, at *hash*. */
async function visit(page: Page, query: string, hash: string): Promise<void> {
  visits += 1;
  if (page.url().startsWith(site.origin)) await page.evaluate(() => localStorage.clear());
  await page.goto(`${site.origin}?messages=120&${query}&visit=${visits}#/${hash}`);
  await page.waitForFunction(() => "gallery" in window);
}

// ------------------------------------------------------------------ what is shown

interface Screen {
  query?: string;
  hash?: string;
  /** From there on, to what is to be looked at. */
  open?: (page: Page) => Promise<unknown>;
}

const click = (page: Page, name: string | RegExp) =>
  page.getByRole("button", { name }).or(page.getByRole("link", { name })).first().click();
const dialog = (page: Page) => page.locator("dialog[open]").last().waitFor();
const chat = (at: number, more = "") => `chat/${idOf(at)}${more}`;

async function toLink(page: Page): Promise<void> {
  await click(page, "I have an invitation");
  await page.getByRole("heading", { name: "Open your invitation" }).waitFor();
}

async function toName(page: Page): Promise<void> {
  await toLink(page);
  await page.locator("input[type=url]").fill("https://taube.example/i#secret");
  await click(page, "Continue");
  await page.getByRole("heading", { name: "You are invited" }).waitFor();
}

async function messageMenu(page: Page): Promise<void> {
  await page.locator(".row-place").last().focus();
  await page.keyboard.press("Enter");
  await dialog(page);
}

async function scanned(page: Page): Promise<void> {
  await click(page, "Scan their code");
  await page.locator(".outcome").waitFor();
}

const hint = (page: Page, text: RegExp) => page.getByText(text).waitFor();
const seen = (page: Page) => page.locator(".picture-open img").last().waitFor();

const SCREENS: Record<string, Screen> = {
  "the welcome": { query: "phase=none" },
  "the welcome, with a contact link": {
    query: "phase=none",
    open: (page) => page.evaluate(() => gallery.app.keepLink("https://taube.example/c#x")),
  },
  "the invitation": { query: "phase=none", open: toLink },
  "the invitation, refused": {
    query: "phase=none",
    open: async (page) => {
      await toLink(page);
      await page.locator("input[type=url]").fill("https://elsewhere.example/");
      await click(page, "Continue");
      await page.getByRole("alert").waitFor();
    },
  },
  "the invitation, scanned": {
    query: "phase=none",
    open: async (page) => {
      await toLink(page);
      await click(page, /QR code/);
      await page.getByRole("alert").waitFor();
    },
  },
  "no invitation": { query: "phase=none", open: (page) => click(page, "I have no invitation") },
  "the name": { query: "phase=none", open: toName },
  "the name, refused": {
    query: "phase=none",
    open: async (page) => {
      await toName(page);
      await page.locator("input[type=file]").setInputFiles(PICTURE);
      await click(page, "Start");
      await page.getByRole("alert").waitFor();
    },
  },

  "the chats": {},
  "the chats, with an installation": { query: "push=on", open: (page) => hint(page, /^Choose “Install Taube”/) },
  "the chats, on an iPhone": {
    query: "push=on&agent=iPhone",
    open: (page) => hint(page, /^Tap your browser’s Share button/),
  },
  "the chats, on Android": { query: "push=on&agent=Android", open: (page) => hint(page, /^Open your browser’s menu/) },
  "the chats, in Firefox": { query: "push=on&agent=Firefox", open: (page) => hint(page, /^Bookmark this page/) },
  "the chats, with a new version": {
    open: (page) =>
      page.evaluate(() => {
        gallery.app.update.value = () => {};
      }),
  },
  "the chats, offline": { query: "offline", open: (page) => page.locator(".banner").waitFor() },
  "the chats, read only": { query: "phase=replaced", open: (page) => click(page, "Only read the history") },
  "a chat's menu": {
    open: async (page) => {
      await page.locator(".chat-row").first().dispatchEvent("contextmenu");
      await dialog(page);
    },
  },
  "no chats": { query: "empty" },
  requests: { hash: "requests" },
  "no requests": { query: "empty", hash: "requests" },
  archived: { hash: "archived" },
  "nothing archived": { query: "empty", hash: "archived" },
  "the search": { hash: "search" },
  "the search, found": {
    hash: "search",
    open: async (page) => {
      await page.locator("input[type=search]").fill("am");
      await page.locator("mark").first().waitFor();
    },
  },
  "the search, nothing found": {
    hash: "search",
    open: async (page) => {
      await page.locator("input[type=search]").fill("xyzzy");
      await page.getByRole("heading", { name: "Nothing found" }).waitFor();
    },
  },

  "a conversation": { hash: chat(0), open: seen },
  "a conversation, scrolled": {
    hash: chat(0),
    open: async (page) => {
      await page.locator(".row-place").last().waitFor();
      await page.mouse.move(180, 300);
      await page.mouse.wheel(0, -3_000);
      await page.locator(".jump").waitFor();
    },
  },
  "a conversation, answering": {
    hash: chat(0),
    open: async (page) => {
      await messageMenu(page);
      await page.getByRole("menuitem", { name: "Reply" }).click();
      await page.locator(".answering").waitFor();
    },
  },
  "a conversation, hostile": { hash: chat(1), open: (page) => page.locator(".retry").waitFor() },
  "a conversation in Arabic, unread": { hash: chat(2), open: (page) => page.locator(".divider").waitFor() },
  "a conversation of a group": { hash: chat(11), open: (page) => page.locator(".sender").first().waitFor() },
  "a conversation, empty": { hash: chat(10) },
  "a conversation, blocked": { hash: chat(8) },
  "a conversation, unknown": { hash: "chat/dead" },
  "a conversation, on a wide window": { hash: chat(0), open: seen },
  "a request": { hash: chat(5), open: (page) => page.locator(".picture-ask").waitFor() },
  "a request of somebody": { hash: chat(12) },
  "a request, blocking": {
    hash: chat(12),
    open: async (page) => {
      await click(page, "Block");
      await dialog(page);
    },
  },
  "a message's menu": { hash: chat(0), open: messageMenu },
  "the photo's menu": {
    hash: chat(0),
    open: async (page) => {
      await click(page, "Add a photo");
      await dialog(page);
    },
  },
  "a photo, before it is sent": {
    hash: chat(0),
    open: async (page) => {
      await page.locator(".composer input[type=file]").first().setInputFiles(PICTURE);
      await page.locator(".preview-picture img").waitFor();
    },
  },
  "a photo, large": {
    hash: chat(0),
    open: async (page) => {
      await page.locator(".picture-open").last().click();
      await page.locator(".viewer img").waitFor();
    },
  },
  "what was said in passing": {
    hash: chat(0),
    open: async (page) => {
      await messageMenu(page);
      await page.getByRole("menuitem", { name: "Copy text" }).click();
      await page.locator(".toast").waitFor();
    },
  },

  "about a chat": { hash: chat(0, "/info") },
  "about a group": { hash: chat(11, "/info") },
  "a chat's name": {
    hash: chat(0, "/info"),
    open: async (page) => {
      await click(page, /^Change the name/);
      await dialog(page);
    },
  },
  "a chat, muted": {
    hash: chat(0, "/info"),
    open: async (page) => {
      await page.getByRole("switch", { name: "Mute" }).click();
      await dialog(page);
    },
  },
  "the safety number": { hash: chat(0, "/safety"), open: (page) => page.locator(".code").waitFor() },
  "the safety number, scanning": {
    hash: chat(0, "/safety"),
    open: async (page) => {
      await click(page, "Scan their code");
      await page.getByRole("alert").waitFor();
    },
  },
  "the safety number, right": {
    query: `sees=${code(AMINA)}`,
    hash: chat(0, "/safety"),
    open: scanned,
  },
  "the safety number, wrong": { query: "sees=taube-safety:1", hash: chat(0, "/safety"), open: scanned },
  "the safety number, none": { query: "sees=nothing", hash: chat(0, "/safety"), open: scanned },

  "my contact link": { hash: "contact" },
  "a contact": { hash: "add" },
  "a contact, found": {
    hash: "add",
    open: async (page) => {
      await page.locator("input[type=url]").fill("https://taube.example/c#x");
      await page.locator(".found-person").waitFor();
    },
  },
  "a contact, refused": {
    hash: "add",
    open: async (page) => {
      await page.locator("input[type=url]").fill("https://taube.example/");
      await page.getByRole("alert").waitFor();
    },
  },
  settings: { hash: "settings" },
  "the profile": { hash: "settings/profile" },
  "notifications, off": { hash: "settings/notifications" },
  "notifications, on": { query: "push=on", hash: "settings/notifications" },
  "notifications, denied": { query: "push=denied", hash: "settings/notifications" },
  "notifications, broken": { query: "push=broken", hash: "settings/notifications" },
  "notifications, not before installing": { query: "push=install", hash: "settings/notifications" },
  appearance: { hash: "settings/appearance" },
  language: { hash: "settings/language" },
  storage: { hash: "settings/storage" },
  "what the server knows": { hash: "settings/server", open: (page) => page.locator(".fact").last().waitFor() },
  about: { hash: "settings/about" },
  "deleting the account": { hash: "settings/delete" },
  "deleting the account, not confirmed": {
    hash: "settings/delete",
    open: async (page) => {
      await click(page, /for good$/);
      await page.getByRole("alert").waitFor();
    },
  },

  "used elsewhere": { query: "phase=replaced" },
  "being deleted": { query: "deleting", open: (page) => page.getByText("Your account is being deleted").waitFor() },
  deleted: { query: "phase=deleted" },
  "thrown away by the browser": { query: "phase=evicted" },
  damaged: { query: "phase=unreadable&failure=damaged" },
  "stored by a newer version": { query: "phase=unreadable&failure=newer" },
  "not started": { query: "broken", open: (page) => page.getByRole("heading", { name: /start/ }).waitFor() },
};

/** What the QR code of a chat's safety number says in the gallery. */
function code(id: string): string {
  const digits = Array.from({ length: 60 }, (_, at) => (Number.parseInt(id.slice(0, 6), 16) * (at + 7)) % 10);
  return `taube-safety:${digits.join("")}`;
}

describe("everybody can use", () => {
  let context: BrowserContext;
  let page: Page;

  beforeAll(async () => {
    context = await browser.newContext({ ...PHONE, deviceScaleFactor: PICTURES ? 2 : 1, reducedMotion: "reduce" });
    await prepare(context);
    page = await context.newPage();
  });
  afterAll(() => context.close());

  test.each(Object.entries(SCREENS))("%s", async (name, { query = "", hash = "", open }) => {
    const wide = name.endsWith("wide window") ? { wide: 1_280, high: 800 } : {};
    const picture = async (what: string) => {
      const path = `${name.replace(/[^a-z]+/gi, "-")}--${what}.png`;
      if (PICTURES) await page.screenshot({ path: join(PICTURES, path) });
    };
    await visit(page, query, hash);
    await wear(page, { ...PLAIN, ...wide });
    await open?.(page);

    expect.soft(await violations(page)).toEqual([]);
    expect.soft(await page.evaluate(() => document.getAnimations().length), "moves").toBe(0);
    await page.emulateMedia({ forcedColors: "active" });
    expect.soft(await faint(page), "in the system's colours").toEqual([]);
    await picture("forced");
    await page.emulateMedia({ forcedColors: "none" });
    await wear(page, { ...PLAIN, ...wide, theme: "dark" });
    expect.soft(await faint(page), "dark").toEqual([]);

    for (const each of wide.wide ? [{ ...PLAIN, ...wide }] : LOOKS) {
      await wear(page, each);
      const what = `${each.locale}-${each.percent}-${each.theme}-${each.wide}`;
      await picture(what);
      expect.soft(await misfits(page), what).toEqual([]);
      expect.soft(await smallTargets(page), what).toEqual([]);
    }
    for (const each of PICTURES && !wide.wide ? MORE : []) {
      await wear(page, each);
      await picture(`${each.locale}-${each.percent}-${each.theme}-${each.wide}`);
    }
  });
});

describe("by the keyboard alone", () => {
  let context: BrowserContext;
  let page: Page;

  beforeEach(async () => {
    context = await browser.newContext({ viewport: { width: 390, height: 844 }, locale: "en-GB" });
    page = await context.newPage();
  });
  afterEach(() => context.close());

  const press = (...keys: string[]) =>
    keys.reduce((done, key) => done.then(() => page.keyboard.press(key)), Promise.resolve());
  const focused = (selector: string) =>
    page.waitForFunction((wanted) => document.activeElement?.matches(wanted), selector, { timeout: WAIT_MS });

  /** Go on with Tab (or *key*) to what *selector* says; whatever has the focus on the way is marked so that it is seen. */
  async function to(selector: string, key = "Tab"): Promise<void> {
    for (let n = 0; n < 60; n += 1) {
      await page.keyboard.press(key);
      const { there, outlined, what } = await page.evaluate((wanted) => {
        const now = document.activeElement;
        const around = [now, now?.closest("label"), ...(now?.querySelectorAll(".bubble, .notice") ?? [])];
        const outlined = around.some((each) => {
          const style = each && getComputedStyle(each);
          return style && style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 2;
        });
        return { there: now?.matches(wanted), outlined, what: now?.outerHTML.slice(0, 200) };
      }, selector);
      if (what?.startsWith("<body")) continue;
      expect(outlined, `is the focus seen on ${what}`).toBe(true);
      if (there) return;
    }
    throw new Error(`${key} does not lead to ${selector}`);
  }

  test("one comes from the welcome to a message that is sent, answers one, and back", async () => {
    await visit(page, "phase=none", "");
    await to(".welcome-page .button");
    await press("Enter");
    await focused("h1");
    await to("input[type=url]");
    await page.keyboard.type("https://taube.example/i#secret");
    await press("Enter");
    await page.getByRole("heading", { name: "You are invited" }).waitFor();
    await focused("h1");
    await to("input[name=name]");
    await page.keyboard.type("Vera");
    await press("Enter");
    await page.locator(".chat-row").first().waitFor();

    await to(`.chat-row[href="#/${chat(0)}"]`);
    await press("Enter");
    await focused(".writing-field");
    await page.keyboard.type("Written without a finger");
    await press("Enter");
    await page.locator(".row-place", { hasText: "Written without a finger" }).waitFor();
    await focused(".writing-field");

    await to(".row-place", "Shift+Tab");
    await press("ArrowUp", "ArrowUp", "ArrowDown", "Enter");
    await focused("[role=menuitem]");
    const row = await page.evaluate(() => document.querySelectorAll("dialog[open]").length);
    expect(row).toBe(1);
    await press("Escape");
    await focused(".row-place");
    await press("Enter");
    await focused("[role=menuitem]");
    await press("Enter"); // Reply stands first
    await focused(".writing-field");
    await page.locator(".answering").waitFor();
    await page.keyboard.type("An answer");
    await press("Enter");
    await page.locator(".row-place", { hasText: "An answer" }).locator(".quote").waitFor();

    await to(".composer .icon-button", "Shift+Tab");
    await press("Enter");
    await focused("[role=menuitem]:first-child");
    await press("ArrowDown");
    await focused("[role=menuitem]:last-child");
    await press("ArrowDown", "Escape");
    await focused(".composer .icon-button");

    await to(".head .back", "Shift+Tab");
    await press("Enter");
    await focused(`.chat-row[href="#/${chat(0)}"]`);
  });

  test("a dialog keeps the focus, gives it back, and Escape closes it", async () => {
    await visit(page, "", chat(0, "/info"));
    await focused("h1");
    await to("[role=switch]");
    await to(".row.danger");
    await press("Enter");
    await page.locator("dialog[open]").waitFor();
    for (let n = 0; n < 6; n += 1) {
      await press("Tab");
      // after its last element the browser's own bar has its turn, never the page behind
      expect(await page.evaluate(() => document.activeElement?.closest("dialog, body")?.tagName)).toBeOneOf([
        "DIALOG",
        "BODY",
      ]);
      expect(
        await page.evaluate(
          () => document.activeElement?.matches(".pane *") && !document.activeElement.closest("dialog"),
        ),
      ).toBe(false);
    }
    await press("Escape");
    await page.locator("dialog").waitFor({ state: "detached" });
    await focused(".row.danger");
    await to(".row.danger ~ *, .head .back", "Shift+Tab");
  });

  test("the chats' menus, and the way back from every screen of the list", async () => {
    await visit(page, "", "");
    await page.locator(".chat-row").first().waitFor();
    await to(".chat-more");
    await press("Enter");
    await focused("[role=menuitem]");
    await press("ArrowUp");
    await focused("[role=menuitem]:last-child");
    await press("Escape");
    await focused(".chat-more");
    for (const way of ["#/search", "#/contact", "#/settings", "#/requests", "#/archived", "#/add"]) {
      await to(`a[href="${way}"]`, way === "#/search" ? "Shift+Tab" : "Tab");
      await press("Enter");
      await page.locator(".pane-main .head").waitFor();
      await focused(".pane-main :is(h1, input)");
      await to(".pane-main .back", "Shift+Tab");
      await press("Enter");
      await focused(`a[href="${way}"]`);
    }
  });
});

test("what moves does not, for whoever asks for that", async () => {
  const moving = async (reducedMotion: "reduce" | "no-preference") => {
    const context = await browser.newContext({ ...PHONE, reducedMotion });
    const page = await context.newPage();
    await visit(page, "", chat(0));
    await page.locator(".row-place").last().waitFor();
    const longest = page.evaluate(
      () =>
        new Promise<number>((answer) => {
          let longest = 0;
          const look = () => {
            for (const each of document.getAnimations()) {
              const { duration, iterations } = each.effect?.getComputedTiming() ?? {};
              longest = Math.max(longest, Number(duration) * (iterations ?? 1));
            }
            if (document.querySelector("dialog[open] [role=menuitem]:focus")) answer(longest);
            else requestAnimationFrame(look);
          };
          look();
        }),
    );
    await page.locator(".composer .icon-button").click();
    const found = await longest;
    await context.close();
    return found;
  };
  expect(await moving("no-preference")).toBeGreaterThan(100);
  expect(await moving("reduce")).toBeLessThan(1);
});

test("who is at the end of a chat stays there, when the keyboard comes, the window turns or the text grows", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  await visit(page, "", chat(0));
  await page.locator(".row-place").last().waitFor();
  const atEnd = () =>
    page.waitForFunction(
      () => {
        const list = document.querySelector(".messages");
        return list && list.scrollHeight - list.scrollTop - list.clientHeight < 4 && !document.querySelector(".jump");
      },
      undefined,
      { timeout: WAIT_MS },
    );
  await atEnd();
  await seen(page);
  await atEnd();
  for (const look of [
    { high: 420 },
    { high: 844 },
    { wide: 844, high: 390 },
    { percent: 200 as const },
    { wide: 320 },
  ]) {
    await wear(page, { ...PLAIN, ...look });
    await atEnd();
  }
  await scrollUp(page);
  await wear(page, { ...PLAIN, high: 420 });
  await page.locator(".jump").waitFor();
  await context.close();
});

test("who does not want to wait for the next attempt to connect has it made at once", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  await visit(page, "offline", "");
  await click(page, "Try again");
  await page.locator(".banner").waitFor({ state: "detached", timeout: WAIT_MS });
  await context.close();
});

test("a theme and a size of text that change reach what is open already", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  await visit(page, "", chat(0));
  const said = page.locator(".text").last();
  await said.waitFor();
  const styles = () => said.evaluate((text) => [getComputedStyle(text).color, getComputedStyle(text).fontSize]);
  const before = await styles();
  await wear(page, { ...PLAIN, theme: "dark", percent: 200 });
  const after = await styles();
  expect(before[1]).toBe("16px");
  expect(after[1]).toBe("32px");
  expect(after[0]).not.toBe(before[0]);
  await context.close();
});

test("what was refused stands in sight, above what was tapped", async () => {
  const context = await browser.newContext({ ...PHONE, viewport: { width: 360, height: 640 } });
  const page = await context.newPage();
  await visit(page, "phase=none", "");
  await toName(page);
  await page.evaluate(() => {
    gallery.engine.join = () => Promise.reject({ code: "invitation_unknown", params: {} });
  });
  await page.locator("input[type=file]").setInputFiles(PICTURE);
  await page.getByRole("textbox", { name: "Your name" }).fill("Ada");
  await click(page, "Start");
  const [said, start] = [page.getByRole("alert"), page.getByRole("button", { name: "Start" })];
  await said.waitFor();
  await expect.poll(() => isInSight(said)).toBe(true);
  expect((await said.boundingBox())?.y).toBeLessThan((await start.boundingBox())?.y ?? 0);
  await context.close();
});

test("a file that is no photo is refused at the photo, with what to choose, and the name is not marked", async () => {
  const context = await browser.newContext({ ...PHONE, viewport: { width: 360, height: 640 } });
  const page = await context.newPage();
  await visit(page, "phase=none", "");
  await toName(page);
  const [name, photo] = [page.getByRole("textbox", { name: "Your name" }), page.locator("input[type=file]")];
  const notes = Buffer.from("# Notes\n");
  for (const buffer of [notes, Buffer.from([0xff, 0xd8, 0xff, 0xe0, 1, 2, 3]), Buffer.alloc(0)]) {
    await photo.setInputFiles({ name: "photo.jpg", mimeType: "image/jpeg", buffer });
    await hint(page, /Choose a photo, such as a JPEG or PNG\.$/);
    expect(await photo.getAttribute("aria-invalid")).toBe("true");
    expect(await name.getAttribute("aria-invalid")).toBe("false");
    await photo.setInputFiles(PICTURE);
    await page.getByRole("alert").waitFor({ state: "detached" });
  }
  await photo.setInputFiles({ name: "README.md", mimeType: "text/markdown", buffer: notes });
  await click(page, "Start");
  expect(await name.getAttribute("aria-invalid")).toBe("true");
  expect(await name.evaluate((field) => field === document.activeElement)).toBe(true);
  const alerts = page.getByRole("alert");
  await expect.poll(() => alerts.count()).toBe(2);
  const [first, second] = [await alerts.first().boundingBox(), await name.boundingBox()];
  expect(first?.y).toBeLessThan(second?.y ?? 0);
  await context.close();
});

test("after a reload, one step back closes what the page opened again", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  await visit(page, "phase=none", "");
  await toName(page);
  for (let n = 0; n < 2; n += 1) {
    await page.reload();
    await page.getByRole("heading", { name: "You are invited" }).waitFor();
  }
  await page.evaluate(() => history.back());
  await page.getByRole("heading", { name: "Taube", exact: true }).waitFor();
  await visit(page, "", chat(0, "/info"));
  await click(page, "Block");
  await dialog(page);
  await page.reload();
  await click(page, "Block");
  await dialog(page);
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
  await click(page, "Block");
  await dialog(page);
  await page.evaluate(() => history.back());
  await page.locator("dialog").waitFor({ state: "detached" });
  expect(await page.evaluate(() => location.hash)).toMatch(/info$/);
  await context.close();
});

test("what is clicked three times at once is done once", async () => {
  const context = await browser.newContext({ ...PHONE, reducedMotion: "reduce" });
  const page = await context.newPage();
  const thrice = (name: string) =>
    page
      .getByRole("button", { name, exact: true })
      .last()
      .evaluate((button: HTMLElement) => {
        for (let n = 0; n < 3; n += 1) button.click();
      });
  const count = (name: "sendPhoto" | "sendText" | "join" | "add" | "setProfile" | "accept") =>
    page.evaluate((called) => {
      const { engine } = gallery;
      const act = engine[called].bind(engine) as (...given: unknown[]) => Promise<never>;
      Object.assign(window, { calls: 0 });
      Object.assign(engine, {
        [called]: (...given: unknown[]) => {
          Object.assign(window, { calls: (window as unknown as { calls: number }).calls + 1 });
          return act(...given);
        },
      });
    }, name);
  const calls = () => page.evaluate(() => (window as unknown as { calls: number }).calls);
  await visit(page, "", chat(0));
  await count("sendPhoto");
  await page.locator(".composer input[type=file]").first().setInputFiles(PICTURE);
  await page.getByRole("textbox", { name: "Add a caption" }).fill("once");
  await thrice("Send");
  await page.locator(".bubble-media").getByText("once").first().waitFor();
  await expect.poll(calls).toBe(1);
  await count("sendText");
  await page.getByRole("textbox", { name: "Message" }).fill("once more");
  await thrice("Send");
  await page.locator(".line-mine").getByText("once more").first().waitFor();
  await expect.poll(calls).toBe(1);
  await visit(page, "phase=none", "");
  await toName(page);
  await count("join");
  await page.getByRole("textbox", { name: "Your name" }).fill("Ada");
  await thrice("Start");
  await page.locator(".pane-list").waitFor();
  expect(await calls()).toBe(1);
  await visit(page, "", "add");
  await count("add");
  await page.locator("input[type=url]").fill("https://taube.example/c#x");
  await page.locator(".found-person").waitFor();
  await thrice("Start the chat");
  await page.locator(".conversation").waitFor();
  expect(await calls()).toBe(1);
  await visit(page, "", "settings/profile");
  await count("setProfile");
  await thrice("Save");
  await page.locator(".toast").waitFor();
  expect(await calls()).toBe(1);
  await visit(page, "", chat(5));
  await count("accept");
  await thrice("Accept");
  await page.locator(".composer").waitFor();
  expect(await calls()).toBe(1);
  await context.close();
});

test("who answers a message stays where they read, and a message at the end stays above the answer", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  const swipe = async (row: Locator) => {
    const place = await row.locator(".bubble").boundingBox();
    if (!place) throw new Error("the message is not in sight");
    const touch = await context.newCDPSession(page);
    const [x, y] = [place.x + 20, Math.max(place.y, 90) + 20];
    const send = (type: "touchStart" | "touchMove" | "touchEnd", by: number) =>
      touch.send("Input.dispatchTouchEvent", { type, touchPoints: type === "touchEnd" ? [] : [{ x: x + by, y }] });
    await send("touchStart", 0);
    for (let by = 12; by <= 96; by += 12) await send("touchMove", by);
    await send("touchEnd", 96);
    await page.locator(".answering").waitFor();
  };
  const list = page.locator(".messages");
  for (const messages of [120, 1]) {
    await visit(page, `messages=${messages}`, chat(0));
    await page.locator(".row-place").last().waitFor();
    await page.getByRole("textbox", { name: "Message" }).fill("many words ".repeat(400));
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await page.locator(".line-mine .link-button").waitFor();
    await wear(page, { ...PLAIN, wide: 390, high: 844 });
    await page.mouse.move(160, 300);
    const atTop = async () => {
      // by hand, or, where all rows are known, as a search in the page does it
      if (messages === 1) await list.evaluate((element) => element.scrollTo({ top: 0 }));
      else await page.mouse.wheel(0, -2_000);
      await wear(page, { ...PLAIN, wide: 390, high: 844 });
      return list.evaluate(
        (element, id) => element.scrollTop === 0 && !gallery.app.conversation(id).before.peek(),
        AMINA,
      );
    };
    await expect.poll(atTop, { timeout: WAIT_MS }).toBe(true);
    const first = page.locator(".row-place:has(.bubble)").first();
    const before = await first.boundingBox();
    await swipe(first);
    await wear(page, { ...PLAIN, wide: 390, high: 560 }); // the keyboard
    expect(Math.abs(((await first.boundingBox())?.y ?? 0) - (before?.y ?? 0)), `of ${messages}`).toBeLessThan(4);
  }
  await visit(page, "", chat(0));
  await seen(page);
  await wear(page, { ...PLAIN, wide: 390, high: 844 });
  const last = page.locator(".row-place").last();
  await last.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: "Reply" }).click();
  await page.locator(".answering").waitFor();
  await wear(page, { ...PLAIN, wide: 390, high: 560 });
  const [row, answer] = [await last.boundingBox(), await page.locator(".composer").boundingBox()];
  expect((row?.y ?? 0) + (row?.height ?? 0)).toBeLessThanOrEqual((answer?.y ?? 0) + 1);
  await context.close();
});

test("a caption is as wide as its photo, and what stands together begins together and covers nothing", async () => {
  const context = await browser.newContext({ ...PHONE, reducedMotion: "reduce" });
  const page = await context.newPage();
  await visit(page, "", chat(0));
  const portrait = await page.evaluate(async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 300, height: 600 });
    canvas.getContext("2d")?.fillRect(0, 0, 300, 600);
    return canvas.toDataURL("image/png").split(",")[1] ?? "";
  });
  const file = { name: "portrait.png", mimeType: "image/png", buffer: Buffer.from(portrait, "base64") };
  await page.locator(".composer input[type=file]").first().setInputFiles(file);
  await page
    .getByRole("textbox", { name: "Add a caption" })
    .fill("A caption that is a good deal wider than a portrait");
  await page.locator(".over-full").getByRole("button", { name: "Send", exact: true }).click();
  const bubble = page.locator(".bubble-media").filter({ hasText: "a good deal wider" });
  await bubble.locator("img").waitFor();
  const [around, photo] = [await bubble.boundingBox(), await bubble.locator(".picture").boundingBox()];
  expect((around?.width ?? 0) - (photo?.width ?? 0)).toBeLessThanOrEqual(10);

  await page.getByRole("textbox", { name: "Message" }).fill("many words ".repeat(400));
  await page.getByRole("button", { name: "Send", exact: true }).click();
  const more = page.locator(".line-mine .link-button").last();
  await more.waitFor();
  const starts = await more.evaluate((button) => {
    const left = (element: Element | null | undefined) => {
      const words = document.createRange();
      words.selectNodeContents(element as Element);
      return words.getBoundingClientRect().left;
    };
    return [left(button), left(button.parentElement?.querySelector(".words"))];
  });
  expect(Math.abs((starts[0] ?? 0) - (starts[1] ?? 0))).toBeLessThan(1);
  await context.close();

  const wide = await browser.newPage({ viewport: { width: 1200, height: 800 } });
  await visit(wide, "", "");
  const unread = wide.locator(".chat-item:has(.badge)").first();
  await unread.hover();
  const dots = await unread.locator(".chat-more").boundingBox();
  for (const sign of ["time", ".badge"]) {
    const { x = 0, width = 0 } = (await unread.locator(sign).boundingBox()) ?? {};
    expect(x + width, sign).toBeLessThanOrEqual(dots?.x ?? 0);
  }
  await wide.close();
});

test("what is said in passing covers neither what adds a contact nor the end of the settings", async () => {
  const context = await browser.newContext({ ...PHONE, reducedMotion: "reduce" });
  const page = await context.newPage();
  const toast = page.locator(".toast");
  await visit(page, "", chat(5));
  await click(page, "Ignore");
  await toast.waitFor();
  const [said, add] = [await toast.boundingBox(), await page.locator(".fab").boundingBox()];
  expect((said?.y ?? 0) + (said?.height ?? 0)).toBeLessThanOrEqual((add?.y ?? 0) - 8);
  await visit(page, "", "settings/profile");
  await click(page, "Save");
  await toast.waitFor();
  const [saved, last] = [await toast.boundingBox(), await page.locator(".pane-main .row").last().boundingBox()];
  expect((last?.y ?? 0) + (last?.height ?? 0)).toBeLessThanOrEqual(saved?.y ?? 0);
  await context.close();
});

test("what the server knows is told in words, the values behind a tap, and only once it has answered", async () => {
  const context = await browser.newContext({ ...PHONE, viewport: { width: 360, height: 640 } });
  const page = await context.newPage();
  await visit(page, "offline", "settings/server");
  await hint(page, /^The server does not answer/);
  expect(await page.getByText("This is everything").count()).toBe(0);
  await click(page, "Try again");
  await hint(page, /^This is everything that the server has stored/);
  for (const entry of ["Your network address", "How much you have used", "Your connection"])
    expect(await page.getByText(entry, { exact: true }).isVisible(), entry).toBe(true);
  const value = page.getByText("device 55aa02…, mailbox 18");
  expect(await value.isVisible()).toBe(false);
  await page.getByText("Which mailbox belongs to it").click();
  await value.waitFor();
  await wear(page, { ...PLAIN, locale: "de" });
  const [head, title] = [await page.locator(".pane-main > .head").boundingBox(), page.locator(".head-title")];
  const room = await title.last().evaluate((element) => {
    const words = document.createRange();
    words.selectNodeContents(element);
    return words.getBoundingClientRect().top;
  });
  expect(room - (head?.y ?? 0)).toBeGreaterThanOrEqual(8);
  await context.close();
});

test("the time stands clear of the words and at their end, and signs grow with the text", async () => {
  const context = await browser.newContext({ ...PHONE, viewport: { width: 360, height: 640 } });
  const page = await context.newPage();
  await visit(page, "", chat(0));
  const field = page.getByRole("textbox", { name: "Message" });
  const long = "many words ".repeat(400);
  for (const text of [long, "offline msg", "a", "offline msgs, and more"]) {
    await field.fill(text);
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await page
      .locator(".line-mine .words")
      .filter({ hasText: text.slice(0, 30) })
      .last()
      .waitFor();
  }
  for (const percent of [100, 200] as const) {
    await wear(page, { ...PLAIN, percent });
    const places = await page.evaluate(() =>
      [...document.querySelectorAll(".line-mine .said")].slice(-4).map((said) => {
        const words = document.createRange();
        words.selectNodeContents(said.querySelector(".words") as Element);
        const lines = [...words.getClientRects()];
        const time = said.querySelector(".meta")?.getBoundingClientRect() as DOMRect;
        const more = said.querySelector(".link-button")?.getBoundingClientRect();
        const beside = lines.filter((line) => line.bottom > time.top + 3 && line.top < time.bottom - 3);
        return {
          gap: Math.min(99, ...beside.map((line) => time.left - line.right)),
          isLast: !more || (time.top + time.bottom) / 2 >= (more.top + more.bottom) / 2 - 1,
        };
      }),
    );
    expect(Math.min(...places.map(({ gap }) => gap))).toBeGreaterThanOrEqual(8);
    expect(places.map(({ isLast }) => isLast)).toEqual([true, true, true, true]);
    for (const place of [".head-chat", ".writing"])
      expect((await page.locator(`${place} .icon`).first().boundingBox())?.width).toBe(percent === 100 ? 24 : 34);
  }
  await context.close();
});

test("the caption under a large photo has no marks", async () => {
  const context = await browser.newContext({ ...PHONE, reducedMotion: "reduce" });
  const page = await context.newPage();
  await visit(page, "", chat(0));
  await page.locator(".composer input[type=file]").first().setInputFiles(PICTURE);
  await page.getByRole("textbox", { name: "Add a caption" }).fill("A **tall** _tree_");
  await page.locator(".over-full").getByRole("button", { name: "Send", exact: true }).click();
  await page.locator(".bubble-media strong").getByText("tall").waitFor();
  await page.locator(".picture-open").last().click();
  await expect.poll(() => page.locator(".viewer-caption").textContent()).toBe("A tall tree");
  await context.close();
});

test("a link is found in the text that it was sent in", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  const field = page.locator("input[type=url]");
  const paste = (text: string) =>
    field.evaluate((element, pasted) => {
      const clipboardData = new DataTransfer();
      clipboardData.setData("text", pasted);
      element.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }, text);
  await visit(page, "", "add");
  await paste("Write to me on Taube:\nhttps://taube.example/c#x\nSee you!");
  await page.locator(".found-person").waitFor();
  expect(await field.inputValue()).toBe("https://taube.example/c#x");
  await field.fill("Write to me on Taube: https://taube.example/c#xy.");
  await page.locator(".found-person").waitFor();
  await field.fill(" ");
  await field.press("Enter");
  await hint(page, /^Paste the link first\.$/);
  await visit(page, "phase=none", "");
  await toLink(page);
  await click(page, "Continue");
  await hint(page, /^Paste the link first\.$/);
  await field.fill("hello");
  await click(page, "Continue");
  await hint(page, /^That is not a Taube link\. It looks like \S+\/i#… – copy all of it\.$/);
  await paste("Come to Taube: https://taube.example/i#secret, it is quiet.");
  await page.getByRole("heading", { name: "You are invited" }).waitFor();
  await context.close();
});

test("of 10,000 messages at most 60 rows are in the document, however one goes through them", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  await page.goto(`${site.origin}?messages=10000#/${chat(0)}`);
  await page.locator(".row-place").last().waitFor();
  const most = await page.evaluate(
    (rowsUp) =>
      new Promise<number>((answer) => {
        const list = document.querySelector(".messages");
        let most = 0;
        const up = () => {
          const rows = document.querySelectorAll<HTMLElement>(".row-place");
          most = Math.max(most, rows.length);
          const before = gallery.app.conversation(location.hash.split("/")[2] ?? "").messages.value.length;
          if (before > rowsUp) answer(most);
          else {
            list?.dispatchEvent(new WheelEvent("wheel"));
            list?.scrollBy(0, -4_000);
            requestAnimationFrame(up);
          }
        };
        up();
      }),
    1_500,
  );
  expect(most).toBeGreaterThan(8);
  expect(most).toBeLessThanOrEqual(60);
  await page.locator(".jump").click();
  await page.locator(".row-place", { hasText: "I am on my way." }).waitFor();
  expect(await page.locator(".row-place").count()).toBeLessThanOrEqual(60);
  await context.close();
});

test("rows that come by the thousand leave everybody where they read, and the window stays small", async () => {
  const context = await browser.newContext(PHONE);
  const page = await context.newPage();
  const text = (what: string) => page.locator(".row-place", { hasText: what });
  const flood = (count: number, what: string) =>
    page.evaluate(
      ([id, many, words]) => {
        gallery.engine.flood(id, many, words);
        return gallery.app.conversation(id).messages.value.length;
      },
      [AMINA, count, what] as const,
    );
  await page.goto(`${site.origin}?messages=200#/${chat(0)}`);
  await text("I am on my way.").waitFor();

  // at the end: the newest are seen, at once or wave after wave
  for (const [what, count] of [
    ["all", 3_000],
    ["wave", 100],
    ["again", 300],
  ] as const) {
    await flood(count, what);
    await text(`${what} ${count}`).waitFor({ timeout: WAIT_MS });
    expect(await flood(0, "")).toBeLessThanOrEqual(1_100);
    expect(await page.locator(".divider").count()).toBe(0);
  }
  await page.waitForFunction(() => !document.querySelector(".jump"), undefined, { timeout: WAIT_MS });

  // further up: what is read stays where it is, whatever comes
  await scrollUp(page);
  await wear(page, PLAIN);
  const inSight = () =>
    page.evaluate(() => {
      const list = document.querySelector(".messages")?.getBoundingClientRect();
      const rows = [...document.querySelectorAll(".row-place")].map(
        (row) => [row, row.getBoundingClientRect()] as const,
      );
      const top = rows.find(([, place]) => list && place.top >= list.top);
      return [top?.[0].textContent, Math.round(top?.[1].top ?? 0)];
    });
  const before = await inSight();
  for (const what of ["below", "more"]) {
    await flood(2_000, what);
    await wear(page, PLAIN);
    expect(await inSight()).toEqual(before);
    expect(await flood(0, "")).toBeLessThanOrEqual(1_100);
  }
  await page.locator(".jump").click();
  await text("more 2000").waitFor({ timeout: WAIT_MS });
  expect(await flood(0, "")).toBeLessThanOrEqual(1_100);
  await context.close();
});

/** Leave the end of the chat that is open, by the wheel, until the way back to it is offered. */
/** Whether all of *what* is within the window. */
function isInSight(what: Locator): Promise<boolean> {
  return what.evaluate((element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  });
}

async function scrollUp(page: Page): Promise<void> {
  await page.mouse.move(160, 300);
  await expect
    .poll(
      async () => {
        await page.mouse.wheel(0, -300);
        return page.locator(".jump").isVisible();
      },
      { timeout: WAIT_MS },
    )
    .toBe(true);
}
