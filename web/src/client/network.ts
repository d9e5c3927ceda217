/**
 * What the engine needs of the network, so that tests can give it one of their own: links, requests, events.
 *
 * `Transport` of transport.ts fits. Source: docs/protocol/connection.md.
 */

import type { Command, Event, LoggedIn, MessageOf, Reply, Welcome } from "../wire/messages";

/** One open connection after its hello. */
export interface Link {
  readonly welcome: Welcome;
  /** Rejects with WireError when refused, TransportError when it is unknown whether it happened. */
  expect<T extends Reply["type"]>(
    type: T,
    build: (request: number) => Command,
    timeoutMs?: number,
  ): Promise<MessageOf<T>>;
  close(): Promise<void>;
}

/** A connection that logged in. */
export interface DeviceLink extends Link {
  readonly loggedIn: LoggedIn;
  readonly reconnectAfterMs: number;
  readonly replaced: boolean;
  /** Why the link ended; null while it lives. */
  readonly lost: Error | null;
  /** What the server sends unasked, in order, in batches; ends with the link. */
  events(most?: number): AsyncIterable<Event[]>;
  acknowledge(upto: number): void;
}

/** Signs a login: (origin, nonce) → 64 bytes. */
export type Sign = (origin: string, nonce: Uint8Array) => Promise<Uint8Array>;

/** All links to one server. */
export interface Network {
  anonymous(purpose: string): Promise<Link>;
  device(account: Uint8Array, device: Uint8Array, sign: Sign): Promise<DeviceLink>;
  /** The network may be another one now: find out which links are dead. */
  check(): Promise<void>;
  close(): Promise<void>;
}
