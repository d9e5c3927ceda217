/**
 * Real browsers for tests: the distribution's Chromium and Firefox, without a window, on a server of our own.
 *
 *     const server = await TestServer.start();          // or start("chat.test") for TLS under a name
 *     const chromium = await startChromium(server);
 *     const phone = await openPhone(chromium, server);  // one person's browser profile with one page
 *     …
 *     expect(phone.problems).toEqual([]);               // nothing refused, nothing failed, nothing written to the console
 *
 * The app is the one that `make dev` built last.
 */

import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import * as puppeteer from "puppeteer-core";
import type { TestServer } from "../server";

const CHROMIUM = process.env.TAUBE_CHROMIUM ?? "/usr/bin/chromium";
const FIREFOX = process.env.TAUBE_FIREFOX ?? "/usr/bin/firefox-esr";
/** A phone of the cheaper kind. */
export const PHONE: BrowserContextOptions = {
  viewport: { width: 390, height: 844 },
  deviceScaleFactor: 2,
  hasTouch: true,
  isMobile: true,
  locale: "en-GB",
  timezoneId: "Europe/Berlin",
  serviceWorkers: "allow",
};

function chromiumArguments(server: TestServer | null): string[] {
  const quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync"];
  const options = [...quiet, "--disable-background-networking"];
  if (process.getuid?.() === 0) options.push("--no-sandbox");
  if (server !== null && server.name !== null) {
    const { publicKey } = new X509Certificate(readFileSync(server.certificate));
    const key = createHash("sha256")
      .update(publicKey.export({ type: "spki", format: "der" }))
      .digest("base64");
    options.push(`--ignore-certificate-errors-spki-list=${key}`);
    options.push(`--host-resolver-rules=MAP ${server.name} ${server.address}`);
  }
  return options;
}

/** Chromium, told to trust the server's certificate and to find its name; null: for pages on loopback without one.
 * Close it when done. */
export async function startChromium(server: TestServer | null, more: readonly string[] = []): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM, args: [...chromiumArguments(server), ...more] });
}

/** Firefox, over WebDriver BiDi; for http on loopback only. Close it when done. */
export async function startFirefox(preferences: Record<string, unknown> = {}): Promise<puppeteer.Browser> {
  return puppeteer.launch({
    browser: "firefox",
    executablePath: FIREFOX,
    headless: true,
    extraPrefsFirefox: preferences,
  });
}

/** One person's browser: a profile and a page in it. */
export interface Phone {
  readonly context: BrowserContext;
  readonly page: Page;
  /** What a page should never say or do: errors, warnings, violations of its rules, requests that failed. */
  readonly problems: string[];
  /** Every address that was asked for, as the browser sent it. */
  readonly requests: string[];
  close(): Promise<void>;
}

/** A fresh profile, in memory, with the page at *path*; null: no page is opened yet. */
export async function openPhone(
  browser: Browser,
  server: TestServer,
  path: string | null = "/",
  options: BrowserContextOptions = {},
): Promise<Phone> {
  return phoneIn(await browser.newContext({ ...PHONE, ...options }), server, path);
}

/** A profile on disk, as an installed app has it; the browser goes with it. */
export async function openInstalledPhone(server: TestServer, path: string | null = "/"): Promise<Phone> {
  const folder = await mkdtemp(join(tmpdir(), "taube-profile-"));
  const phone = await openProfile(server, folder, path);
  return {
    ...phone,
    close: async () => {
      await phone.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The profile in *folder*, in a browser of its own; closing that leaves the folder for the next one. */
export async function openProfile(
  server: TestServer,
  folder: string,
  path: string | null = "/",
  options: BrowserContextOptions = {},
): Promise<Phone> {
  const launch = { ...PHONE, ...options, executablePath: CHROMIUM, args: chromiumArguments(server) };
  return phoneIn(await chromium.launchPersistentContext(folder, launch), server, path);
}

async function phoneIn(context: BrowserContext, server: TestServer, path: string | null): Promise<Phone> {
  const problems: string[] = [];
  const requests: string[] = [];
  watch(context, problems, requests);
  const page = context.pages()[0] ?? (await context.newPage());
  const phone = { context, page, problems, requests, close: () => context.close() };
  if (path !== null) await page.goto(server.origin + path);
  return phone;
}

function watch(context: BrowserContext, problems: string[], requests: string[]): void {
  context.on("console", (message) => {
    if (["error", "warning", "assert"].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`);
  });
  context.on("weberror", (error) => problems.push(`thrown: ${error.error().message}`));
  context.on("request", (request) => requests.push(request.url()));
  context.on("requestfailed", (request) => {
    const reason = request.failure()?.errorText ?? "";
    if (reason !== "net::ERR_ABORTED") problems.push(`failed: ${request.url()} ${reason}`);
  });
  context.on("response", (response) => {
    if (response.status() >= 400) problems.push(`${response.status()}: ${response.url()}`);
  });
  context.on("page", (page) => {
    page.on("crash", () => problems.push("the page crashed"));
    page.on("dialog", (dialog) => {
      problems.push(`dialog: ${dialog.type()}`);
      dialog.dismiss().catch(() => {});
    });
  });
}
