/**
 * The life of this device: registering, logging in, its addresses and key packages, and a new start as another device.
 *
 *     register          account and device keys are stored, then the invitation is spent: repeating it is safe
 *     upkeep            after each login: spare addresses, key packages of both suites and last resorts, revocations
 *     startAnew         a profile that was copied becomes a new device, its groups are asked to take it back
 *
 * Source: docs/protocol/identity.md; docs/protocol/device.md, "State".
 */

import { decodeBase64, NO_BYTES, same } from "../bytes";
import {
  ACCOUNT_UNKNOWN,
  ADDRESS_GONE,
  INVITATION_EXPIRED,
  INVITATION_UNKNOWN,
  INVITATION_USED,
  LIST_OUTDATED,
  MARK_DIFFERS,
  Retry,
  WireError,
} from "../wire/errors";
import { pack, unpack } from "../wire/packing";
import {
  type CertificateInfo,
  CoreError,
  DEVICE_SCOPE,
  type DeviceKeys,
  PACKAGES_SCOPE,
  SUITE_CLASSIC,
  SUITE_HYBRID,
} from "./e2e";
import { DeviceReplaced, UserError } from "./errors";
import type { DeviceLink, Link, Network } from "./network";
import { DAY_MS, type Tx } from "./store";
import type { Address } from "./tables";
import type { Vault } from "./vault";

/** One-time key packages of each suite that a device keeps on offer. */
const PACKAGES = 8;
const SPARES = 16;
const MARK_BYTES = 16;
const MOST_MINTED = 64;
const PUBLISH_AGAIN_MS = 5_000;
/** A newcomer whom the server asks to come again soon waits so often, and so long each time, before a person is told. */
const REGISTER_WAITS = 2;
const REGISTER_WAIT_MS = 15_000;
const REPLACE_AFTER_MS = 30 * DAY_MS;
const FORGET_AFTER_MS = 31 * DAY_MS;
const SUITES = [SUITE_HYBRID, SUITE_CLASSIC] as const;
/** How far another copy of this account may be ahead of this one's device list; each new device is one step. */
const MAX_LEAP = 1 << 20;

/** (origin, what stands behind *mark*) of a link, with nothing around or in between. Throws RangeError. */
export function splitLink(link: string, mark: string): [origin: string, data: Uint8Array] {
  const text = link.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
  const at = text.indexOf(mark);
  const origin = text.slice(0, Math.max(at, 0));
  if (at < 0 || !/^[!-~]*$/.test(origin) || /[?#]/.test(origin)) throw new RangeError("not a link");
  return [origin, decodeBase64(text.slice(at + mark.length))];
}

/** (origin, 16 bytes) of an invitation link. Throws UserError. */
export function parseInvitation(link: string): [origin: string, invitation: Uint8Array] {
  try {
    const [origin, invitation] = splitLink(link, "/i#");
    if (invitation.length === 16 && origin !== "") return [origin, invitation];
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  throw new UserError(link.includes("/c#") ? "link_is_contact" : "link_malformed");
}

/** The note that the packages of *suite* at the server have to be replaced. */
function publishDue(suite: number): string {
  return `publish_due:${suite}`;
}

/** Genesis statement and signed device list of a packed certificate. */
function certificateParts(certificate: Uint8Array): [genesis: Uint8Array, signedList: Uint8Array] {
  const parts = unpack(certificate);
  if (Array.isArray(parts) && parts.length === 2) {
    const [genesis, signedList] = parts as unknown[];
    if (genesis instanceof Uint8Array && signedList instanceof Uint8Array) return [genesis, signedList];
  }
  throw new RangeError("no certificate");
}

/** Where a browser wants to be woken, with the key (65 bytes) and the secret (16 bytes) that it made for it. */
export interface Push {
  endpoint: string;
  key: Uint8Array;
  secret: Uint8Array;
}

/** The inverse of how the store keeps it. */
function unpackPush(data: Uint8Array | null): Push | null {
  const parts = data === null ? null : unpack(data);
  if (!Array.isArray(parts)) return null;
  const [endpoint, key, secret] = parts;
  if (typeof endpoint !== "string" || !(key instanceof Uint8Array) || !(secret instanceof Uint8Array)) return null;
  return { endpoint, key, secret };
}

interface Wanted {
  suite: number;
  count: number;
  lastResort: boolean;
  replace: boolean;
}

/** This device, as it is known to its account and its server. */
export class Devices {
  /** Called inside the transaction in which this profile becomes a new device. */
  onNewDevice: (tx: Tx) => Promise<void> = async () => {};
  /** The telling of the push endpoint that is under way: one at a time. */
  private publishing: Promise<void> = Promise.resolve();
  /** The server wants to hear nothing of it before then. */
  private publishAfterMs = 0;

  constructor(
    private readonly vault: Vault,
    private readonly network: Network,
  ) {}

  // ---------------------------------------------------------------- registering

  /** Make and store account and device keys, unless an earlier attempt did. */
  async prepare(origin: string, name: string): Promise<void> {
    await this.vault.work(async (tx, core) => {
      await tx.setMeta("origin", origin);
      await tx.setMeta("name", name);
      if ((await tx.meta("account")) !== null) return;
      await this.vault.useAccount(tx);
      const account = core.createAccount();
      const device = core.createDevice();
      await tx.setMeta("account", account.accountId);
      await tx.setMeta("genesis", account.genesis);
      await this.setDevice(tx, device, 1);
    });
  }

  /**
   * Spend the invitation. A repetition after a lost answer finds the account there and is content. A server that is busy
   * is given the seconds that it asks for. Source: DEV-45.
   */
  async register(invitation: Uint8Array): Promise<void> {
    for (let waits = 0; ; waits++) {
      try {
        return await this.registerOnce(invitation);
      } catch (error) {
        const isPassing = error instanceof WireError && error.kind.retry === Retry.LATER;
        if (!isPassing || waits === REGISTER_WAITS || error.retryAfterMs > REGISTER_WAIT_MS) throw error;
        await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs));
      }
    }
  }

  private async registerOnce(invitation: Uint8Array): Promise<void> {
    const [genesis, deviceList] = certificateParts(await this.vault.certificate());
    const link = await this.network.anonymous("register");
    try {
      await link.expect("Done", (request) => ({ type: "Register", request, invitation, genesis, deviceList }));
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (error.kind === INVITATION_UNKNOWN) throw new UserError("invitation_unknown", {}, error);
      if (!(await this.isRegistered(link))) {
        if (error.kind === INVITATION_USED) throw new UserError("invitation_used", {}, error);
        if (error.kind === INVITATION_EXPIRED) throw new UserError("invitation_expired", {}, error);
        throw error;
      }
    }
    await this.vault.store.write((tx) => tx.setMeta("registered", 1));
  }

  private async isRegistered(link: Link): Promise<boolean> {
    const account = await this.vault.account();
    try {
      await link.expect("Certificate", (request) => ({ type: "FetchCertificate", request, account }));
    } catch (error) {
      if (error instanceof WireError) return false;
      throw error;
    }
    return true;
  }

  /** Store a device list that names *device* alone. */
  private async setDevice(tx: Tx, device: DeviceKeys, counter: number): Promise<void> {
    const signedList = this.vault.core.signDeviceList(counter, [device]);
    await tx.setMeta("device", device.deviceId);
    await tx.setMeta("device_keys", pack([device.deviceId, device.loginPk, device.mlsPk, device.hpkePk]));
    await tx.setMeta("counter", counter);
    await tx.setMeta("certificate", pack([await tx.meta("genesis"), signedList]));
  }

  // ---------------------------------------------------------------- logging in

  /** The signature of a login. */
  sign = async (origin: string, nonce: Uint8Array): Promise<Uint8Array> =>
    this.vault.work(async (tx, core) => {
      await this.vault.use(tx, DEVICE_SCOPE);
      return core.loginSignature(origin, nonce);
    });

  /**
   * Whether this profile is still the only one of its device: it swaps its mark at the server, before anything is
   * protected. The new mark is stored before it is offered, so an answer that was lost is made up for by asking again;
   * then a fresh one follows, since a copy may have been made in between. Throws DeviceReplaced. Source: DEV-05.
   */
  async checkContinuity(link: DeviceLink): Promise<void> {
    const unsure = await this.vault.store.read((tx) => tx.meta("next_mark"));
    if (unsure !== null) {
      const old = await this.vault.store.read((tx) => tx.meta("mark"));
      if (!(await this.swapMark(link, old, unsure)) && !(await this.swapMark(link, unsure, unsure))) {
        throw new DeviceReplaced();
      }
    }
    const next = this.vault.random(MARK_BYTES);
    const mark = await this.vault.store.write(async (tx) => {
      await tx.setMeta("next_mark", next);
      return tx.meta("mark");
    });
    if (!(await this.swapMark(link, mark, next))) throw new DeviceReplaced();
  }

  /** Whether the server took the new mark, which then stands in the store, too. */
  private async swapMark(link: DeviceLink, expected: Uint8Array | null, mark: Uint8Array): Promise<boolean> {
    try {
      const before = expected ?? NO_BYTES;
      await link.expect("Done", (request) => ({ type: "SwapMark", request, expected: before, new: mark }));
    } catch (error) {
      if (error instanceof WireError && error.kind === MARK_DIFFERS) return false;
      throw error;
    }
    await this.vault.store.write(async (tx) => {
      await tx.setMeta("mark", mark);
      await tx.setMeta("next_mark", null);
    });
    return true;
  }

  /** Bring addresses and key packages to what they should be. */
  async upkeep(link: DeviceLink): Promise<void> {
    const { loggedIn } = link;
    const nowMs = this.vault.nowMs();
    if (loggedIn.remint) await this.dropAddresses();
    await this.forgetOldPackages(nowMs);
    const { wanted, hasLink, spares } = await this.vault.store.read(async (tx) => {
      const wanted: Wanted[] = [];
      for (const [suite, left] of [
        [SUITE_HYBRID, loggedIn.hybridLeft],
        [SUITE_CLASSIC, loggedIn.classicLeft],
      ] as const) {
        const oldestMs = await tx.oldestPackageMs(suite);
        const owed = (await tx.meta(publishDue(suite))) !== null;
        const replace = owed || oldestMs === null || oldestMs + REPLACE_AFTER_MS < nowMs;
        const count = replace ? PACKAGES : left <= PACKAGES / 2 ? PACKAGES - left : 0;
        const lastResort = replace || !loggedIn.lastResorts.includes(suite);
        if (count > 0 || lastResort) wanted.push({ suite, count, lastResort, replace });
      }
      const hasLink = (await tx.addresses("link")).length > 0;
      return { wanted, hasLink, spares: (await tx.addresses("spare")).length };
    });
    const needed = wanted.reduce((sum, { count, lastResort }) => sum + count + Number(lastResort), 0);
    if (needed > 0 || !hasLink || spares < SPARES / 2) {
      await this.mint(link, needed + SPARES - Math.min(spares, SPARES) + Number(!hasLink));
    }
    if (!hasLink) {
      await this.vault.store.write(async (tx) => {
        const [spare] = await tx.addresses("spare");
        if (spare === undefined) return;
        await tx.useAddress(spare.serial, "link");
        await tx.note("me", NO_BYTES);
      });
    }
    for (const one of wanted) await this.publish(link, one);
  }

  /** Refuse from now on what is sent to this address of ours. */
  async revoke(link: DeviceLink, serial: Uint8Array): Promise<void> {
    try {
      await link.expect("Done", (request) => ({ type: "RevokeAddress", request, serial }));
    } catch (error) {
      if (!(error instanceof WireError) || error.kind !== ADDRESS_GONE) throw error;
    }
    await this.vault.store.write(async (tx) => {
      await tx.useAddress(serial, "revoked");
      await tx.forgetChore("revoke", serial);
    });
  }

  /** A restored server may have forgotten what was revoked; inside a transaction. */
  async revokeAgain(tx: Tx): Promise<void> {
    for (const address of await tx.addresses("revoked")) {
      await tx.addChore("revoke", address.serial, NO_BYTES, this.vault.nowMs());
    }
  }

  private async mint(link: DeviceLink, count: number): Promise<void> {
    const minted = await link.expect("Minted", (request) => ({
      type: "MintAddresses",
      request,
      count: Math.min(count, MOST_MINTED),
    }));
    await this.vault.store.write(async (tx) => {
      for (const { serial, address } of minted.addresses) {
        await tx.addAddress(serial, address, "spare", null, this.vault.nowMs());
      }
    });
  }

  /** What the server offers of ours is stale: replace it at the next upkeep; inside a transaction. */
  async owePackages(tx: Tx): Promise<void> {
    for (const suite of SUITES) await tx.setMeta(publishDue(suite), 1);
  }

  /**
   * Make key packages, store their private parts, then offer them; the answer retires what they replace.
   *
   * Until the answer the old ones may still be given out, and what was made may be on offer already.
   */
  private async publish(link: DeviceLink, { suite, count, lastResort, replace }: Wanted): Promise<void> {
    const { replaced, packages, resort } = await this.vault.work(async (tx) => {
      const offered = await tx.packagesOnOffer(suite);
      const replaced = offered.filter((one) => (one.lastResort ? lastResort : replace)).map((one) => one.ref);
      const packages = await this.makePackages(tx, suite, count);
      const [resort] = lastResort ? await this.makePackages(tx, suite, 1, { lastResort: true }) : [];
      if (replace) await tx.setMeta(publishDue(suite), 1);
      return { replaced, packages, resort: resort ?? NO_BYTES };
    });
    await link.expect("Published", (request) => ({
      type: "PublishKeyPackages",
      request,
      suite,
      packages,
      lastResort: resort,
      replace,
    }));
    await this.vault.store.write(async (tx) => {
      const nowMs = this.vault.nowMs();
      for (const ref of replaced) await tx.retirePackage(ref, nowMs);
      if (replace) await tx.setMeta(publishDue(suite), null);
    });
  }

  /**
   * *count* key packages, each with an address of its own; inside `work`. *chat*: made to be taken back there, by a
   * request that may be granted for 30 days.
   */
  async makePackages(
    tx: Tx,
    suite: number,
    count: number,
    { chat = null, lastResort = false }: { chat?: Uint8Array | null; lastResort?: boolean } = {},
  ): Promise<Uint8Array[]> {
    if (count === 0) return [];
    const addresses: Address[] = [];
    for (let n = 0; n < count; n++) {
      addresses.push(await this.takeAddress(tx, chat === null ? "package" : "chat", chat));
    }
    await this.vault.useKeys(tx);
    const made = this.vault.core.createKeyPackages(
      suite,
      addresses.map((one) => one.address),
      await this.vault.certificate(tx),
      this.vault.nowS(),
      lastResort,
    );
    const nowMs = this.vault.nowMs();
    for (const [at, address] of addresses.entries()) {
      const one = made[at];
      if (one === undefined) throw new RangeError("the core made another number of key packages");
      const retiredMs = chat === null ? null : nowMs + REPLACE_AFTER_MS;
      await tx.addPackage(one.ref, suite, address.serial, chat, lastResort, nowMs, retiredMs);
    }
    return made.map((one) => one.keyPackage);
  }

  /** An address of ours that nobody knows yet; inside a transaction. Throws UserError when there is none left. */
  async takeAddress(tx: Tx, purpose: string, chat: Uint8Array | null = null): Promise<Address> {
    const [spare] = await tx.addresses("spare");
    if (spare === undefined) throw new UserError("offline");
    await tx.useAddress(spare.serial, purpose, chat);
    return spare;
  }

  /** Private parts of replaced packages stay 31 days: a Welcome may still be under way. */
  private async forgetOldPackages(nowMs: number): Promise<void> {
    const beforeMs = nowMs - FORGET_AFTER_MS;
    const { dead, old } = await this.vault.store.read(async (tx) => ({
      dead: (await tx.addresses("dead")).some((address) => address.madeMs < beforeMs),
      old: await tx.packagesRetiredBefore(beforeMs),
    }));
    if (dead) await this.vault.store.write((tx) => tx.forgetDeadAddresses(beforeMs));
    if (old.length === 0) return;
    await this.vault.work(async (tx, core) => {
      await this.vault.useKeys(tx);
      core.deleteKeyPackages(old.map((one) => one.ref));
      for (const one of old) {
        await tx.forgetPackage(one.ref);
        const address = await tx.address(one.serial);
        if (address?.purpose === "package") await tx.addChore("revoke", one.serial, NO_BYTES, nowMs);
      }
    });
  }

  /**
   * The mailbox was renewed: every address that we gave away is dead, each chat needs a new one.
   *
   * What was sent to them before waits in the mailbox, and is known by their serials.
   */
  private async dropAddresses(): Promise<void> {
    await this.vault.store.write(async (tx) => {
      const nowMs = this.vault.nowMs();
      for (const address of await tx.addresses("spare")) await tx.forgetAddress(address.serial);
      for (const purpose of ["link", "package"]) await tx.buryAddresses(purpose, nowMs);
      for (const group of await tx.groups()) {
        if (group.standing === "current") await tx.addChore("update", group.id, NO_BYTES, nowMs);
      }
      await this.owePackages(tx);
    });
  }

  // ---------------------------------------------------------------- being woken

  /**
   * Where the browser wants to be woken; null: not at all. Inside a transaction; the server hears of it afterwards,
   * unless it knows that already.
   */
  async setPush(tx: Tx, push: Push | null): Promise<void> {
    const wanted = push === null ? null : pack([push.endpoint, push.key, push.secret]);
    const before = await tx.meta("push");
    const trouble = (await tx.metaInt("push_refused")) + (await tx.metaInt("push_gone"));
    if (trouble === 0 && same(wanted ?? NO_BYTES, before ?? NO_BYTES)) return;
    await tx.setMeta("push", wanted);
    await tx.setMeta("push_due", 1);
    await tx.setMeta("push_refused", null);
    await tx.setMeta("push_gone", null);
    await tx.note("me", NO_BYTES);
  }

  /** The server has to be told again; inside a transaction. */
  async owePush(tx: Tx): Promise<void> {
    if ((await tx.meta("push")) !== null) await tx.setMeta("push_due", 1);
  }

  /**
   * After a login: whether the server still has what it was told. What its push service forgot is gone; what it would wake
   * though nobody wants that is taken back. Source: WAK-07.
   */
  async checkPush(link: DeviceLink): Promise<void> {
    const { wakes } = link.loggedIn;
    const differs = async (tx: Tx): Promise<boolean> => {
      const trouble =
        (await tx.metaInt("push_due")) + (await tx.metaInt("push_refused")) + (await tx.metaInt("push_gone"));
      return trouble === 0 && ((await tx.meta("push")) !== null) !== wakes;
    };
    if (!(await this.vault.store.read(differs))) return;
    await this.vault.store.write(async (tx) => {
      if (!(await differs(tx))) return;
      await tx.setMeta(wakes ? "push_due" : "push_gone", 1);
      if (!wakes) await tx.note("me", NO_BYTES);
    });
  }

  /** Whether the server has yet to hear where to wake this device. */
  async owesPush(): Promise<boolean> {
    return (await this.vault.store.read((tx) => tx.metaInt("push_due"))) > 0;
  }

  /** Tell the server where to wake this device, if that is owed. Rejects with WireError to try later. Source: WAK-01. */
  async publishPush(link: DeviceLink): Promise<void> {
    const publishing = this.publishing.then(() => this.publishOwedPush(link));
    this.publishing = publishing.catch(() => {});
    return publishing;
  }

  private async publishOwedPush(link: DeviceLink): Promise<void> {
    const [due, stored] = await this.vault.store.read(async (tx) => [
      await tx.metaInt("push_due"),
      await tx.meta("push"),
    ]);
    if (due === 0 || this.vault.nowMs() < this.publishAfterMs) return;
    const { endpoint, key, secret } = unpackPush(stored) ?? { endpoint: "", key: NO_BYTES, secret: NO_BYTES };
    let refused: number | null = null;
    try {
      await link.expect("Done", (request) => ({ type: "SetPush", request, endpoint, key, secret }));
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (error.kind.retry === Retry.LATER) {
        this.publishAfterMs = this.vault.nowMs() + Math.max(error.retryAfterMs, PUBLISH_AGAIN_MS);
        throw error;
      }
      refused = 1;
    }
    await this.vault.store.write(async (tx) => {
      if (!same((await tx.meta("push")) ?? NO_BYTES, stored ?? NO_BYTES)) return; // it changed meanwhile, and is owed anew
      const before = await tx.metaInt("push_refused");
      await tx.setMeta("push_due", null);
      await tx.setMeta("push_refused", refused);
      if (before !== (refused ?? 0)) await tx.note("me", NO_BYTES);
    });
  }

  // ---------------------------------------------------------------- certificates

  /** The newest certificate that the server holds of an account; not checked. */
  async fetchCertificate(account: Uint8Array): Promise<Uint8Array> {
    const own = same(account, await this.vault.account());
    const link = await this.network.anonymous(own ? "register" : "keys");
    const found = await link.expect("Certificate", (request) => ({ type: "FetchCertificate", request, account }));
    return pack([found.genesis, found.deviceList]);
  }

  /** Whether the server says that there is no such account as ours any more. Rejects with TransportError, WireError. */
  async isAccountGone(): Promise<boolean> {
    try {
      await this.fetchCertificate(await this.vault.account());
    } catch (error) {
      if (error instanceof WireError && error.kind === ACCOUNT_UNKNOWN) return true;
      throw error;
    }
    return false;
  }

  // ---------------------------------------------------------------- a copied profile

  /**
   * Never touch the MLS state of this profile again: it becomes a new device.
   *
   * Ratchet keys would be used twice. Source: DEV-05.
   */
  async startAnew(): Promise<void> {
    await this.vault.work(async (tx, core) => {
      const nowMs = this.vault.nowMs();
      await this.vault.useAccount(tx);
      await this.vault.use(tx, PACKAGES_SCOPE);
      core.deleteKeyPackages((await tx.packages()).map((one) => one.ref));
      await tx.forgetAllPackages();
      await tx.forgetAllAddresses();
      await this.setDevice(tx, core.createDevice(), (await tx.metaInt("counter")) + 1);
      await tx.setMeta("list_due", 1);
      await tx.setMeta("mark", null);
      await tx.setMeta("next_mark", null);
      await this.owePush(tx);
      await tx.restartSequences();
      await this.onNewDevice(tx);
      for (const group of await tx.groups()) {
        await tx.forgetPending(group.id);
        if (group.standing !== "current" && group.standing !== "rejoin") continue;
        await tx.setStanding(group.id, "rejoin", nowMs);
        await tx.forgetChore("ask", group.id);
        await tx.addChore("ask", group.id, NO_BYTES, nowMs);
      }
      for (const chat of await tx.chats()) await this.vault.notice(tx, chat.id, "asked_back");
    });
  }

  /** Tell the server of the newest device list, above whatever counter it has. */
  async publishList(): Promise<void> {
    if ((await this.vault.store.read((tx) => tx.metaInt("list_due"))) === 0) return;
    const link = await this.network.anonymous("register");
    for (let attempt = 0; attempt < 4; attempt++) {
      if (await this.offerList(link)) break;
      const newest = await this.fetchCertificate(await this.vault.account());
      if (same(newest, await this.vault.certificate())) break;
      await this.vault.work(async (tx) => {
        await this.vault.useAccount(tx);
        const info = await this.checkOwn(tx, newest);
        await this.setDevice(tx, deviceKeys(await tx.meta("device_keys")), info.counter + 1);
      });
    }
    await this.vault.store.write((tx) => tx.setMeta("list_due", null));
  }

  /**
   * What a certificate that the server gives as ours says. Throws UserError: a counter near its end would leave no
   * device list that could ever follow. Source: DEV-07.
   */
  private async checkOwn(tx: Tx, certificate: Uint8Array): Promise<CertificateInfo> {
    let info: CertificateInfo;
    try {
      info = this.vault.core.checkCertificate(certificate);
    } catch (error) {
      if (error instanceof CoreError) throw new UserError("refused", { code: "list_unsigned" }, error);
      throw error;
    }
    if (!same(info.accountId, await tx.meta("account"))) throw new UserError("refused", { code: "list_of_another" });
    if (info.counter > (await tx.metaInt("counter")) + MAX_LEAP) throw new UserError("refused", { code: "list_leaps" });
    return info;
  }

  /** If the server has an older device list than ours (it was restored): give it ours. Whether it took it. */
  async restoreList(): Promise<boolean> {
    let outdated: boolean;
    try {
      const newest = await this.fetchCertificate(await this.vault.account());
      outdated = await this.vault.work(async (tx) => {
        const info = await this.checkOwn(tx, newest);
        return info.counter < (await tx.metaInt("counter"));
      });
    } catch (error) {
      if (error instanceof WireError && error.kind.retry === Retry.LATER) throw error;
      if (error instanceof WireError || error instanceof UserError) return false;
      throw error;
    }
    return outdated && (await this.offerList(await this.network.anonymous("register")));
  }

  /** Whether the server took our device list; false when it has one with the same or a higher counter. */
  private async offerList(link: Link): Promise<boolean> {
    const account = await this.vault.account();
    const [, deviceList] = certificateParts(await this.vault.certificate());
    try {
      await link.expect("Done", (request) => ({ type: "PublishDeviceList", request, account, deviceList }));
    } catch (error) {
      if (error instanceof WireError && error.kind === LIST_OUTDATED) return false;
      throw error;
    }
    return true;
  }
}

/** The keys of this device, as the store keeps them. */
function deviceKeys(data: Uint8Array | null): DeviceKeys {
  const parts = data === null ? null : (unpack(data) as unknown);
  if (Array.isArray(parts) && parts.length === 4 && parts.every((part) => part instanceof Uint8Array)) {
    const [deviceId, loginPk, mlsPk, hpkePk] = parts as [Uint8Array, Uint8Array, Uint8Array, Uint8Array];
    return { deviceId, loginPk, mlsPk, hpkePk };
  }
  throw new RangeError("no device keys in the store");
}
