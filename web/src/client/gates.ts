/**
 * Agreeing on a group's next epoch: claim the gate, win or follow the winner, walk forward, finish for the dead.
 *
 *     change    stage → store pending commit and exact claim → claim ─┬─ our value stands: merge, then tell the members
 *                                                                     ├─ another's: follow it, decide again
 *                                                                     └─ void: the same commit at gate k + 1
 *     walk      read the gates of the epochs ahead and apply what stands there
 *
 * The pending commit is durable before its claim, and a claim is repeated with the same bytes, so neither a lost answer
 * nor a crash leaves doubt about who won. Whoever finds a commit in its gate before anyone told of it sends what its
 * maker may have died before sending. A group that we may not follow (standing `rejoin`) is left alone.
 *
 * Not known here: why a change is wanted (callers), how a rejoin is asked for (rejoin.ts).
 * Source: docs/protocol/device.md, "Gates"; docs/protocol/groups.md.
 */

import { hex, same } from "../bytes";
import {
  type Applied,
  type Core,
  CoreTrapped,
  DEVICE_SCOPE,
  type GroupInfo,
  PACKAGES_SCOPE,
  type StageOptions,
} from "./e2e";
import type { Network } from "./network";
import type { Tx } from "./store";
import type { Group, Pending } from "./tables";
import type { Vault } from "./vault";

const LAST_K = 15;
const MAX_RACES = 8;

export type Outcome = "won" | "lost" | "void" | "stuck" | "none";

/** The changes that are wanted in this epoch, or null when nothing is wanted any more; inside `work`. */
export type Wanted = (tx: Tx, core: Core, info: GroupInfo) => Promise<Changes | null>;
export type Changes = Omit<StageOptions, "k" | "known" | "nowS">;

/** The gates of this device's groups. */
export class Gates {
  /** Called inside the transaction when a group of this chat has entered a new epoch. */
  onEpoch: (tx: Tx, chat: Uint8Array) => Promise<void> = async () => {};
  /** Called inside the transaction when this device cannot follow a group. */
  onStuck: (tx: Tx, groupId: Uint8Array) => Promise<void> = async () => {};
  /** Called inside the transaction when every gate of an epoch is void. */
  onExhausted: (tx: Tx, groupId: Uint8Array) => Promise<void> = async () => {};

  constructor(
    private readonly vault: Vault,
    private readonly network: Network,
  ) {}

  // ---------------------------------------------------------------- our own changes

  /**
   * Bring a change about, however many races are lost. Whether it stands, or is no longer wanted.
   *
   * Rejects with TransportError or WireError with the claim stored; `settle` goes on from there.
   */
  async change(groupId: Uint8Array, wanted: Wanted): Promise<boolean> {
    for (let race = 0; race < MAX_RACES; race++) {
      await this.settle(groupId);
      const staged = await this.stage(groupId, wanted);
      if (staged === null) return true;
      if (!staged) return false;
      if ((await this.settle(groupId)) === "won") return true;
    }
    return false;
  }

  /** Store a pending commit, ready to be claimed. null: nothing is wanted; false: this group takes no changes. */
  async stage(groupId: Uint8Array, wanted: Wanted): Promise<boolean | null> {
    return this.vault.work(async (tx, core) => {
      if (!(await usable(tx, groupId))) return false;
      if ((await tx.pending(groupId)) !== null) return true;
      await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
      const changes = await wanted(tx, core, core.group(groupId));
      if (changes === null) return null;
      const staged = core.stage(groupId, {
        ...changes,
        k: 0,
        known: await this.vault.known(tx),
        nowS: this.vault.nowS(),
      });
      await tx.putPending({
        groupId,
        epoch: staged.epoch,
        k: staged.k,
        name: staged.gateName,
        value: staged.gateValue,
        body: staged.commitBody,
        welcomes: staged.welcomes,
        atMs: this.vault.nowMs(),
      });
      return true;
    });
  }

  /** Claim for the pending commit, if there is one, until it is known who won. */
  async settle(groupId: Uint8Array): Promise<Outcome> {
    let outcome: Outcome = "none";
    for (;;) {
      const { pending, takes } = await this.vault.store.read(async (tx) => ({
        pending: await tx.pending(groupId),
        takes: await usable(tx, groupId),
      }));
      if (pending === null) return outcome;
      if (!takes) {
        await this.vault.work((tx) => this.drop(tx, groupId));
        return "stuck";
      }
      const stands = await this.claim(pending.name, pending.value);
      try {
        outcome = await this.judge(pending, stands);
      } catch (error) {
        if (!(error instanceof CoreTrapped)) throw error;
        return this.trapped(groupId);
      }
    }
  }

  /** Give up the pending commit; inside `work`. */
  async drop(tx: Tx, groupId: Uint8Array): Promise<void> {
    await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
    this.vault.core.drop(groupId);
    await tx.forgetPending(groupId);
  }

  /** What *stands* in the gate that we claimed means for our pending commit. */
  private async judge(pending: Pending, stands: Uint8Array): Promise<Outcome> {
    return this.vault.work(async (tx, core) => {
      const { groupId } = pending;
      if (!samePending(await tx.pending(groupId), pending)) return "none"; // another engine was faster
      if (!same(stands, pending.value)) return this.follow(tx, core, groupId, pending.k, pending.name, stands, true);
      await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
      const before = core.group(groupId);
      const applied: Applied = {
        ...core.confirm(groupId, this.vault.nowS()),
        commitBody: pending.body,
        welcomes: pending.welcomes,
      };
      await this.enter(tx, before, applied, pending.k, pending.name, pending.value, true);
      return "won";
    });
  }

  // ---------------------------------------------------------------- the changes of others

  /**
   * Apply what stands in the gates ahead; how many epochs were passed.
   *
   * What a member said of a gate proves nothing: the gate is asked, by claiming it with the same value.
   */
  async walk(groupId: Uint8Array): Promise<number> {
    const last = (await this.vault.store.read((tx) => tx.told(groupId))).reduce((most, { n }) => Math.max(most, n), 0);
    let passed = 0;
    let k = 0;
    for (;;) {
      const at = await this.where(groupId, k);
      if (at === null) break;
      if (at === "pending") {
        await this.settle(groupId);
        k = 0;
        continue;
      }
      const value = at.said.find((one) => one.length > 0) ?? null;
      const stands = value !== null ? await this.claim(at.name, value) : await this.read(at.name);
      if (stands.length === 0) break;
      const tell = !at.said.some((one) => same(one, stands));
      const outcome = await this.look(groupId, at.epoch, k, at.name, stands, tell);
      if (outcome === "void" && k < LAST_K) {
        k += 1;
      } else if (outcome === "lost" || outcome === "none") {
        passed += Number(outcome === "lost");
        k = 0;
      } else {
        break;
      }
    }
    await this.vault.store.write((tx) => tx.forgetTold(groupId, last));
    return passed;
  }

  /** Gate *k* of the current epoch, and what members said of it; null for a group that is not to be followed. */
  private async where(
    groupId: Uint8Array,
    k: number,
  ): Promise<{ epoch: number; name: Uint8Array; said: Uint8Array[] } | "pending" | null> {
    return this.vault.work(async (tx, core) => {
      if (!(await usable(tx, groupId))) return null;
      if ((await tx.pending(groupId)) !== null) return "pending";
      await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
      const { epoch } = core.group(groupId);
      const told = await tx.told(groupId);
      const said = told.filter((one) => one.epoch === epoch && one.k === k).map((one) => one.value);
      return { epoch, name: core.gateName(groupId, k), said };
    });
  }

  /** Apply what stands in a gate; "none" when the group has left that epoch meanwhile. */
  private async look(
    groupId: Uint8Array,
    epoch: number,
    k: number,
    name: Uint8Array,
    stands: Uint8Array,
    tell: boolean,
  ): Promise<Outcome> {
    try {
      return await this.vault.work(async (tx, core) => {
        if (!(await usable(tx, groupId))) return "stuck";
        await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
        if (core.group(groupId).epoch !== epoch) return "none";
        return this.follow(tx, core, groupId, k, name, stands, tell);
      });
    } catch (error) {
      if (!(error instanceof CoreTrapped)) throw error;
      return this.trapped(groupId);
    }
  }

  /** Apply a value that is not ours. "lost": it was applied. */
  private async follow(
    tx: Tx,
    core: Core,
    groupId: Uint8Array,
    k: number,
    name: Uint8Array,
    value: Uint8Array,
    tell: boolean,
  ): Promise<Outcome> {
    await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, groupId);
    const before = core.group(groupId);
    const applied = core.applyGateValue(groupId, k, value, await this.vault.known(tx), this.vault.nowS());
    if (applied.verdict === "void") {
      const pending = await tx.pending(groupId);
      if (k >= LAST_K) {
        await this.drop(tx, groupId);
        await this.onExhausted(tx, groupId);
        return "stuck";
      }
      if (pending !== null) {
        const staged = core.restage(groupId, k + 1);
        await tx.putPending({
          ...pending,
          k: staged.k,
          name: staged.gateName,
          value: staged.gateValue,
          body: staged.commitBody,
          welcomes: staged.welcomes,
        });
      }
      return "void";
    }
    if (applied.verdict === "stuck") {
      await this.onStuck(tx, groupId);
      return "stuck";
    }
    await tx.forgetPending(groupId);
    await this.enter(tx, before, applied, k, name, value, tell);
    return "lost";
  }

  /** The core broke on a value: others may well have applied it. */
  private async trapped(groupId: Uint8Array): Promise<Outcome> {
    await this.vault.work((tx) => this.onStuck(tx, groupId));
    return "stuck";
  }

  // ---------------------------------------------------------------- the new epoch

  /** Store what the new epoch means; with *tell*, queue the commit and its Welcomes for those who need them. */
  private async enter(
    tx: Tx,
    before: GroupInfo,
    applied: Applied,
    k: number,
    name: Uint8Array,
    value: Uint8Array,
    tell: boolean,
  ): Promise<void> {
    const group = await tx.group(before.groupId);
    if (group === null) throw new RangeError("a commit of a group that the store does not have");
    const nowMs = this.vault.nowMs();
    await tx.forgetPending(group.id);
    await tx.putPassed({ groupId: group.id, epoch: before.epoch, k, name, value, atMs: nowMs });
    if (applied.verdict === "removed") {
      await tx.setStanding(group.id, "left", nowMs);
      await this.vault.notice(tx, group.chat, "you_removed");
    } else {
      await tx.setEpoch(group.id, applied.epoch);
    }
    if (tell) {
      for (const { address, body } of applied.welcomes) await tx.queueBody(body, [address], nowMs);
      await tx.queueBody(applied.commitBody, await this.toTell(tx, before, applied), nowMs);
    }
    const there = new Set(before.members.map((member) => hex(member.accountId)));
    const came = applied.added.map((member) => member.accountId).filter((account) => !there.has(hex(account)));
    await tx.putJoined(group.chat, came, nowMs);
    await this.tellOfMembers(tx, group, applied);
    await this.onEpoch(tx, group.chat);
  }

  /** The addresses of the old epoch's members, without ourselves and the commit's maker. */
  private async toTell(tx: Tx, before: GroupInfo, { committer }: Applied): Promise<Uint8Array[]> {
    const own = { accountId: await this.vault.account(tx), deviceId: await this.vault.device(tx) };
    return before.members
      .filter(
        (member) =>
          member.leaf !== before.ownLeaf &&
          !sameDevice(member, own) &&
          !(committer !== null && sameDevice(member, { accountId: committer[0], deviceId: committer[1] })),
      )
      .map((member) => member.address);
  }

  /** A person is told when a contact has another device or key, or came with a list that is out of date. */
  private async tellOfMembers(tx: Tx, group: Group, applied: Applied): Promise<void> {
    await this.vault.learnAndTell(tx, group.chat, [...applied.added, ...applied.updated]);
    const accounts = new Map(applied.outdated.map(([account]) => [hex(account), account]));
    for (const account of accounts.values()) {
      const contact = await tx.contact(account);
      await this.vault.notice(tx, group.chat, "old_list", { name: contact?.name ?? "" });
    }
  }

  // ---------------------------------------------------------------- the server's gates

  /** Claim a gate; what stands in it now. The same bytes may be claimed any number of times. */
  async claim(name: Uint8Array, value: Uint8Array): Promise<Uint8Array> {
    const link = await this.network.anonymous("gate");
    const state = await link.expect("GateState", (request) => ({ type: "ClaimGate", request, name, value }));
    return state.value;
  }

  /** What stands in a gate; empty when nobody has claimed it. */
  async read(name: Uint8Array): Promise<Uint8Array> {
    const link = await this.network.anonymous("gate");
    const state = await link.expect("GateState", (request) => ({ type: "ReadGate", request, name }));
    return state.value;
  }
}

async function usable(tx: Tx, groupId: Uint8Array): Promise<boolean> {
  return (await tx.group(groupId))?.standing === "current";
}

function samePending(one: Pending | null, other: Pending): boolean {
  return (
    one !== null &&
    one.epoch === other.epoch &&
    one.k === other.k &&
    one.atMs === other.atMs &&
    same(one.name, other.name) &&
    same(one.value, other.value)
  );
}

interface DeviceOf {
  accountId: Uint8Array;
  deviceId: Uint8Array;
}

function sameDevice(one: DeviceOf, other: DeviceOf): boolean {
  return same(one.accountId, other.accountId) && same(one.deviceId, other.deviceId);
}
