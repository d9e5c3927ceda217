/** What a browser has and Node has not, for tests: IndexedDB in memory, and locks between tabs. */

import "fake-indexeddb/auto";
import type { Locks } from "../../src/client/database";
import { type SecondPlace, Store, type StoreOptions } from "../../src/client/store";

type Waiting = { mode: "exclusive" | "shared"; enter: () => void };

/** The Web Locks of one browser: requests in order, shared ones together. */
export class BrowserLocks implements Locks {
  private readonly queues = new Map<string, { waiting: Waiting[]; holders: Waiting[] }>();

  async request<T>(
    name: string,
    { mode, signal }: { mode: "exclusive" | "shared"; signal: AbortSignal },
    callback: () => Promise<T>,
  ): Promise<T> {
    const queue = this.queues.get(name) ?? { waiting: [], holders: [] };
    this.queues.set(name, queue);
    const mine = await new Promise<Waiting>((resolve, reject) => {
      const entry: Waiting = { mode, enter: () => resolve(entry) };
      queue.waiting.push(entry);
      signal.addEventListener("abort", () => {
        queue.waiting.splice(queue.waiting.indexOf(entry), 1);
        reject(signal.reason);
      });
      this.admit(queue);
    });
    try {
      return await callback();
    } finally {
      queue.holders.splice(queue.holders.indexOf(mine), 1);
      this.admit(queue);
    }
  }

  private admit({ waiting, holders }: { waiting: Waiting[]; holders: Waiting[] }): void {
    for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
      const mayEnter =
        holders.length === 0 || (next.mode === "shared" && holders.every(({ mode }) => mode === "shared"));
      if (!mayEnter) return;
      waiting.shift();
      holders.push(next);
      next.enter();
    }
  }
}

/** The second place, in memory. */
export class Place implements SecondPlace {
  isSet = false;

  async has(): Promise<boolean> {
    return this.isSet;
  }

  async set(): Promise<void> {
    this.isSet = true;
  }

  async clear(): Promise<void> {
    this.isSet = false;
  }
}

let profiles = 0;

/** A browser profile of its own: its tabs share what is stored. */
export class Profile {
  readonly name = `profile-${++profiles}`;
  readonly secondPlace = new Place();
  locks = new BrowserLocks();
  private readonly tabs: Store[] = [];

  /** The store as a tab opens it. */
  async open(options: StoreOptions = {}): Promise<Store> {
    const { name, locks, secondPlace } = this;
    const store = await Store.open({ name, locks, secondPlace, ...options });
    this.tabs.push(store);
    return store;
  }

  /** All tabs are gone at once, with what they were doing. */
  async crash(): Promise<void> {
    await this.close();
    this.locks = new BrowserLocks();
  }

  async close(): Promise<void> {
    for (const tab of this.tabs.splice(0)) await tab.close();
  }
}
