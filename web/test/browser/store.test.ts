/** The store in real browsers: locks between tabs, keys that stay, what a crash leaves, workers that fail. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import type * as puppeteer from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startFirefox } from "./rig";
import { type Site, serve } from "./site";
import type { StorePage } from "./store_page/main";

declare const page: StorePage;

const CHROMIUM = process.env.TAUBE_CHROMIUM ?? "/usr/bin/chromium";

let folder = "";
let site: Site;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "taube-store-"));
  site = await serve("store_page");
});

afterAll(async () => {
  await site.close();
  await rm(folder, { recursive: true, force: true });
});

let profiles = 0;

async function browser(profile: string): Promise<BrowserContext> {
  const args = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  return chromium.launchPersistentContext(join(folder, profile), { executablePath: CHROMIUM, args });
}

async function tab(context: BrowserContext): Promise<Page> {
  const opened = await context.newPage();
  await opened.goto(site.origin);
  return opened;
}

async function withChromium(work: (context: BrowserContext) => Promise<void>): Promise<void> {
  const context = await browser(`profile-${++profiles}`);
  try {
    await work(context);
  } finally {
    await context.close();
  }
}

describe("in Chromium", () => {
  test("two tabs work one after the other, and hear of each other", () =>
    withChromium(async (context) => {
      const tabs = [await tab(context), await tab(context)];
      for (const one of tabs) expect(await one.evaluate(() => page.open())).toBe(false);
      await Promise.all(tabs.map((one) => one.evaluate(() => page.count(25))));
      for (const one of tabs) {
        expect(await one.evaluate(() => page.read("count"))).toBe("50");
        await one.waitForFunction(() => page.heard().others === 25);
        expect(await one.evaluate(() => page.heard().mine)).toBe(25);
        expect(await one.evaluate(() => page.undone())).toBe("");
      }
    }));

  test("the keys do not come out, and what was written is there after the browser crashed (DEV-06)", async () => {
    const profile = `profile-${++profiles}`;
    const before = await browser(profile);
    const first = await tab(before);
    await first.evaluate(() => page.open());
    await first.evaluate(() => page.write("name", "kept"));
    expect(await first.evaluate(() => page.takeKeys())).toEqual(["InvalidAccessError", "InvalidAccessError"]);
    const ended = new Promise((resolve) => before.once("close", resolve));
    const session = await before.newCDPSession(first);
    session.send("Browser.crash").catch(() => {});
    await ended;
    const after = await browser(profile);
    const second = await tab(after);
    await second.evaluate(() => page.open());
    expect(await second.evaluate(() => page.read("name"))).toBe("kept");
    await after.close();
  });

  test("a database that was thrown away is told from one that never was", () =>
    withChromium(async (context) => {
      const only = await tab(context);
      expect(await only.evaluate(() => page.open())).toBe(false);
      await only.evaluate(() => page.account());
      await only.evaluate(() => page.loseDatabase());
      expect(await only.evaluate(() => page.open())).toBe(true);
    }));

  test("a worker that fails or hangs is started anew, and what it was asked is rejected", () =>
    withChromium(async (context) => {
      const only = await tab(context);
      const failure = { code: "internal", params: {} };
      expect(await only.evaluate(() => page.calls())).toEqual([3, failure, 7, failure, 11]);
    }));

  test.runIf(process.env.TAUBE_MEASURE)(
    "figures",
    () =>
      withChromium(async (context) => {
        for (const rate of [1, 4]) {
          const one = await tab(context);
          await one.evaluate(() => indexedDB.deleteDatabase("taube"));
          const session = await context.newCDPSession(one);
          await session.send("Emulation.setCPUThrottlingRate", { rate });
          console.log(`${rate}x`, JSON.stringify(await one.evaluate(() => page.measure(10_000)), null, 1));
          await one.close();
        }
      }),
    400_000,
  );
});

describe("in Firefox", () => {
  let firefox: puppeteer.Browser;

  beforeAll(async () => {
    firefox = await startFirefox();
  });
  afterAll(() => firefox.close());

  test("two tabs work one after the other, the keys do not come out, workers are started anew", async () => {
    const tabs = [await firefox.newPage(), await firefox.newPage()];
    for (const one of tabs) {
      await one.goto(site.origin);
      await one.evaluate(() => page.open());
    }
    await Promise.all(tabs.map((one) => one.evaluate(() => page.count(10))));
    expect(await tabs[0]?.evaluate(() => page.read("count"))).toBe("20");
    expect(await tabs[0]?.evaluate(() => page.takeKeys())).toEqual(["InvalidAccessError", "InvalidAccessError"]);
    const failure = { code: "internal", params: {} };
    expect(await tabs[1]?.evaluate(() => page.calls())).toEqual([3, failure, 7, failure, 11]);
  });
});
