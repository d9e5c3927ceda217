/**
 * Runs the core inside write transactions of the store: fresh state before, its changes stored after.
 *
 * Source: docs/protocol/device.md, DEV-01.
 */

import type { NoticeCode, Params } from "./api";
import type { Core, Known, Member } from "./e2e";
import type { Store, Tx } from "./store";

/** The state of one device in one worker: its store, its core, its clock and its randomness. */
export interface Vault {
  readonly store: Store;
  /** Milliseconds since 1970. */
  nowMs(): number;
  nowS(): number;
  /** *size* random bytes, fit for keys. */
  random(size: number): Uint8Array;
  /** Ready once `work` was entered or `ready` resolved. */
  readonly core: Core;
  /** Make the core; listing chats does not need it. */
  ready(): Promise<Core>;

  // Who we are; without *tx* as last committed, so they may be asked anywhere.
  /** Our account id; empty before there is one. */
  account(tx?: Tx): Promise<Uint8Array>;
  device(tx?: Tx): Promise<Uint8Array>;
  /** Our newest certificate: genesis statement and signed device list. */
  certificate(tx?: Tx): Promise<Uint8Array>;
  origin(tx?: Tx): Promise<string>;

  /** The core, inside a write transaction; what it changed is stored when left. Never inside another transaction. */
  work<T>(work: (tx: Tx, core: Core) => Promise<T>): Promise<T>;
  /** Make the core know the stored rows of *scopes*, inside `work`. */
  use(tx: Tx, ...scopes: Uint8Array[]): Promise<void>;
  /** The scopes that opening a stranger's mail and making key packages need. */
  useKeys(tx: Tx): Promise<void>;
  useAccount(tx: Tx): Promise<void>;
  /** Unload every group: before a Welcome that may bring one that we have had before. */
  forgetLoadedGroups(tx: Tx): Promise<void>;
  /** Forget all groups of the chat but the one in use and the newest others, *keep* in all; inside `work`. */
  forgetOlderGroups(tx: Tx, chat: Uint8Array, keep: number): Promise<void>;
  /** Store what the core has changed so far, inside `work`; leaving `work` does it too. */
  flush(tx: Tx): Promise<void>;

  /** Tell the person something about the chat, in its history and as an event; inside a transaction. */
  notice(tx: Tx, chat: Uint8Array, code: NoticeCode, params?: Params): Promise<void>;
  /** For each account the lowest device list counter that is still acceptable. */
  known(tx: Tx): Promise<Known>;
  /** Remember the newest certificates of members; tell of a contact's new device or changed account key in *chat* and
   * in the chat with that contact; inside `work`. Source: docs/protocol/device.md, DEV-46. */
  learnAndTell(tx: Tx, chat: Uint8Array, members: Iterable<Member>): Promise<void>;
}
