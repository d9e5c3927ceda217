/**
 * A browser for tests in Node: its database, its locks, the channel between its tabs, and any number of tabs.
 *
 * Store, core, wire and server are the real ones. A tab can crash at any commit of its store, before or after it: then
 * nothing of it goes on, as when a browser is killed.
 */

import { afterAll, beforeAll, vi } from "vitest";
import { Account, type Channel, type Surroundings } from "../../src/client/account";
import type { Chat, EngineEvent, Message } from "../../src/client/api";
import { Blobs } from "../../src/client/blobs";
import { browserRandom } from "../../src/client/e2e";
import type { Store, Tx } from "../../src/client/store";
import { type DeviceLink, Transport } from "../../src/client/transport";
import { Vault } from "../../src/client/vault";
import type { Command, Welcome } from "../../src/wire/messages";
import { TestServer } from "../server";
import { Profile } from "./browser";
import { makeCore } from "./core";

const PATIENCE_MS = 30_000;

/** What a killed tab meets wherever it goes on. */
export class Crashed extends Error {}

/** Where a tab's store breaks: at its *at*-th commit from now on, before or after it reached the disk. */
export interface Crash {
  at: number;
  when: "before" | "after";
}

/** The network, with a server whose clock or generation is another than it is, and with what becomes of commands. */
class Altered extends Transport {
  constructor(
    origin: string,
    private readonly alter: (welcome: Welcome) => Welcome,
    private readonly meet: (command: Command["type"], link: DeviceLink) => void,
  ) {
    super(origin);
  }

  override async device(...parameters: Parameters<Transport["device"]>): Promise<DeviceLink> {
    const link = await super.device(...parameters);
    link.welcome = this.alter(link.welcome);
    const request = link.request.bind(link);
    link.request = async (build, timeoutMs) => {
      this.meet(build(1).type, link);
      return request(build, timeoutMs);
    };
    return link;
  }
}

/** One browser's profile. */
export class Browser {
  /** What this browser hears of the server's welcome. */
  alter: (welcome: Welcome) => Welcome = (welcome) => welcome;
  /** What each command of its device link meets before it leaves: it may throw, or lose the link. */
  meet: (command: Command["type"], link: DeviceLink) => void = () => {};
  private readonly hearers = new Set<(message: unknown) => void>();
  private readonly tabs = new Set<Tab>();

  constructor(
    readonly name: string,
    readonly profile = new Profile(),
  ) {}

  /** A new tab; *live* false: without a connection. */
  async open({ live = true } = {}): Promise<Tab> {
    const tab = await Tab.open(this, live);
    this.tabs.add(tab);
    return tab;
  }

  /** A tab whose account has joined. */
  async join(invitation: string): Promise<Tab> {
    const tab = await this.open();
    await tab.account.join(invitation, this.name, null);
    return tab;
  }

  /** Another profile with a copy of all that is stored. */
  async copy(): Promise<Browser> {
    return new Browser(this.name, await this.profile.copy());
  }

  /** What is stored under this name, whatever became of the tabs. */
  async stored(name: string): Promise<Uint8Array | null> {
    const store = await this.profile.open();
    try {
      return await store.committedMeta(name);
    } finally {
      await store.close();
    }
  }

  /** Close every tab. */
  async close(): Promise<void> {
    for (const tab of this.tabs) await tab.close();
    this.tabs.clear();
  }

  /** A tab's end of the channel that all tabs share. */
  channel(): Channel {
    const own = new Set<(message: unknown) => void>();
    return {
      post: (message) => {
        const copy: unknown = structuredClone(message);
        for (const hear of this.hearers) {
          if (!own.has(hear)) setTimeout(() => this.hearers.has(hear) && hear(copy), 0);
        }
      },
      listen: (hear) => {
        own.add(hear);
        this.hearers.add(hear);
        return () => {
          own.delete(hear);
          this.hearers.delete(hear);
        };
      },
    };
  }
}

/** One tab: its account and everything that it told. */
export class Tab {
  readonly events: EngineEvent[] = [];
  readonly bugs: unknown[] = [];
  account!: Account;
  store!: Store;
  /** How many transactions changed something. */
  commits = 0;
  crashed = false;
  private crash: Crash | null = null;
  private readonly lookers = new Set<() => void>();

  private constructor(readonly browser: Browser) {}

  static async open(browser: Browser, live: boolean): Promise<Tab> {
    const tab = new Tab(browser);
    tab.account = await Account.open(tab.surroundings(), { live });
    tab.account.listen((event) => {
      tab.events.push(event);
      for (const look of [...tab.lookers]) look();
    });
    return tab;
  }

  /** End it in good order. */
  async close(): Promise<void> {
    await this.account.close();
  }

  /** End it as when a browser is killed: nothing of it is stored or sent any more. */
  async die(): Promise<void> {
    this.crashed = true;
    await this.account.close().catch(() => {});
  }

  /** From now on, break at this commit. */
  crashAt(at: number, when: Crash["when"]): void {
    this.crash = { at: this.commits + at, when };
  }

  /** Wait until *isSo* gives something; it is asked whenever the account tells something, and now and then. */
  async until<T>(isSo: () => T | Promise<T>, what = "what was waited for"): Promise<NonNullable<T>> {
    const overMs = Date.now() + PATIENCE_MS;
    for (;;) {
      const found = await isSo();
      if (found !== null && found !== undefined && found !== false) return found;
      if (Date.now() > overMs) throw new Error(`${this.browser.name} waited in vain for ${what}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100);
        const look = (): void => {
          clearTimeout(timer);
          this.lookers.delete(look);
          resolve();
        };
        this.lookers.add(look);
      });
    }
  }

  /** The chat with someone, once it is there. */
  async chatWith(name: string): Promise<Chat> {
    return this.until(
      async () => (await this.account.chats()).find((chat) => chat.name === name),
      `a chat with ${name}`,
    );
  }

  /** Everything in the history of a chat that is no notice, oldest first. */
  async history(name: string): Promise<Message[]> {
    const chat = await this.chatWith(name);
    const { messages } = await this.account.messages(chat.id, { limit: 200 });
    return messages.filter((message) => message.kind !== "notice");
  }

  /** The texts of a chat. */
  async texts(name: string): Promise<string[]> {
    return (await this.history(name)).map((message) => message.text);
  }

  /** Write to someone. */
  async say(name: string, text: string): Promise<Message> {
    return this.account.sendText((await this.chatWith(name)).id, text, null);
  }

  /** The message with this text, once it is there. */
  async message(name: string, text: string): Promise<Message> {
    return this.until(async () => (await this.history(name)).find((message) => message.text === text), `“${text}”`);
  }

  /** The message with this text, once it is in that state. */
  async settled(name: string, text: string, state: Message["state"]): Promise<Message> {
    const isSo = async (): Promise<Message | undefined> =>
      (await this.history(name)).find((message) => message.text === text && message.state === state);
    return this.until(isSo, `“${text}” ${state}`);
  }

  private surroundings(): Surroundings {
    return {
      openStore: async () => {
        this.store = this.breakable(await this.browser.profile.open());
        return this.store;
      },
      vault: (store) => new Vault(store, { nowMs: Date.now, random: browserRandom, makeCore: async () => makeCore() }),
      network: (origin) =>
        new Altered(
          origin,
          (welcome) => this.browser.alter(welcome),
          (command, link) => this.browser.meet(command, link),
        ),
      files: (origin) => new Blobs(origin, { core: async () => makeCore() }),
      locks: this.browser.profile.locks,
      channel: this.browser.channel(),
      monotonicMs: () => performance.now(),
      origin: null,
      about: async () => ({}),
      isPersisted: async () => true,
      bug: (error) => {
        if (!this.crashed) this.bugs.push(error);
        if (!this.crashed) console.error(error);
      },
    };
  }

  /** The store, which breaks where it was told to. */
  private breakable(store: Store): Store {
    store.onCommit((mine) => {
      if (mine) this.commits += 1;
    });
    const alive = (): void => {
      if (this.crashed) throw new Crashed();
    };
    const breaks = (when: Crash["when"]): boolean =>
      this.crash !== null && this.crash.when === when && this.commits + (when === "before" ? 1 : 0) >= this.crash.at;
    const write = async <T>(work: (tx: Tx) => Promise<T>): Promise<T> => {
      alive();
      const result = await store.write(async (tx) => {
        alive();
        const value = await work(tx);
        if (breaks("before")) this.crashed = true;
        alive();
        return value;
      });
      if (breaks("after")) this.crashed = true;
      alive();
      return result;
    };
    const read = async <T>(work: (tx: Tx) => Promise<T>): Promise<T> => {
      alive();
      return store.read(work);
    };
    const erase = async (): Promise<void> => {
      if (breaks("before")) this.crashed = true;
      alive();
      await store.erase();
    };
    return new Proxy(store, {
      get: (target, name) => {
        if (name === "write") return write;
        if (name === "read") return read;
        if (name === "erase") return erase;
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}

/** A server, and the browsers of the people on it. */
export class World {
  readonly browsers: Browser[] = [];
  server!: TestServer;

  async start(): Promise<void> {
    this.server = await TestServer.start();
  }

  async end(): Promise<void> {
    for (const browser of this.browsers) await browser.close();
    await this.server.remove();
  }

  /** A tab of someone who has just joined. */
  async someone(name: string): Promise<Tab> {
    const browser = new Browser(name);
    this.browsers.push(browser);
    return browser.join(await this.server.invite());
  }

  /** Two who have added and accepted each other. */
  async friends(first: string, second: string): Promise<[Tab, Tab]> {
    const [one, other] = await Promise.all([this.someone(first), this.someone(second)]);
    const { contactLink } = (await other.account.status()).me ?? {};
    await one.account.add(contactLink ?? "");
    const request = await other.chatWith(first);
    await other.account.accept(request.id);
    await one.chatWith(second);
    return [one, other];
  }
}

/** A world for the tests of this file. */
export function useWorld(): World {
  vi.setConfig({ testTimeout: 90_000 }); // a machine that others use as well
  const world = new World();
  beforeAll(() => world.start());
  afterAll(() => world.end());
  return world;
}
