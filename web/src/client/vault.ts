/**
 * Runs the core inside write transactions of the store: fresh state before, its changes stored after.
 *
 *     await vault.work(async (tx, core) => {      the lock of all tabs is held from here on
 *       await vault.use(tx, groupId);             loads the scope's rows, if another tab changed them since
 *       const [body] = core.protect(…);
 *     });                                         the core's deltas are stored, all at once
 *
 * An exception discards everything and unloads the core, so that no later call can build on state that was never stored.
 * Nothing may leave for the network before `work` was left. It knows neither what the calls are for nor the network.
 * Source: docs/protocol/device.md, DEV-01.
 */

import { hex, joined, same, unhex } from "../bytes";
import type { NoticeCode, Params } from "./api";
import { ACCOUNT_SCOPE, type Core, DEVICE_SCOPE, type Known, type Member, PACKAGES_SCOPE } from "./e2e";
import type { Store, Tx } from "./store";

export interface VaultOptions {
  /** Milliseconds since 1970. */
  readonly nowMs: () => number;
  /** *size* random bytes, fit for keys. */
  readonly random: (size: number) => Uint8Array;
  /** A new core; called once, when one is first needed. */
  readonly makeCore: (random: (size: number) => Uint8Array) => Promise<Core>;
}

const NONE = new Uint8Array();
const OWN_SCOPES = new Set([ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE].map(hex));

/** The state of one device in one worker: its store, its core, its clock and its randomness. */
export class Vault {
  readonly nowMs: () => number;
  readonly random: (size: number) => Uint8Array;
  /** The version of each scope's rows that the core knows, by the scope in hexadecimal. */
  private readonly versions = new Map<string, number>();
  private making: Promise<Core> | null = null;
  private made: Core | null = null;

  constructor(
    readonly store: Store,
    private readonly options: VaultOptions,
  ) {
    this.nowMs = options.nowMs;
    this.random = options.random;
  }

  nowS(): number {
    return Math.floor(this.nowMs() / 1000);
  }

  /** The core, once `work` was entered or `ready` resolved. */
  get core(): Core {
    if (this.made === null) throw new Error("the core is not ready yet");
    return this.made;
  }

  /** Make the core; listing chats does not need it. */
  async ready(): Promise<Core> {
    this.making ??= this.options.makeCore(this.random);
    try {
      this.made = await this.making;
      return this.made;
    } catch (error) {
      this.making = null; // what could not be fetched now may be there later
      throw error;
    }
  }

  // ---------------------------------------------------------------- who we are

  // Without *tx* as it was last committed, so that these may be asked anywhere.

  /** Our account id; empty before there is one. */
  async account(tx?: Tx): Promise<Uint8Array> {
    return (await this.meta("account", tx)) ?? NONE;
  }

  async device(tx?: Tx): Promise<Uint8Array> {
    return (await this.meta("device", tx)) ?? NONE;
  }

  /** Our newest certificate: genesis statement and signed device list. */
  async certificate(tx?: Tx): Promise<Uint8Array> {
    return (await this.meta("certificate", tx)) ?? NONE;
  }

  async origin(tx?: Tx): Promise<string> {
    return new TextDecoder().decode((await this.meta("origin", tx)) ?? NONE);
  }

  private meta(name: string, tx?: Tx): Promise<Uint8Array | null> {
    return tx === undefined ? this.store.committedMeta(name) : tx.meta(name);
  }

  // ---------------------------------------------------------------- the core in a transaction

  /** The core, inside a write transaction; what it changed is stored when left. Never inside another transaction. */
  async work<T>(work: (tx: Tx, core: Core) => Promise<T>): Promise<T> {
    const core = await this.ready();
    let entered = false;
    try {
      return await this.store.write(async (tx) => {
        entered = true;
        const result = await work(tx, core);
        await this.flush(tx);
        return result;
      });
    } catch (error) {
      if (entered) {
        core.unloadAll();
        this.versions.clear();
      }
      throw error;
    }
  }

  /** Make the core know the stored rows of *scopes*, inside `work`. */
  async use(tx: Tx, ...scopes: Uint8Array[]): Promise<void> {
    // a group founded or joined in this transaction is newer in the core than in the store
    if (scopes.some((scope) => !this.versions.has(hex(scope)))) await this.flush(tx);
    for (const scope of scopes) {
      const version = await tx.scopeVersion(scope);
      if (this.versions.get(hex(scope)) === version && this.core.isLoaded(scope)) continue;
      this.core.load(scope, await tx.scopeRows(scope));
      this.versions.set(hex(scope), version);
    }
  }

  /** The scopes that opening a stranger's mail and making key packages need. */
  async useKeys(tx: Tx): Promise<void> {
    await this.use(tx, DEVICE_SCOPE, PACKAGES_SCOPE);
  }

  async useAccount(tx: Tx): Promise<void> {
    await this.use(tx, ACCOUNT_SCOPE, DEVICE_SCOPE);
  }

  /** Unload every group: before a Welcome that may bring one that we have had before. */
  async forgetLoadedGroups(tx: Tx): Promise<void> {
    await this.flush(tx);
    for (const scope of [...this.versions.keys()].filter((scope) => !OWN_SCOPES.has(scope))) {
      this.core.unload(unhex(scope));
      this.versions.delete(scope);
    }
  }

  /**
   * Forget all groups of the chat but the one in use and the newest others, *keep* in all; inside `work`.
   *
   * Whoever may begin a group in a chat may begin any number, and each is tried for each envelope.
   */
  async forgetOlderGroups(tx: Tx, chat: Uint8Array, keep: number): Promise<void> {
    for (const { id } of (await tx.groupsOfChat(chat)).slice(keep)) {
      await this.flush(tx);
      if (this.core.isLoaded(id)) this.core.unload(id);
      this.versions.delete(hex(id));
      await tx.clearScope(id);
      await tx.bumpScope(id);
      await tx.forgetGroup(id);
    }
  }

  /** Store what the core has changed so far, inside `work`; leaving `work` does it too. */
  async flush(tx: Tx): Promise<void> {
    const changed = new Map<string, Uint8Array>();
    for (const { scope, key, value } of this.core.takeDeltas()) {
      await tx.putRow(scope, key, value);
      changed.set(hex(scope), scope);
    }
    for (const [name, scope] of changed) this.versions.set(name, await tx.bumpScope(scope));
  }

  // ---------------------------------------------------------------- what the person is told

  /** Tell the person something about the chat, in its history and as an event; inside a transaction. */
  async notice(tx: Tx, chat: Uint8Array, code: NoticeCode, params: Params = {}): Promise<void> {
    const sender = (await tx.chat(chat))?.peer ?? NONE;
    const id = this.random(16);
    const notice = { code, params };
    await tx.addMessage(chat, id, sender, 0, this.nowMs(), "notice", "", "received", true, { notice });
    await tx.note("notice", chat, joined(id, sender), code);
  }

  // ---------------------------------------------------------------- certificates

  /** For each account the lowest device list counter that is still acceptable. */
  async known(tx: Tx): Promise<Known> {
    const known = new Map((await tx.contacts()).map(({ account, counter }) => [hex(account), counter]));
    known.set(hex(await this.account(tx)), await tx.metaInt("counter"));
    return known;
  }

  /**
   * Remember the newest certificates of members. A contact's new device or changed account key is told in *chat*, where
   * it was met, and in the chat with that contact; inside `work`. Source: docs/protocol/device.md, DEV-46.
   */
  async learnAndTell(tx: Tx, chat: Uint8Array, members: Iterable<Member>): Promise<void> {
    const ourselves = await this.account(tx);
    for (const { accountId, counter, certificate } of members) {
      if (same(accountId, ourselves)) continue;
      const contact = await tx.contact(accountId);
      if (contact === null) {
        await tx.putContact({ account: accountId, name: "", counter, certificate, photo: NONE });
        continue;
      }
      if (counter < contact.counter || same(certificate, contact.certificate)) continue;
      await tx.putContact({ ...contact, counter, certificate });
      const own = await tx.chatOfPeer(accountId);
      const chats = own === null || own.state === "blocked" || same(own.id, chat) ? [chat] : [chat, own.id];
      for (const code of this.changes(contact.certificate, certificate)) {
        for (const one of chats) await this.notice(tx, one, code, { name: contact.name });
      }
    }
  }

  /** What a person should know of a newer certificate. */
  private changes(before: Uint8Array, after: Uint8Array): NoticeCode[] {
    const older = this.core.checkCertificate(before);
    const newer = this.core.checkCertificate(after);
    const found: NoticeCode[] = [];
    if (!same(newer.accountKey, older.accountKey)) found.push("account_key");
    const known = new Set(older.devices.map(({ deviceId }) => hex(deviceId)));
    if (newer.devices.some(({ deviceId }) => !known.has(hex(deviceId)))) found.push("new_device");
    return found;
  }
}
