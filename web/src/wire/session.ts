/**
 * One connection's state machine, the client's end: frames in, messages out; messages in, frames out.
 *
 * TRANSITIONS says which message may cross in which state and what the state is afterwards; it is written from
 * src/taube/wire/session.py by `make docs`, so that both ends follow the same table.
 *
 *     NEW ── Hello ──► ANONYMOUS ── Login ──► LOGGING_IN ── LoggedIn ──► DEVICE
 *                          ▲                      │
 *                          └── the Login Failed ──┘        any ── Replaced, or Failed that closes ──► CLOSED
 *
 * A session has no socket, no clock and no randomness: its owner passes what it needs and moves the bytes.
 * Source: docs/protocol/connection.md, CON-20 to CON-34.
 */

import { joined } from "../bytes";
import { decodeReplyOrEvent, encode } from "./codec";
import { BAD_FRAME, BUSY, CATALOGUE, FrameError, NO_COMMON_VERSION, OUT_OF_ORDER, WireError } from "./errors";
import {
  type Command,
  type Event,
  type Message,
  type MessageType,
  PROTOCOL_VERSION,
  type Reply,
  type Welcome,
} from "./messages";

/** Requests that a client may have under way on one connection; the next is refused with BUSY before it is sent. */
export const MAX_UNDER_WAY = 1024;

const LOGIN_LABEL = "taube login v1";

/** What both ends know about the connection. */
export enum State {
  NEW = "new",
  ANONYMOUS = "anonymous",
  LOGGING_IN = "logging in",
  DEVICE = "device",
  CLOSED = "closed",
}

type Transitions = Readonly<Record<State, Readonly<Partial<Record<MessageType, State>>>>>;

// generated: states
export const TRANSITIONS: Transitions = {
  [State.NEW]: {
    Hello: State.ANONYMOUS,
    Failed: State.NEW,
    Draining: State.NEW,
  },
  [State.ANONYMOUS]: {
    Register: State.ANONYMOUS,
    Login: State.LOGGING_IN,
    Send: State.ANONYMOUS,
    ClaimKeyPackage: State.ANONYMOUS,
    ClaimGate: State.ANONYMOUS,
    ReadGate: State.ANONYMOUS,
    PublishDeviceList: State.ANONYMOUS,
    FetchCertificate: State.ANONYMOUS,
    Welcome: State.ANONYMOUS,
    Done: State.ANONYMOUS,
    Failed: State.ANONYMOUS,
    Sent: State.ANONYMOUS,
    KeyPackageClaimed: State.ANONYMOUS,
    GateState: State.ANONYMOUS,
    Certificate: State.ANONYMOUS,
    Draining: State.ANONYMOUS,
  },
  [State.LOGGING_IN]: {
    Welcome: State.LOGGING_IN,
    Done: State.LOGGING_IN,
    Failed: State.LOGGING_IN,
    LoggedIn: State.DEVICE,
    Sent: State.LOGGING_IN,
    KeyPackageClaimed: State.LOGGING_IN,
    GateState: State.LOGGING_IN,
    Certificate: State.LOGGING_IN,
    Draining: State.LOGGING_IN,
  },
  [State.DEVICE]: {
    Acknowledge: State.DEVICE,
    MintAddresses: State.DEVICE,
    RevokeAddress: State.DEVICE,
    PublishKeyPackages: State.DEVICE,
    PublishDeviceList: State.DEVICE,
    AskKnowledge: State.DEVICE,
    DeleteAccount: State.DEVICE,
    SwapMark: State.DEVICE,
    SetPush: State.DEVICE,
    Done: State.DEVICE,
    Failed: State.DEVICE,
    Sent: State.DEVICE,
    Minted: State.DEVICE,
    Published: State.DEVICE,
    KeyPackageClaimed: State.DEVICE,
    GateState: State.DEVICE,
    Certificate: State.DEVICE,
    Knowledge: State.DEVICE,
    Deliver: State.DEVICE,
    CaughtUp: State.DEVICE,
    Draining: State.DEVICE,
    Replaced: State.CLOSED,
  },
  [State.CLOSED]: {
    Done: State.CLOSED,
    Failed: State.CLOSED,
    Sent: State.CLOSED,
    Minted: State.CLOSED,
    Published: State.CLOSED,
    KeyPackageClaimed: State.CLOSED,
    GateState: State.CLOSED,
    Certificate: State.CLOSED,
    Knowledge: State.CLOSED,
    Draining: State.CLOSED,
    Replaced: State.CLOSED,
  },
};

export const ANSWERS = {
  Hello: "Welcome",
  Register: "Done",
  Login: "LoggedIn",
  Send: "Sent",
  MintAddresses: "Minted",
  RevokeAddress: "Done",
  PublishKeyPackages: "Published",
  ClaimKeyPackage: "KeyPackageClaimed",
  ClaimGate: "GateState",
  ReadGate: "GateState",
  PublishDeviceList: "Done",
  FetchCertificate: "Certificate",
  AskKnowledge: "Knowledge",
  DeleteAccount: "Done",
  SwapMark: "Done",
  SetPush: "Done",
} as const;
// end

export type Request = Extract<Command, { type: keyof typeof ANSWERS; request: number }>;

/** The bytes that a Login's signature is over: label, length of the origin in 2 bytes, origin, device, nonce. Source: CON-25. */
export function loginMessage(origin: string, device: Uint8Array, nonce: Uint8Array): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  const name = encoder.encode(origin);
  return joined(encoder.encode(LOGIN_LABEL), Uint8Array.of(name.length >> 8, name.length & 0xff), name, device, nonce);
}

/**
 * `hello` first, then requests; `receive` matches every reply to the request it answers.
 *
 * `welcome` is what the server said about itself, null until it has.
 */
export class ClientSession {
  welcome: Welcome | null = null;
  #state = State.NEW;
  #login = 0;
  #next = 1;
  #delivered = 0;
  readonly #underWay = new Map<number, MessageType>();

  get state(): State {
    return this.#state;
  }

  /** Requests that wait for their reply. */
  get underWay(): number {
    return this.#underWay.size;
  }

  /** The transport has ended, or is about to: nothing but answers still under way may cross any more. */
  close(): void {
    this.#state = State.CLOSED;
  }

  /** The first frame. Requests may follow at once; a Login needs the nonce of `welcome`. */
  hello(): Uint8Array<ArrayBuffer> {
    return this.#sent({ type: "Hello", versions: [PROTOCOL_VERSION] });
  }

  /**
   * Build a command with the next request id; gives that id and the frame to send.
   *
   * Throws WireError: OUT_OF_ORDER if the state does not allow the command, BUSY if MAX_UNDER_WAY are under way. Nothing
   * has changed then. A request that its caller no longer waits for stays under way until it is answered. Source: CON-30.
   */
  request(build: (request: number) => Command): [number, Uint8Array<ArrayBuffer>] {
    if (this.#underWay.size >= MAX_UNDER_WAY) {
      throw new WireError(BUSY, 1000, "too many requests under way on this connection");
    }
    const number = this.#next;
    const command = build(number);
    const frame = this.#sent(command);
    this.#underWay.set(number, ANSWERS[command.type as keyof typeof ANSWERS]);
    this.#next = number + 1;
    return [number, frame];
  }

  /** The frame that acknowledges every envelope delivered on this connection up to *upto*; it has no answer. */
  acknowledge(upto: number): Uint8Array<ArrayBuffer> {
    return this.#sent({ type: "Acknowledge", upto });
  }

  /**
   * The reply or event in *frame*. Throws FrameError for anything that a correct server would not send now.
   *
   * After an error the connection is of no more use: close it. Source: CON-31 to CON-34.
   */
  receive(frame: Uint8Array): Reply | Event {
    const message = decodeReplyOrEvent(frame);
    if (TRANSITIONS[this.#state][message.type] === undefined) {
      throw new FrameError(OUT_OF_ORDER, 0, `${message.type} while ${this.#state}`);
    }
    switch (message.type) {
      case "Deliver":
        this.#count(message.number);
        break;
      case "Welcome":
        this.#greet(message);
        break;
      case "CaughtUp":
      case "Draining":
      case "Replaced":
        break;
      default:
        if (message.type !== "Failed" || message.request !== 0) this.#match(message);
    }
    this.#crossed(message);
    return message;
  }

  #sent(command: Command): Uint8Array<ArrayBuffer> {
    if (TRANSITIONS[this.#state][command.type] === undefined) {
      throw new WireError(OUT_OF_ORDER, 0, `${command.type} while ${this.#state}`);
    }
    const frame = encode(command);
    this.#crossed(command);
    return frame;
  }

  /** Follow *message*, which the table allows. */
  #crossed(message: Message): void {
    let after = TRANSITIONS[this.#state][message.type] ?? this.#state;
    if (message.type === "Failed") {
      if (CATALOGUE.get(message.code)?.closes) after = State.CLOSED;
      else if (this.#state === State.LOGGING_IN && message.request === this.#login) after = State.ANONYMOUS;
    } else if (message.type === "Login") {
      this.#login = message.request;
    }
    this.#state = after;
  }

  #greet(welcome: Welcome): void {
    if (this.welcome !== null) throw new FrameError(OUT_OF_ORDER, 0, "a second Welcome");
    if (welcome.version !== PROTOCOL_VERSION) throw new FrameError(NO_COMMON_VERSION);
    this.welcome = welcome;
  }

  #match(reply: Exclude<Reply, Welcome>): void {
    const expected = this.#underWay.get(reply.request);
    if (this.welcome === null || expected === undefined || (reply.type !== expected && reply.type !== "Failed")) {
      throw new FrameError(BAD_FRAME, 0, `${reply.type} answers no request under way`);
    }
    this.#underWay.delete(reply.request);
  }

  #count(number: number): void {
    if (number === 0) return;
    if (number !== this.#delivered + 1) throw new FrameError(BAD_FRAME, 0, "delivery numbers do not rise by one");
    this.#delivered = number;
  }
}
