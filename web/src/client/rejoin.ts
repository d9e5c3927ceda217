/**
 * Coming back: asking to be taken back into a group, taking others back, and founding a group that succeeds a dead one.
 *
 *     ask         a fresh key package, signed and sealed to one member at a time, until one adds us again or a day is over
 *     grant       remove the device's old leaf and add its new one in one commit; only for accounts that are in the group
 *     succeed     a new MLS group for the same chat; of several, the lowest SHA-256 of the group id wins
 *
 * Everything here is a chore of the store: it goes on after a crash. Source: docs/protocol/device.md, "Coming back".
 */

import { compare, hex, NO_BYTES, same } from "../bytes";
import { Retry, WireError } from "../wire/errors";
import { pack, unpack } from "../wire/packing";
import { accountsOf, type Claimed, type Contacts, includes, sameAccounts } from "./contacts";
import type { Devices } from "./devices";
import {
  CoreError,
  DEVICE_SCOPE,
  type GroupInfo,
  type Joined,
  KIND_PAIR,
  type Member,
  PACKAGES_SCOPE,
  type StrangerMail,
} from "./e2e";
import type { Gates } from "./gates";
import type { Outbox } from "./outbox";
import { DAY_MS, type Tx } from "./store";
import type { Chat, Chore, Group } from "./tables";
import type { Vault } from "./vault";

const NEXT_PEER_MS = 10 * 60 * 1000;

/** The groups that this device cannot follow, and those of others that it can help back. */
export class Rejoin {
  constructor(
    private readonly vault: Vault,
    private readonly gates: Gates,
    private readonly devices: Devices,
    private readonly contacts: Contacts,
    private readonly outbox: Outbox,
  ) {}

  // ---------------------------------------------------------------- we are lost

  /** This device may not use the group any more: ask to be taken back; inside `work`. */
  lost = async (tx: Tx, groupId: Uint8Array): Promise<void> => {
    const group = await tx.group(groupId);
    if (group?.standing !== "current") return;
    if ((await tx.pending(groupId)) !== null) await this.gates.drop(tx, groupId);
    await tx.setStanding(groupId, "rejoin", this.vault.nowMs());
    const chat = await tx.chat(group.chat);
    if (chat !== null && same(chat.groupId, groupId)) {
      await tx.addChore("ask", groupId, NO_BYTES, this.vault.nowMs());
      await this.vault.notice(tx, group.chat, "asked_back");
    }
  };

  /** Ask the next member that was not asked yet; after a day without an answer tell the person, and start anew. */
  async ask(chore: Chore): Promise<void> {
    await this.vault.work(async (tx, core) => {
      const group = await tx.group(chore.subject);
      if (group?.standing !== "rejoin") {
        await tx.forgetChore("ask", chore.subject);
        return;
      }
      const nowMs = this.vault.nowMs();
      await this.vault.use(tx, DEVICE_SCOPE, group.id);
      const info = core.group(group.id);
      const own = await this.vault.account(tx);
      const asked = unpackAsked(chore.payload);
      const overMs = chore.madeMs + DAY_MS;
      if (nowMs >= overMs) {
        await this.unanswered(tx, group, info);
        return;
      }
      const peers = info.members.filter(
        (member) => !same(member.accountId, own) && !asked.some((device) => same(device, member.deviceId)),
      );
      const [peer] = peers;
      if (peer === undefined) {
        await tx.setChore(chore.n, chore.payload, overMs, chore.tries);
        return;
      }
      await this.askMember(tx, group, info, peer);
      const dueMs = peers.length > 1 ? nowMs + NEXT_PEER_MS : overMs;
      await tx.setChore(chore.n, pack([...asked, peer.deviceId]), dueMs, chore.tries);
    });
  }

  private async askMember(tx: Tx, group: Group, info: GroupInfo, peer: Member): Promise<void> {
    const [keyPackage] = await this.devices.makePackages(tx, info.suite, 1, { chat: group.chat });
    if (keyPackage === undefined) return;
    const { address, body } = this.vault.core.rejoinRequest(
      group.id,
      [peer.accountId, peer.deviceId],
      keyPackage,
      this.vault.nowS(),
    );
    await tx.queueBody(body, [address], this.vault.nowMs());
  }

  /** Nobody took us back for a day. */
  private async unanswered(tx: Tx, group: Group, info: GroupInfo): Promise<void> {
    await tx.forgetChore("ask", group.id);
    const anew = await this.maySucceed(tx, info);
    if (anew) await tx.addChore("successor", group.chat, NO_BYTES, this.vault.nowMs());
    await this.vault.notice(tx, group.chat, "not_let_in", { anew: Number(anew) });
  }

  private async maySucceed(tx: Tx, info: GroupInfo): Promise<boolean> {
    return includes(info.context.admins, await this.vault.account(tx));
  }

  /** What this device knew last of the groups of the chat that it asks to be taken back to (by hex id); inside `work`. */
  async lostGroups(tx: Tx, chat: Uint8Array): Promise<Map<string, GroupInfo>> {
    const found = new Map<string, GroupInfo>();
    for (const group of await tx.groupsOfChat(chat)) {
      if (group.standing !== "rejoin") continue;
      await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, group.id);
      found.set(hex(group.id), this.vault.core.group(group.id));
    }
    return found;
  }

  /**
   * A Welcome into a group that we know; inside `work`. Whether it is the answer to our asking.
   *
   * Anyone can make a group with any id; only a package that was made for asking this chat proves that it is meant, and
   * any member that was asked has one: so the group must also be what it was *before*.
   */
  async returned(tx: Tx, joined: Joined, known: Group, before: GroupInfo | null): Promise<boolean> {
    const offered = await tx.package(joined.packageRef);
    if (known.standing !== "rejoin" || !same(offered?.chat, known.chat) || before === null) return false;
    if (joined.epoch <= known.epoch || !goesOn(joined, before)) return false;
    const nowMs = this.vault.nowMs();
    await this.vault.learnAndTell(tx, known.chat, joined.members);
    await tx.putJoined(known.chat, came(joined.members, before.members), nowMs);
    await tx.putGroup({ ...known, epoch: joined.epoch, standing: "current", sinceMs: nowMs });
    await tx.hurryOutgoing(known.chat, nowMs);
    await tx.forgetChore("ask", known.id);
    await tx.forgetChore("successor", known.chat);
    await this.vault.notice(tx, known.chat, "came_back");
    return true;
  }

  // ---------------------------------------------------------------- others are lost

  /** Take a device back that asked, if it may come back; refuse in silence otherwise. */
  async grant(chore: Chore): Promise<void> {
    const asked = await this.asked(chore);
    if (asked === null) return;
    const { mail, group, chat } = asked;
    let certificate: Uint8Array;
    try {
      certificate = await this.devices.fetchCertificate(mail.accountId);
    } catch (error) {
      if (!(error instanceof WireError) || error.kind.retry === Retry.LATER) throw error;
      await this.refuse(chore);
      return;
    }
    const checked = await this.check(group, mail, certificate);
    if (checked === null) {
      await this.refuse(chore);
      return;
    }
    const stands = await this.gates.change(group.id, async (_tx, _core, info) => {
      const leaves = info.members.filter((member) => same(member.accountId, mail.accountId));
      if (leaves.length === 0 || leaves.some((member) => same(member.address, checked.address))) return null;
      const gone = leaves.filter(
        (member) => same(member.deviceId, mail.deviceId) || !includes(checked.listed, member.deviceId),
      );
      return { adds: [mail.keyPackage], removes: gone.map((member) => [member.accountId, member.deviceId] as const) };
    });
    if (!stands) return;
    await this.vault.store.write(async (tx) => {
      await tx.putGrant(mail.deviceId, mail.chatId, this.vault.nowMs());
      await tx.forgetChore("grant", chore.subject);
      await this.outbox.sendAgain(tx, chat.id, mail.deviceId, await tx.joinedMs(chat.id, mail.accountId));
    });
  }

  /** The request of a chore, and the group and chat that it is about; null when it was dealt with. */
  private async asked(chore: Chore): Promise<{ mail: StrangerMail; group: Group; chat: Chat } | null> {
    return this.vault.work(async (tx, core) => {
      await this.vault.useKeys(tx);
      const mail = core.openFromStranger(chore.payload);
      const group = await tx.groupOfMlsChat(mail.chatId);
      const chat = group === null ? null : await tx.chat(group.chat);
      const nowMs = this.vault.nowMs();
      const grantedMs = await tx.grantedMs(mail.deviceId, mail.chatId);
      const recently = grantedMs !== null && nowMs - grantedMs < DAY_MS;
      if (group === null || chat?.state !== "open" || group.standing === "left" || recently) {
        await tx.forgetChore("grant", chore.subject);
        return null;
      }
      if (group.standing === "current") return { mail, group, chat };
      // both of us are lost: nobody is left who could take anyone back
      await this.vault.use(tx, DEVICE_SCOPE, group.id);
      if (chat.kind === KIND_PAIR && (await this.maySucceed(tx, core.group(group.id)))) {
        await tx.addChore("successor", chat.id, NO_BYTES, nowMs);
      }
      await tx.forgetChore("grant", chore.subject);
      return null;
    });
  }

  /** The new address, and the devices that the account's list names; null for a request that is not to be granted. */
  private async check(
    group: Group,
    mail: StrangerMail,
    certificate: Uint8Array,
  ): Promise<{ address: Uint8Array; listed: Uint8Array[] } | null> {
    try {
      return await this.vault.work(async (tx, core) => {
        await this.vault.use(tx, DEVICE_SCOPE, group.id);
        core.checkRejoin(group.id, mail, certificate, this.vault.nowS());
        const { address } = core.inspectKeyPackage(mail.keyPackage, certificate, this.vault.nowS());
        return { address, listed: core.checkCertificate(certificate).devices.map((device) => device.deviceId) };
      });
    } catch (error) {
      if (error instanceof CoreError) return null;
      throw error;
    }
  }

  private async refuse(chore: Chore): Promise<void> {
    await this.vault.store.write((tx) => tx.forgetChore("grant", chore.subject));
  }

  // ---------------------------------------------------------------- successors

  /** Found the group that succeeds the one that nobody can use any more, for the same chat and people. */
  async succeed(chore: Chore): Promise<void> {
    const dead = await this.vault.work(async (tx, core) => {
      const chat = await tx.chat(chore.subject);
      const group = chat?.groupId ? await tx.group(chat.groupId) : null;
      if (chat === null || group === null || group.standing === "current" || chat.state === "blocked") {
        await tx.forgetChore("successor", chore.subject);
        return null;
      }
      await this.vault.use(tx, DEVICE_SCOPE, group.id);
      return { chat, group, info: core.group(group.id), own: await this.vault.account(tx) };
    });
    if (dead === null) return;
    const { chat, group, info, own } = dead;
    const claimed = new Map<string, Claimed>();
    for (const member of info.members) {
      const key = hex(member.accountId);
      if (same(member.accountId, own) || claimed.has(key)) continue;
      claimed.set(key, { account: member.accountId, ...(await this.contacts.claim(member.address)) });
    }
    await this.vault.work(async (tx) => {
      const again = await tx.group(group.id);
      const now = await tx.chat(chat.id);
      await tx.forgetChore("successor", chore.subject);
      if (again === null || again.standing === "current" || !same(now?.groupId, group.id)) return;
      const context = { ...info.context, predecessor: [group.id, info.epoch] as const };
      await this.contacts.found(tx, chat.id, context, [...claimed.values()]);
      await tx.forgetChore("ask", group.id);
      await this.vault.notice(tx, chat.id, "new_start");
    });
  }

  /** A Welcome into a group that names one of ours as its predecessor; inside `work`. Whether it may be. */
  async succeeded(tx: Tx, joined: Joined, predecessor: Group, serial: Uint8Array): Promise<boolean> {
    const chat = await tx.chat(predecessor.chat);
    if (chat === null || chat.state === "blocked" || !same(joined.context.chatId, predecessor.mlsChat)) return false;
    await this.vault.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE, predecessor.id);
    const old = this.vault.core.group(predecessor.id);
    const [sender] = joined.sender;
    const accounts = old.members.map((member) => member.accountId);
    if (!includes(old.context.admins, sender) || !includes(accounts, sender)) return false;
    if (joined.context.kind !== old.context.kind) return false;
    if (chat.kind === KIND_PAIR && !sameAccounts(accountsOf(joined.members), old.context.admins)) return false;
    const nowMs = this.vault.nowMs();
    await this.vault.learnAndTell(tx, chat.id, joined.members);
    await tx.putJoined(chat.id, came(joined.members, old.members), nowMs);
    await tx.putGroup({
      id: joined.groupId,
      chat: chat.id,
      mlsChat: joined.context.chatId,
      epoch: joined.epoch,
      standing: "current",
      sinceMs: nowMs,
      predecessor: predecessor.id,
      serial,
    });
    const current = chat.groupId === null ? null : await tx.group(chat.groupId);
    if (current === null || (await goesBefore(joined.groupId, predecessor.id, current))) {
      await tx.setChatGroup(chat.id, joined.groupId, nowMs);
      for (const group of [predecessor, current]) {
        if (group !== null && !same(group.id, joined.groupId)) await tx.forgetChore("ask", group.id);
      }
      await tx.forgetChore("successor", chat.id);
      await this.outbox.sendAgain(tx, chat.id);
      await this.vault.notice(tx, chat.id, "new_start");
    }
    await this.contacts.forgetOlderGroups(tx, chat);
    return true;
  }
}

/** Whether a new group is the one to use: it succeeds the one in use, or beats its other successor. */
async function goesBefore(groupId: Uint8Array, predecessor: Uint8Array, current: Group): Promise<boolean> {
  if (same(current.id, predecessor)) return true;
  if (!same(current.predecessor, predecessor)) return false;
  return compare(await rank(groupId), await rank(current.id)) < 0;
}

/** The accounts that were not there before. */
function came(members: readonly Member[], before: readonly Member[]): Uint8Array[] {
  const there = new Set(before.map((member) => hex(member.accountId)));
  return accountsOf(members).filter((account) => !there.has(hex(account)));
}

/**
 * Whether a group that we are welcomed back to can be the one that we knew. What changed its admins while we were away is
 * not known: then one of those whom we knew has to be the one who welcomes us. Source: DEV-34.
 */
function goesOn(joined: Joined, before: GroupInfo): boolean {
  const { context: now } = joined;
  const { context: old } = before;
  if (now.kind !== old.kind || !same(now.chatId, old.chatId)) return false;
  if ((now.predecessor === null) !== (old.predecessor === null)) return false;
  if (now.predecessor !== null && old.predecessor !== null) {
    if (!same(now.predecessor[0], old.predecessor[0]) || now.predecessor[1] !== old.predecessor[1]) return false;
  }
  if (now.kind === KIND_PAIR) {
    return sameAccounts(accountsOf(joined.members), now.admins) && sameAccounts(now.admins, old.admins);
  }
  return sameAccounts(now.admins, old.admins) || includes(old.admins, joined.sender[0]);
}

async function rank(groupId: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array(groupId)));
}

function unpackAsked(payload: Uint8Array): Uint8Array[] {
  const asked = payload.length > 0 ? (unpack(payload) as unknown) : [];
  if (Array.isArray(asked) && asked.every((one) => one instanceof Uint8Array)) return asked;
  throw new RangeError("not what the store was given");
}
