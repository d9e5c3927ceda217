/**
 * Every command, reply and event that may stand in a frame, with its number, its fields in order and their limits.
 *
 * The tables are written from src/taube/wire/messages.py by `make docs`. A message is a plain value whose `type` is its
 * name. This file does not know bytes (see codec) or when a message is allowed (see session).
 * Source: docs/protocol/connection.md.
 */

import { NO_BYTES } from "../bytes";
import {
  bytes,
  CEILING,
  type Fields,
  type FieldsOf,
  flag,
  type Given,
  list,
  optional,
  record,
  text,
  whole,
} from "./shapes";

// generated: constants
export const PROTOCOL_VERSION = 1;
export const MAX_FRAME_BYTES = 131072;
export const MAX_BODY_BYTES = 65536;
export const MAX_GATE_VALUE_BYTES = 49152;
export const MAX_ADDRESSES = 1024;
export const MAX_KEY_PACKAGE_BYTES = 8192;
export const MAX_PACKAGES_PER_PUBLISH = 12;
export const MAX_MINT = 64;
export const MAX_ENDPOINT_CHARACTERS = 1000;
export const SUITE_CLASSIC = 1;
export const SUITE_HYBRID = 79;
export const FLAG_URGENT = 1;
export const FLAG_EPHEMERAL = 2;
export const STATUS_KEPT = 0;
export const STATUS_GONE = 1;
export const STATUS_FULL = 2;
export const STATUS_BUSY = 3;
// end

function message<F extends Fields>(number: number, fields: F): { number: number; fields: F } {
  return { number, fields };
}

export type MessageType = keyof typeof MESSAGES;
/** The value that a message of this type is. */
export type MessageOf<T extends MessageType> = T extends MessageType
  ? { type: T } & FieldsOf<(typeof MESSAGES)[T]["fields"]>
  : never;
type Commands = MessageOf<(typeof COMMANDS)[number]>;
export type Command = Commands extends infer C
  ? C extends Commands
    ? { [Name in keyof C]: Given<C[Name]> }
    : never
  : never;
export type Reply = MessageOf<(typeof REPLIES)[number]>;
export type Event = MessageOf<(typeof EVENTS)[number]>;
export type Message = Command | Reply | Event;

// generated: messages
/** A fresh sealed address and the serial inside it. */
export const MintedAddressFields = {
  address: bytes(41, 41),
  serial: bytes(8, 8),
};
export type MintedAddress = FieldsOf<typeof MintedAddressFields>;

/** One thing the server holds: the ledger entry that permits it, and the value in words. */
export const FactFields = {
  entry: text(100),
  value: text(2000),
};
export type Fact = FieldsOf<typeof FactFields>;

export const MESSAGES = {
  /** The first frame of every connection: the protocol versions that the client speaks, newest first. */
  Hello: message(1, {
    versions: list(1, 8, whole(1, 65535)),
  }),
  /** Make an account from an invitation; anonymous connection; answered by Done. */
  Register: message(2, {
    request: whole(1, 4294967295),
    invitation: bytes(16, 16),
    genesis: bytes(65, 65),
    deviceList: bytes(65, 4096),
  }),
  /** Become a device connection: Ed25519 over `"taube login v1" ‖ origin ‖ device ‖ nonce`; answered by LoggedIn. */
  Login: message(3, {
    request: whole(1, 4294967295),
    account: bytes(32, 32),
    device: bytes(16, 16),
    signature: bytes(64, 64),
  }),
  /** Append one body to the mailboxes behind up to 1,024 addresses; anonymous connection; answered by Sent. */
  Send: message(4, {
    request: whole(1, 4294967295),
    flags: whole(0, 255),
    addresses: list(1, 1024, bytes(41, 41)),
    body: bytes(1, 65536),
  }),
  /** Every envelope delivered on this connection up to this number is durably decided; not answered. */
  Acknowledge: message(5, {
    upto: whole(0, CEILING),
  }),
  /** Make sealed addresses of this device's mailbox, each with a serial of its own; answered by Minted. */
  MintAddresses: message(6, {
    request: whole(1, 4294967295),
    count: whole(1, 64),
  }),
  /** Refuse from now on what is sent to this address of this device's mailbox; answered by Done. */
  RevokeAddress: message(7, {
    request: whole(1, 4294967295),
    serial: bytes(8, 8),
  }),
  /**
   * Add one-time key packages of one suite; a last resort, if given, replaces the one before; answered by Published.
   *
   * With *replace*, the unclaimed one-time packages of the suite are forgotten first.
   */
  PublishKeyPackages: message(8, {
    request: whole(1, 4294967295),
    suite: whole(1, 65535),
    packages: list(0, 12, bytes(1, 8192)),
    lastResort: optional(bytes(0, 8192), NO_BYTES),
    replace: optional(flag, false),
  }),
  /** Take a key package of the device behind a live address; anonymous connection; answered by KeyPackageClaimed. */
  ClaimKeyPackage: message(9, {
    request: whole(1, 4294967295),
    address: bytes(41, 41),
    suite: whole(1, 65535),
  }),
  /** Write a gate if nobody has yet; anonymous connection; answered by GateState with what stands there now. */
  ClaimGate: message(10, {
    request: whole(1, 4294967295),
    name: bytes(32, 32),
    value: bytes(1, 49152),
  }),
  /** Look at a gate without claiming it; anonymous connection; answered by GateState. */
  ReadGate: message(11, {
    request: whole(1, 4294967295),
    name: bytes(32, 32),
  }),
  /**
   * Replace an account's signed device list by one with a higher counter; any connection; answered by Done.
   *
   * Devices that the new list leaves out are revoked: their mailbox, addresses and key packages end with them.
   */
  PublishDeviceList: message(12, {
    request: whole(1, 4294967295),
    account: bytes(32, 32),
    deviceList: bytes(65, 4096),
  }),
  /** Ask for an account's genesis statement and newest device list; anonymous connection; answered by Certificate. */
  FetchCertificate: message(13, {
    request: whole(1, 4294967295),
    account: bytes(32, 32),
  }),
  /** Ask for everything that the server holds about this device's account; answered by Knowledge. */
  AskKnowledge: message(14, {
    request: whole(1, 4294967295),
  }),
  /** Forget this device's account and everything that belongs to it; answered by Done, then the connection ends. */
  DeleteAccount: message(15, {
    request: whole(1, 4294967295),
  }),
  /**
   * Put *new* in the place of this device's mark if *expected* stands there, or nothing yet; answered by Done.
   *
   * A copy of a device finds by it that it is not the only one.
   */
  SwapMark: message(16, {
    request: whole(1, 4294967295),
    expected: bytes(0, 16),
    new: bytes(16, 16),
  }),
  /**
   * Wake this device by Web Push from now on; answered by Done.
   *
   * *endpoint*: an https URL, empty to be woken no more. *key*: the browser's P-256 public key, uncompressed (65 bytes);
   * *secret*: its authentication secret (16 bytes). Both are empty with an empty endpoint. Source: RFC 8030, RFC 8291.
   */
  SetPush: message(17, {
    request: whole(1, 4294967295),
    endpoint: text(1000),
    key: optional(bytes(0, 65), NO_BYTES),
    secret: optional(bytes(0, 16), NO_BYTES),
  }),
  /** Answers Hello: the version chosen, the nonce that a login signs, the server's clock and its generation. */
  Welcome: message(64, {
    version: whole(1, 65535),
    nonce: bytes(32, 32),
    origin: text(300),
    nowMs: whole(0, CEILING),
    generation: bytes(16, 16),
  }),
  /** The command was carried out. */
  Done: message(65, {
    request: whole(1, 4294967295),
  }),
  /** The command was refused; nothing of it happened. Request 0 means the frame had none that could be read. */
  Failed: message(66, {
    request: whole(0, 4294967295),
    code: whole(1, 65535),
    retryAfterMs: optional(whole(0, CEILING), 0),
    detail: optional(text(200), ""),
  }),
  /**
   * Answers Login: one-time key packages left by suite; *remint* asks for new addresses (the mailbox was renewed).
   *
   * *wakes*: the server has a push endpoint of this device.
   */
  LoggedIn: message(67, {
    request: whole(1, 4294967295),
    classicLeft: whole(0, CEILING),
    hybridLeft: whole(0, CEILING),
    lastResorts: optional(list(0, 8, whole(1, 65535)), []),
    remint: optional(flag, false),
    wakes: optional(flag, false),
  }),
  /** Answers Send, once, when the slowest address is settled: one status byte for each address, in order. */
  Sent: message(68, {
    request: whole(1, 4294967295),
    statuses: bytes(1, 1024),
  }),
  /** Answers MintAddresses. */
  Minted: message(69, {
    request: whole(1, 4294967295),
    addresses: list(0, 64, record(MintedAddressFields)),
  }),
  /** Answers PublishKeyPackages: one-time packages of that suite now waiting to be claimed. */
  Published: message(70, {
    request: whole(1, 4294967295),
    left: whole(0, CEILING),
  }),
  /** Answers ClaimKeyPackage: the package and the certificate of the account that it belongs to. */
  KeyPackageClaimed: message(71, {
    request: whole(1, 4294967295),
    keyPackage: bytes(1, 8192),
    genesis: bytes(65, 65),
    deviceList: bytes(65, 4096),
  }),
  /** Answers ClaimGate and ReadGate: the value that stands in the gate; empty only if ReadGate found none. */
  GateState: message(72, {
    request: whole(1, 4294967295),
    value: bytes(0, 49152),
  }),
  /** Answers FetchCertificate. */
  Certificate: message(73, {
    request: whole(1, 4294967295),
    genesis: bytes(65, 65),
    deviceList: bytes(65, 4096),
  }),
  /** Answers AskKnowledge: everything the server holds about the account, by ledger entry. */
  Knowledge: message(74, {
    request: whole(1, 4294967295),
    facts: list(0, 1000, record(FactFields)),
  }),
  /** An envelope for this device. Numbers rise from 1 on each connection; 0 is ephemeral: not acknowledged. */
  Deliver: message(128, {
    number: whole(0, CEILING),
    serial: bytes(8, 8),
    body: bytes(1, 65536),
  }),
  /** Everything that waited in the mailbox at login has been delivered up to this number; sent once a connection. */
  CaughtUp: message(129, {
    upto: whole(0, CEILING),
  }),
  /** The server is about to close this connection: connect again after this time. */
  Draining: message(130, {
    retryAfterMs: whole(0, CEILING),
  }),
  /** A newer connection of this device took over; the server closes this one. */
  Replaced: message(131, {}),
};

export const COMMANDS = [
  "Hello",
  "Register",
  "Login",
  "Send",
  "Acknowledge",
  "MintAddresses",
  "RevokeAddress",
  "PublishKeyPackages",
  "ClaimKeyPackage",
  "ClaimGate",
  "ReadGate",
  "PublishDeviceList",
  "FetchCertificate",
  "AskKnowledge",
  "DeleteAccount",
  "SwapMark",
  "SetPush",
] as const;
export const REPLIES = [
  "Welcome",
  "Done",
  "Failed",
  "LoggedIn",
  "Sent",
  "Minted",
  "Published",
  "KeyPackageClaimed",
  "GateState",
  "Certificate",
  "Knowledge",
] as const;
export const EVENTS = ["Deliver", "CaughtUp", "Draining", "Replaced"] as const;

export type Hello = MessageOf<"Hello">;
export type Register = MessageOf<"Register">;
export type Login = MessageOf<"Login">;
export type Send = MessageOf<"Send">;
export type Acknowledge = MessageOf<"Acknowledge">;
export type MintAddresses = MessageOf<"MintAddresses">;
export type RevokeAddress = MessageOf<"RevokeAddress">;
export type PublishKeyPackages = MessageOf<"PublishKeyPackages">;
export type ClaimKeyPackage = MessageOf<"ClaimKeyPackage">;
export type ClaimGate = MessageOf<"ClaimGate">;
export type ReadGate = MessageOf<"ReadGate">;
export type PublishDeviceList = MessageOf<"PublishDeviceList">;
export type FetchCertificate = MessageOf<"FetchCertificate">;
export type AskKnowledge = MessageOf<"AskKnowledge">;
export type DeleteAccount = MessageOf<"DeleteAccount">;
export type SwapMark = MessageOf<"SwapMark">;
export type SetPush = MessageOf<"SetPush">;
export type Welcome = MessageOf<"Welcome">;
export type Done = MessageOf<"Done">;
export type Failed = MessageOf<"Failed">;
export type LoggedIn = MessageOf<"LoggedIn">;
export type Sent = MessageOf<"Sent">;
export type Minted = MessageOf<"Minted">;
export type Published = MessageOf<"Published">;
export type KeyPackageClaimed = MessageOf<"KeyPackageClaimed">;
export type GateState = MessageOf<"GateState">;
export type Certificate = MessageOf<"Certificate">;
export type Knowledge = MessageOf<"Knowledge">;
export type Deliver = MessageOf<"Deliver">;
export type CaughtUp = MessageOf<"CaughtUp">;
export type Draining = MessageOf<"Draining">;
export type Replaced = MessageOf<"Replaced">;
// end
