/** What a browser has and Node has not, for tests: IndexedDB in memory, and locks between tabs. */

import "fake-indexeddb/auto";
import { openDB } from "idb";
import type { Locks } from "../../src/client/database";
import { type SecondPlace, Store, type StoreOptions } from "../../src/client/store";

type Waiting = { mode: "exclusive" | "shared"; enter: () => void };

/** The Web Locks of one browser: requests in order, shared ones together. */
export class BrowserLocks implements Locks {
  private readonly queues = new Map<string, { waiting: Waiting[]; holders: Waiting[] }>();

  async request<T>(
    name: string,
    options: { mode?: "exclusive" | "shared"; signal?: AbortSignal; ifAvailable?: boolean },
    callback: (lock: unknown) => Promise<T>,
  ): Promise<T> {
    const { mode = "exclusive", signal } = options;
    const queue = this.queues.get(name) ?? { waiting: [], holders: [] };
    this.queues.set(name, queue);
    if (options.ifAvailable && queue.waiting.length + queue.holders.length > 0) return callback(null);
    const mine = await new Promise<Waiting>((resolve, reject) => {
      const entry: Waiting = { mode, enter: () => resolve(entry) };
      queue.waiting.push(entry);
      signal?.addEventListener("abort", () => {
        const at = queue.waiting.indexOf(entry);
        if (at < 0) return;
        queue.waiting.splice(at, 1);
        reject(signal.reason);
      });
      this.admit(queue);
    });
    try {
      return await callback({ name, mode });
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

  /** Another profile with a copy of everything that is stored here. */
  async copy(): Promise<Profile> {
    const copy = new Profile();
    copy.secondPlace.isSet = this.secondPlace.isSet;
    const from = await openDB(this.name);
    const to = await openDB(copy.name, from.version, {
      upgrade(made) {
        const tables = from.transaction([...from.objectStoreNames]);
        for (const name of from.objectStoreNames) {
          const table = tables.objectStore(name);
          const { keyPath, autoIncrement } = table;
          const copied = made.createObjectStore(name, { keyPath, autoIncrement });
          for (const index of table.indexNames) {
            const { keyPath: path, unique, multiEntry } = table.index(index);
            copied.createIndex(index, path, { unique, multiEntry });
          }
        }
      },
    });
    for (const name of from.objectStoreNames) {
      const [keys, values] = await Promise.all([from.getAllKeys(name), from.getAll(name)]);
      const step = to.transaction(name, "readwrite");
      for (const [at, key] of keys.entries()) {
        await step.store.put(values[at], step.store.keyPath === null ? key : undefined);
      }
      await step.done;
    }
    from.close();
    to.close();
    return copy;
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
