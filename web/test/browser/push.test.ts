/**
 * Push end to end: a server that wakes, a browser that is woken, and what a person sees of it.
 *
 * In Firefox everything is real but the push service, which is one on this machine: subscribing, the server's encrypted
 * and signed push, decrypting, the worker that fetches the message and shows it. Chromium only knows Google's service,
 * which no test reaches: there the DevTools deliver what a push service would, and everything after that is real.
 */

import { createPublicKey, verify } from "node:crypto";
import type { CDPSession } from "playwright-core";
import type * as puppeteer from "puppeteer-core";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { Person } from "../person";
import { TestServer } from "../server";
import { Autopush, DECRYPTED, type Post } from "./autopush";
import { gone, PATIENT, pathOf, shown, type User, useStage } from "./people";
import { startFirefox } from "./rig";

const SETTINGS = "[push]\nallow_private = 1\nfirst_retry_s = 0.2\nconnected_s = 4.0\n";
const PATIENCE_MS = PATIENT.timeout;
const IS_ON = "This device is notified when somebody writes to you.";
const IS_OFF = "While Taube is closed, you do not learn of new messages.";
const IPHONE =
  "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";
const REFUSED = "Your Taube server refused the address of your push service.";

/** What a notification says. */
interface Shown {
  title: string;
  body: string;
  tag: string;
}

const stage = useStage();

describe("in Firefox, with a push service on this machine", () => {
  let push: Autopush;
  let server: TestServer;
  let firefox: puppeteer.Browser;
  let ada: Fox;
  let ben: Person;

  beforeAll(async () => {
    push = await Autopush.start();
    server = await TestServer.start(null, SETTINGS);
    firefox = await startFirefox({
      ...push.preferences(),
      "dom.push.requestTimeout": 1_000,
      "dom.push.retryBaseInterval": 500,
    });
    [ada, ben] = await Promise.all([Fox.join(firefox, server, "Ada"), Person.join(server, "Ben")]);
    await ada.meet(ben);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === "fail") console.error(await ada.seen());
  });
  afterAll(async () => {
    await firefox?.close();
    await server?.remove();
    await push.stop();
  });

  test("who closes the app is told who wrote and what, by a push that says nothing", async () => {
    await ada.turnOn();
    await ada.see(IS_ON);
    await ada.leave();
    await ben.run("send", "Ada", "Are you there?");
    await expect.poll(() => ada.notifications(), PATIENT).toMatchObject([{ title: "Ben", body: "Are you there?" }]);
    await ben.run("send", "Ada", "long ".repeat(2_000));
    const both = /^Are you there\?\n(long )+/;
    await expect
      .poll(async () => (await ada.notifications()).map(({ body }) => both.test(body)), PATIENT)
      .toEqual([true]);
    await expect.poll(() => push.acknowledged, PATIENT).toEqual([DECRYPTED, DECRYPTED]);

    const [short, long] = push.posts as [Post, Post];
    expect(long.body.length).toBe(short.body.length);
    expect(long.body.equals(short.body)).toBe(false);
    for (const post of [short, long]) {
      expect(post.headers).toMatchObject({
        "content-encoding": "aes128gcm",
        urgency: "high",
        topic: "taube",
        ttl: "604800",
      });
      expect(await isSigned(post, server, push.origin)).toBe(true);
      const plain = JSON.stringify(post.headers) + post.body.toString("latin1");
      expect(plain).not.toMatch(/Ada|Ben|there|long/);
    }

    await ada.open();
    await ada.openChat();
    await ada.see("Are you there?");
    await expect.poll(() => ada.notifications(), PATIENT).toEqual([]);
  });

  test("a push service that fails is tried again, one that forgets a device is given another address", async () => {
    await ada.leave();
    const before = push.posts.length;
    push.status = 503;
    await ben.run("send", "Ada", "Try again");
    await expect.poll(() => push.posts.length, PATIENT).toBeGreaterThan(before + 1);
    push.status = 429;
    const failed = push.posts.length;
    await expect.poll(() => push.posts.length, PATIENT).toBeGreaterThan(failed);
    push.status = null;
    await expect.poll(() => ada.notifications(), PATIENT).toMatchObject([{ title: "Ben", body: "Try again" }]);

    const { channels } = push;
    push.status = 410;
    await ben.run("send", "Ada", "Forgotten");
    await expect.poll(() => ada.endpoints(server), PATIENT).toEqual([]);
    push.status = null;
    await ada.open();
    await expect.poll(() => ada.endpoints(server), PATIENT).toHaveLength(1);
    expect(push.channels).not.toEqual(channels);
    await ada.go("#/settings/notifications");
    await ada.see(IS_ON);
    await ada.leave();
    await ben.run("send", "Ada", "Found again");
    await expect.poll(async () => (await ada.notifications())[0]?.body, PATIENT).toMatch(/Found again$/);
    expect(push.channels).toContain(push.posts.at(-1)?.channel);
  });

  test("a page that nobody looks at tells what it receives, and its device is not woken for that", async () => {
    await ada.open();
    await ada.openChat();
    await ada.see("Found again");
    await expect.poll(() => ada.notifications(), PATIENT).toEqual([]);
    const before = push.posts.length;
    await ada.hide();
    await ben.run("send", "Ada", "Behind you");
    await expect.poll(() => ada.notifications(), PATIENT).toMatchObject([{ title: "Ben", body: "Behind you" }]);
    expect(push.posts.length).toBe(before);
  });

  test("who takes the permission back is told that, and who gives it again is notified again", async () => {
    await ada.permit(false);
    await ada.open();
    await ada.go("#/settings/notifications");
    await ada.see("Your browser does not let Taube notify you.");
    await ada.permit(true);
    await ada.open();
    await ada.go("#/settings/notifications");
    await ada.see(IS_ON);
  });

  test("a server that pushes to the internet only refuses the address, and the app says so", async () => {
    const eve = await Fox.join(firefox, stage.server, "Eve");
    await eve.turnOn();
    await eve.see("Not working");
    await eve.see(REFUSED);
    await eve.open();
    await eve.go("#/settings/notifications");
    await eve.see(REFUSED);
    await eve.press("Turn off notifications");
    await eve.see(IS_OFF);
  });

  test("a push service that does not answer is named as what is in the way", async () => {
    await ada.go("#/settings/notifications");
    await ada.press("Turn off notifications");
    await ada.see(IS_OFF);
    await expect.poll(() => ada.endpoints(server), PATIENT).toEqual([]);
    await push.stop();
    await ada.turnOn();
    await ada.see("The push service of your browser does not answer.");
  });
});

describe("in Chromium, where the DevTools are the push service", () => {
  test("what waits is shown by the worker, once for each chat, but not of a muted one, and a tap opens the chat", async () => {
    const ada = await stage.phone("Ada");
    await permit(ada);
    const [ben, carl] = await Promise.all([stage.person("Ben"), stage.person("Carl")]);
    for (const friend of [ben, carl]) {
      await ada.add(await friend.contactLink());
      await ada.write("Hello!");
      await friend.run("accept", "Ada");
      await ada.tick("Hello!", "delivered", "read");
      await ada.home();
    }
    await ada.open("Carl");
    await ada.page.getByRole("link", { name: /Carl/ }).first().click();
    await ada.page.getByRole("switch", { name: /Mute/ }).click();
    await ada.page.getByRole("menuitem", { name: "Always" }).click();
    await ada.home();

    const service = await PushService.of(ada);
    await ada.page.close();
    await carl.run("send", "Ada", "Not now");
    await service.deliver();
    expect(await service.notifications()).toEqual([]);
    await ben.run("send", "Ada", "One");
    await ben.run("send", "Ada", "Two");
    await service.deliver();
    expect(await service.notifications()).toMatchObject([{ title: "Ben", body: "One\nTwo" }]);

    const tab = await ada.newTab("/");
    await shown(tab.page.getByRole("region", { name: "Chats", exact: true }));
    await ben.run("send", "Ada", "Three");
    await shown(tab.chat(/Ben.*Three.*3 unread messages$/));
    await service.deliver();
    expect(await service.notifications()).toMatchObject([{ title: "Ben", body: "One\nTwo" }]);
    await service.tap("Ben");
    await shown(tab.conversation("Ben"));
    await tab.receive("Three");
    await expect.poll(() => service.notifications(), PATIENT).toEqual([]);

    // the list of chats says what is unread, and is in the order that a person gives it
    await tab.button("Back").click();
    const listed = () => tab.page.locator(".chats .chat-name").allTextContents();
    await shown(tab.chat(/Carl.*Not now.*1 unread message, muted$/));
    expect(await listed()).toEqual(["Ben", "Carl"]);
    await tab.chooseOf("Carl", "Pin to the top");
    await shown(tab.chat(/Carl.*1 unread message, pinned, muted$/));
    expect(await listed()).toEqual(["Carl", "Ben"]);
    await tab.chooseOf("Carl", "Archive");
    await gone(tab.chat("Carl"));
    await tab.link("Archived").click();
    await tab.chooseOf("Carl", "Take out of the archive");
    await tab.button("Back").click();
    await shown(tab.chat("Carl"));
    expect(await listed()).toEqual(["Carl", "Ben"]);
    expect(ada.problems).toEqual([]);
  });

  test("the settings say what stands in the way of notifications, and what can be done", async () => {
    const ada = await stage.phone("Ada");
    await ada.go("#/settings/notifications");
    await ada.see(IS_OFF);
    await ada.phone.context.grantPermissions([]); // what is not granted is refused from now on
    await ada.reload();
    await ada.see("Your browser does not let Taube notify you.");
    await permit(ada);
    await ada.reload();
    await ada.see(IS_OFF);
    await ada.button("Turn on notifications").click();
    await ada.see("Your browser refused."); // as in any private window
    await ada.page.addInitScript(() => Reflect.deleteProperty(globalThis, "PushManager"));
    await ada.reload();
    await ada.see("This browser cannot notify you while Taube is closed.");
    await ada.page.addInitScript((agent) => {
      Object.defineProperty(navigator, "userAgent", { get: () => agent });
    }, IPHONE);
    await ada.reload();
    await ada.see("First put it on the home screen");
    await shown(ada.heading("Put Taube on your home screen"));
  });
});

// ---------------------------------------------------------------- Firefox

/** One person in Firefox: a container of its own, and a page in it, found by roles and labels. */
class Fox {
  private page!: puppeteer.Page;
  private elsewhere!: puppeteer.Page;
  private account = "";
  private watching: puppeteer.Page | null = null;

  private constructor(
    private readonly context: puppeteer.BrowserContext,
    readonly origin: string,
  ) {}

  static async join(firefox: puppeteer.Browser, server: TestServer, name: string): Promise<Fox> {
    const fox = new Fox(await firefox.createBrowserContext(), server.origin);
    fox.elsewhere = await fox.context.newPage();
    await fox.open(pathOf(await server.invite()));
    await fox.fill("Your name", name);
    await fox.press("Start");
    await fox.see("No chats yet");
    await fox.readAccount();
    return fox;
  }

  /** The app in a tab of its own, instead of the one before. */
  async open(path = "/"): Promise<void> {
    await this.page?.close();
    this.page = await this.context.newPage();
    this.page.setDefaultTimeout(PATIENCE_MS);
    await this.page.goto(this.origin + path);
  }

  /** Close the app; what is seen then is nothing of ours. */
  async leave(): Promise<void> {
    await this.elsewhere.bringToFront();
    await this.page.close();
  }

  /** What there is to be seen, for whoever looks into a failure. */
  async seen(): Promise<string> {
    if (this.page.isClosed()) return "the app is closed";
    return `${this.page.url()}\n${await this.page.evaluate(() => document.body.textContent)}`;
  }

  /** Put another tab before the app. */
  async hide(): Promise<void> {
    await this.elsewhere.bringToFront();
    await this.page.waitForFunction(() => document.visibilityState === "hidden", { polling: 50 });
  }

  async go(hash: string): Promise<void> {
    await this.page.evaluate((to) => {
      location.hash = to;
    }, hash);
  }

  async press(button: string): Promise<void> {
    await this.page.bringToFront(); // what is not seen does not come to rest
    await this.page.locator(`::-p-aria([name="${button}"][role="button"])`).click();
  }

  /** Open the only chat there is. */
  async openChat(): Promise<void> {
    await this.page.locator('a[href^="#/chat/"]').click();
  }

  async fill(label: string, text: string): Promise<void> {
    await this.page.locator(`::-p-aria([name="${label}"][role="textbox"])`).fill(text);
  }

  /** Wait until *text* is to be seen. */
  async see(text: string): Promise<void> {
    await this.page.locator(`::-p-text(${text})`).wait();
  }

  async turnOn(): Promise<void> {
    await this.go("#/settings/notifications");
    await this.press("Turn on notifications");
  }

  /** Answer the browser's question whether the app may notify, ahead of time. */
  async permit(may: boolean): Promise<void> {
    await this.context.overridePermissions(this.origin, may ? ["notifications"] : []);
  }

  /** Begin a chat with somebody on the command line, who accepts it. */
  async meet(person: Person): Promise<void> {
    await this.go("#/add");
    await this.fill("Or paste a contact link", await person.contactLink());
    await this.press("Start the chat");
    await this.fill("Message", "Hello!");
    await this.press("Send");
    await vi.waitFor(() => person.run("accept", "Ada"), PATIENT); // once the request is there
    await this.go("#/");
  }

  /** What stands in the notifications, seen from a page of the same origin that is not the app and that nobody sees. */
  async notifications(): Promise<Shown[]> {
    if (!this.watching) {
      this.watching = await this.context.newPage({ background: true });
      await this.watching.goto(`${this.origin}/.well-known/taube`);
    }
    return notificationsIn(this.watching);
  }

  /** The push endpoints that the server has of this account. */
  async endpoints(server: TestServer): Promise<string[]> {
    const facts = await server.knows(this.account);
    return facts.filter(({ entry }) => entry === "push endpoint").map(({ value }) => value);
  }

  private async readAccount(): Promise<void> {
    await this.go("#/settings/about");
    const row = await this.page.locator("::-p-xpath(//div[@class='row'][.//span[.='Account id']])").waitHandle();
    this.account = /[0-9a-f]{64}$/.exec(await row.evaluate((element) => element.textContent ?? ""))?.[0] ?? "";
  }
}

async function notificationsIn(page: puppeteer.Page): Promise<Shown[]> {
  return page.evaluate(async () => {
    const registration = await navigator.serviceWorker.getRegistration("/");
    const notes = (await registration?.getNotifications()) ?? [];
    return notes.map(({ title, body, tag }) => ({ title, body, tag }));
  });
}

// ---------------------------------------------------------------- Chromium

/** The DevTools in the place of a push service, at one person's worker. */
class PushService {
  private completed = 0;

  private constructor(
    private readonly user: User,
    private readonly devtools: CDPSession,
    private readonly registrationId: string,
  ) {
    devtools.on("BackgroundService.backgroundServiceEventReceived", ({ backgroundServiceEvent }) => {
      if (backgroundServiceEvent.eventName === "Push event completed") this.completed += 1;
    });
  }

  static async of(user: User): Promise<PushService> {
    const page = await user.phone.context.newPage();
    const devtools = await user.phone.context.newCDPSession(page);
    const known = new Promise<string>((resolve) => {
      devtools.on("ServiceWorker.workerRegistrationUpdated", ({ registrations }) => {
        if (registrations[0]) resolve(registrations[0].registrationId);
      });
    });
    await devtools.send("ServiceWorker.enable");
    const service = new PushService(user, devtools, await known);
    await devtools.send("BackgroundService.startObserving", { service: "pushMessaging" });
    await devtools.send("BackgroundService.setRecording", { service: "pushMessaging", shouldRecord: true });
    return service;
  }

  /** Deliver a push; the worker has done with it when this resolves. */
  async deliver(): Promise<void> {
    const { completed, registrationId } = this;
    const { origin } = new URL(this.user.page.url());
    await this.devtools.send("ServiceWorker.deliverPushMessage", { origin, registrationId, data: "taube" });
    await expect.poll(() => this.completed, PATIENT).toBe(completed + 1);
  }

  async notifications(): Promise<Shown[]> {
    return this.worker.evaluate(async () => {
      const { registration } = self as unknown as ServiceWorkerGlobalScope;
      return (await registration.getNotifications()).map(({ title, body, tag }) => ({ title, body, tag }));
    });
  }

  /** As if a person tapped on the notification: the browser lets no test do that, so the event is ours. */
  async tap(title: string): Promise<void> {
    await this.worker.evaluate(async (wanted) => {
      const scope = self as unknown as ServiceWorkerGlobalScope;
      const notification = (await scope.registration.getNotifications()).find((each) => each.title === wanted);
      if (!notification) throw new Error("there is no such notification");
      const event = new NotificationEvent("notificationclick", { notification });
      const done: Promise<unknown>[] = [];
      event.waitUntil = (work) => done.push(work as Promise<unknown>);
      scope.dispatchEvent(event);
      await Promise.allSettled(done); // to bring a window to the front takes a real tap
    }, title);
  }

  private get worker() {
    const worker = this.user.phone.context.serviceWorkers()[0];
    if (!worker) throw new Error("there is no worker");
    return worker;
  }
}

async function permit(user: User): Promise<void> {
  await user.phone.context.grantPermissions(["notifications"]);
}

// ---------------------------------------------------------------- what a push service sees

/** Whether the push names its sender by the server's own key, for this push service, and not for long. Source: RFC 8292. */
async function isSigned(post: Post, server: TestServer, audience: string): Promise<boolean> {
  const about = (await (await fetch(`${server.origin}/.well-known/taube`)).json()) as { push_key: string };
  const [, token = "", key] = /^vapid t=([\w.-]+), ?k=([\w-]+)$/.exec(post.headers.authorization ?? "") ?? [];
  const [head = "", claims = "", signature = ""] = token.split(".");
  const { aud, exp, sub } = JSON.parse(Buffer.from(claims, "base64url").toString()) as Record<string, string | number>;
  const leftS = Number(exp) - Date.now() / 1000;
  const point = Buffer.from(about.push_key, "base64url");
  const jwk = {
    kty: "EC",
    crv: "P-256",
    x: point.subarray(1, 33).toString("base64url"),
    y: point.subarray(33).toString("base64url"),
  };
  const publicKey = createPublicKey({ key: jwk, format: "jwk" });
  const signed = Buffer.from(`${head}.${claims}`);
  return (
    verify("sha256", signed, { key: publicKey, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url")) &&
    key === about.push_key &&
    aud === audience &&
    sub === server.origin &&
    leftS > 0 &&
    leftS <= 86_400
  );
}
