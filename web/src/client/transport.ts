/**
 * Links to one server: the device link, and short-lived anonymous links, one for each purpose.
 *
 * A link is one WebSocket with one `wire/session` on it. Requests may be pipelined; each has a deadline, and a link that
 * missed one is closed, since nothing on it can be trusted to arrive. Events wait in a bounded queue.
 *
 *     new Transport(origin)
 *       .anonymous("send")      a Link: reused while it lives; closed after 60 s idle; never shared by purposes
 *       .device(…)              a DeviceLink: logged in, once
 *
 * A browser tells less than a socket: not why there is no connection, and it neither pings nor stops reading. So a device
 * link that was silent for long is asked something, and one that brings more than can wait is closed.
 *
 * What it deliberately does not know: what a message means, the store, which request may be repeated (the caller does).
 * The only module of the client that knows WebSockets. Source: docs/protocol/connection.md; device.md, DEV-50, DEV-51.
 */

import { CATALOGUE, type ErrorKind, Fault, FrameError, Retry, TaubeError, WireError } from "../wire/errors";
import {
  type Command,
  type Event,
  type LoggedIn,
  MAX_FRAME_BYTES,
  type MessageOf,
  type Reply,
  type Welcome,
} from "../wire/messages";
import { ClientSession } from "../wire/session";

const CONNECT_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 20_000;
const IDLE_MS = 60_000;
const CLOSE_TIMEOUT_MS = 1_000;
/** Silence of a device link after which the server is asked whether it is still there, and the time that it has. */
const PROBE_AFTER_MS = 60_000;
const PROBE_TIMEOUT_MS = 20_000;
/** The same when something suggests that the network is another one now. */
const CHECK_AFTER_MS = 2_000;
const CHECK_TIMEOUT_MS = 5_000;

/** Events from which on ephemeral envelopes are dropped; the server's window keeps the others below. */
const QUEUE_EVENTS = 256;
/** What may wait altogether: a server that sends more does not keep to any window. */
const QUEUE_MOST_EVENTS = 4096;
const QUEUE_MOST_BYTES = 16 * 1024 * 1024;
/** Bytes that the browser may hold for a slow network before requests wait. */
const BUFFERED_MOST_BYTES = 4 * MAX_FRAME_BYTES;
const BUFFERED_LOOK_MS = 50;

const BACK_OFF_FIRST_MS = 500;
const BACK_OFF_MOST_MS = 60_000;
/** A server may ask for a wait as long as this; what it asks for beyond is not heard. */
const MOST_ASKED_MS = 3_600_000;

/** Signs a login: (origin, nonce) → 64 bytes. */
export type Sign = (origin: string, nonce: Uint8Array) => Promise<Uint8Array>;

/** What a link needs of a WebSocket. */
export type Socket = Pick<WebSocket, "binaryType" | "bufferedAmount" | "send" | "close" | "addEventListener">;

/** Calls *then* after so many milliseconds; what it returns takes that back. */
export type After = (ms: number, then: () => void) => () => void;

export interface TransportOptions {
  connect?: (url: string) => Socket;
  after?: After;
  nowMs?: () => number;
  idleMs?: number;
  connectTimeoutMs?: number;
  probeAfterMs?: number;
}

// ---------------------------------------------------------------- errors

/** No answer, and why. *retry*: whether waiting may help. */
export class TransportError extends TaubeError {
  override name = "TransportError";
  readonly retry: boolean = true;
}

/** There is no connection: no network, no such host, a wrong certificate, or no answer in time. Nothing was sent. */
export class Unreachable extends TransportError {
  override name = "Unreachable";
}

/** What answers does not speak this protocol, or is another server than the origin says. */
export class NotTaube extends TransportError {
  override name = "NotTaube";
  override readonly retry = false;
}

/** The link ended before the answer came: the request may or may not have been carried out. */
export class ConnectionLost extends TransportError {
  override name = "ConnectionLost";
}

/** The answer did not come in time; the link was closed. */
export class DeadlineMissed extends ConnectionLost {
  override name = "DeadlineMissed";
}

// ---------------------------------------------------------------- origins

const ORIGIN = /^(https?):\/\/([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?$/i;
const LOOPBACK = /^(localhost|127(\.[0-9]{1,3}){3}|\[::1\])$/i;

/** Where the WebSocket of *origin* is. Throws NotTaube unless it is https, or http on loopback, without a path. */
export function socketUrl(origin: string): string {
  const [, scheme = "", host = "", port] = ORIGIN.exec(origin) ?? [];
  const isSafe = scheme.toLowerCase() === "https" || (scheme.toLowerCase() === "http" && LOOPBACK.test(host));
  if (!isSafe || (port !== undefined && (Number(port) < 1 || Number(port) > 65535))) {
    throw new NotTaube(`${origin} is not the address of a server, or not a safe one`);
  }
  const shown = port === undefined ? "" : `:${Number(port)}`;
  return `${scheme.toLowerCase() === "https" ? "wss" : "ws"}://${host.toLowerCase()}${shown}/v1/socket`;
}

// ---------------------------------------------------------------- one connection

interface Pending {
  settle(reply: Reply): void;
  fail(error: Error): void;
}

/** One open connection after its hello. Requests are pipelined. */
export class Link {
  /** The server's answer to hello: version, nonce, origin, its clock, generation. */
  declare welcome: Welcome;
  /** Why the link ended; null while it lives. */
  lost: TransportError | null = null;
  protected readonly session = new ClientSession();
  protected heardAtMs: number;
  protected isDraining = false;
  private readonly pending = new Map<number, Pending>();
  private socket: Socket | null = null;
  private readonly welcomed: Promise<Welcome>;
  private greeting!: { settle(welcome: Welcome): void; fail(error: Error): void };
  private ended!: () => void;
  private readonly end = new Promise<void>((resolve) => {
    this.ended = resolve;
  });
  private cancelIdle: (() => void) | null = null;

  constructor(
    readonly origin: string,
    protected readonly after: After,
    protected readonly nowMs: () => number,
    private readonly idleMs: number | null = null,
  ) {
    this.heardAtMs = nowMs();
    this.welcomed = new Promise((settle, fail) => {
      this.greeting = { settle, fail };
    });
    this.welcomed.catch(() => {});
  }

  /** Whether it is worth making requests: the link lives, and the server is not about to end it. */
  get isOpen(): boolean {
    return this.lost === null && !this.isDraining;
  }

  /**
   * Send what *build* makes of a request id and return its reply.
   *
   * Rejects with WireError when the server refused (nothing of it happened), DeadlineMissed or ConnectionLost when it is
   * unknown whether it happened.
   */
  async request(build: (request: number) => Command, timeoutMs = REQUEST_TIMEOUT_MS): Promise<Reply> {
    this.throwIfLost();
    this.stopIdle();
    let number = 0;
    const cancel = this.after(timeoutMs, () => this.lose(new DeadlineMissed(`${this.origin} did not answer in time`)));
    try {
      await this.room();
      return await new Promise<Reply>((settle, fail) => {
        const [given, frame] = this.session.request(build);
        number = given;
        this.pending.set(number, { settle, fail });
        this.socket?.send(frame);
      });
    } finally {
      cancel();
      this.pending.delete(number);
      this.startIdle();
    }
  }

  /** `request`, for a reply of one type; another type is a broken server: NotTaube. */
  async expect<T extends Reply["type"]>(
    type: T,
    build: (request: number) => Command,
    timeoutMs = REQUEST_TIMEOUT_MS,
  ): Promise<MessageOf<T>> {
    const reply = await this.request(build, timeoutMs);
    if (reply.type === type) return reply as MessageOf<T>;
    const error = new NotTaube(`${this.origin} gave an answer of the wrong kind`);
    this.lose(error);
    throw error;
  }

  /** End the link; requests under way fail with ConnectionLost. Resolves when it has ended, or a second later. */
  async close(): Promise<void> {
    this.lose(new ConnectionLost(`the connection to ${this.origin} was closed`));
    if (this.socket === null) return;
    const cancel = this.after(CLOSE_TIMEOUT_MS, this.ended);
    await this.end;
    cancel();
  }

  /** Something suggests that the network is another one now: a silent link ends at once if nothing waits on it, and soon
   * if nothing is answered. */
  async check(): Promise<void> {
    if (this.lost !== null || this.nowMs() - this.heardAtMs < CHECK_AFTER_MS) return;
    if (this.pending.size === 0) {
      this.lose(new ConnectionLost(`the connection to ${this.origin} may be dead`));
      return;
    }
    const { heardAtMs } = this;
    await new Promise<void>((resolve) => this.after(CHECK_TIMEOUT_MS, resolve));
    if (this.pending.size > 0 && this.heardAtMs === heardAtMs) {
      this.lose(new DeadlineMissed(`${this.origin} did not answer in time`));
    }
  }

  // -- called by Transport

  async open(socket: Socket, timeoutMs: number): Promise<void> {
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    let wasOpen = false;
    socket.addEventListener("open", () => {
      wasOpen = true;
      if (this.lost === null) socket.send(this.session.hello());
    });
    socket.addEventListener("message", (event) => this.received(event.data));
    const over = (): void => {
      this.ended();
      this.lose(
        wasOpen
          ? new ConnectionLost(`the connection to ${this.origin} ended`)
          : new Unreachable(`${this.origin} cannot be reached`),
      );
    };
    socket.addEventListener("close", over);
    socket.addEventListener("error", over); // Node 20 tells no close after it
    const cancel = this.after(timeoutMs, () => this.lose(new Unreachable(`${this.origin} did not answer in time`)));
    try {
      this.welcome = await this.welcomed;
    } finally {
      cancel();
    }
    if (this.welcome.origin !== this.origin) {
      this.lose(new NotTaube(`the server at ${this.origin} calls itself ${this.welcome.origin}`));
    }
    this.throwIfLost();
    this.startIdle();
  }

  lose(error: TransportError): void {
    if (this.lost !== null) return;
    this.lost = error;
    this.stopIdle();
    this.session.close();
    this.greeting.fail(error);
    for (const each of this.pending.values()) each.fail(error);
    this.socket?.close(1000);
  }

  // -- what arrives

  private received(data: unknown): void {
    if (this.lost !== null) return;
    this.heardAtMs = this.nowMs();
    if (!(data instanceof ArrayBuffer)) {
      this.lose(new NotTaube(`${this.origin} sent text`));
      return;
    }
    let message: Reply | Event;
    try {
      message = this.session.receive(new Uint8Array(data));
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.lose(new NotTaube(`${this.origin} sent something that is not this protocol: ${error.message}`));
      return;
    }
    switch (message.type) {
      case "Deliver":
      case "CaughtUp":
      case "Draining":
      case "Replaced":
        this.event(message, data.byteLength);
        break;
      case "Welcome":
        this.greeting.settle(message);
        break;
      case "Failed":
        this.failed(message);
        break;
      default:
        this.pending.get(message.request)?.settle(message);
    }
  }

  private failed(failed: MessageOf<"Failed">): void {
    const error = refusal(failed);
    if (failed.request !== 0) this.pending.get(failed.request)?.fail(error);
    else if (error.kind.retry === Retry.LATER) {
      this.lose(new ConnectionLost(`${this.origin} ended the connection: ${error.message}`));
    } else this.lose(new NotTaube(`${this.origin} refused the connection: ${error.message}`));
  }

  /** An anonymous link expects none but Draining, after which it takes no new request. */
  protected event(event: Event, _sizeBytes: number): void {
    if (event.type !== "Draining") return;
    this.isDraining = true;
    if (this.pending.size === 0) this.lose(new ConnectionLost(`${this.origin} is about to restart`));
  }

  // -- what leaves

  protected send(frame: Uint8Array<ArrayBuffer>): void {
    this.socket?.send(frame);
  }

  /** Wait while the browser holds more than enough that the network has not taken. */
  private async room(): Promise<void> {
    while (this.socket !== null && this.socket.bufferedAmount > BUFFERED_MOST_BYTES && this.lost === null) {
      await new Promise<void>((resolve) => this.after(BUFFERED_LOOK_MS, resolve));
    }
    this.throwIfLost();
  }

  private throwIfLost(): void {
    if (this.lost !== null) throw this.lost;
  }

  private startIdle(): void {
    if (this.idleMs === null || this.pending.size > 0 || this.lost !== null) return;
    this.stopIdle();
    const error = new ConnectionLost(`the connection to ${this.origin} was idle`);
    this.cancelIdle = this.after(this.idleMs, () => this.lose(error));
  }

  private stopIdle(): void {
    this.cancelIdle?.();
    this.cancelIdle = null;
  }
}

/** A connection that logged in: besides requests, it brings this device's envelopes. */
export class DeviceLink extends Link {
  /** The server's answer to the login: key packages left, last resorts there, whether to mint addresses anew. */
  declare loggedIn: LoggedIn;
  /** What the server asked for when it drained. */
  reconnectAfterMs = 0;
  /** A newer connection of this device took over. */
  replaced = false;
  private queue: { event: Event; sizeBytes: number }[] = [];
  private queuedBytes = 0;
  private wake: (() => void) | null = null;
  private isProbing = false;
  private cancelProbe: (() => void) | null = null;

  /**
   * What the server sends unasked (Deliver, CaughtUp, Draining, Replaced), in order, in batches of up to *most*.
   *
   * Ends when the link does, after everything that had arrived; `lost` then says why. One consumer at a time.
   */
  async *events(most = 256): AsyncGenerator<Event[], void> {
    for (;;) {
      while (this.queue.length === 0) {
        if (this.lost !== null) return;
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
      const batch = this.queue.splice(0, most);
      for (const { sizeBytes } of batch) this.queuedBytes -= sizeBytes;
      yield batch.map(({ event }) => event);
    }
  }

  /** Everything delivered on this link up to number *upto* is durably decided. Nothing happens on a lost link. */
  acknowledge(upto: number): void {
    if (this.lost === null) this.send(this.session.acknowledge(upto));
  }

  /** From now on notice when the server falls silent. */
  watch(silenceMs: number): void {
    if (this.lost !== null) return;
    const leftMs = Math.max(this.heardAtMs + silenceMs - this.nowMs(), 0);
    this.cancelProbe = this.after(leftMs, () => {
      const isSilent = this.nowMs() - this.heardAtMs >= silenceMs;
      void (isSilent ? this.probe(PROBE_TIMEOUT_MS) : Promise.resolve()).then(() => this.watch(silenceMs));
    });
  }

  /** Something suggests that the network is another one now: a link that does not answer soon is lost. */
  override async check(): Promise<void> {
    if (this.nowMs() - this.heardAtMs >= CHECK_AFTER_MS) await this.probe(CHECK_TIMEOUT_MS);
  }

  override lose(error: TransportError): void {
    super.lose(error);
    this.cancelProbe?.();
    this.wake?.();
  }

  protected override event(event: Event, sizeBytes: number): void {
    if (event.type === "Deliver" && event.number === 0 && this.queue.length >= QUEUE_EVENTS) {
      return; // ephemeral envelopes are best effort, and we are behind
    }
    this.queue.push({ event, sizeBytes });
    this.queuedBytes += sizeBytes;
    if (event.type === "Draining") {
      this.isDraining = true;
      this.reconnectAfterMs = Math.min(event.retryAfterMs, MOST_ASKED_MS);
    } else if (event.type === "Replaced") {
      this.replaced = true;
    }
    if (this.queue.length > QUEUE_MOST_EVENTS || this.queuedBytes > QUEUE_MOST_BYTES) {
      this.lose(new ConnectionLost(`${this.origin} sends more than can wait here`));
    }
    this.wake?.();
  }

  /** Ask the cheapest question there is: for an address, which the server makes without keeping it. */
  private async probe(timeoutMs: number): Promise<void> {
    if (this.isProbing || this.lost !== null) return;
    this.isProbing = true;
    try {
      await this.request((request) => ({ type: "MintAddresses", request, count: 1 }), timeoutMs);
    } catch (error) {
      if (!(error instanceof TaubeError)) throw error; // refused: it is there; lost: those who use the link are told
    } finally {
      this.isProbing = false;
    }
  }
}

// ---------------------------------------------------------------- all links to one server

/**
 * How long to wait before the next attempt: doubling, capped, spread over half its length so that clients of one server
 * that fell do not come back all at once. *random* gives 0 ≤ x < 1.
 */
export class BackOff {
  private failures = 0;

  constructor(private readonly random: () => number) {}

  /** The next wait is the shortest again. */
  succeeded(): void {
    this.failures = 0;
  }

  /** Milliseconds to wait now; at least what the server asked for, up to an hour, plus the spread. */
  nextMs(atLeastMs = 0): number {
    const asked = Math.min(atLeastMs, MOST_ASKED_MS);
    const base = Math.min(BACK_OFF_FIRST_MS * 2 ** Math.min(this.failures, 20), BACK_OFF_MOST_MS);
    this.failures += 1;
    return Math.max(base / 2, asked) + this.random() * Math.max(base / 2, asked / 2);
  }
}

/**
 * All links of one client to one server. Close it when done; links of it end then. Whoever needs a device link for long
 * asks for the next one when the last is over, and waits in between as `BackOff` says.
 */
export class Transport {
  private readonly url: string;
  private readonly options: Required<TransportOptions>;
  private readonly links = new Map<string, Promise<Link>>();
  private readonly devices = new Set<DeviceLink>();

  /** Throws NotTaube for what is no safe origin. */
  constructor(
    readonly origin: string,
    options: TransportOptions = {},
  ) {
    this.url = socketUrl(origin);
    this.options = {
      connect: (url) => new WebSocket(url),
      after: afterByTimer,
      nowMs: () => performance.now(),
      idleMs: IDLE_MS,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      probeAfterMs: PROBE_AFTER_MS,
      ...options,
    };
  }

  /**
   * The link for *purpose* ("send", "gate", "keys", "register", …), opened when there is none that lives.
   *
   * Purposes never share a link, and a link carries nothing that says who opened it. Rejects with TransportError.
   * Source: docs/protocol/device.md, DEV-50.
   */
  async anonymous(purpose: string): Promise<Link> {
    for (;;) {
      const known = this.links.get(purpose);
      const link = await known?.catch(() => null);
      if (link?.isOpen) return link;
      if (this.links.get(purpose) === known) break; // nobody has begun to open one meanwhile
    }
    const { after, nowMs, idleMs } = this.options;
    const opening = this.opened(new Link(this.origin, after, nowMs, idleMs));
    this.links.set(purpose, opening);
    return opening;
  }

  /**
   * A new connection, logged in as *device* of *account*; *sign* gets our own idea of the origin, and the nonce.
   *
   * Rejects with TransportError, or WireError when the login was refused.
   */
  async device(account: Uint8Array, device: Uint8Array, sign: Sign): Promise<DeviceLink> {
    const link = await this.opened(new DeviceLink(this.origin, this.options.after, this.options.nowMs));
    for (const other of this.devices) if (other.lost !== null) this.devices.delete(other);
    this.devices.add(link);
    try {
      const signature = await sign(this.origin, link.welcome.nonce);
      link.loggedIn = await link.expect("LoggedIn", (request) => ({
        type: "Login",
        request,
        account,
        device,
        signature,
      }));
    } catch (error) {
      this.devices.delete(link);
      link.lose(new ConnectionLost(`the login to ${this.origin} failed`));
      throw error;
    }
    link.watch(this.options.probeAfterMs);
    return link;
  }

  /** Something suggests that the network is there again, or another one (`online`, a page that is seen again): links that
   * are dead are found out now instead of in a minute. */
  async check(): Promise<void> {
    const anonymous = [...this.links.values()].map((link) => link.catch(() => null));
    const checks = [...this.devices].map((link) => link.check());
    await Promise.all([...checks, ...anonymous.map(async (link) => (await link)?.check())]);
  }

  /** End every link. Idempotent. */
  async close(): Promise<void> {
    const opening = await Promise.all([...this.links.values()].map((link) => link.catch(() => null)));
    const links = [...this.devices, ...opening.filter((link) => link !== null)];
    this.links.clear();
    this.devices.clear();
    await Promise.all(links.map((link) => link.close()));
  }

  private async opened<L extends Link>(link: L): Promise<L> {
    let socket: Socket;
    try {
      socket = this.options.connect(this.url);
    } catch (error) {
      throw new Unreachable(`the browser opens no connection to ${this.origin}`, { cause: error });
    }
    await link.open(socket, this.options.connectTimeoutMs);
    return link;
  }
}

// ---------------------------------------------------------------- helpers

const afterByTimer: After = (ms, then) => {
  const timer = setTimeout(then, ms);
  return () => clearTimeout(timer);
};

/** The error that *failed* stands for; a number that we do not know yet may be tried again later. */
export function refusal(failed: MessageOf<"Failed">): WireError {
  const unknown: ErrorKind = {
    code: failed.code,
    name: "unknown",
    fault: Fault.SERVER,
    retry: Retry.LATER,
    closes: false,
  };
  const kind = CATALOGUE.get(failed.code) ?? unknown;
  return new WireError(kind, Math.min(failed.retryAfterMs, MOST_ASKED_MS), failed.detail);
}
