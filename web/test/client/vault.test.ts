/** The core in transactions: what is stored with what, what a failure leaves, and tabs that take turns (DEV-01). */

import { createPrivateKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { hex, joined } from "../../src/bytes";
import {
  ACCOUNT_SCOPE,
  browserRandom,
  type Core,
  CoreTrapped,
  DEVICE_SCOPE,
  KIND_PAIR,
  SUITE_HYBRID,
} from "../../src/client/e2e";
import { Snapshots } from "../../src/client/snapshots";
import type { Tx } from "../../src/client/store";
import { Vault } from "../../src/client/vault";
import { pack, unpack } from "../../src/wire/packing";
import { Profile } from "./browser";
import { makeCore } from "./core";

const NOW_MS = 1_790_000_000_000;
const CHAT = new Uint8Array(16).fill(3);
const profiles: Profile[] = [];

class Person {
  readonly profile = new Profile();
  address = new Uint8Array(41);
  group = new Uint8Array();
  isBroken = false;

  constructor() {
    profiles.push(this.profile);
  }

  async tab(): Promise<Vault> {
    const random = (size: number) => {
      if (this.isBroken) throw new RangeError("no randomness");
      return browserRandom(size);
    };
    const store = await this.profile.open();
    return new Vault(store, { nowMs: () => NOW_MS, random, makeCore: async (random) => makeCore(random) });
  }

  async begin(vault: Vault, byte: number): Promise<void> {
    this.address = new Uint8Array(41).fill(byte);
    await vault.work(async (tx, core) => {
      await vault.useAccount(tx);
      const { accountId, genesis } = core.createAccount();
      const device = core.createDevice();
      await tx.setMeta("account", accountId);
      await tx.setMeta("device", device.deviceId);
      await tx.setMeta("counter", 1);
      await tx.setMeta("certificate", pack([genesis, core.signDeviceList(1, [device])]));
    });
  }
}

let alice: Person;
let bob: Person;
let hers: Vault;
let his: Vault;

/** Alice and Bob in one group, as far as cores and stores know. */
beforeEach(async () => {
  [alice, bob] = [new Person(), new Person()];
  [hers, his] = [await alice.tab(), await bob.tab()];
  await alice.begin(hers, 1);
  await bob.begin(his, 2);
  const offer = await his.work(async (tx, core) => {
    await his.useKeys(tx);
    return core.createKeyPackages(SUITE_HYBRID, [bob.address], await his.certificate(tx), his.nowS())[0]?.keyPackage;
  });
  const welcome = await hers.work(async (tx, core) => {
    await hers.useKeys(tx);
    const admins = [await hers.account(tx), await his.account()];
    const context = { kind: KIND_PAIR, chatId: CHAT, admins, predecessor: null };
    const group = core.createGroup(SUITE_HYBRID, context, alice.address, await hers.certificate(tx), hers.nowS());
    const staged = core.stage(group, { k: 0, adds: [offer ?? CHAT], nowS: hers.nowS() });
    core.confirm(group, hers.nowS());
    alice.group = bob.group = group.slice();
    return staged.welcomes[0]?.body ?? CHAT;
  });
  await his.work(async (tx, core) => {
    await his.useKeys(tx);
    await his.forgetLoadedGroups(tx);
    core.join(welcome, await his.known(tx), his.nowS());
  });
});

afterEach(async () => {
  for (const profile of profiles.splice(0)) await profile.close();
  vi.restoreAllMocks();
});

async function say(vault: Vault, group: Uint8Array, words: string): Promise<Uint8Array> {
  return vault.work(async (tx, core) => {
    await vault.use(tx, DEVICE_SCOPE, group);
    return core.protect(group, [new TextEncoder().encode(words)])[0] ?? new Uint8Array();
  });
}

async function hear(vault: Vault, group: Uint8Array, body: Uint8Array): Promise<string> {
  return vault.work(async (tx, core) => {
    await vault.use(tx, DEVICE_SCOPE, group);
    const [received] = core.receive(group, [body], vault.nowS());
    return received?.kind === "content" ? new TextDecoder().decode(received.content) : (received?.kind ?? "nothing");
  });
}

async function scope(vault: Vault, name: Uint8Array): Promise<string[]> {
  return vault.store.read(async (tx) => (await tx.scopeRows(name)).map((row) => row.map(hex).join(":")));
}

describe("the vault", () => {
  test("stores what the core wrote together with the rest of the step", async () => {
    const body = await say(hers, alice.group, "Hello");
    expect(await hear(his, bob.group, body)).toBe("Hello");
    await alice.profile.crash();
    await bob.profile.crash();
    const [later, again] = [await alice.tab(), await bob.tab()];
    expect(await hear(again, bob.group, body)).toBe("duplicate");
    expect(await hear(again, bob.group, await say(later, alice.group, "Hello again"))).toBe("Hello again");
  });

  test("after a step that failed nothing is stored, and the core goes on from what is (DEV-01)", async () => {
    const before = await scope(hers, alice.group);
    const lost = hers.work(async (tx, core) => {
      await hers.use(tx, DEVICE_SCOPE, alice.group);
      core.protect(alice.group, [CHAT]);
      await hers.flush(tx);
      core.protect(alice.group, [CHAT]);
      throw new RangeError("no");
    });
    await expect(lost).rejects.toThrow(RangeError);
    expect(await scope(hers, alice.group)).toEqual(before);
    expect(hers.core.isLoaded(alice.group)).toBe(false);
    expect(await hear(his, bob.group, await say(hers, alice.group, "one"))).toBe("one");
  });

  test("after a commit that the disk refused no body was given out, and the next is built on what is stored", async () => {
    vi.spyOn(IDBObjectStore.prototype, "put").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    await expect(say(hers, alice.group, "lost")).rejects.toMatchObject({ code: "storage" });
    vi.restoreAllMocks();
    expect(await hear(his, bob.group, await say(hers, alice.group, "kept"))).toBe("kept");
  });

  test("two tabs take turns, and never protect from the same state (DEV-01, DEV-04)", async () => {
    const other = await alice.tab();
    const bodies = await Promise.all(
      Array.from({ length: 12 }, (_, at) => say(at % 2 ? other : hers, alice.group, `words ${at}`)),
    );
    const heard = [];
    for (const body of bodies) heard.push(await hear(his, bob.group, body));
    expect(heard).toEqual(bodies.map((_, at) => `words ${at}`));
  });

  test("a trap undoes the whole step, even if it was caught", async () => {
    const before = await scope(hers, alice.group);
    const step = hers.work(async (tx, core) => {
      await hers.use(tx, DEVICE_SCOPE, alice.group);
      core.protect(alice.group, [CHAT]);
      alice.isBroken = true;
      try {
        core.createDevice();
      } catch (error) {
        expect(error).toBeInstanceOf(CoreTrapped);
      }
      alice.isBroken = false;
      await tx.setMeta("after", "the trap");
    });
    alice.isBroken = false;
    await expect(step).rejects.toThrow(CoreTrapped);
    expect(await scope(hers, alice.group)).toEqual(before);
    expect(await hers.store.committedMeta("after")).toBeNull();
    expect(await hear(his, bob.group, await say(hers, alice.group, "after"))).toBe("after");
  });

  test("a core that could not be made is asked for again", async () => {
    let calls = 0;
    const make = async (): Promise<Core> => {
      if (++calls === 1) throw new RangeError("offline");
      return makeCore();
    };
    const vault = new Vault(hers.store, { nowMs: () => 0, random: browserRandom, makeCore: make });
    expect(() => vault.core).toThrow("not ready");
    await expect(vault.work(async () => 1)).rejects.toThrow("offline");
    expect(await vault.work(async () => 1)).toBe(1);
    expect(await vault.work(async () => 2)).toBe(2);
    expect(calls).toBe(2);
  });

  describe("of somebody met in a chat and in a group", () => {
    const [own, group] = [8, 9].map((n) => new Uint8Array(16).fill(n)) as [Uint8Array, Uint8Array];
    let account: Uint8Array;
    let first: Uint8Array;

    beforeEach(async () => {
      account = await his.account();
      first = await his.certificate();
      const begun = { namedBy: "us", kind: 0, state: "open", groupId: null, nextSequence: 1, lastAtMs: 0 };
      await hers.store.write(async (tx) => {
        await tx.addChat({ ...begun, id: own, name: "Bob", peer: account });
        await tx.addChat({ ...begun, id: group, name: "group", peer: null });
      });
      await learn(first, 1);
      await hers.store.write(async (tx) => {
        const contact = await tx.contact(account);
        if (contact) await tx.putContact({ ...contact, name: "Bob" });
      });
    });

    /** Alice meets Bob in the group, with that certificate. */
    async function learn(certificate: Uint8Array, counter: number): Promise<void> {
      const seen = { accountId: account, deviceId: CHAT, address: bob.address, certificate, counter, leaf: 1 };
      await hers.work((tx) => hers.learnAndTell(tx, group, [seen]));
    }

    /** What stands in each of the two chats. */
    async function told(): Promise<unknown[][]> {
      const notices = async (tx: Tx, chat: Uint8Array) =>
        (await tx.messages(chat, 9)).map(({ kind, unread, notice }) => [kind, unread, notice]);
      return hers.store.read(async (tx) => [await notices(tx, own), await notices(tx, group)]);
    }

    test("tells of a new device in both chats, once, and of no older certificate (DEV-46)", async () => {
      const second = await his.work(async (tx, core) => {
        await his.useAccount(tx);
        const { devices } = core.checkCertificate(first);
        return pack([genesisOf(first), core.signDeviceList(2, [...devices, core.createDevice()])]);
      });
      await learn(second, 2);
      await learn(second, 2);
      await learn(first, 1);
      const notice = ["notice", true, { code: "new_device", params: { name: "Bob" } }];
      expect(await told()).toEqual([[notice], [notice]]);
      expect((await hers.store.read((tx) => hers.known(tx))).get(hex(account))).toBe(2);
    });

    test("tells of a changed account key in both chats, and takes back that the person is verified (DEV-46)", async () => {
      const isVerified = () =>
        hers.store.read(async (tx) => {
          const row = await tx.chat(own);
          return row && (await new Snapshots(hers, () => null).chat(tx, row)).verified;
        });
      await hers.store.write(async (tx) => {
        const row = await tx.chat(own);
        const contact = await tx.contact(account);
        const compared = new Snapshots(hers, () => null);
        if (row) await compared.setVerified(tx, row, (await compared.safetyNumber(tx, contact)) ?? "");
      });
      expect(await isVerified()).toBe(true);
      const [row] = await his.store.read((tx) => tx.scopeRows(ACCOUNT_SCOPE));
      const [, , secret] = unpack(row?.[1] ?? CHAT) as Uint8Array[];
      const changed = withAnotherKey(first, secret ?? CHAT);
      await learn(changed, 2);
      await learn(changed, 2);
      await learn(first, 1);
      const notice = ["notice", true, { code: "account_key", params: { name: "Bob" } }];
      expect(await told()).toEqual([[notice], [notice]]);
      expect(await isVerified()).toBe(false);
    });
  });

  test("forgets the groups that a chat has too many of, with their rows", async () => {
    await hers.work(async (tx) => {
      const row = { chat: CHAT, mlsChat: CHAT, epoch: 1, standing: "current", predecessor: null, serial: null };
      const begun = { name: "x", namedBy: "us", kind: 0, state: "open", peer: null, nextSequence: 1, lastAtMs: 0 };
      await tx.addChat({ ...begun, id: CHAT, groupId: CHAT });
      await tx.putGroup({ ...row, id: CHAT, sinceMs: 9 });
      await tx.putGroup({ ...row, id: alice.group, sinceMs: 1 });
      await hers.use(tx, DEVICE_SCOPE, alice.group);
      await hers.forgetOlderGroups(tx, CHAT, 1);
    });
    expect(await scope(hers, alice.group)).toEqual([]);
    expect(await scope(hers, ACCOUNT_SCOPE)).not.toEqual([]);
    expect((await hers.store.read((tx) => tx.groups())).map(({ id }) => hex(id))).toEqual([hex(CHAT)]);
  });
});

function genesisOf(certificate: Uint8Array): Uint8Array {
  return certificate.slice(3, 3 + 65);
}

/** The certificate that succeeds *certificate*, whose account key is *secret*: the same devices under another account key. */
function withAnotherKey(certificate: Uint8Array, secret: Uint8Array): Uint8Array {
  const [genesis = CHAT, signed = CHAT] = unpack(certificate) as Uint8Array[];
  const [version, account, , devices] = unpack(signed.slice(64)) as [number, Uint8Array, number, Uint8Array[][]];
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), secret]);
  const old = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const next = generateKeyPairSync("ed25519");
  const key = new Uint8Array(next.publicKey.export({ format: "der", type: "spki" }).subarray(-32));
  const signature = (label: string, by: KeyObject, ...parts: Uint8Array[]) =>
    new Uint8Array(sign(null, Buffer.concat([Buffer.from(label), ...parts]), by));
  const succession = [key, signature("taube account key v1", old, account, key)];
  const list = pack([version, account, 2, devices, [succession]]);
  return pack([genesis, joined(signature("taube device list v1", next.privateKey, list), list)]);
}
