/**
 * What a person does with the app, found by roles and labels as a person finds it; the stories are told in these words.
 *
 *     const stage = useStage();                              // one server and one Chromium for the file
 *     test("…", async () => {
 *       const ada = await stage.phone("Ada");                // a phone of its own, with an account
 *       const ben = await stage.phone("Ben");
 *       await ada.add(await ben.contactLink());
 *       await ada.write("Hello!");
 *       …
 *       expect(ada.problems).toEqual([]);
 *     });
 *
 * Every step waits until it is done and fails after a deadline; nothing here sleeps. It knows nothing of the engine.
 */

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { deflateSync } from "node:zlib";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { Person } from "../person";
import { TestServer } from "../server";
import type { Cable } from "./cable";
import { openPhone, openProfile, type Phone, startChromium } from "./rig";

const run = promisify(execFile);
/** For what another device or the server has to do first, on a busy machine. */
const PATIENCE_MS = Number(process.env.PATIENCE ?? 30_000);

export type Tick = "waiting to be sent" | "sent" | "delivered" | "read" | "not sent";
const NETWORK = /^(failed|\d{3}): |^error: (Failed to load resource|WebSocket connection to \S+ failed)/;
const TICK = /, (waiting to be sent|sent|delivered|read|not sent)$/;

/** One file's server and browser, and everybody who takes part in one test. */
export class Stage {
  server!: TestServer;
  chromium!: Browser;
  private phones: Phone[] = [];
  private folders: string[] = [];
  private people = 0;
  private link: Promise<string> | null = null;

  /** *flags*: what Chromium is started with beside the usual. */
  constructor(private readonly flags: readonly string[] = []) {}

  async open(): Promise<void> {
    this.server = await TestServer.start();
    this.chromium = await startChromium(this.server, this.flags);
  }

  async close(): Promise<void> {
    await this.clear();
    await this.chromium.close();
    await this.server.remove();
  }

  /** If a test *failed*, what everybody saw is printed. */
  async report(failed: boolean): Promise<void> {
    if (failed) for (const phone of this.phones) console.error(await seen(phone));
  }

  /** Everybody's browser is closed, and what they left is removed. */
  async clear(): Promise<void> {
    await Promise.all(this.phones.splice(0).map((phone) => phone.close()));
    await Promise.all(this.folders.splice(0).map((folder) => rm(folder, { recursive: true, force: true })));
  }

  /** Path and secret of an invitation that anybody may use. */
  async invitation(): Promise<string> {
    this.link ??= this.server.invite(1000);
    return pathOf(await this.link);
  }

  /** A phone without an account, with the page at *path*; *cable*: its network, if that is to fail. */
  async newPhone(path = "/", cable: Cable | null = null): Promise<User> {
    const phone = await openPhone(this.chromium, this.server, path, cable ? { proxy: cable.proxy } : {});
    this.phones.push(phone);
    return new User(phone, phone.page);
  }

  /** Somebody who has just joined, with the list of chats before them. */
  async phone(name: string, cable: Cable | null = null): Promise<User> {
    const user = await this.newPhone(await this.invitation(), cable);
    await user.join(name);
    return user;
  }

  /** The app in a profile on disk, which another call can open again once it is closed. */
  async installed(folder: string, path: string | null = "/", cable: Cable | null = null): Promise<User> {
    const phone = await openProfile(this.server, folder, path, cable ? { proxy: cable.proxy } : {});
    this.phones.push(phone);
    return new User(phone, phone.page);
  }

  /** A folder for a profile; it goes with the test. */
  async folder(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), "taube-profile-"));
    this.folders.push(folder);
    return folder;
  }

  /** Two people who have a chat with each other open, each with one message in it. */
  async friends(cable: Cable | null = null): Promise<[ada: User, ben: User]> {
    const [ada, ben] = await Promise.all([this.phone("Ada", cable), this.phone("Ben")]);
    await befriend(ada, ben);
    return [ada, ben];
  }

  /** Somebody on the command line, under a name that nobody else of this server has. */
  async person(name: string): Promise<Person> {
    this.people += 1;
    return Person.join(this.server, name, `${name}-${this.people}`);
  }
}

/** A stage for the tests of this file. *goesOn*: the people of one test are there in the next. */
export function useStage(flags: readonly string[] = [], { goesOn = false } = {}): Stage {
  const stage = new Stage(flags);
  beforeAll(() => stage.open());
  afterEach(async ({ task }) => {
    await stage.report(task.result?.state === "fail");
    if (!goesOn) await stage.clear();
  });
  afterAll(() => stage.close());
  return stage;
}

/** Ada adds Ben and writes to him, he accepts and answers, and both have read it. */
export async function befriend(ada: User, ben: User): Promise<void> {
  await ada.add(await ben.contactLink());
  await ada.write("Hello Ben!");
  await ben.accept("Ada");
  await ben.receive("Hello Ben!");
  await ben.write("Hello Ada!");
  await ada.receive("Hello Ada!");
  await ada.tick("Hello Ben!", "read");
  await ben.tick("Hello Ada!", "read");
}

/** Somebody who looks at one page of the app. */
export class User {
  constructor(
    readonly phone: Phone,
    readonly page: Page,
  ) {}

  /** What the browser complained of: nothing, as long as the network is there. */
  get problems(): string[] {
    return this.phone.problems;
  }

  /** The same without what a browser says of a network that fails. */
  get alarms(): string[] {
    return this.phone.problems.filter((each) => !NETWORK.test(each));
  }

  // ---------------------------------------------------------------- finding

  button(name: string | RegExp): Locator {
    return this.page.getByRole("button", { name });
  }

  link(name: string | RegExp): Locator {
    return this.page.getByRole("link", { name });
  }

  heading(name: string | RegExp): Locator {
    return this.page.getByRole("heading", { name });
  }

  field(label: string): Locator {
    return this.page.getByRole("textbox", { name: label, exact: true });
  }

  /** The messages of the chat that is open, oldest first, as far as they are in the document. */
  get messages(): Locator {
    return this.page.getByRole("log", { name: "Messages" }).getByRole("listitem");
  }

  /** The rows that say *text* to a screen reader. */
  message(text: string | RegExp): Locator {
    return this.page.getByRole("log", { name: "Messages" }).getByRole("listitem", { name: text });
  }

  /** The row of a chat in the list of chats. */
  chat(name: string | RegExp): Locator {
    return this.page.getByRole("region", { name: "Chats", exact: true }).getByRole("link", { name });
  }

  /** The chat with *name*, opened; names are kept apart from the words around them. */
  conversation(name: string): Locator {
    return this.page.getByRole("region", { name: new RegExp(`^Chat with \u2068?${escaped(name)}\u2069?$`) });
  }

  /** Wait until *text* is to be seen. */
  async see(text: string | RegExp): Promise<void> {
    await shown(this.page.getByText(text).filter({ visible: true }).first());
  }

  // ---------------------------------------------------------------- coming in

  /** On the page of an invitation: say a name, show a face, and be there. */
  async join(name: string, face: Buffer | null = null): Promise<void> {
    await shown(this.heading("You are invited"));
    if (face !== null) {
      const chosen = { name: "face.jpg", mimeType: "image/jpeg", buffer: face };
      await this.page.getByLabel("Add a photo (optional)").setInputFiles(chosen);
      await shown(this.page.getByRole("img", { name: "Your photo" }));
    }
    await this.field("Your name").fill(name);
    await this.button("Start").click();
    await shown(this.heading("No chats yet"));
  }

  /** One's own contact link, as it can be read and copied. */
  async contactLink(): Promise<string> {
    await this.go("#/contact");
    const link = this.page.getByText(/^https?:\/\/\S+\/c#\S+$/);
    await shown(link);
    const text = (await link.textContent()) ?? "";
    await this.home();
    return text;
  }

  /** Paste a contact link, and stand in the chat. */
  async add(link: string): Promise<void> {
    await this.paste(link);
    await this.button("Start the chat").click();
    await shown(this.field("Message"));
  }

  /** Paste a contact link where one adds somebody. */
  async paste(link: string): Promise<void> {
    await this.go("#/add");
    await this.field("Or paste a contact link").fill(link);
  }

  // ---------------------------------------------------------------- going about

  /** As if tapped on: no page is loaded anew. */
  async go(hash: string): Promise<void> {
    await this.page.evaluate((to) => {
      location.hash = to;
    }, hash);
  }

  async home(): Promise<void> {
    await this.go("#/");
    await shown(this.page.getByRole("region", { name: "Chats", exact: true }));
  }

  async open(chat: string): Promise<void> {
    await this.chat(chat).click();
    await shown(this.conversation(chat));
  }

  /** Open the request of *name*, and accept it. */
  async accept(name: string): Promise<void> {
    await this.openRequest(name);
    await this.button("Accept").click();
    await shown(this.field("Message"));
  }

  /** Choose *what* from the menu of the chat with *name*, in the list of chats or in another one. */
  async chooseOf(name: string, what: string): Promise<void> {
    await this.page.getByRole("listitem").getByRole("link", { name }).click({ button: "right" });
    await this.page.getByRole("menuitem", { name: what }).click();
    await gone(this.page.getByRole("menuitem"));
  }

  async openRequest(name: string): Promise<void> {
    await this.link("Requests").click();
    await this.page.getByRole("region", { name: "Requests" }).getByRole("link", { name }).click();
    await shown(this.conversation(name));
  }

  // ---------------------------------------------------------------- writing

  /** Type *text* and send it; it stands in the chat. */
  async write(text: string): Promise<void> {
    await this.field("Message").fill(text);
    await this.button("Send").click();
    await shown(this.message(text).last());
  }

  /** Wait until one's own message *text* has come so far. */
  async tick(text: string, ...ticks: Tick[]): Promise<void> {
    await shown(this.message(new RegExp(`${escaped(text)}, (${ticks.join("|")})$`)).last());
  }

  /** Wait until somebody else's message *text* is there. */
  async receive(text: string | RegExp): Promise<void> {
    await shown(this.message(text).last());
  }

  /** What the messages in sight say, oldest first: without who, when, and how far. */
  async texts(): Promise<string[]> {
    const rows = await this.messages.evaluateAll((all) => all.map((row) => row.getAttribute("aria-label") ?? ""));
    return rows.map((row) => row.replace(/^[^,]+, \d+:\d\d(\s[AP]M)?, /, "").replace(TICK, ""));
  }

  /** Answer the message *text* by swiping it aside. */
  async swipe(text: string): Promise<void> {
    const box = await this.message(text).last().boundingBox();
    if (box === null) throw new Error(`the message is not in sight: ${text}`);
    const devtools = await this.page.context().newCDPSession(this.page);
    const y = box.y + box.height / 2;
    const touch = (type: "touchStart" | "touchMove", x: number) =>
      devtools.send("Input.dispatchTouchEvent", { type, touchPoints: [{ x, y }] });
    await touch("touchStart", 60);
    for (let x = 70; x <= 170; x += 10) await touch("touchMove", x);
    await devtools.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await devtools.detach();
    await shown(this.button("Do not reply to this message"));
  }

  /** Tap on *answered* in the message *text* that answers it, and stand there. */
  async follow(text: string, answered: string): Promise<void> {
    await this.message(text).last().getByRole("button", { name: answered }).click();
    const row = this.message(answered).and(this.page.locator(":focus"));
    await shown(row);
    const isInSight = () =>
      row.evaluate((element) => {
        const { top, bottom } = element.getBoundingClientRect();
        return top >= 0 && bottom <= innerHeight;
      });
    await expect.poll(isInSight, PATIENT).toBe(true);
  }

  /** Choose *what* from the menu of the message *text*. */
  async choose(text: string, what: string): Promise<void> {
    await this.message(text).last().press("Enter");
    await this.page.getByRole("menuitem", { name: what }).click();
  }

  /** Pick a picture from the device, and look at it before it is sent. */
  async pick(name: string, data: Buffer, mimeType = "image/png"): Promise<void> {
    await this.button("Add a photo").click();
    const chooser = this.page.waitForEvent("filechooser");
    await this.page.getByRole("menuitem", { name: "Choose a photo" }).click();
    await (await chooser).setFiles({ name, mimeType, buffer: data });
  }

  async sendPhoto(name: string, data: Buffer, caption: string): Promise<void> {
    await this.pick(name, data);
    await this.sendPicked(caption);
  }

  /** Hand in a picture by *how*, as another program does, and look at it before it is sent. */
  async hand(how: "paste" | "drop", data: Buffer): Promise<void> {
    await this.field("Message").evaluate(
      (field, [event, text]) => {
        const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
        const handed = new DataTransfer();
        handed.items.add(new File([bytes], "handed.png", { type: "image/png" }));
        const told = { bubbles: true, cancelable: true };
        field.dispatchEvent(
          event === "paste"
            ? new ClipboardEvent("paste", { ...told, clipboardData: handed })
            : new DragEvent("drop", { ...told, dataTransfer: handed }),
        );
      },
      [how, data.toString("base64")] as const,
    );
  }

  /** Send the picture that is looked at. */
  async sendPicked(caption: string): Promise<void> {
    const dialog = this.page.getByRole("dialog", { name: /^Send to/ });
    await dialog.getByRole("textbox", { name: "Add a caption" }).fill(caption);
    await dialog.getByRole("button", { name: "Send" }).click();
    await shown(this.message(`Photo: ${caption}`).last());
  }

  /** The width and height of the picture in the message with *caption*, once it can be seen. */
  async picture(caption: string): Promise<[width: number, height: number]> {
    const image = this.message(`Photo: ${caption}`)
      .last()
      .getByRole("img", { name: `Photo: ${caption}` });
    await shown(image);
    return image.evaluate(async (element: HTMLImageElement) => {
      await element.decode();
      return [element.naturalWidth, element.naturalHeight];
    });
  }

  // ---------------------------------------------------------------- the browser

  async reload(): Promise<void> {
    await this.page.reload();
  }

  /** Wait until the app is on the device, to start without a network. */
  async kept(): Promise<void> {
    await this.page.waitForFunction(() => navigator.serviceWorker.controller !== null, null, PATIENT);
  }

  /** From now on, hold back what is asked for at *path*; the answer lets it through. */
  async hold(path: string): Promise<() => void> {
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    await this.phone.context.route(path, async (route) => {
      await released;
      await route.continue();
    });
    return release;
  }

  /** A second tab of the same profile. */
  async newTab(path = "/"): Promise<User> {
    const page = await this.phone.context.newPage();
    await page.goto(new URL(path, this.page.url()).href);
    return new User(this.phone, page);
  }
}

async function seen(phone: Phone): Promise<string> {
  const said = [`problems: ${JSON.stringify(phone.problems)}`];
  for (const page of phone.context.pages()) {
    const look = page.locator("body").ariaSnapshot({ timeout: 2_000 });
    said.push(page.url().replace(/#.{40,}/, "#…"), await look.catch((error: Error) => error.message));
  }
  return said.join("\n");
}

/** Wait until *what* is there to be seen. */
export async function shown(what: Locator): Promise<void> {
  await what.waitFor({ state: "visible", timeout: PATIENCE_MS });
}

/** Wait until *what* is gone. */
export async function gone(what: Locator): Promise<void> {
  await what.waitFor({ state: "hidden", timeout: PATIENCE_MS });
}

/** How *what* is waited for where there is no locator: `await expect.poll(what, PATIENT).toBe(…)`. */
export const PATIENT = { timeout: PATIENCE_MS, interval: 50 };

/**
 * The browser of *user*, whose profile is in *folder*, dies as if the battery had: all its processes, since the one that
 * keeps the storage would otherwise live on for a moment and write into what the next browser has opened.
 */
export async function kill(user: User, folder: string): Promise<void> {
  const dead = new Promise((resolve) => user.phone.context.once("close", resolve));
  const all = ["-f", `user-data-dir=${folder}`];
  await run("pkill", ["-KILL", ...all]);
  await dead;
  while (
    await run("pgrep", all).then(
      () => true,
      () => false,
    )
  );
}

/** Path and secret of a link. */
export function pathOf(link: string): string {
  const { pathname, hash } = new URL(link);
  return pathname + hash;
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** A PNG of noise on a colour: it does not compress, so that a larger one takes its time. */
export function photo(width: number, height: number, seed = 1): Buffer {
  const rows = Buffer.alloc(height * (1 + width * 3));
  let state = seed;
  for (let at = 0; at < rows.length; at += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    rows[at] = at % (1 + width * 3) === 0 ? 0 : 80 + (state >>> 25);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const parts = [chunk("IHDR", header), chunk("IDAT", deflateSync(rows, { level: 1 })), chunk("IEND", Buffer.alloc(0))];
  return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), ...parts]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const size = Buffer.alloc(4);
  size.writeUInt32BE(data.length);
  const check = Buffer.alloc(4);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([size, body, check]);
}

function crc32(data: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}
