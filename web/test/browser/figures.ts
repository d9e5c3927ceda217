/**
 * What the app costs a phone: the bytes of its first load, and how long a person waits in a chat of 10,000 messages.
 *
 * `python -m bench --only app` runs it and reads what it leaves in the file TAUBE_FIGURES; QUICK=1 takes fewer rounds. The
 * page is slowed down four times, as DevTools do it: that holds for the page, not for the engine's worker beside it. The
 * server and the account are real; the history is put into the app's store by the app's own code (history_page/).
 */

import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import type { BrowserContext, CDPSession, Page } from "playwright-core";
import { build } from "vite";
import { expect, test } from "vitest";
import { ALIASES } from "../../vite.config.ts";
import type { History } from "./history_page/main";
import { pathOf, shown, User, useStage } from "./people";
import { openPhone } from "./rig";

declare const filling: History;
/** Put into the page by `prepare`. */
declare const watch: {
  arm(event: string, sign: string): void;
  seen(): Promise<number>;
  frames(): { stop(): number[] };
};

const FILE = process.env.TAUBE_FIGURES ?? "";
const QUICK = Boolean(process.env.QUICK);
const APP = fileURLToPath(new URL("../../../src/taube/web/", import.meta.url));
const PAGE = fileURLToPath(new URL("history_page", import.meta.url));
const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript" };
const MESSAGES = 10_000;
const SLOWER = 4;
const OPENINGS = QUICK ? 3 : 7;
const SENDINGS = QUICK ? 5 : 15;
/** A quick swipe through some hundred messages. */
const SCROLL_PX = 20_000;
const SCROLL_PX_PER_S = 3_000;
const LONG_FRAME_MS = 34;

const stage = useStage();

test("figures", async () => {
  expect(FILE, "TAUBE_FIGURES names the file for the figures").not.toBe("");
  const figures = { ...(await firstLoad()), ...(await longChat()) };
  console.info(JSON.stringify(figures));
  await writeFile(FILE, JSON.stringify(figures));
});

// ---------------------------------------------------------------- the first load

/** What somebody's browser fetches until the invitation stands there, packed as the build packs it: kilobytes of 1,000. */
async function firstLoad(): Promise<Record<string, number>> {
  const phone = await openPhone(stage.chromium, stage.server, null, { serviceWorkers: "block" });
  try {
    await phone.page.goto(stage.server.origin + pathOf(await stage.server.invite()));
    await shown(phone.page.getByRole("heading", { name: "You are invited" }));
    await phone.page.waitForLoadState("networkidle");
    const paths = new Set(phone.requests.map((url) => new URL(url).pathname.slice(1)));
    const scripts = [...paths].filter((path) => /\.(js|css)$/.test(path));
    const core = (await readdir(`${APP}assets`))
      .filter((name) => name.endsWith(".wasm"))
      .map((name) => `assets/${name}`);
    expect(scripts.length).toBeGreaterThan(3);
    return { app_kb: await packedKb(scripts), core_kb: await packedKb(core) };
  } finally {
    await phone.close();
  }
}

async function packedKb(names: readonly string[]): Promise<number> {
  const sizes = await Promise.all(names.map(async (name) => gzipSync(await readFile(APP + name), { level: 9 }).length));
  return sizes.reduce((sum, each) => sum + each, 0) / 1000;
}

// ---------------------------------------------------------------- a long chat

async function longChat(): Promise<Record<string, number>> {
  const phone = await openPhone(stage.chromium, stage.server, null, { serviceWorkers: "block" });
  try {
    await phone.page.goto(stage.server.origin + pathOf(await stage.server.invite()));
    const ada = new User(phone, phone.page);
    await ada.join("Ada");
    await ada.add(await (await stage.person("Ben")).contactLink());
    await ada.write("Hello Ben!");
    await ada.tick("Hello Ben!", "sent", "delivered");
    await fill(phone.context, phone.page);
    await phone.page.addInitScript(prepare);
    const devtools = await phone.context.newCDPSession(phone.page);
    return { ...(await openings(ada, devtools)), ...(await sendings(ada, devtools)), ...(await frames(ada, devtools)) };
  } finally {
    await phone.close();
  }
}

async function fill(context: BrowserContext, page: Page): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "taube-history-"));
  const prefix = `${stage.server.origin}/history/`;
  try {
    await build({
      root: PAGE,
      base: "/history/",
      configFile: false,
      logLevel: "warn",
      publicDir: false,
      resolve: { alias: ALIASES },
      build: { outDir: folder, emptyOutDir: true, modulePreload: { polyfill: false } },
    });
    await context.route(`${prefix}**`, async (route) => {
      const name = route.request().url().slice(prefix.length) || "index.html";
      const contentType = TYPES[extname(name)] ?? "application/octet-stream";
      await route.fulfill({ contentType, body: await readFile(join(folder, name)) });
    });
    await page.goto(prefix);
    await page.waitForFunction(() => "filling" in globalThis);
    await page.evaluate((messages) => filling.fill(messages), MESSAGES);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs in every page: tells how long it took from an event of a person until something was painted. */
function prepare(): void {
  const painted = () =>
    new Promise<number>((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => resolve(performance.now());
      port2.postMessage(null); // comes after the frame that this turn belongs to
    });
  let result: Promise<number> = Promise.resolve(0);
  const watch = {
    /** From the next *event* until a row says *sign*. */
    arm(event: string, sign: string): void {
      result = new Promise((resolve) => {
        addEventListener(
          event,
          ({ timeStamp }) => {
            const look = async () => {
              const last = document.querySelector("[role=log] ul")?.lastElementChild;
              if (!last?.textContent?.includes(sign)) requestAnimationFrame(look);
              else resolve((await painted()) - timeStamp);
            };
            requestAnimationFrame(look);
          },
          { capture: true, once: true },
        );
      });
    },
    seen: () => result,
    /** The milliseconds from each frame to the next, until `stop`. */
    frames() {
      const times: number[] = [];
      let on = true;
      const tick = (at: number) => {
        times.push(at);
        if (on) requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
      return {
        stop() {
          on = false;
          return times.slice(1).map((at, index) => at - (times[index] ?? at));
        },
      };
    },
  };
  Object.assign(globalThis, { watch });
}

async function slow(devtools: CDPSession, rate: number): Promise<void> {
  await devtools.send("Emulation.setCPUThrottlingRate", { rate });
}

/** From the tap on a chat in the list until its newest message is seen; the app is loaded anew each time. */
async function openings(ada: User, devtools: CDPSession): Promise<Record<string, number>> {
  const times: number[] = [];
  for (let round = 0; round < OPENINGS; round += 1) {
    await ada.page.goto(`${stage.server.origin}/`);
    await shown(ada.chat("Ben"));
    await ada.page.waitForLoadState("networkidle");
    await slow(devtools, SLOWER);
    await ada.page.evaluate(() => watch.arm("click", "The newest"));
    await ada.chat("Ben").tap();
    times.push(await ada.page.evaluate(() => watch.seen()));
    await slow(devtools, 1);
    expect(await ada.messages.count()).toBeLessThanOrEqual(60);
  }
  return { open_ms: middle(times), open_most_ms: Math.max(...times) };
}

/** From the tap on Send until the message stands in the chat. */
async function sendings(ada: User, devtools: CDPSession): Promise<Record<string, number>> {
  const times: number[] = [];
  await slow(devtools, SLOWER);
  for (let round = 0; round < SENDINGS; round += 1) {
    const text = `Message ${round} of today`;
    await ada.field("Message").fill(text);
    await ada.page.evaluate((sign) => watch.arm("click", sign), text);
    await ada.button("Send").tap();
    times.push(await ada.page.evaluate(() => watch.seen()));
    await ada.tick(text, "sent", "delivered");
  }
  await slow(devtools, 1);
  return { sent_ms: middle(times), sent_most_ms: Math.max(...times) };
}

/** What a swipe through the history shows: the time from each frame to the next. */
async function frames(ada: User, devtools: CDPSession): Promise<Record<string, number>> {
  await slow(devtools, SLOWER);
  const counting = await ada.page.evaluateHandle(() => watch.frames());
  const swipe = { x: 195, y: 300, gestureSourceType: "touch", yDistance: SCROLL_PX, speed: SCROLL_PX_PER_S } as const;
  await devtools.send("Input.synthesizeScrollGesture", swipe);
  const times = await counting.evaluate((each) => each.stop());
  await slow(devtools, 1);
  times.sort((one, other) => one - other);
  const long = times.filter((each) => each > LONG_FRAME_MS).length;
  return {
    frame_ms: times[Math.floor(times.length * 0.95)] ?? 0,
    frame_middle_ms: middle(times),
    frame_most_ms: times.at(-1) ?? 0,
    frames: times.length,
    frames_long: long,
  };
}

function middle(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
