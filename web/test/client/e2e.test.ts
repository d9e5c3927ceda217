/** The core in its host: the shared vectors, errors by name, state in scopes, and what is left after a trap. */

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { hex, joined, unhex } from "../../src/bytes";
import {
  ACCOUNT_SCOPE,
  browserRandom,
  CHUNK_BYTES,
  CoreTrapped,
  DEVICE_SCOPE,
  Evicted,
  type GroupContext,
  Internal,
  KIND_PAIR,
  Malformed,
  NotForUs,
  NotLoaded,
  PACKAGES_SCOPE,
  SUITE_CLASSIC,
  SUITE_HYBRID,
  Unverified,
} from "../../src/client/e2e";
import { pack } from "../../src/wire/packing";
import { vectors } from "../vectors";
import { makeCore } from "./core";

const VECTORS = vectors("core.json");
const NOW_S = 1_790_000_000;

/** A device of an account of its own, with everything loaded. */
function person(core = makeCore()) {
  for (const scope of [ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE]) core.load(scope, []);
  const account = core.createAccount();
  const device = core.createDevice();
  const certificate = pack([account.genesis, core.signDeviceList(1, [device])]);
  return { core, account: account.accountId, device: device.deviceId, certificate };
}

const address = (byte: number) => new Uint8Array(41).fill(byte);

describe("the core", () => {
  test("gives what the shared vectors say (GRP-01, GRP-03, GRP-04, ENV-01)", () => {
    const core = makeCore();
    for (const [size, padded] of VECTORS.padme) expect(core.paddedSize(size)).toBe(padded);
    for (const one of VECTORS.certificates) {
      const info = core.checkCertificate(unhex(one.certificate));
      expect(hex(info.accountId)).toBe(one.account_id);
      expect(info.counter).toBe(one.counter);
      expect(hex(info.accountKey)).toBe(one.account_key);
      const devices = info.devices.map((device) =>
        [device.deviceId, device.loginPk, device.mlsPk, device.hpkePk].map(hex),
      );
      expect(devices).toEqual(one.devices);
    }
    const [mine, theirs, digits] = VECTORS.safety_number;
    expect(core.safetyNumber(unhex(mine), unhex(theirs))).toBe(digits);
    const { device_secrets, origin, nonce, signature } = VECTORS.login;
    core.load(DEVICE_SCOPE, [[DEVICE_SCOPE, pack(device_secrets.map(unhex))]]);
    expect(hex(core.loginSignature(origin, unhex(nonce)))).toBe(signature);
  });

  test("seals files as the shared vectors say, and opens them (CNT-40)", () => {
    const core = makeCore();
    for (const file of VECTORS.blobs.files) {
      const key = unhex(file.key);
      const data = Uint8Array.from({ length: file.size }, (_, at) => at % 251);
      const sealed: Uint8Array[] = file.chunk_sizes.map((_: number, index: number) =>
        core.sealBlob(key, file.size, index, data.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES)),
      );
      expect(sealed.map((chunk) => chunk.length)).toEqual(file.chunk_sizes);
      expect(sealed.map((chunk) => hex(chunk.subarray(-16)))).toEqual(file.chunk_tags);
      expect(
        createHash("sha256")
          .update(joined(...sealed))
          .digest("hex"),
      ).toBe(file.sealed_sha256);
      const opened = joined(...sealed.map((chunk, index) => core.openBlob(key, file.size, index, chunk)));
      expect(opened).toEqual(data);
      const cut = sealed.at(-1)?.slice(0, -1) ?? new Uint8Array();
      expect(() => core.openBlob(key, file.size, sealed.length - 1, cut)).toThrow(Unverified);
    }
  });

  test("refuses by the error's own class, and the state stays as it was", () => {
    const { core, certificate } = person();
    expect(() => core.checkCertificate(Uint8Array.of(1))).toThrow(Malformed);
    expect(() => core.group(new Uint8Array(32))).toThrow(NotLoaded);
    expect(() => core.openFromStranger(new Uint8Array(300))).toThrow(NotForUs);
    const altered = certificate.slice();
    altered[90] = (altered[90] ?? 0) ^ 1;
    expect(() => core.checkCertificate(altered)).toThrow(Unverified);
    expect(core.checkCertificate(certificate).counter).toBe(1);
  });

  test.each([SUITE_CLASSIC, SUITE_HYBRID])("two devices talk in suite %i", (suite) => {
    const alice = person();
    const bob = person();
    const [offer] = bob.core.createKeyPackages(suite, [address(2)], bob.certificate, NOW_S);
    if (!offer) throw new Error("no key package");
    const info = alice.core.inspectKeyPackage(offer.keyPackage, bob.certificate, NOW_S);
    expect(info).toMatchObject({ suite, accountId: bob.account, deviceId: bob.device, address: address(2) });
    const context: GroupContext = {
      kind: KIND_PAIR,
      chatId: new Uint8Array(16).fill(7),
      admins: [alice.account, bob.account],
      predecessor: null,
    };
    const group = alice.core.createGroup(suite, context, address(1), alice.certificate, NOW_S);
    const known = new Map([[hex(bob.account), 1]]);
    const staged = alice.core.stage(group, { k: 0, adds: [offer.keyPackage], known, nowS: NOW_S });
    const applied = alice.core.confirm(group, NOW_S);
    expect(applied).toMatchObject({ verdict: "applied", epoch: 1 });
    expect(applied.added.map((member) => member.accountId)).toEqual([bob.account]);
    const [welcome] = staged.welcomes;
    expect(welcome?.address).toEqual(address(2));
    const mail = bob.core.openFromStranger(welcome?.body ?? new Uint8Array());
    expect(mail.kind).toBe("welcome");
    const joinedGroup = bob.core.join(welcome?.body ?? new Uint8Array(), new Map(), NOW_S);
    expect(joinedGroup).toMatchObject({
      groupId: group,
      epoch: 1,
      suite,
      sender: [alice.account, alice.device],
      context,
    });

    const [body] = alice.core.protect(group, [new TextEncoder().encode("Hello, Bob")]);
    const [received] = bob.core.receive(group, [body ?? new Uint8Array()], NOW_S);
    expect(received).toMatchObject({ kind: "content", epoch: 1, sender: [alice.account, alice.device] });
    expect(new TextDecoder().decode(received?.content)).toBe("Hello, Bob");
    expect(
      bob.core.receive(group, [body ?? new Uint8Array(), new Uint8Array(300)], NOW_S).map(({ kind }) => kind),
    ).toEqual(["duplicate", "later"]);
    expect(alice.core.group(group)).toMatchObject({ epoch: 1, suite, hasPending: false, ownLeaf: 0, context });
  });

  test("what it stored brings another instance to the same state", () => {
    const { core } = person();
    const signature = core.loginSignature("https://a.example", new Uint8Array(32));
    const rows = new Map<string, [Uint8Array, Uint8Array]>();
    for (const { scope, key, value } of core.takeDeltas()) {
      if (hex(scope) === hex(DEVICE_SCOPE) && value !== null) rows.set(hex(key), [key, value]);
    }
    expect(core.takeDeltas()).toEqual([]);
    const other = makeCore();
    other.load(DEVICE_SCOPE, [...rows.values()]);
    expect(other.loginSignature("https://a.example", new Uint8Array(32))).toEqual(signature);
  });

  test("after a trap a new instance stands ready, nothing is loaded, and lost writes cannot be taken", () => {
    let broken = false;
    const core = makeCore((size) => {
      if (broken) throw new Error("no randomness");
      return browserRandom(size);
    });
    core.load(ACCOUNT_SCOPE, []);
    core.load(DEVICE_SCOPE, []);
    core.createDevice(); // writes that nobody took
    broken = true;
    expect(() => core.createAccount()).toThrow(CoreTrapped);
    broken = false;
    expect(core.isLoaded(DEVICE_SCOPE)).toBe(false);
    expect(() => core.takeDeltas()).toThrow(CoreTrapped);
    core.unloadAll();
    expect(core.takeDeltas()).toEqual([]);
    core.load(ACCOUNT_SCOPE, []);
    expect(core.createAccount().accountId.length).toBe(32);
  });

  test("errors have the names and numbers that the core knows", () => {
    expect([Malformed, Internal, Evicted, CoreTrapped].map((kind) => [kind.number, new kind("x").name])).toEqual([
      [1, "Malformed"],
      [9, "Internal"],
      [16, "Evicted"],
      [99, "CoreTrapped"],
    ]);
  });
});
