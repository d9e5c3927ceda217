/** The encrypted database: what is readable, transactions between tabs, pages and search, damage, and steps cut off. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { hex } from "../../src/bytes";
import {
  DAY_MS,
  KEEP_DECIDED_MS,
  KEEP_SENT_MS,
  LOOSE_MS,
  MAX_ASIDE_PER_SERIAL,
  type Store,
  StoreError,
  type Tx,
} from "../../src/client/store";
import type { NewChat } from "../../src/client/tables";
import { Random } from "../random";
import { Profile } from "./browser";

let profile: Profile;
let store: Store;

beforeEach(async () => {
  profile = new Profile();
  store = await profile.open();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await profile.close();
});

const id = (n: number, size = 16) => {
  const data = new Uint8Array(size);
  new DataView(data.buffer).setUint32(0, n);
  return data;
};
const ME = id(1, 32);
const HER = id(2, 32);
const CHAT = id(3);
const words = (text: string) => new TextEncoder().encode(text);

function chat(n: number, more: Partial<NewChat> = {}): NewChat {
  const empty = { namedBy: "us", kind: 0, state: "open", peer: null, groupId: null, nextSequence: 1, lastAtMs: n };
  return { id: id(n), name: `chat ${n}`, ...empty, ...more };
}

async function add(tx: Tx, n: number, { text = `text ${n}`, to = CHAT, unread = false, state = "received" } = {}) {
  return tx.addMessage(to, id(n), HER, n, 1000 + n, "text", text, state, unread);
}

/** Everything that lies in the browser's database. */
async function raw(): Promise<{ store: string; key: IDBValidKey; value: unknown }[]> {
  const db = await new Promise<IDBDatabase>((resolve) => {
    const request = indexedDB.open(profile.name);
    request.onsuccess = () => resolve(request.result);
  });
  const found: { store: string; key: IDBValidKey; value: unknown }[] = [];
  const tx = db.transaction([...db.objectStoreNames], "readonly");
  for (const name of db.objectStoreNames) {
    await new Promise<void>((resolve) => {
      const request = tx.objectStore(name).openCursor();
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor === null) return resolve();
        found.push({ store: name, key: cursor.primaryKey, value: cursor.value });
        cursor.continue();
      };
    });
  }
  db.close();
  return found;
}

async function overwrite(name: string, change: (store: IDBObjectStore) => void): Promise<void> {
  const db = await new Promise<IDBDatabase>((resolve) => {
    const request = indexedDB.open(profile.name);
    request.onsuccess = () => resolve(request.result);
  });
  const tx = db.transaction(name, "readwrite");
  change(tx.objectStore(name));
  await new Promise((resolve) => {
    tx.oncomplete = resolve;
  });
  db.close();
}

function bytesIn(value: unknown): string {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("latin1");
  if (value instanceof ArrayBuffer) return Buffer.from(value).toString("latin1");
  if (Array.isArray(value)) return value.map(bytesIn).join(" ");
  if (typeof value === "object" && value !== null) return Object.values(value).map(bytesIn).join(" ");
  return String(value);
}

describe("what is stored", () => {
  test("nothing readable is written, and no key of a record says anything (DEV-06)", async () => {
    await store.write(async (tx) => {
      await tx.setMeta("name", "canary of meta");
      await tx.addChat(chat(3, { name: "canary of chats", peer: HER }));
      await add(tx, 7, { text: "canary of messages" });
      await tx.putRow(words("canary scope"), words("canary row"), words("canary value"));
      await tx.queueContent(CHAT, id(7), words("canary of the outbox"), 5);
      await tx.archive(CHAT, 1, id(7), words("canary of what was sent"), 5);
      await tx.decide(words("canary of envelopes"), 5);
      await tx.note("message", CHAT, words("canary"), "canary of the journal");
      await tx.putFile(words("canary of a blob's name"), words("canary of files"), 5, {
        chat: CHAT,
        hash: words("canary"),
      });
    });
    const all = (await raw()).map(({ key, value }) => `${bytesIn(key)} ${bytesIn(value)}`).join("\n");
    expect(all).not.toContain("canary");
    for (const secret of [HER, CHAT, id(7)]) expect(all).not.toContain(Buffer.from(secret).toString("latin1"));
  });

  test("the keys cannot be taken out of the browser (DEV-06)", async () => {
    const [keys] = (await raw()).filter((one) => one.store === "keys");
    const made = Object.values((keys ?? { value: {} }).value as Record<string, CryptoKey>);
    expect(made).toHaveLength(2);
    for (const key of made) {
      expect(key.extractable).toBe(false);
      await expect(crypto.subtle.exportKey("raw", key)).rejects.toThrow();
    }
  });

  test("is there again when the browser starts anew, and is the same", async () => {
    await store.write(async (tx) => {
      await tx.setMeta("counter", 41);
      await tx.addChat(chat(3));
      await add(tx, 7);
    });
    await profile.crash();
    store = await profile.open();
    await store.read(async (tx) => {
      expect(await tx.metaInt("counter")).toBe(41);
      expect(await tx.messages(CHAT, 5)).toMatchObject([
        { n: 1, id: id(7), text: "text 7", sender: HER, unread: false },
      ]);
    });
    expect(await store.committedMeta("counter")).toEqual(words("41"));
    expect(await store.committedMeta("nothing")).toBeNull();
  });
});

describe("a transaction", () => {
  test("that throws leaves everything as it was", async () => {
    await store.write((tx) => tx.addChat(chat(3)));
    const before = await raw();
    await expect(
      store.write(async (tx) => {
        await tx.setMeta("name", "x");
        await add(tx, 1, { unread: true });
        await tx.renameChat(CHAT, "another", "us");
        throw new RangeError("no");
      }),
    ).rejects.toThrow(RangeError);
    expect(await raw()).toEqual(before);
    await store.write(async (tx) => {
      expect(await tx.meta("name")).toBeNull();
      expect(await tx.chat(CHAT)).toMatchObject({ name: "chat 3", messageCount: 0, unread: 0 });
      await add(tx, 2);
      expect((await tx.messages(CHAT, 9)).map(({ n }) => n)).toEqual([1]);
    });
  });

  test("sees what it wrote itself, everywhere", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      for (let n = 1; n <= 5; n++) await add(tx, n, { unread: true });
      await tx.putRow(ME, id(1), id(10));
    });
    await store.write(async (tx) => {
      await add(tx, 6, { unread: true });
      await tx.markRead([2, 3]);
      await tx.setMessageState(CHAT, id(4), "kept", ["received"]);
      expect((await tx.unread(CHAT, 9)).map(({ n }) => n)).toEqual([1, 4, 5, 6]);
      expect((await tx.unread(null, 2)).map(({ n }) => n)).toEqual([1, 4]);
      expect((await tx.messages(CHAT, 3)).map(({ n, state }) => [n, state])).toEqual([
        [4, "kept"],
        [5, "received"],
        [6, "received"],
      ]);
      await tx.putRow(ME, id(2), id(20));
      await tx.putRow(ME, id(1), null);
      expect(await tx.scopeRows(ME)).toEqual([[id(2), id(20)]]);
      await tx.clearScope(ME);
      expect(await tx.scopeRows(ME)).toEqual([]);
      await tx.putRow(ME, id(3), id(30));
      expect(await tx.scopeRows(ME)).toEqual([[id(3), id(30)]]);
    });
    await store.read(async (tx) => expect(await tx.scopeRows(ME)).toEqual([[id(3), id(30)]]));
  });

  test("works from what another tab wrote before, and each is told of the other's", async () => {
    const other = await profile.open();
    const told: boolean[] = [];
    other.onCommit((mine) => told.push(mine));
    const count = async (tab: Store) =>
      tab.write(async (tx) => {
        const n = await tx.metaInt("count");
        await new Promise((resolve) => setTimeout(resolve, 1));
        await tx.setMeta("count", n + 1);
      });
    await Promise.all(Array.from({ length: 20 }, (_, at) => count(at % 2 ? store : other)));
    expect(await store.read((tx) => tx.metaInt("count"))).toBe(20);
    await vi.waitFor(() => expect(told).toHaveLength(20));
    expect(told.filter(Boolean)).toHaveLength(10);
  });

  test("that only read stores nothing and tells nobody; one that reads cannot write; none works when it has ended", async () => {
    const before = await raw();
    const told = vi.fn();
    store.onCommit(told);
    let kept: Tx | null = null;
    await store.write(async (tx) => {
      kept = tx;
      await tx.chats();
    });
    expect(await raw()).toEqual(before);
    expect(told).not.toHaveBeenCalled();
    await expect(store.read((tx) => tx.setMeta("a", "b"))).rejects.toThrow("only reads");
    await expect((kept as Tx | null)?.setMeta("a", "b")).rejects.toThrow("has ended");
  });

  test("that writes without the lock is found out and stores nothing", async () => {
    await profile.open();
    const rogue = await profile.open({ locks: new (await import("./browser")).BrowserLocks() });
    await expect(
      store.write(async (tx) => {
        await tx.setMeta("a", "1");
        await rogue.write((other) => other.setMeta("b", "2"));
      }),
    ).rejects.toMatchObject({ code: "storage" });
    await store.read(async (tx) => {
      expect(await tx.metaText("a")).toBe("");
      expect(await tx.metaText("b")).toBe("2");
    });
  });
});

/** A step as the engine makes them: core rows, a message, the outbox, counters. */
async function step(tx: Tx): Promise<void> {
  await tx.putRow(ME, id(1), id(11));
  await tx.putRow(ME, id(2), null);
  await tx.bumpScope(ME);
  const sequence = await tx.takeSequence(CHAT);
  await tx.addMessage(CHAT, id(50), ME, sequence, 5, "text", "mine", "queued", false);
  await tx.queueContent(CHAT, id(50), words("content"), 5);
  await tx.archive(CHAT, sequence, id(50), words("content"), 5);
  await tx.markRead([1]);
  await tx.note("message", CHAT, id(50));
}

describe("a step that is cut off", () => {
  const METHODS: [target: object, names: string[]][] = [
    [crypto.subtle, ["encrypt", "decrypt", "sign"]],
    [IDBObjectStore.prototype, ["get", "getAll", "getAllKeys", "put", "delete", "index"]],
    [IDBIndex.prototype, ["getAll", "getAllKeys", "openCursor"]],
    [IDBDatabase.prototype, ["transaction"]],
  ];

  async function prepared(): Promise<void> {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await add(tx, 1, { unread: true });
      await tx.putRow(ME, id(1), id(10));
      await tx.putRow(ME, id(2), id(20));
    });
    await profile.crash();
    store = await profile.open();
  }

  /** Call *cut* instead of the call number *at* of all that the browser is asked; whether there were so many. */
  function cutAt(at: number, cut: (asked: unknown) => unknown): () => boolean {
    let left = at;
    for (const [target, names] of METHODS) {
      for (const name of names) {
        const original = (target as Record<string, (...args: unknown[]) => unknown>)[name];
        vi.spyOn(target as Record<string, (...args: unknown[]) => unknown>, name).mockImplementation(function (
          this: unknown,
          ...args: unknown[]
        ) {
          return --left === 0 ? cut(this) : original?.apply(this, args);
        });
      }
    }
    return () => left <= 0;
  }

  test.each([
    ["is refused", false],
    ["never comes back, because the browser is killed", true],
  ])(
    "anywhere, because a call %s, leaves the old state, and can be made again",
    async (_, isKilled) => {
      await prepared();
      const before = await raw();
      for (let at = 1; ; at++) {
        let kill = () => {};
        const killed = new Promise((resolve) => {
          kill = () => setTimeout(() => resolve("killed"), 300);
        });
        const wasCut = cutAt(at, (asked) => {
          kill();
          if (!isKilled) throw new DOMException("no", "QuotaExceededError");
          if (asked !== crypto.subtle) throw new DOMException("gone", "AbortError"); // what was asked of IndexedDB is undone
          return new Promise(() => {});
        });
        const outcome = await Promise.race([
          store.write(step).then(
            () => "done",
            (error: unknown) => error,
          ),
          killed,
        ]);
        const cut = wasCut();
        vi.restoreAllMocks();
        if (!cut) {
          expect(outcome).toBe("done");
          expect(at).toBeGreaterThan(40);
          break;
        }
        if (outcome !== "killed") expect(outcome, `call ${at}`).toMatchObject({ code: "storage" });
        expect(await raw(), `call ${at}`).toEqual(before);
        if (isKilled || at % 5 === 0) {
          await profile.crash();
          store = await profile.open();
        }
        await store.read(async (tx) => {
          expect(await tx.chat(CHAT)).toMatchObject({ messageCount: 1, unread: 1, queued: 0, nextSequence: 1 });
          expect(await tx.outboxSize()).toBe(0);
        });
      }
      await store.read(async (tx) => {
        expect(await tx.chat(CHAT)).toMatchObject({
          messageCount: 2,
          unread: 0,
          queued: 1,
          nextSequence: 2,
          firstUnread: 0,
        });
        expect(await tx.scopeRows(ME)).toEqual([[id(1), id(11)]]);
      });
    },
    120_000,
  );

  test("a full disk becomes the failure “storage”, loses nothing, and goes away with the cause", async () => {
    await prepared();
    vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    await expect(store.write(step)).rejects.toMatchObject({ code: "storage", params: {} });
    vi.restoreAllMocks();
    await store.write(step);
    await store.read(async (tx) => expect(await tx.countQueued(CHAT)).toBe(1));
  });
});

describe("a store that cannot be used", () => {
  const opening = async () => {
    await profile.crash();
    return profile.open();
  };

  test("of a newer version is refused and left as it is", async () => {
    await store.write((tx) => tx.setMeta("a", "b"));
    await profile.crash();
    await new Promise<void>((resolve) => {
      const request = indexedDB.open(profile.name, 99);
      request.onsuccess = () => {
        request.result.close();
        resolve();
      };
    });
    const before = await raw();
    await expect(opening()).rejects.toMatchObject({ code: "newer" });
    expect(await raw()).toEqual(before);
  });

  /** Alter what is sealed in a record. */
  async function spoil(name: string, key: IDBValidKey): Promise<void> {
    const isIt = (one: { store: string; key: IDBValidKey }) => one.store === name && indexedDB.cmp(one.key, key) === 0;
    const stored = (await raw()).find(isIt)?.value as { d: Uint8Array };
    stored.d[20] = (stored.d[20] ?? 0) ^ 1;
    await overwrite(name, (table) => table.put(stored, key));
  }

  test("whose record was altered is reported as damaged where it is read, and kept", async () => {
    await store.write((tx) => tx.note("chat", CHAT));
    await spoil("journal", 1);
    const before = await raw();
    store = await opening();
    await expect(store.read((tx) => tx.journalAfter(0))).rejects.toBeInstanceOf(StoreError);
    await expect(store.read((tx) => tx.journalAfter(0))).rejects.toMatchObject({ code: "damaged" });
    expect(await raw()).toEqual(before);
  });

  test("whose message was altered tells so in its place, keeps its bytes, and lets all others be read", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await tx.addChat(chat(4));
      for (let n = 1; n <= 3; n++) await add(tx, n, { unread: true });
      await add(tx, 4, { to: id(4) });
    });
    const sealedOf = async (n: number) => {
      const stored = (await raw()).find((one) => one.store === "messages" && one.key === n)?.value as { d: Uint8Array };
      return hex(stored.d);
    };
    for (const n of [2, 4]) await spoil("messages", n);
    const sealed = [await sealedOf(2), await sealedOf(4)];
    const before = await raw();
    store = await opening();
    await store.read(async (tx) => {
      const page = await tx.page(CHAT, { around: 2, limit: 4 });
      expect(page.messages).toMatchObject([
        { n: 1, text: "text 1", sentAtMs: 1001 },
        { n: 2, kind: "notice", text: "", sentAtMs: 1001, unread: true, chat: CHAT, notice: { code: "damaged" } },
        { n: 3, text: "text 3", sentAtMs: 1003 },
      ]);
      expect((await tx.search("text", { limit: 9 })).messages.map(({ n }) => n)).toEqual([3, 1]);
      expect((await tx.search("text", { limit: 9, chat: CHAT })).messages.map(({ n }) => n)).toEqual([3, 1]);
      expect(await tx.messagesAt([4, 3])).toMatchObject([{ n: 4, notice: { code: "damaged" } }, { n: 3 }]);
      expect((await tx.messages(id(4), 9)).map(({ n, sentAtMs }) => [n, sentAtMs])).toEqual([[4, 4]]);
      expect(await tx.message(CHAT, id(2), HER)).toBe(null);
    });
    expect(await raw(), "reading changes nothing").toEqual(before);

    await store.write(async (tx) => {
      expect((await tx.unread(CHAT, 9)).map(({ n }) => n)).toEqual([1, 2, 3]);
      await tx.markRead([1, 2]);
      expect((await tx.messageAt(2))?.unread).toBe(false);
      expect((await tx.unread(CHAT, 9)).map(({ n }) => n)).toEqual([3]);
      await tx.setMessageState(CHAT, id(2), "kept", ["queued", "received"]);
      await tx.setMedia(2, { state: "gone" });
      expect(await add(tx, 5)).toBe(true);
    });
    await profile.crash();
    store = await opening();
    await store.read(async (tx) => {
      expect(await tx.chat(CHAT)).toMatchObject({ unread: 1, firstUnread: 3, messageCount: 4 });
      expect((await tx.messages(CHAT, 9)).map(({ n, notice }) => [n, notice?.code])).toEqual([
        [1, undefined],
        [2, "damaged"],
        [3, undefined],
        [5, undefined],
      ]);
    });
    expect([await sealedOf(2), await sealedOf(4)], "what is sealed stays as it is").toEqual(sealed);
  });

  test("whose records were exchanged is damaged", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      for (let n = 1; n <= 2; n++) await add(tx, n);
    });
    const first = (await raw()).find((one) => one.store === "messages" && one.key === 1)?.value;
    await overwrite("messages", (messages) => messages.put(first, 2));
    expect(await store.read((tx) => tx.messageAt(2))).toMatchObject({ n: 2, text: "", notice: { code: "damaged" } });
  });

  test.each(["rows", "head", "keys"])(
    "that lost something of its %s is damaged and never taken for a new one",
    async (name) => {
      await store.write((tx) => tx.setMeta("account", "x"));
      const key = (await raw()).find((one) => one.store === name)?.key ?? 0;
      await profile.crash();
      await overwrite(name, (table) => table.delete(key));
      const before = await raw();
      const used = (async () => (await opening()).read((tx) => tx.meta("account")))();
      await expect(used).rejects.toMatchObject({ code: "damaged" });
      expect(await raw()).toEqual(before);
    },
  );

  test("that the browser threw away is told from one that never was", async () => {
    expect(store.evicted).toBe(false);
    await store.write((tx) => tx.setMeta("account", ME));
    await store.rememberAccount();
    expect((await opening()).evicted).toBe(false);
    await profile.crash();
    await new Promise((resolve) => {
      indexedDB.deleteDatabase(profile.name).onsuccess = resolve;
    });
    store = await opening();
    expect(store.evicted).toBe(true);
    expect((await opening()).evicted).toBe(true);
  });

  test("that was erased is gone for all tabs, and is a new one afterwards", async () => {
    await store.write((tx) => tx.setMeta("account", ME));
    await store.rememberAccount();
    const other = await profile.open();
    await store.erase();
    await expect(other.read((tx) => tx.meta("account"))).rejects.toMatchObject({ code: "storage" });
    const fresh = await opening();
    expect(await fresh.read((tx) => tx.meta("account"))).toBeNull();
    expect(fresh.evicted).toBe(false);
  });

  test.each(["before its mark", "after its mark", "after its keys"])(
    "that is being erased is there or gone, and never called thrown away, when that is cut off %s",
    async (when) => {
      await store.write((tx) => tx.setMeta("account", ME));
      await store.rememberAccount();
      const cut = () => {
        throw new Error("cut off");
      };
      if (when === "after its keys") vi.spyOn(indexedDB, "deleteDatabase").mockImplementation(cut);
      else {
        const { secondPlace } = profile;
        const clear = secondPlace.clear.bind(secondPlace);
        vi.spyOn(secondPlace, "clear").mockImplementation(async () => {
          if (when === "after its mark") await clear();
          cut();
        });
      }
      await expect(store.erase()).rejects.toThrow("cut off");
      vi.restoreAllMocks();
      await profile.crash();
      store = await opening();
      expect(await store.read((tx) => tx.meta("account"))).toEqual(when === "after its keys" ? null : ME);
      expect(store.evicted).toBe(false);
    },
  );
});

describe("messages", () => {
  test("of a long chat come in pages, and only what is asked for is opened", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await tx.addChat(chat(4));
    });
    for (let from = 1; from <= 2000; from += 500) {
      await store.write(async (tx) => {
        for (let n = from; n < from + 500; n++) await add(tx, n, { to: id(3 + (n % 2)) });
      });
    }
    const decrypt = vi.spyOn(crypto.subtle, "decrypt");
    await store.read(async (tx) => {
      const before = decrypt.mock.calls.length;
      const newest = await tx.page(CHAT, { limit: 60 });
      expect(newest.messages.map(({ n }) => n)).toEqual(Array.from({ length: 60 }, (_, at) => 1882 + 2 * at));
      expect([newest.before, newest.after]).toEqual([true, false]);
      expect(decrypt.mock.calls.length - before).toBeLessThan(65);

      const numbers = async (request: Parameters<Tx["page"]>[1]) => {
        const page = await tx.page(CHAT, request);
        return [page.messages.map(({ n }) => n), page.before, page.after];
      };
      expect(await numbers({ before: 1882, limit: 2 })).toEqual([[1878, 1880], true, true]);
      expect(await numbers({ before: 5, limit: 9 })).toEqual([[2, 4], false, true]);
      expect(await numbers({ after: 1996, limit: 9 })).toEqual([[1998, 2000], true, false]);
      expect(await numbers({ after: 0, limit: 2 })).toEqual([[2, 4], false, true]);
      expect(await numbers({ around: 100, limit: 4 })).toEqual([[96, 98, 100, 102], true, true]);
      expect(await numbers({ around: 2, limit: 4 })).toEqual([[2, 4], false, true]);
      expect(await numbers({ limit: 0 })).toEqual([[], true, false]);
      expect(await tx.page(id(9), { limit: 5 })).toEqual({ messages: [], before: false, after: false });
    });
  });

  test("are found by all their words, without case and accents, newest first, step by step", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await tx.addChat(chat(4));
      for (let n = 1; n <= 1000; n++)
        await add(tx, n, { to: id(3 + (n % 2)), text: n % 100 ? "chaff" : `Café ${n} Größe` });
    });
    await store.read(async (tx) => {
      const found = await tx.search("grösse CAFE", { limit: 10 });
      expect(found.messages).toEqual([]); // ß is not ss
      const all = await tx.search("größe CAFE", { limit: 10 });
      expect(all.messages.map(({ n }) => n)).toEqual([1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]);
      const some = await tx.search("cafe", { limit: 3 });
      expect(some.next).toBe(800);
      expect((await tx.search("cafe", { limit: 99, before: 800 })).messages.map(({ n }) => n)[0]).toBe(700);
      const scanned = await tx.search("cafe", { limit: 99, scan: 450 });
      expect(scanned.messages).toHaveLength(5);
      expect((await tx.search("cafe", { limit: 99, before: scanned.next ?? 0 })).messages).toHaveLength(5);
      expect((await tx.search("cafe", { limit: 99, chat: CHAT })).messages).toHaveLength(10);
      expect((await tx.search("cafe", { limit: 99, chat: id(4) })).messages).toEqual([]);
      expect(await tx.search("  ", { limit: 9 })).toEqual({ messages: [], next: null });
    });
  });

  test("of the same id from the same account are one, from another account another (CNT-02)", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      expect(await add(tx, 1)).toBe(true);
      expect(await add(tx, 1)).toBe(false);
      expect(await tx.addMessage(CHAT, id(1), ME, 1, 0, "text", "other", "queued", false)).toBe(true);
      expect(await tx.setMessageState(CHAT, id(1), "kept", ["queued"])).toBe(true);
      expect(await tx.setMessageState(CHAT, id(1), "kept", ["queued"])).toBe(false);
      expect((await tx.message(CHAT, id(1), HER))?.state).toBe("received");
      expect((await tx.message(CHAT, id(1), ME))?.state).toBe("kept");
      expect((await tx.chat(CHAT))?.messageCount).toBe(2);
    });
  });

  test("are counted right whatever happens to them", async () => {
    const random = new Random(7);
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await tx.addChat(chat(4));
    });
    for (let round = 0; round < 30; round++) {
      const isUndone = random.below(4) === 0;
      const change = store.write(async (tx) => {
        for (let each = 0; each < 5; each++) {
          const to = id(3 + random.below(2));
          const message = id(random.below(60));
          const state = random.pick(["queued", "kept", "received"]);
          const what = random.below(3);
          if (what === 0) await tx.addMessage(to, message, HER, 1, 0, "text", "x", state, random.below(2) === 0);
          else if (what === 1) await tx.setMessageState(to, message, state, ["queued", "kept"]);
          else await tx.markRead([random.below(60), random.below(60)]);
        }
        if (isUndone) throw new RangeError("undone");
      });
      await change.catch((error) => expect(error).toBeInstanceOf(RangeError));
      await store.read(async (tx) => {
        for (const { id: of, ...counted } of await tx.chats()) {
          const all = await tx.messages(of, 1000);
          const unread = all.filter((one) => one.unread);
          expect(counted).toMatchObject({
            messageCount: all.length,
            lastN: all.at(-1)?.n ?? 0,
            unread: unread.length,
            firstUnread: unread[0]?.n ?? 0,
            queued: all.filter((one) => one.state === "queued").length,
          });
          expect((await tx.unread(of, 1000)).map(({ n }) => n)).toEqual(unread.map(({ n }) => n));
        }
      });
    }
  });
});

describe("what serves its time", () => {
  test("is forgotten then, and not before", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      for (let day = 0; day < 60; day++) {
        await tx.decide(id(day), day * DAY_MS);
        await tx.archive(CHAT, day + 1, id(day), words("x"), day * DAY_MS);
      }
      await tx.expire(60 * DAY_MS);
    });
    await store.read(async (tx) => {
      const kept = [];
      for (let day = 0; day < 60; day++) if (await tx.isDecided(id(day))) kept.push(day);
      expect(kept[0]).toBeLessThanOrEqual(60 - KEEP_DECIDED_MS / DAY_MS);
      expect(kept[0]).toBeGreaterThan(60 - KEEP_DECIDED_MS / DAY_MS - 3);
      expect(kept).toHaveLength(60 - (kept[0] ?? 0));
      const sent = [];
      for (let day = 0; day < 60; day++) if ((await tx.archived(CHAT, day + 1)) !== null) sent.push(day);
      expect(sent[0]).toBe(60 - KEEP_SENT_MS / DAY_MS);
    });
  });

  test("what is set aside is bounded for each address, and found by chat (DEV-21)", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3));
      await tx.addAddress(id(1), id(1, 41), "chat", CHAT, 1);
      for (let n = 0; n < MAX_ASIDE_PER_SERIAL; n++)
        expect(await tx.setAside(id(n), id(1), words(`${n}`), 5)).toBe(true);
      expect(await tx.setAside(id(99), id(1), words("x"), 5)).toBe(false);
      expect(await tx.setAside(id(99), id(2), words("x"), 5)).toBe(true);
      expect((await tx.asideOfChat(CHAT)).map(({ body }) => new TextDecoder().decode(body))[9]).toBe("9");
      expect(await tx.chatsWithAside()).toEqual([CHAT]);
      expect(await tx.isDecided(id(5))).toBe(true);
      await tx.forgetAside(id(5));
      expect(await tx.isDecided(id(5))).toBe(false);
      expect(await tx.asideOfChat(CHAT)).toHaveLength(MAX_ASIDE_PER_SERIAL - 1);
    });
  });

  test("the journal is bounded, and typing is one line of it for each person", async () => {
    await store.write(async (tx) => {
      for (let n = 0; n < 20; n++) await tx.note("typing", CHAT, HER, String(n % 2));
      await tx.note("typing", CHAT, ME, "1");
      expect((await tx.journalAfter(0)).map(({ about, text }) => [about, text])).toEqual([
        [HER, "1"],
        [ME, "1"],
      ]);
      for (let n = 0; n < 6000; n++) await tx.note("message", CHAT);
    });
    await store.read(async (tx) => {
      expect(await tx.journalEnd()).toBe(6021);
      expect(await tx.journalAfter(0)).toHaveLength(1000);
      expect((await tx.journalAfter(0))[0]?.n).toBe(1001);
      expect(await tx.journalAfter(6020)).toMatchObject([{ n: 6021, kind: "message" }]);
    });
  });

  test("of files that can be fetched again a bound is kept: the fullest chat's least used goes, one's own stay", async () => {
    await profile.crash();
    store = await profile.open({ mostFilesBytes: 1000 });
    const [one, other] = [id(100), id(101)];
    let nowMs = Date.now();
    const put = (n: number, chat: Uint8Array | null) => {
      nowMs += 1;
      const came = chat && { chat, hash: id(n) };
      return store.write((tx) => tx.putFile(id(n), new Uint8Array(400).fill(n), nowMs, came));
    };
    const here = () =>
      store.read(async (tx) => {
        const found = [];
        for (let n = 1; n <= 9; n++) if ((await tx.file(id(n)))?.[0] === n) found.push(n);
        return found;
      });
    for (const n of [1, 2, 3]) await put(n, null);
    await put(4, one);
    for (const n of [5, 6]) await put(n, other);
    expect(await here()).toEqual([1, 2, 3, 4, 6]); // the other chat had most, and 5 was used before 6
    nowMs += LOOSE_MS;
    for (const n of [7, 8, 9]) await put(n, other);
    expect(await here()).toEqual([1, 2, 3, 4, 6, 8, 9]); // 4 and 6 may be nowhere else any more
    await store.write((tx) => tx.forgetFile(id(4)));
    expect(await here()).toEqual([1, 2, 3, 6, 8, 9]);
  });

  test("a file is given for a message that names its hash only (CNT-41)", async () => {
    await store.write((tx) => tx.putFile(id(1), words("of another"), 5, { chat: CHAT, hash: id(2) }));
    await store.write((tx) => tx.putFile(id(3), words("my own"), 5, null));
    const file = (blob: number, hash: number) => store.read((tx) => tx.file(id(blob), id(hash)));
    expect([await file(1, 2), await file(1, 4)]).toEqual([words("of another"), null]);
    expect(await file(3, 4)).toEqual(words("my own"));
    await store.write((tx) => tx.setFileHash(id(3), id(5)));
    expect([await file(3, 5), await file(3, 4)]).toEqual([words("my own"), null]);
  });
});

describe("queries", () => {
  test("of chats, groups, outbox, chores and gaps answer as the Python store does", async () => {
    await store.write(async (tx) => {
      await tx.addChat(chat(3, { peer: HER, lastAtMs: 5 }));
      await tx.addChat(chat(4, { state: "request", lastAtMs: 9 }));
      await expect(tx.addChat(chat(3))).rejects.toThrow("already");
      await expect(tx.addChat(chat(5, { peer: HER }))).rejects.toThrow("already");
      await expect(tx.renameChat(id(4), "chat 3", "us")).rejects.toThrow("already");
      expect((await tx.chats()).map(({ name }) => name)).toEqual(["chat 4", "chat 3"]);
      expect((await tx.chatOfPeer(HER))?.name).toBe("chat 3");
      await tx.addRequest(id(4), HER, id(1));
      expect(await tx.countRequests(HER, id(2))).toEqual([1, 0]);
      await tx.setChatState(id(4), "open");
      expect(await tx.countRequests(HER, id(1))).toEqual([0, 0]);
      expect([await tx.takeSequence(CHAT), await tx.takeSequence(CHAT)]).toEqual([1, 2]);
      await tx.setChatSettings(CHAT, { draft: "hello", pinned: true });
      expect(await tx.chat(CHAT)).toMatchObject({ draft: "hello", pinned: true, archived: false });

      const group = { chat: CHAT, mlsChat: id(8), epoch: 0, standing: "current", predecessor: null, serial: id(1) };
      await tx.putGroup({ ...group, id: id(1, 32), sinceMs: 1 });
      await tx.putGroup({ ...group, id: id(2, 32), sinceMs: 2 });
      expect((await tx.groupsOfChat(CHAT)).map((one) => hex(one.id))).toEqual([hex(id(2, 32)), hex(id(1, 32))]);
      await tx.setChatGroup(CHAT, id(1, 32), 5);
      expect((await tx.groupOfMlsChat(id(8)))?.id).toEqual(id(1, 32));
      await tx.putTold(id(1, 32), 0, 0, id(1));
      await tx.putTold(id(1, 32), 0, 0, id(1));
      expect(await tx.told(id(1, 32))).toHaveLength(1);
      await tx.forgetGroup(id(1, 32));
      expect([await tx.group(id(1, 32)), await tx.told(id(1, 32))]).toEqual([null, []]);

      await tx.queueContent(CHAT, id(1), words("content"), 7);
      await tx.queueBody(words("body"), [id(1, 41)], 8);
      await tx.queueBody(words("nobody"), [], 8);
      expect((await tx.outgoing()).map(({ n }) => n)).toEqual([2, 1]);
      await tx.setProtected(1, words("sealed"), [id(2, 41)]);
      await tx.postponeOutgoing(2, 99);
      expect(await tx.outboxDueMs()).toBe(7);
      await tx.queueContent(CHAT, id(2), words("behind it"), 3);
      expect(await tx.outboxDueMs()).toBe(7);
      await tx.forgetOutgoing(3);
      expect((await tx.outgoing())[1]).toMatchObject({ content: null, body: words("sealed"), targets: [id(2, 41)] });
      expect(await tx.forgetOutgoingOf(CHAT)).toEqual([id(1)]);
      expect(await tx.outboxSize()).toBe(1);

      await tx.addChore("walk", id(1), words("x"), 10, 50);
      await tx.addChore("walk", id(1), words("y"), 11, 40);
      await tx.addChore("walk", id(1), words("y"), 12, 60);
      expect(await tx.chores("walk")).toMatchObject([{ payload: words("x"), dueMs: 40, madeMs: 10 }]);
      expect([
        await tx.countChores("walk", id(1).slice(0, 4)),
        await tx.countChores("walk", id(2).slice(0, 4)),
      ]).toEqual([1, 0]);
      await tx.setChore(1, words("z"), 45, 2);
      expect(await tx.choresDue(44)).toEqual([]);
      expect(await tx.nextChoreMs()).toBe(45);

      await tx.addGap(CHAT, id(7), 5, HER, 1, 20);
      await tx.addGap(CHAT, id(7), 4, HER, 1, 10);
      await tx.addGap(CHAT, id(7), 4, HER, 2, 99);
      expect((await tx.gapsDue(20)).map(({ sequence }) => sequence)).toEqual([4, 5]);
      await tx.closeGap(CHAT, id(7), 4);
      expect([await tx.countGaps(CHAT, id(7)), await tx.nextGapMs()]).toEqual([1, 20]);

      await tx.oweReceipt(CHAT, id(1), 2);
      await tx.oweReceipt(CHAT, id(1), 1);
      expect(await tx.receiptsOwed()).toEqual([{ chat: CHAT, message: id(1), status: 2 }]);
    });
    await store.write(async (tx) => {
      for (let n = 1; n <= 3; n++) {
        await tx.addMessage(CHAT, id(n), ME, n, 0, "text", "x", n === 2 ? "delivered" : "kept", false);
        await tx.archive(CHAT, n, id(n), words(String(n)), n);
      }
      expect(await tx.unconfirmed(CHAT, 9, 0)).toEqual([
        [id(1), words("1")],
        [id(3), words("3")],
      ]);
      expect(await tx.unconfirmed(CHAT, 1, 0)).toEqual([[id(3), words("3")]]);
      await tx.countResent(CHAT, 1);
      expect((await tx.archived(CHAT, 1))?.resent).toBe(1);
      expect([await tx.sentMs(CHAT, 3), await tx.sentMs(CHAT, 9)]).toEqual([3, -1]);
      await tx.restartSequences();
      expect([await tx.archived(CHAT, 1), (await tx.chat(CHAT))?.nextSequence]).toEqual([null, 1]);
    });
  });
});
