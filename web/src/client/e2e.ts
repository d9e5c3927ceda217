/**
 * Hosts the cryptographic core: the only caller of taube_core.wasm, and the only module that knows WebAssembly.
 *
 * Pure to its callers: bytes in, bytes out, and every call returns at once. Time and randomness are arguments; the
 * core's storage writes queue up as deltas that the caller stores in the same transaction as what the call was for.
 * State is grouped in scopes (`ACCOUNT_SCOPE`, `DEVICE_SCOPE`, `PACKAGES_SCOPE` and each group id), which the caller
 * loads before use. A call that throws leaves the state as it was. A trap loses the instance: CoreTrapped is thrown, a
 * new instance stands ready, all scopes are unloaded.
 *
 * Source: docs/protocol/groups.md.
 */

import { hex, joined, same, unhex } from "../bytes";
import { type Packable, pack, type Unpacked, unpack } from "../wire/packing";

export const SUITE_CLASSIC = 0x0001;
export const SUITE_HYBRID = 0x004f;

const letters = new TextEncoder();
export const ACCOUNT_SCOPE: Uint8Array = letters.encode("account");
export const DEVICE_SCOPE: Uint8Array = letters.encode("device");
export const PACKAGES_SCOPE: Uint8Array = letters.encode("packages");

export const KIND_PAIR = 0;
export const KIND_GROUP = 1;

/** Bytes of a file in one chunk of a blob, and in each chunk when sealed. */
export const CHUNK_BYTES = 65_536;
export const SEALED_CHUNK_BYTES = CHUNK_BYTES + 16;

/** Base of everything that the core refuses. `number` is stable; the text is for people who debug, without keys or content. */
export class CoreError extends Error {
  static readonly number: number = 0;

  constructor(text = "") {
    super(text);
    this.name = new.target.name;
  }
}

/** The bytes are not what they were said to be. */
export class Malformed extends CoreError {
  static override readonly number = 1;
}
/** A signature, certificate, credential or extension does not prove what it claims. */
export class Unverified extends CoreError {
  static override readonly number = 2;
}
/** The call needs a scope that is not loaded, or that holds nothing. */
export class NotLoaded extends CoreError {
  static override readonly number = 3;
}
/** The scope is loaded but holds no MLS group. */
export class NoSuchGroup extends CoreError {
  static override readonly number = 4;
}
/** The epoch asked for is neither the current one nor kept; or k is out of range. */
export class WrongEpoch extends CoreError {
  static override readonly number = 5;
}
/** The chat's rules (roles, who may have a leaf) forbid it. */
export class PolicyRefused extends CoreError {
  static override readonly number = 7;
}
/** A device list has a lower counter than one that is already known. */
export class CounterOutdated extends CoreError {
  static override readonly number = 8;
}
/** The core met an error of its own; the state is as before. */
export class Internal extends CoreError {
  static override readonly number = 9;
}
/** There is a staged commit already: confirm or drop it first. */
export class CommitPending extends CoreError {
  static override readonly number = 10;
}
/** There is no staged commit to confirm, restage or drop. */
export class NothingPending extends CoreError {
  static override readonly number = 11;
}
/** The gate value, welcome or content is above the wire's limit. */
export class TooLarge extends CoreError {
  static override readonly number = 12;
}
/** HPKE does not open: the body was sealed to another device, or is no mail from a stranger. */
export class NotForUs extends CoreError {
  static override readonly number = 13;
}
/** The Welcome names none of our key packages. */
export class NoKeyPackage extends CoreError {
  static override readonly number = 14;
}
/** A key package has less than 50 days left, or a request is too old. */
export class Expired extends CoreError {
  static override readonly number = 15;
}
/** A commit removed this device from the group. */
export class Evicted extends CoreError {
  static override readonly number = 16;
}
/** The core's instance is lost. All scopes are unloaded; load them again and the state from before the call is good. */
export class CoreTrapped extends CoreError {
  static override readonly number = 99;
}

const ERRORS = new Map<number, new (text: string) => CoreError>(
  [
    Malformed,
    Unverified,
    NotLoaded,
    NoSuchGroup,
    WrongEpoch,
    PolicyRefused,
    CounterOutdated,
    Internal,
    CommitPending,
    NothingPending,
    TooLarge,
    NotForUs,
    NoKeyPackage,
    Expired,
    Evicted,
  ].map((kind) => [kind.number, kind] as const),
);

/** One write of the core's storage. *value* null deletes the row; with an empty *key*, every row of *scope* first. */
export interface Delta {
  readonly scope: Uint8Array;
  readonly key: Uint8Array;
  readonly value: Uint8Array | null;
}

/** [account id, device id]. */
export type Pair = readonly [account: Uint8Array, device: Uint8Array];

export interface NewAccount {
  /** 32 bytes: SHA-256 of *genesis*. */
  readonly accountId: Uint8Array;
  /** 65 bytes: 1, account public key, recovery public key. */
  readonly genesis: Uint8Array;
}

/** A device as a device list names it: id of 16 bytes, keys of 32 bytes. */
export interface DeviceKeys {
  readonly deviceId: Uint8Array;
  readonly loginPk: Uint8Array;
  readonly mlsPk: Uint8Array;
  /** X25519. */
  readonly hpkePk: Uint8Array;
}

export interface CertificateInfo {
  readonly accountId: Uint8Array;
  readonly counter: number;
  /** The newest account public key. */
  readonly accountKey: Uint8Array;
  readonly devices: readonly DeviceKeys[];
}

export interface NewKeyPackage {
  /** 32 bytes, the key package reference of RFC 9420; names its private parts in `PACKAGES_SCOPE`. */
  readonly ref: Uint8Array;
  readonly keyPackage: Uint8Array;
}

export interface KeyPackageInfo {
  readonly accountId: Uint8Array;
  readonly deviceId: Uint8Array;
  readonly suite: number;
  /** 41 bytes: the sealed address of the chat that will use this package. */
  readonly address: Uint8Array;
  readonly expiresAtS: number;
  readonly certificate: CertificateInfo;
}

/** What stands in the MLS GroupContext and decides whether a commit is valid. */
export interface GroupContext {
  /** KIND_PAIR or KIND_GROUP. */
  readonly kind: number;
  /** 16 bytes; a successor group keeps it. */
  readonly chatId: Uint8Array;
  /** Account ids; in a pair: both. */
  readonly admins: readonly Uint8Array[];
  /** (group id, its newest epoch) of the group that this one succeeds. */
  readonly predecessor: readonly [groupId: Uint8Array, epoch: number] | null;
}

export interface Member {
  readonly accountId: Uint8Array;
  readonly deviceId: Uint8Array;
  readonly address: Uint8Array;
  readonly certificate: Uint8Array;
  readonly counter: number;
  /** Index of the leaf in the tree. */
  readonly leaf: number;
}

export interface GroupInfo {
  readonly groupId: Uint8Array;
  readonly epoch: number;
  readonly suite: number;
  readonly context: GroupContext;
  /** In the order of their leaves; ourselves among them. */
  readonly members: readonly Member[];
  readonly hasPending: boolean;
  readonly ownLeaf: number;
}

/** An envelope body and the one address it goes to. */
export interface Addressed {
  readonly address: Uint8Array;
  readonly body: Uint8Array;
}

/** A commit waiting for its gate. Store everything durably before claiming the gate. */
export interface Staged {
  /** The epoch that the commit ends. */
  readonly epoch: number;
  readonly k: number;
  readonly gateName: Uint8Array;
  readonly gateValue: Uint8Array;
  /** Envelope body for the members of the old epoch. */
  readonly commitBody: Uint8Array;
  readonly welcomes: readonly Addressed[];
}

export type Verdict = "applied" | "void" | "stuck" | "removed";
export type ReceivedKind = "content" | "commit" | "look_at_gate" | "later" | "duplicate" | "junk";

/**
 * What a commit did.
 *
 * "applied": we are in *epoch*, the new one. "removed": it removed us; *epoch* is the one that we are not part of.
 * "void": every member judges the value bad alike: go to k + 1. "stuck": only we cannot apply it: ask for a rejoin.
 * After "void" and "stuck" the state is as before and only *epoch* (the current) is set.
 */
export interface Applied {
  readonly verdict: Verdict;
  readonly epoch: number;
  readonly committer: Pair | null;
  readonly added: readonly Member[];
  readonly removed: readonly Pair[];
  /** Leaves that stayed but changed: address, keys or certificate. */
  readonly updated: readonly Member[];
  /** The new context if the commit changed it. */
  readonly context: GroupContext | null;
  readonly commitBody: Uint8Array;
  /** With *commitBody*: what any member sends to finish for a committer that died, byte for byte the same. */
  readonly welcomes: readonly Addressed[];
  /** Added or changed leaves whose device list is older than `known` says (GRP-58): remove them, or tell. */
  readonly outdated: readonly Pair[];
}

/**
 * What one envelope body turned out to be.
 *
 * "content": *content* from *sender*. "commit": a member says that gate *k* holds *gateValue*; nothing is applied:
 * claim the gate with it and apply what the gate answers. "look_at_gate": the same without the value. "later": no seal
 * key opens it, perhaps one of a next epoch will: set it aside. "duplicate": opened before. "junk": never usable.
 */
export interface Received {
  readonly kind: ReceivedKind;
  readonly sender: Pair | null;
  readonly epoch: number;
  readonly content: Uint8Array;
  readonly k: number;
  readonly gateValue: Uint8Array;
}

/** An envelope body that was HPKE-sealed to this device. The fields after *payload* are set for "rejoin" only. */
export interface StrangerMail {
  readonly kind: "welcome" | "rejoin" | "unknown";
  readonly payload: Uint8Array;
  readonly accountId: Uint8Array;
  readonly deviceId: Uint8Array;
  readonly chatId: Uint8Array;
  readonly lastEpoch: number;
  readonly keyPackage: Uint8Array;
  readonly timeS: number;
}

export interface Joined {
  readonly groupId: Uint8Array;
  readonly epoch: number;
  readonly suite: number;
  readonly context: GroupContext;
  readonly members: readonly Member[];
  /** Whoever sent the Welcome. */
  readonly sender: Pair;
  readonly packageRef: Uint8Array;
}

/** Account id in hexadecimal → the lowest device list counter that is still acceptable. */
export type Known = ReadonlyMap<string, number>;

/** What `Core.stage` may do, all in one commit. */
export interface StageOptions {
  readonly k: number;
  readonly adds?: readonly Uint8Array[];
  readonly removes?: readonly Pair[];
  readonly update?: boolean;
  readonly address?: Uint8Array | null;
  readonly certificate?: Uint8Array | null;
  readonly context?: GroupContext | null;
  readonly known?: Known;
  readonly nowS: number;
}

/** *size* random bytes, fit for keys. */
export type Random = (size: number) => Uint8Array;

const MOST_RANDOM = 65_536;

/** Randomness of the browser, which gives out at most 65,536 bytes at a time. */
export function browserRandom(size: number): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += MOST_RANDOM) crypto.getRandomValues(data.subarray(at, at + MOST_RANDOM));
  return data;
}

/** One instance of the core. */
export class Core {
  private instance: Instance;
  private readonly loaded = new Map<string, Uint8Array>();
  private deltas: Delta[] = [];
  private lostDeltas = false;

  /** *module*: compiled from taube_core.wasm. */
  constructor(
    private readonly random: Random,
    private readonly module: WebAssembly.Module,
  ) {
    this.instance = new Instance(module, random);
  }

  /** One call through the boundary (the numbers are in core/src/lib.rs). Queues its deltas. */
  private call<T>(number: number, result: Read<T>, ...parameters: Packable[]): T {
    const packed = pack(parameters);
    let reply: Unpacked;
    try {
      reply = unpack(this.instance.call(number, packed));
    } catch (error) {
      // Whatever came up: the instance may have stopped half-way and is not used again.
      this.loaded.clear();
      this.lostDeltas = this.deltas.length > 0;
      this.deltas = [];
      this.instance = new Instance(this.module, this.random);
      throw error;
    }
    const fields = list(reply);
    if (fields.length === 2) throw new (ERRORS.get(whole(fields[0])) ?? Internal)(text(fields[1]));
    const value = result(fields[1]);
    for (const delta of listOf(readDelta)(fields[2])) this.deltas.push(delta);
    return value;
  }

  // -- state ------------------------------------------------------------------------------------------------------

  /** Make *rows* the whole content of *scope*; replaces what was loaded. */
  load(scope: Uint8Array, rows: readonly (readonly [Uint8Array, Uint8Array])[]): void {
    this.unload(scope);
    this.call(1, nothing, scope, rows);
    this.loaded.set(hex(scope), scope);
  }

  /** Forget *scope* and its deltas that were not taken. */
  unload(scope: Uint8Array): void {
    if (this.loaded.delete(hex(scope))) this.call(2, nothing, scope);
    this.deltas = this.deltas.filter((delta) => !same(delta.scope, scope));
  }

  /** Forget every scope and every delta that was not taken: what a host does when it rolls back. */
  unloadAll(): void {
    for (const scope of [...this.loaded.values()]) this.unload(scope);
    this.deltas = [];
    this.lostDeltas = false;
  }

  /** Whether calls can use *scope*. */
  isLoaded(scope: Uint8Array): boolean {
    return this.loaded.has(hex(scope));
  }

  /**
   * The writes since the last take, in order. Store them in the transaction of the call, or `unloadAll` if it rolls
   * back. Throws CoreTrapped if some were lost with an instance: what they belong to must be rolled back.
   */
  takeDeltas(): Delta[] {
    if (this.lostDeltas) throw new CoreTrapped("writes of earlier calls were lost");
    const deltas = this.deltas;
    this.deltas = [];
    return deltas;
  }

  // -- identity ---------------------------------------------------------------------------------------------------

  /** Make account and recovery keys; the secrets go to `ACCOUNT_SCOPE`, which must be loaded (empty). */
  createAccount(): NewAccount {
    return this.call(10, (value) => {
      const fields = list(value);
      return { accountId: bytes(fields[0]), genesis: bytes(fields[1]) };
    });
  }

  /** Make the device's keys; the secrets go to `DEVICE_SCOPE`, replacing the one before. */
  createDevice(): DeviceKeys {
    return this.call(11, readDevice);
  }

  /** The signed list. Needs `ACCOUNT_SCOPE`. Throws Malformed for a list that no one would accept. */
  signDeviceList(counter: number, devices: readonly DeviceKeys[]): Uint8Array {
    const packed = devices.map((device) => [device.deviceId, device.loginPk, device.mlsPk, device.hpkePk]);
    return this.call(12, bytes, counter, packed);
  }

  /** 64 bytes by the login key of the device. Needs `DEVICE_SCOPE`. */
  loginSignature(origin: string, nonce: Uint8Array): Uint8Array {
    return this.call(13, bytes, origin, nonce);
  }

  /** What *certificate* proves. Throws Malformed or Unverified. */
  checkCertificate(certificate: Uint8Array): CertificateInfo {
    return this.call(14, readCertificate, certificate);
  }

  /** 60 digits from two certificates: the same on both sides while account ids and account keys are the same. */
  safetyNumber(mine: Uint8Array, theirs: Uint8Array): string {
    return this.call(15, text, mine, theirs);
  }

  // -- key packages -----------------------------------------------------------------------------------------------

  /** One key package for each address, valid 84 days. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`. */
  createKeyPackages(
    suite: number,
    addresses: readonly Uint8Array[],
    certificate: Uint8Array,
    nowS: number,
    lastResort = false,
  ): NewKeyPackage[] {
    const read = listOf((value) => {
      const fields = list(value);
      return { ref: bytes(fields[0]), keyPackage: bytes(fields[1]) };
    });
    return this.call(20, read, suite, addresses, certificate, nowS, lastResort);
  }

  /** Forget the private parts of packages; unknown references are ignored. */
  deleteKeyPackages(refs: readonly Uint8Array[]): void {
    this.call(21, nothing, refs);
  }

  /**
   * Check a claimed package against the certificate that came with it, and that 50 days are left.
   *
   * Throws Malformed, Unverified, CounterOutdated or Expired.
   */
  inspectKeyPackage(keyPackage: Uint8Array, certificate: Uint8Array, nowS: number): KeyPackageInfo {
    return this.call(
      22,
      (value) => {
        const fields = list(value);
        return {
          accountId: bytes(fields[0]),
          deviceId: bytes(fields[1]),
          suite: whole(fields[2]),
          address: bytes(fields[3]),
          expiresAtS: whole(fields[4]),
          certificate: readCertificate(fields[5]),
        };
      },
      keyPackage,
      certificate,
      nowS,
    );
  }

  // -- groups -----------------------------------------------------------------------------------------------------

  /** Found a group with ourselves as its only leaf. Returns its id, 32 random bytes, which is its (loaded) scope. */
  createGroup(
    suite: number,
    context: GroupContext,
    address: Uint8Array,
    certificate: Uint8Array,
    nowS: number,
  ): Uint8Array {
    const groupId = this.call(30, bytes, suite, packContext(context), address, certificate, nowS);
    this.loaded.set(hex(groupId), groupId);
    return groupId;
  }

  /** What the group is now. Throws NotLoaded or NoSuchGroup, as all calls on a group do. */
  group(groupId: Uint8Array): GroupInfo {
    return this.call(
      31,
      (value) => {
        const fields = list(value);
        return {
          groupId: bytes(fields[0]),
          epoch: whole(fields[1]),
          suite: whole(fields[2]),
          context: readContext(fields[3]),
          members: listOf(readMember)(fields[4]),
          hasPending: flag(fields[5]),
          ownLeaf: whole(fields[6]),
        };
      },
      groupId,
    );
  }

  /**
   * Prepare a commit for gate *k*: add key packages, remove (account, device) pairs, change our leaf or the context.
   *
   * Pending until `confirm` or `drop`. Throws CommitPending, PolicyRefused, Unverified, CounterOutdated, Expired,
   * TooLarge.
   */
  stage(groupId: Uint8Array, wanted: StageOptions): Staged {
    const leaf = [wanted.update ?? false, wanted.address ?? null, wanted.certificate ?? null];
    const context = wanted.context ? packContext(wanted.context) : null;
    const { k, adds = [], removes = [], known, nowS } = wanted;
    return this.call(32, readStaged, groupId, k, adds, removes, leaf, context, packKnown(known), nowS);
  }

  /** The same pending commit sealed for gate *k*, after the one before turned out void. Throws NothingPending. */
  restage(groupId: Uint8Array, k: number): Staged {
    return this.call(33, readStaged, groupId, k);
  }

  /** Our claim won: merge the pending commit. Throws NothingPending. */
  confirm(groupId: Uint8Array, nowS: number): Applied {
    return this.call(34, readApplied, groupId, nowS);
  }

  /** Forget the pending commit; nothing happens if there is none. */
  drop(groupId: Uint8Array): void {
    this.call(35, nothing, groupId);
  }

  /** 32 bytes: gate *k* (0..15) of the current epoch. */
  gateName(groupId: Uint8Array, k: number): Uint8Array {
    return this.call(36, bytes, groupId, null, k);
  }

  /** 32 bytes: gate *k* of an epoch that is still kept. Throws WrongEpoch. */
  pastGateName(groupId: Uint8Array, epoch: number, k: number): Uint8Array {
    return this.call(36, bytes, groupId, epoch, k);
  }

  /**
   * Judge and apply the value of gate *k* of the current epoch. A value equal to our own pending one is confirmed.
   *
   * A pending commit of ours is dropped if another one is applied. A CoreTrapped here means "stuck".
   */
  applyGateValue(groupId: Uint8Array, k: number, value: Uint8Array, known: Known, nowS: number): Applied {
    return this.call(37, readApplied, groupId, k, value, packKnown(known), nowS);
  }

  /** One envelope body for each content, in the current epoch; also while a commit is pending. Throws TooLarge, Evicted. */
  protect(groupId: Uint8Array, contents: readonly Uint8Array[]): Uint8Array[] {
    return this.call(38, listOf(bytes), groupId, contents);
  }

  /** What each body is. Bad bodies do not throw; they are "junk". */
  receive(groupId: Uint8Array, bodies: readonly Uint8Array[], nowS: number): Received[] {
    const read = listOf((value): Received => {
      const fields = list(value);
      return {
        kind: text(fields[0]) as ReceivedKind,
        sender: optional(readPair)(fields[1]),
        epoch: whole(fields[2] ?? 0),
        content: bytesOrNone(fields[3]),
        k: whole(fields[4] ?? 0),
        gateValue: bytesOrNone(fields[5]),
      };
    });
    return this.call(39, read, groupId, bodies, nowS);
  }

  /** Open a body that was HPKE-sealed to this device. Needs `DEVICE_SCOPE`. Throws NotForUs. */
  openFromStranger(body: Uint8Array): StrangerMail {
    return this.call(
      40,
      (value): StrangerMail => {
        const fields = list(value);
        return {
          kind: text(fields[0]) as StrangerMail["kind"],
          payload: bytes(fields[1]),
          accountId: bytesOrNone(fields[2]),
          deviceId: bytesOrNone(fields[3]),
          chatId: bytesOrNone(fields[4]),
          lastEpoch: whole(fields[5] ?? 0),
          keyPackage: bytesOrNone(fields[6]),
          timeS: whole(fields[7] ?? 0),
        };
      },
      body,
    );
  }

  /**
   * Join by a "welcome" body. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`; the group's id becomes a loaded scope.
   *
   * The one-time package that it used is deleted; an earlier state of the same group is replaced.
   * Throws NotForUs, NoKeyPackage, Malformed, Unverified, CounterOutdated, PolicyRefused.
   */
  join(body: Uint8Array, known: Known, nowS: number): Joined {
    const result = this.call(
      41,
      (value): Joined => {
        const fields = list(value);
        return {
          groupId: bytes(fields[0]),
          epoch: whole(fields[1]),
          suite: whole(fields[2]),
          context: readContext(fields[3]),
          members: listOf(readMember)(fields[4]),
          sender: readPair(fields[5]),
          packageRef: bytes(fields[6]),
        };
      },
      body,
      packKnown(known),
      nowS,
    );
    this.loaded.set(hex(result.groupId), result.groupId);
    return result;
  }

  /** Ask *peer* (account, device) to add us again: the peer's address and the envelope body. */
  rejoinRequest(groupId: Uint8Array, peer: Pair, keyPackage: Uint8Array, nowS: number): Addressed {
    return this.call(42, readAddressed, groupId, peer, keyPackage, nowS);
  }

  /**
   * Throws unless the request is signed by a device on the account's newest list (*certificate*), whose account has a
   * leaf: Malformed, Unverified, PolicyRefused, CounterOutdated or Expired (the request is older than 30 days, or its
   * package).
   */
  checkRejoin(groupId: Uint8Array, mail: StrangerMail, certificate: Uint8Array, nowS: number): void {
    this.call(43, nothing, groupId, mail.payload, certificate, nowS);
  }

  /**
   * A secret of the current epoch for another use (RFC 9420 section 8.5). Labels that begin with "taube " are reserved.
   */
  export(groupId: Uint8Array, label: string, context: Uint8Array, length: number): Uint8Array {
    return this.call(44, bytes, groupId, label, context, length);
  }

  /** Delete all rows of the group. Its scope stays loaded, empty. */
  forgetGroup(groupId: Uint8Array): void {
    this.call(45, nothing, groupId);
    this.loaded.set(hex(groupId), groupId);
  }

  /** Padmé, at least 256. */
  paddedSize(size: number): number {
    return this.call(46, whole, size);
  }

  // -- blobs ------------------------------------------------------------------------------------------------------

  /** Chunk *index* of a file of *size* bytes, sealed under *key* (32 bytes, for this file only). */
  sealBlob(key: Uint8Array, size: number, index: number, piece: Uint8Array): Uint8Array {
    return this.call(47, bytes, key, size, index, piece);
  }

  /** What chunk *index* of a file of *size* bytes holds of the file. Throws Unverified for one altered, moved or cut. */
  openBlob(key: Uint8Array, size: number, index: number, sealed: Uint8Array): Uint8Array {
    return this.call(48, bytes, key, size, index, sealed);
  }
}

// -- what the core answers ------------------------------------------------------------------------------------------

type Read<T> = (value: Unpacked | undefined) => T;

function list(value: Unpacked | undefined): Unpacked[] {
  if (!Array.isArray(value)) throw new Internal("the core gave an answer of another shape");
  return value;
}

function bytes(value: Unpacked | undefined): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new Internal("the core gave an answer of another shape");
  return value;
}

function bytesOrNone(value: Unpacked | undefined): Uint8Array {
  return value === undefined ? new Uint8Array() : bytes(value);
}

function whole(value: Unpacked | undefined): number {
  if (typeof value !== "number") throw new Internal("the core gave an answer of another shape");
  return value;
}

function text(value: Unpacked | undefined): string {
  if (typeof value !== "string") throw new Internal("the core gave an answer of another shape");
  return value;
}

function flag(value: Unpacked | undefined): boolean {
  if (typeof value !== "boolean") throw new Internal("the core gave an answer of another shape");
  return value;
}

function nothing(): void {}

function listOf<T>(read: Read<T>): Read<T[]> {
  return (value) => (value === undefined ? [] : list(value).map((item) => read(item)));
}

function optional<T>(read: Read<T>): Read<T | null> {
  return (value) => (value === null || value === undefined ? null : read(value));
}

function readDelta(value: Unpacked | undefined): Delta {
  const fields = list(value);
  return { scope: bytes(fields[0]), key: bytes(fields[1]), value: optional(bytes)(fields[2]) };
}

function readPair(value: Unpacked | undefined): Pair {
  const fields = list(value);
  return [bytes(fields[0]), bytes(fields[1])];
}

function readAddressed(value: Unpacked | undefined): Addressed {
  const [address, body] = readPair(value);
  return { address, body };
}

function readDevice(value: Unpacked | undefined): DeviceKeys {
  const fields = list(value);
  return {
    deviceId: bytes(fields[0]),
    loginPk: bytes(fields[1]),
    mlsPk: bytes(fields[2]),
    hpkePk: bytes(fields[3]),
  };
}

function readCertificate(value: Unpacked | undefined): CertificateInfo {
  const fields = list(value);
  return {
    accountId: bytes(fields[0]),
    counter: whole(fields[1]),
    accountKey: bytes(fields[2]),
    devices: listOf(readDevice)(fields[3]),
  };
}

function readMember(value: Unpacked | undefined): Member {
  const fields = list(value);
  return {
    accountId: bytes(fields[0]),
    deviceId: bytes(fields[1]),
    address: bytes(fields[2]),
    certificate: bytes(fields[3]),
    counter: whole(fields[4]),
    leaf: whole(fields[5]),
  };
}

function readContext(value: Unpacked | undefined): GroupContext {
  const fields = list(value);
  return {
    kind: whole(fields[0]),
    chatId: bytes(fields[1]),
    admins: listOf(bytes)(fields[2]),
    predecessor: optional((pair): readonly [Uint8Array, number] => {
      const parts = list(pair);
      return [bytes(parts[0]), whole(parts[1])];
    })(fields[3]),
  };
}

function packContext(context: GroupContext): Packable {
  return [context.kind, context.chatId, context.admins, context.predecessor];
}

function packKnown(known: Known | undefined): Packable {
  return new Map([...(known ?? [])].map(([account, counter]) => [unhex(account), counter]));
}

function readStaged(value: Unpacked | undefined): Staged {
  const fields = list(value);
  return {
    epoch: whole(fields[0]),
    k: whole(fields[1]),
    gateName: bytes(fields[2]),
    gateValue: bytes(fields[3]),
    commitBody: bytes(fields[4]),
    welcomes: listOf(readAddressed)(fields[5]),
  };
}

function readApplied(value: Unpacked | undefined): Applied {
  const fields = list(value);
  return {
    verdict: text(fields[0]) as Verdict,
    epoch: whole(fields[1]),
    committer: optional(readPair)(fields[2]),
    added: listOf(readMember)(fields[3]),
    removed: listOf(readPair)(fields[4]),
    updated: listOf(readMember)(fields[5]),
    context: optional(readContext)(fields[6]),
    commitBody: bytesOrNone(fields[7]),
    welcomes: listOf(readAddressed)(fields[8]),
    outdated: listOf(readPair)(fields[9]),
  };
}

// -- the instance -----------------------------------------------------------------------------------------------------

interface Exports {
  memory: WebAssembly.Memory;
  taube_buffer(length: number): number;
  taube_call(number: number): bigint;
  _initialize?(): void;
}

/** One running instance: memory, the two exports, and what WASI asks of the host. */
class Instance {
  private readonly exports: Exports;
  private panic: Uint8Array = new Uint8Array();

  constructor(module: WebAssembly.Module, random: Random) {
    // Pointers into memory come from the core itself.
    const wasi = {
      random_get: (pointer: number, length: number): number => {
        const data = random(length);
        if (data.length !== length) throw new RangeError("random gave another number of bytes than it was asked for");
        this.write(pointer, data);
        return 0;
      },
      clock_time_get: (_clock: number, _precision: bigint, pointer: number): number => {
        this.write(pointer, new Uint8Array(8)); // time is an argument of the calls
        return 0;
      },
      fd_write: (_fd: number, vectors: number, count: number, written: number): number => {
        const view = new DataView(this.exports.memory.buffer);
        let total = 0;
        for (let at = vectors >>> 0; at < (vectors >>> 0) + 8 * count; at += 8) {
          const length = view.getUint32(at + 4, true);
          this.panic = joined(this.panic, this.read(view.getUint32(at, true), length)).subarray(0, 2048);
          total += length;
        }
        view.setUint32(written >>> 0, total, true);
        return 0;
      },
      environ_get: (): number => 0,
      environ_sizes_get: (count: number, size: number): number => {
        this.write(count, new Uint8Array(4));
        this.write(size, new Uint8Array(4));
        return 0;
      },
      proc_exit: (code: number): never => {
        throw new RangeError(`the core exited with ${code}`);
      },
    };
    this.exports = new WebAssembly.Instance(module, { wasi_snapshot_preview1: wasi }).exports as unknown as Exports;
    this.exports._initialize?.();
  }

  /** The answer to one call. Throws CoreTrapped; the instance is lost then. */
  call(number: number, parameters: Uint8Array): Uint8Array {
    try {
      this.write(this.exports.taube_buffer(parameters.length), parameters);
      const answer = BigInt.asUintN(64, this.exports.taube_call(number));
      return this.read(Number(answer >> 32n), Number(answer & 0xffff_ffffn));
    } catch (error) {
      const [panic] = new TextDecoder().decode(this.panic).trim().split("\n");
      throw new CoreTrapped(panic || (error instanceof Error ? error.message : "trapped"));
    }
  }

  private read(pointer: number, length: number): Uint8Array {
    return new Uint8Array(this.exports.memory.buffer, pointer >>> 0, length).slice();
  }

  private write(pointer: number, data: Uint8Array): void {
    new Uint8Array(this.exports.memory.buffer).set(data, pointer >>> 0);
  }
}
