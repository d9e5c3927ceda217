/** What all screens share, on an engine and a browser that are made up. */

import { expect, test } from "vitest";
import type { Chat, Engine, Status } from "../src/client/api";
import { App } from "../src/model/app";
import type { Platform } from "../src/platform";

/** A browser that remembers between visits, whatever becomes of what the engine has stored. */
class Browser {
  readonly remembered = new Map<string, string>();
  /** What was asked to be taken away of the notifications: of which chat, or undefined for all. */
  readonly closed: (string | undefined)[] = [];

  /** The app as it starts on an engine whose account stands there. */
  async visit(phase: Status["phase"], engine: Partial<Engine> = {}): Promise<App> {
    const status = { phase, push: { state: "off", why: "" } } as Status;
    const platform: Partial<Platform> = {
      languages: () => ["en"],
      remembered: (name) => this.remembered.get(name) ?? null,
      remember: (name, value) => {
        if (value === null) this.remembered.delete(name);
        else this.remembered.set(name, value);
      },
      keepWords: async () => {},
      pushNow: async () => ({ can: true, permission: "default", subscription: null }),
      unsubscribePush: async () => {},
      closeNotes: async (chat) => {
        this.closed.push(chat);
      },
    };
    const made = { status: async () => status, chats: async () => [], ...engine } as Engine;
    const app = new App({ engine: made, listen: () => {} }, platform as Platform);
    await app.start();
    return app;
  }
}

test("an account that the browser threw away with every mark of the engine is told of as thrown away", async () => {
  const browser = new Browser();
  expect((await browser.visit("none")).status.value?.phase).toBe("none");
  expect((await browser.visit("ready")).status.value?.phase).toBe("ready");
  for (const _ of ["the first time", "and again"])
    expect((await browser.visit("none")).status.value?.phase).toBe("evicted");
});

test("an account that is being deleted is never called thrown away, wherever that is cut off", async () => {
  const browser = new Browser();
  const resumed = { phase: "ready", deleting: true, push: { state: "off", why: "" } } as Status;
  let cutOff = (): void => {};
  const deleteAccount = () => new Promise<void>((_, reject) => (cutOff = () => reject(new Error("cut off"))));
  const app = await browser.visit("ready", { deleteAccount });
  const deleting = app.deleteAccount();
  expect((await browser.visit("none")).status.value?.phase, "the page is gone before it hears").toBe("none");
  cutOff();
  await expect(deleting).rejects.toThrow("cut off");
  expect((await browser.visit("none")).status.value?.phase, "nothing was deleted").toBe("evicted");
  await browser.visit("ready", { status: async () => resumed });
  expect((await browser.visit("none")).status.value?.phase, "the next start went on with it").toBe("none");
});

test("an account that a person deleted leaves no mark, and no notification", async () => {
  const browser = new Browser();
  let phase: Status["phase"] = "ready";
  const status = async () => ({ phase, push: { state: "off", why: "" } }) as Status;
  const deleteAccount = async () => {
    phase = "deleted";
  };
  const app = await browser.visit("ready", { status, deleteAccount });
  expect(browser.closed).toEqual([]);
  await app.deleteAccount();
  expect(app.status.value?.phase).toBe("deleted");
  expect(browser.closed).toEqual([undefined]);
  expect([...browser.remembered]).toEqual([]);
  expect((await browser.visit("none")).status.value?.phase).toBe("none");
});

test("who was ignored or blocked stands apart from the chats, in one place, and counts nowhere", async () => {
  const some: Partial<Chat>[] = [
    { id: "friend", state: "open", unread: 2 },
    { id: "put away", state: "open", archived: true, unread: 1 },
    { id: "no friend any more", state: "blocked" },
    { id: "put away and blocked", state: "blocked", archived: true },
    { id: "stranger", state: "request", unread: 1 },
    { id: "ignored", state: "request", archived: true, unread: 3 },
  ];
  const chats = some.map((each) => ({ archived: false, unread: 0, draft: "", ...each }) as Chat);
  const app = await new Browser().visit("ready", { chats: async () => chats });
  const ids = (list: readonly Chat[]) => list.map(({ id }) => id);
  expect(ids(app.listed.value)).toEqual(["friend"]);
  expect(ids(app.archived.value)).toEqual(["put away"]);
  expect(ids(app.requests.value)).toEqual(["stranger"]);
  expect(ids(app.aside.value)).toEqual(["no friend any more", "put away and blocked", "ignored"]);
  expect(app.unread.value).toBe(3);
});
