/**
 * First contact: adding someone by a link, being added by a stranger, accepting, blocking, and who is called what.
 *
 * The adder claims a key package by the link's address, checks it against the account id in the link, founds a group of
 * two and sends its Welcome to the package's own address; words go through MLS only. Whoever is added has a request
 * until it is accepted. Two people who add each other at once have two groups for one chat: the lower group id is used.
 * Source: docs/protocol/device.md, "First contact".
 */

import { compare, encodeBase64, hex, NO_BYTES, same } from "../bytes";
import { ADDRESS_GONE, NO_KEY_PACKAGE, RATE_LIMITED, WireError } from "../wire/errors";
import { PackingError, pack, unpack } from "../wire/packing";
import { DELIVERED, MAX_NAME_BYTES, MAX_RECEIPT_IDS, type Profile, READ } from "./content";
import { type Devices, splitLink } from "./devices";
import {
  CoreError,
  DEVICE_SCOPE,
  type GroupContext,
  type Joined,
  KIND_PAIR,
  type Member,
  SUITE_CLASSIC,
  SUITE_HYBRID,
} from "./e2e";
import { UserError } from "./errors";
import type { Network } from "./network";
import type { Outbox } from "./outbox";
import type { Tx } from "./store";
import type { Chat, Group, NewChat } from "./tables";
import type { Vault } from "./vault";

const MAX_NAME = 64;
/** A group that begins with more leaves than this uses the classic suite: its handshakes are smaller. */
const MAX_HYBRID = 32;
/** Chats that one stranger began and that wait to be accepted; above it, its Welcomes are junk. */
const MAX_REQUESTS_OF_ACCOUNT = 8;
/** The same by the address that they came to: a last resort's key package makes any number of groups. */
const MAX_REQUESTS_OF_SERIAL = 64;
/** Groups kept of one chat: the one in use, and the newest before it, whose envelopes may still come. */
const MAX_GROUPS = 16;
const MAX_GROUPS_OF_REQUEST = 2;

/** What Unicode calls default ignorable, and the empty pattern of Braille: names that differ in it look the same. */
const UNSEEN =
  /[\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufff8]|\u034f|[\u17b4\u17b5]|[\u180b-\u180f]|[\ufe00-\ufe0f]|[\u{1bca0}-\u{1bca3}]|[\u{1d173}-\u{1d17a}]|[\u{e0000}-\u{e0fff}]/gu;
const ID = /^[0-9a-f]{32}$/;
const UTF8 = new TextEncoder();

/** What a contact link says. */
export interface ContactLink {
  origin: string;
  account: Uint8Array;
  address: Uint8Array;
  name: string;
}

/** The link as text; everything but the origin stands after `#` and never reaches a server. */
export function contactLink({ origin, account, address, name }: ContactLink): string {
  return `${origin}/c#${encodeBase64(pack([1, account, address, name]))}`;
}

/** Throws UserError. */
export function parseContactLink(link: string): ContactLink {
  if (!link.includes("/c#") && link.includes("/i#")) throw new UserError("link_is_invitation");
  try {
    const [origin, data] = splitLink(link, "/c#");
    const fields = unpack(data) as unknown;
    if (/^https?:\/\/./.test(origin) && Array.isArray(fields) && fields.length === 4 && fields[0] === 1) {
      const [, account, address, name] = fields as unknown[];
      if (account instanceof Uint8Array && address instanceof Uint8Array && typeof name === "string") {
        if (account.length === 32 && address.length === 41) return { origin, account, address, name };
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof PackingError)) throw error;
  }
  throw new UserError("link_malformed");
}

/** *text* fit to be shown on one line: nothing unseen, no control characters, at most 64 characters. */
export function oneLine(text: string): string {
  const seen = text.replace(UNSEEN, "").replace(/[\p{C}\p{Z}]+/gu, " ");
  let letters = Array.from(seen.trim()).slice(0, MAX_NAME);
  while (UTF8.encode(letters.join("").trim()).length > MAX_NAME_BYTES) letters = letters.slice(0, -1);
  return letters.join("").trim();
}

/** A name as it may be kept: `oneLine`; empty for what could be the id of a chat. */
export function cleanName(name: string): string {
  const shown = oneLine(name);
  return ID.test(skeleton(shown)) ? "" : shown;
}

/** What is the same for names that look the same: width, ligatures and case do not count. */
export function skeleton(name: string): string {
  const plain = name.replace(UNSEEN, "").normalize("NFKC");
  return plain.toUpperCase().toLowerCase().replaceAll("ς", "σ").normalize("NFKC");
}

/** A key package and the certificate that came with it; not checked yet. */
export interface KeyMaterial {
  keyPackage: Uint8Array;
  certificate: Uint8Array;
}

/** The same, and the account that it has to be of. */
export interface Claimed extends KeyMaterial {
  account: Uint8Array;
}

/** The people this account knows, and the chats with each of them. */
export class Contacts {
  constructor(
    private readonly vault: Vault,
    private readonly network: Network,
    private readonly devices: Devices,
    private readonly outbox: Outbox,
  ) {}

  // ---------------------------------------------------------------- adding

  /** The chat with whoever gave out this contact link: the one there is, or a new one. Throws UserError. */
  async add(text: string): Promise<Chat> {
    const link = parseContactLink(text);
    const there = await this.vault.store.read((tx) => this.known(tx, link));
    const chat = there ?? (await this.start(link, await this.claim(link.address)));
    return chat.state === "open" ? chat : this.accept(chat.id);
  }

  /** The chat that there is with whoever gave out *link*. Throws UserError for a link that cannot be meant. */
  async known(tx: Tx, link: ContactLink): Promise<Chat | null> {
    const origin = await tx.metaText("origin");
    if (link.origin !== origin) throw new UserError("link_other_server", { server: link.origin });
    if (same(link.account, await tx.meta("account"))) throw new UserError("link_own");
    return tx.chatOfPeer(link.account);
  }

  /** A key package of the device behind *address*. Rejects with UserError, TransportError, WireError. */
  async claim(address: Uint8Array): Promise<KeyMaterial> {
    const link = await this.network.anonymous("keys");
    try {
      const claimed = await link.expect("KeyPackageClaimed", (request) => ({
        type: "ClaimKeyPackage",
        request,
        address,
        suite: SUITE_HYBRID,
      }));
      return { keyPackage: claimed.keyPackage, certificate: pack([claimed.genesis, claimed.deviceList]) };
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (error.kind === ADDRESS_GONE) throw new UserError("link_gone", {}, error);
      if (error.kind === NO_KEY_PACKAGE) throw new UserError("link_drained", { minutes: 0 }, error);
      if (error.kind !== RATE_LIMITED) throw error;
      throw new UserError("link_drained", { minutes: Math.floor(error.retryAfterMs / 60_000) + 1 }, error);
    }
  }

  private async start(link: ContactLink, claimed: KeyMaterial): Promise<Chat> {
    return this.vault.work(async (tx) => {
      const faster = await tx.chatOfPeer(link.account);
      if (faster !== null) return faster; // they, or another tab, were faster
      const id = this.vault.random(16);
      const name = cleanName(link.name);
      await tx.addChat({
        id,
        name: await this.freeName(tx, name || "someone"),
        namedBy: name === "" ? "nobody" : "link",
        kind: KIND_PAIR,
        state: "open",
        peer: link.account,
        groupId: null,
        nextSequence: 1,
        lastAtMs: this.vault.nowMs(),
      });
      const admins = [await this.vault.account(tx), link.account].sort(compare);
      const context = { kind: KIND_PAIR, chatId: id, admins, predecessor: null };
      try {
        await this.found(tx, id, context, [{ account: link.account, ...claimed }]);
      } catch (error) {
        // the account in the link is not the one behind its address: it was altered
        if (error instanceof UserError && error.params.code === "keys_of_another")
          throw new UserError("link_gone", {}, error);
        throw error;
      }
      const contact = await tx.contact(link.account);
      if (contact !== null) await tx.putContact({ ...contact, name });
      await tx.note("chat", id);
      return this.greet(tx, id);
    });
  }

  /**
   * Found the group that *chat* uses from now on, with the devices *claimed* (one for each account); its id. Inside
   * `work`. No gate: nobody else is in it yet.
   */
  async found(tx: Tx, chat: Uint8Array, context: GroupContext, claimed: readonly Claimed[]): Promise<Uint8Array> {
    const { core } = this.vault;
    const nowS = this.vault.nowS();
    for (const { account, keyPackage, certificate } of claimed) {
      let owner: Uint8Array;
      try {
        owner = core.inspectKeyPackage(keyPackage, certificate, nowS).accountId;
      } catch (error) {
        if (error instanceof CoreError) throw new UserError("refused", { code: "keys_do_not_fit" }, error);
        throw error;
      }
      if (!same(owner, account)) throw new UserError("refused", { code: "keys_of_another" });
    }
    const address = await this.devices.takeAddress(tx, "chat", chat);
    const suite = claimed.length < MAX_HYBRID ? SUITE_HYBRID : SUITE_CLASSIC;
    await this.vault.use(tx, DEVICE_SCOPE);
    const groupId = core.createGroup(suite, context, address.address, await this.vault.certificate(tx), nowS);
    const adds = claimed.map((one) => one.keyPackage);
    const staged = core.stage(groupId, { k: 0, adds, known: await this.vault.known(tx), nowS });
    const applied = core.confirm(groupId, nowS);
    await this.vault.learnAndTell(tx, chat, core.group(groupId).members);
    const nowMs = this.vault.nowMs();
    for (const { address: to, body } of staged.welcomes) await tx.queueBody(body, [to], nowMs);
    await tx.putGroup({
      id: groupId,
      chat,
      mlsChat: context.chatId,
      epoch: applied.epoch,
      standing: "current",
      sinceMs: nowMs,
      predecessor: context.predecessor?.[0] ?? null,
      serial: address.serial,
    });
    await tx.setChatGroup(chat, groupId, nowMs);
    if (context.predecessor !== null) await this.outbox.sendAgain(tx, chat);
    await this.vault.forgetOlderGroups(tx, chat, MAX_GROUPS);
    return groupId;
  }

  // ---------------------------------------------------------------- being added

  /** A Welcome brought a group that succeeds no other; inside `work`. Whether we want to be in it. */
  async met(tx: Tx, joined: Joined, serial: Uint8Array): Promise<boolean> {
    const chat = await this.chatFor(tx, joined, serial);
    if (chat === null) return false;
    await this.vault.learnAndTell(tx, chat.id, joined.members);
    const current = chat.groupId === null ? null : await tx.group(chat.groupId);
    const nowMs = this.vault.nowMs();
    await tx.putGroup({
      id: joined.groupId,
      chat: chat.id,
      mlsChat: joined.context.chatId,
      epoch: joined.epoch,
      standing: "current",
      sinceMs: nowMs,
      predecessor: null,
      serial,
    });
    // two who add each other at once have two groups: the lower id is used by both
    if (current?.standing !== "current" || compare(joined.groupId, current.id) < 0) {
      await tx.setChatGroup(chat.id, joined.groupId, nowMs);
    }
    await this.forgetOlderGroups(tx, chat);
    return true;
  }

  /** Keep a bounded number of the chat's groups; after each that another began. */
  async forgetOlderGroups(tx: Tx, chat: Pick<Chat, "id" | "state">): Promise<void> {
    await this.vault.forgetOlderGroups(tx, chat.id, chat.state === "request" ? MAX_GROUPS_OF_REQUEST : MAX_GROUPS);
  }

  /** The chat that a new group belongs to, made if need be; null for a group that we do not want. */
  private async chatFor(tx: Tx, joined: Joined, serial: Uint8Array): Promise<NewChat | null> {
    const own = await this.vault.account(tx);
    const { context } = joined;
    const [sender] = joined.sender;
    if (same(sender, own) || !includes(context.admins, sender)) return null;
    const ofSender = await tx.chatOfPeer(sender);
    if (ofSender?.state === "blocked") return null;
    const isPair = context.kind === KIND_PAIR;
    if (isPair) {
      const accounts = accountsOf(joined.members);
      if (!sameAccounts(accounts, [own, sender]) || !sameAccounts(context.admins, accounts)) return null;
      if (ofSender !== null) return ofSender;
    }
    if ((await tx.chat(context.chatId)) !== null) return null;
    const trusted = ofSender?.state === "open" && !isPair;
    if (!trusted) {
      const [ofAccount, ofSerial] = await tx.countRequests(sender, serial);
      if (ofAccount >= MAX_REQUESTS_OF_ACCOUNT || ofSerial >= MAX_REQUESTS_OF_SERIAL) return null;
    }
    const chat: NewChat = {
      id: context.chatId,
      name: await this.freeName(tx, isPair ? "someone" : "group"),
      namedBy: "nobody",
      kind: context.kind,
      state: trusted ? "open" : "request",
      peer: isPair ? sender : null,
      groupId: null,
      nextSequence: 1,
      lastAtMs: this.vault.nowMs(),
    };
    await tx.addChat(chat);
    if (!trusted) await tx.addRequest(chat.id, sender, serial);
    await tx.note("chat", chat.id);
    return chat;
  }

  /** Someone says what it is called and how it looks; inside a transaction. */
  async heardProfile(tx: Tx, chat: Chat, sender: Uint8Array, profile: Profile): Promise<void> {
    const contact = await tx.contact(sender);
    const name = cleanName(profile.name);
    if (name === "" || contact === null) return;
    const renamed = contact.name !== name;
    if (!renamed && same(contact.photo, profile.photo)) return;
    const known = await this.knownAs(tx, sender, name);
    await tx.putContact({ ...contact, name, photo: profile.photo });
    if (!same(chat.peer, sender)) return;
    await tx.note("chat", chat.id);
    if (!renamed || chat.namedBy === "person") return;
    await tx.renameChat(chat.id, await this.freeName(tx, name, chat.id), "profile");
    if (known !== null && chat.state === "request") {
      await this.vault.notice(tx, chat.id, "same_name", { name: known });
    }
  }

  /** The name of someone else known here that looks the same; null: there is none. */
  async knownAs(tx: Tx, account: Uint8Array, name: string): Promise<string | null> {
    const like = skeleton(name);
    const contacts = (await tx.contacts()).filter((one) => !same(one.account, account)).map((one) => one.name);
    const chats = await tx.chats();
    const others = chats.filter((one) => one.peer !== null && !same(one.peer, account)).map((one) => one.name);
    return [...contacts, ...others].find((one) => skeleton(one) === like) ?? null;
  }

  /** *name*, or with -2, -3, … when another chat has it, or one that looks the same. */
  async freeName(tx: Tx, name: string, chat: Uint8Array | null = null): Promise<string> {
    const others = (await tx.chats()).filter((other) => !same(other.id, chat));
    const taken = new Set(others.map((other) => skeleton(other.name)));
    let candidate = name;
    for (let n = 2; taken.has(skeleton(candidate)); n++) candidate = `${name}-${n}`;
    return candidate;
  }

  // ---------------------------------------------------------------- accepting and blocking

  /** Open a request, or a chat that is blocked; receipts are sent from now on. */
  async accept(id: Uint8Array): Promise<Chat> {
    return this.vault.store.write((tx) => this.acceptIn(tx, id));
  }

  /** `accept`, inside a transaction. */
  async acceptIn(tx: Tx, id: Uint8Array): Promise<Chat> {
    const chat = await tx.chat(id);
    if (chat === null) throw new UserError("chat_unknown");
    if (chat.state === "open") return chat;
    const own = await this.vault.account(tx);
    await tx.setChatState(id, "open");
    if (chat.archived) await tx.setChatSettings(id, { archived: false, mutedUntilMs: 0 });
    // blocking ended its group, now or before it was a request again
    const group = chat.groupId === null ? null : await tx.group(chat.groupId);
    if (group?.standing === "left") await tx.addChore("successor", id, NO_BYTES, this.vault.nowMs());
    for (const message of await tx.messages(id, MAX_RECEIPT_IDS)) {
      if (same(message.sender, own) || (message.kind !== "text" && message.kind !== "media")) continue;
      await tx.oweReceipt(id, message.id, message.unread ? DELIVERED : READ);
    }
    for (const group of await tx.groupsOfChat(id)) await this.leaveLastResort(tx, group);
    await tx.note("chat", id);
    return this.greet(tx, id);
  }

  /**
   * If the group has our address from a last resort, give it one of its own, by a commit; inside a transaction.
   *
   * Not before the chat is accepted: a stranger would see by the commit that somebody is there.
   */
  async leaveLastResort(tx: Tx, group: Group): Promise<void> {
    const chat = await tx.chat(group.chat);
    if (chat?.state !== "open" || group.standing !== "current" || group.serial === null) return;
    const address = await tx.address(group.serial);
    if (address !== null && address.chat === null) {
      await tx.addChore("update", group.id, NO_BYTES, this.vault.nowMs());
    }
  }

  /** Refuse everything from this chat: its addresses are revoked, what waits to be sent to it is dropped. */
  async block(id: Uint8Array): Promise<Chat> {
    return this.vault.store.write(async (tx) => {
      const nowMs = this.vault.nowMs();
      const chat = await tx.chat(id);
      if (chat === null) throw new UserError("chat_unknown");
      await tx.setChatState(id, "blocked");
      for (const message of await tx.forgetOutgoingOf(id)) {
        if (await tx.setMessageState(id, message, "failed", ["queued"])) await tx.note("changed", id, message);
      }
      for (const { subject } of await tx.chores("upload")) {
        if (!same(subject.slice(0, id.length), id)) continue;
        await tx.forgetChore("upload", subject);
        const message = subject.slice(id.length);
        if (await tx.setMessageState(id, message, "failed", ["queued"])) await tx.note("changed", id, message);
      }
      await tx.forgetReceiptsOf(id);
      for (const group of await tx.groupsOfChat(id)) {
        await tx.setStanding(group.id, "left", nowMs);
        await tx.forgetChore("ask", group.id);
      }
      await tx.forgetChore("successor", id);
      for (const address of await tx.addressesOfChat(id)) {
        await tx.addChore("revoke", address.serial, NO_BYTES, nowMs);
      }
      await tx.note("chat", id);
      return this.chatOf(tx, id);
    });
  }

  /** Block no more: who was accepted is again, a stranger asks again and is told nothing. Source: DEV-42. */
  async unblock(id: Uint8Array): Promise<Chat> {
    return this.vault.store.write(async (tx) => {
      const chat = await tx.chat(id);
      if (chat === null) throw new UserError("chat_unknown");
      if (chat.state !== "blocked") return chat;
      if (!(await tx.isUndecided(id))) return this.acceptIn(tx, id);
      await tx.setChatState(id, "request");
      await tx.setChatSettings(id, { archived: false, mutedUntilMs: 0 });
      await tx.note("chat", id);
      return this.chatOf(tx, id);
    });
  }

  /** Tell the chat what we are called; the chat as it is now. Inside a transaction. */
  async greet(tx: Tx, id: Uint8Array): Promise<Chat> {
    const chat = await this.chatOf(tx, id);
    const name = await tx.metaText("name");
    const photo = (await tx.meta("photo")) ?? NO_BYTES;
    await this.outbox.queue(tx, chat, (messageId, sequence, sentAtMs) => ({
      type: "Profile",
      messageId,
      sequence,
      sentAtMs,
      name,
      photo,
    }));
    return chat;
  }

  private async chatOf(tx: Tx, id: Uint8Array): Promise<Chat> {
    const chat = await tx.chat(id);
    if (chat === null) throw new RangeError(`no chat ${hex(id)}`);
    return chat;
  }
}

/** Each account once. */
export function accountsOf(members: readonly Member[]): Uint8Array[] {
  return [...new Map(members.map((member) => [hex(member.accountId), member.accountId])).values()];
}

export function includes(accounts: readonly Uint8Array[], account: Uint8Array): boolean {
  return accounts.some((one) => same(one, account));
}

/** Whether both name the same accounts, in whatever order. */
export function sameAccounts(one: readonly Uint8Array[], other: readonly Uint8Array[]): boolean {
  const left = new Set(one.map(hex));
  const right = new Set(other.map(hex));
  return left.size === right.size && [...left].every((account) => right.has(account));
}
