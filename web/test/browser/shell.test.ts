/** The shell in real browsers: it loads within its rules, and nothing else runs in it. */

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestServer } from "../server";
import { prepare, violations } from "./accessible";
import { openInstalledPhone, openPhone, type Phone, startChromium, startFirefox } from "./rig";

describe("on loopback", () => {
  let server: TestServer;
  let chromium: Browser;

  beforeAll(async () => {
    server = await TestServer.start();
    chromium = await startChromium(server);
  });
  afterAll(async () => {
    await chromium.close();
    await server.remove();
  });

  async function on<T>(phone: Promise<Phone>, act: (phone: Phone) => Promise<T>): Promise<T> {
    const opened = await phone;
    try {
      return await act(opened);
    } finally {
      await opened.close();
    }
  }

  test("the shell loads from one origin, breaks none of its rules and writes nothing to the console", () =>
    on(openPhone(chromium, server, null), async ({ page, problems, requests }) => {
      const worker = page.waitForEvent("worker");
      await page.goto(server.origin);
      expect((await worker).url()).toMatch(/\/assets\/engine_worker-[\w-]+\.js$/);
      await page.waitForLoadState("networkidle");
      expect(await page.title()).toContain("Taube");
      expect(await page.evaluate(() => document.documentElement.dataset.unusable)).toBeUndefined();
      expect(new Set(requests.map((url) => new URL(url).origin))).toEqual(new Set([server.origin]));
      expect(problems).toEqual([]);
    }));

  test("once it was opened, the app starts without a network, in the language that was chosen", () =>
    on(openPhone(chromium, server, null, { locale: "de-DE" }), async ({ context, page, problems }) => {
      await page.goto(server.origin);
      await page.evaluate(() => navigator.serviceWorker.ready);
      await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
      const words = await page.getByRole("heading", { level: 1 }).textContent();
      expect(await page.evaluate(() => document.documentElement.lang)).toBe("de");
      const devtools = await context.newCDPSession(page);
      await devtools.send("Network.clearBrowserCache");
      await context.setOffline(true);
      await page.reload();
      expect(await page.getByRole("heading", { level: 1 }).textContent()).toBe(words);
      expect(await page.evaluate(() => document.documentElement.lang)).toBe("de");
      expect(problems).toEqual([]);
    }));

  test("what stands behind the # of a link stays in the browser", () =>
    on(openPhone(chromium, server, "/i#A-SECRET"), async ({ page, requests }) => {
      await page.waitForLoadState("networkidle");
      expect(requests.map((url) => url.replace(/#.*/, ""))).toContain(`${server.origin}/i`);
      expect(requests.filter((url) => url.replace(/#.*/, "").includes("SECRET"))).toEqual([]);
    }));

  test("no other script, style or HTML comes in", () =>
    on(openPhone(chromium, server), async ({ page }) => {
      const refused = await page.evaluate(async () => {
        const found: string[] = [];
        document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
        const tried = (act: () => unknown) => {
          try {
            act();
            return "done";
          } catch (error) {
            return (error as Error).name;
          }
        };
        await new Promise((resolve) => setTimeout(resolve)); // what is evaluated for a test at first may use eval
        const script = document.createElement("script");
        const thrown = [
          tried(() => new Function("return 1")()),
          tried(() => {
            document.body.innerHTML = "<b>x</b>";
          }),
          tried(() => new Worker("/check.js")),
          tried(() => script.setAttribute("src", "/check.js")),
        ];
        const style = document.createElement("style");
        style.textContent = "body { color: red }";
        document.head.append(style);
        const image = document.createElement("img");
        image.src = "https://elsewhere.example/x.png";
        document.body.append(image);
        await fetch("https://elsewhere.example/").catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 100));
        return { thrown, found: [...new Set(found)].sort() };
      });
      expect(refused.thrown).toEqual(["EvalError", "TypeError", "TypeError", "TypeError"]);
      expect(refused.found).toEqual(["connect-src", "img-src", "require-trusted-types-for", "style-src-elem"].sort());
    }));

  test("a browser that is too old is told so in one sentence, and the app does not start", () =>
    on(openPhone(chromium, server, null), async ({ context, page }) => {
      await prepare(context);
      await page.addInitScript(() => {
        Reflect.deleteProperty(Navigator.prototype, "locks");
      });
      await page.goto(`${server.origin}/i#X`);
      expect(await shown(page)).toContain("too old");
      expect(await violations(page)).toEqual([]);
      expect(page.workers()).toEqual([]);
    }));

  test("a browser without JavaScript is told so", () =>
    on(openPhone(chromium, server, "/c#X", { javaScriptEnabled: false }), async ({ page }) => {
      expect(await shown(page)).toContain("needs JavaScript");
    }));

  test("the app can be installed", () =>
    on(openInstalledPhone(server), async ({ context, page, problems }) => {
      const devtools = await context.newCDPSession(page);
      expect((await devtools.send("Page.getInstallabilityErrors")).installabilityErrors).toEqual([]);
      expect((await devtools.send("Page.getAppManifest")).errors).toEqual([]);
      expect(problems).toEqual([]);
    }));

  test("Firefox loads it too", async () => {
    const firefox = await startFirefox();
    try {
      const page = await firefox.newPage();
      const problems: string[] = [];
      page.on("console", (message) => {
        if (["error", "warn"].includes(message.type())) problems.push(message.text());
      });
      page.on("pageerror", (error) => problems.push(String(error)));
      await page.goto(server.origin);
      expect(await page.title()).toContain("Taube");
      expect(await page.evaluate(() => document.documentElement.dataset.unusable)).toBeUndefined();
      expect(problems).toEqual([]);
    } finally {
      await firefox.close();
    }
  });
});

test("over TLS, under a name, the page may speak with its own server and be secure in all", async () => {
  const server = await TestServer.start("chat.test");
  const chromium = await startChromium(server);
  try {
    const phone = await openPhone(chromium, server);
    const found = await phone.page.evaluate(async () => {
      const socket = new WebSocket(`wss://${location.host}/v1/socket`);
      const opened = await new Promise((resolve) => {
        socket.addEventListener("open", () => resolve(true));
        socket.addEventListener("error", () => resolve(false));
      });
      socket.close();
      return { opened, isSecureContext, origin: location.origin };
    });
    expect(found).toEqual({ opened: true, isSecureContext: true, origin: "https://chat.test" });
    expect(phone.problems).toEqual([]);
  } finally {
    await chromium.close();
    await server.remove();
  }
});

async function shown(page: Page): Promise<string> {
  const visible = await page.locator("p:visible").allTextContents();
  return visible.join("\n");
}
