/** Store, vault and core on a page of their own, without screens and without a server: what store.test.ts asks for. */

import coreUrl from "taube_core.wasm?url";
import { browserRandom, Core, DEVICE_SCOPE, KIND_PAIR, SUITE_HYBRID } from "../../../src/client/e2e";
import { Store } from "../../../src/client/store";
import { Vault } from "../../../src/client/vault";
import { Client, type Methods } from "../../../src/rpc";
import { pack } from "../../../src/wire/packing";
import type { Counting } from "./worker";

const CHAT = new Uint8Array(16).fill(3);
const HER = new Uint8Array(32).fill(2);
const words = "A message of a usual length, as people write it to each other in the evening.";

let store: Store;
let vault: Vault;
const heard = { mine: 0, others: 0 };

const methods: Methods<Counting> = { add: true, fail: true, hang: true };

const page = {
  async open(): Promise<boolean> {
    store = await Store.open();
    store.onCommit((mine) => {
      heard[mine ? "mine" : "others"] += 1;
    });
    return store.evicted;
  },

  heard: () => heard,

  /** *times* a counter that all tabs share. */
  async count(times: number): Promise<void> {
    for (let n = 0; n < times; n++) {
      await store.write(async (tx) => tx.setMeta("count", (await tx.metaInt("count")) + 1));
    }
  },

  read: (name: string) => store.read((tx) => tx.metaText(name)),
  write: (name: string, value: string) => store.write((tx) => tx.setMeta(name, value)),

  async account(): Promise<void> {
    await store.write((tx) => tx.setMeta("account", HER));
    await store.rememberAccount();
  },

  /** As a browser that evicts only one of two places. */
  async loseDatabase(): Promise<void> {
    await store.close();
    await new Promise((resolve, reject) => {
      const request = indexedDB.deleteDatabase("taube");
      request.onsuccess = resolve;
      request.onerror = reject;
    });
  },

  /** What comes of taking the keys out of the database. */
  async takeKeys(): Promise<string[]> {
    const db = await new Promise<IDBDatabase>((resolve) => {
      const request = indexedDB.open("taube");
      request.onsuccess = () => resolve(request.result);
    });
    const keys = await new Promise<Record<string, CryptoKey>>((resolve) => {
      const request = db.transaction("keys").objectStore("keys").get(1);
      request.onsuccess = () => resolve(request.result as Record<string, CryptoKey>);
    });
    db.close();
    const taken = Object.values(keys).map((key) =>
      crypto.subtle.exportKey("raw", key).then(
        () => "taken",
        (error: Error) => error.name,
      ),
    );
    return Promise.all(taken);
  },

  /** Whether one side effect of a step that throws is left. */
  async undone(): Promise<string> {
    const step = store.write(async (tx) => {
      await tx.setMeta("undone", "no");
      throw new Error("no");
    });
    await step.catch(() => {});
    return page.read("undone");
  },

  /** Calls to a real worker that fails. */
  async calls(): Promise<unknown[]> {
    const start = () => new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const client = new Client<Counting, never>(start, methods, { tickMs: 1_000 }); // a busy machine may need seconds to start a worker
    const answers: unknown[] = [await client.api.add(1, 2)];
    answers.push(await client.api.fail().catch((failure: unknown) => failure));
    answers.push(await client.api.add(3, 4));
    answers.push(await client.api.hang().catch((failure: unknown) => failure));
    answers.push(await client.api.add(5, 6));
    client.close();
    return answers;
  },

  /** Milliseconds that things take: [least, middle] of *rounds*. */
  async measure(messages: number): Promise<Record<string, unknown>> {
    const figures: Record<string, unknown> = {};
    const time = async (name: string, rounds: number, work: () => unknown) => {
      const times: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const began = performance.now();
        await work();
        times.push(performance.now() - began);
      }
      times.sort((one, other) => one - other);
      figures[name] = [times[0], times[Math.floor(rounds / 2)]].map((ms) => Math.round((ms ?? 0) * 100) / 100);
    };
    const binary = await (await fetch(coreUrl)).arrayBuffer();
    await time("compile the core", 1, async () => {
      module = await WebAssembly.compile(binary);
    });
    await time("start an instance", 5, () => new Core(browserRandom, module).paddedSize(5));
    await time("open the store, new", 1, () => page.open());
    vault = new Vault(store, {
      nowMs: () => Date.now(),
      random: browserRandom,
      makeCore: async (random) => new Core(random, module),
    });
    const group = await pair();
    const said: Uint8Array[] = [];
    await time("protect, no store", 9, () =>
      vault.work(async (tx, core) => {
        await vault.use(tx, DEVICE_SCOPE, group);
        const began = performance.now();
        said.push(...core.protect(group, [new Uint8Array(300)]));
        alone.push(performance.now() - began);
      }),
    );
    alone.sort((one, other) => one - other);
    figures["protect 300 B, the call alone"] = Math.round((alone[4] ?? 0) * 100) / 100;
    figures["protect and store the core's rows"] = figures["protect, no store"];
    delete figures["protect, no store"];
    await time("send a text: protect, message, outbox, archive, stored", 15, () =>
      vault.work(async (tx, core) => {
        const id = browserRandom(16);
        const sequence = await tx.takeSequence(CHAT);
        await tx.addMessage(CHAT, id, HER, sequence, Date.now(), "text", words, "queued", false);
        await tx.queueContent(CHAT, id, new Uint8Array(120), Date.now());
        await tx.touchChat(CHAT, Date.now());
        await tx.note("message", CHAT, id);
        await vault.use(tx, DEVICE_SCOPE, group);
        const [body] = core.protect(group, [new Uint8Array(120)]);
        await tx.archive(CHAT, sequence, id, new Uint8Array(120), Date.now());
        for (const { n } of await tx.outgoing()) await tx.setProtected(n, body ?? CHAT, [CHAT]);
        for (const { n } of await tx.outgoing()) await tx.forgetOutgoing(n);
      }),
    );
    for (let from = 0; from < messages; from += 500) {
      await store.write(async (tx) => {
        for (let at = 0; at < 500; at++) {
          const id = browserRandom(16);
          const text = at % 97 ? words : `${words} Canary ${from + at}`;
          await tx.addMessage(CHAT, id, HER, 0, Date.now(), "text", text, "received", at % 50 === 0);
        }
      });
    }
    await store.close();
    await time("open the store again and list the chats", 1, async () => {
      await page.open();
      await store.read((tx) => tx.chats());
    });
    await time("the newest 60", 9, () => store.read((tx) => tx.page(CHAT, { limit: 60 })));
    await time("60 from the middle", 9, () => store.read((tx) => tx.page(CHAT, { around: messages / 2, limit: 60 })));
    await time("count what is unread", 9, () => store.read((tx) => tx.countUnread(CHAT)));
    await time("search everything", 3, () => store.read((tx) => tx.search("nowhere to be found", { limit: 50 })));
    await time("search until 50 are found", 3, () => store.read((tx) => tx.search("canary", { limit: 50 })));
    await time("mark 100 as read", 1, () =>
      store.write(async (tx) => {
        const unread = await tx.unread(CHAT, 100);
        await tx.markRead(unread.map(({ n }) => n));
      }),
    );
    return figures;
  },
};

let module: WebAssembly.Module;
const alone: number[] = [];

/** A group of two devices, in the store of one of them. */
async function pair(): Promise<Uint8Array> {
  const other = new Core(browserRandom, module);
  for (const name of ["account", "device", "packages"]) other.load(new TextEncoder().encode(name), []);
  const [account, device] = [other.createAccount(), other.createDevice()];
  const certificate = pack([account.genesis, other.signDeviceList(1, [device])]);
  const nowS = Math.floor(Date.now() / 1000);
  const [offer] = other.createKeyPackages(SUITE_HYBRID, [new Uint8Array(41)], certificate, nowS);
  return vault.work(async (tx, core) => {
    await vault.useAccount(tx);
    await vault.useKeys(tx);
    const own = core.createAccount();
    const mine = pack([own.genesis, core.signDeviceList(1, [core.createDevice()])]);
    const admins = [own.accountId, account.accountId];
    const context = { kind: KIND_PAIR, chatId: CHAT, admins, predecessor: null };
    const group = core.createGroup(SUITE_HYBRID, context, new Uint8Array(41).fill(1), mine, nowS);
    core.stage(group, { k: 0, adds: [offer?.keyPackage ?? CHAT], nowS });
    core.confirm(group, nowS);
    const begun = { name: "x", namedBy: "us", kind: 0, state: "open", peer: null, groupId: group };
    await tx.addChat({ ...begun, id: CHAT, nextSequence: 1, lastAtMs: 0 });
    return group;
  });
}

export type StorePage = typeof page;
Object.assign(globalThis, { page });
