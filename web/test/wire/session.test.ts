import { describe, expect, test } from "vitest";
import { hex, unhex } from "../../src/bytes";
import { decodeCommand, encode } from "../../src/wire/codec";
import { BAD_FRAME, BUSY, CATALOGUE, NO_COMMON_VERSION, OUT_OF_ORDER, WireError } from "../../src/wire/errors";
import { COMMANDS, type Event, type Message, type MessageType, type Reply } from "../../src/wire/messages";
import { ClientSession, loginMessage, MAX_UNDER_WAY, State, TRANSITIONS } from "../../src/wire/session";
import { fromVector, vectors } from "../vectors";

const VECTORS: {
  messages: { message: MessageType; fields: object }[];
  login_message: { origin: string; device: string; nonce: string; bytes: string };
} = vectors("wire.json");

const EXAMPLES = new Map<MessageType, Message>();
for (const { message, fields } of VECTORS.messages) {
  if (!EXAMPLES.has(message)) EXAMPLES.set(message, { type: message, ...(fromVector(fields) as object) } as Message);
}
const bytes = (count: number) => new Uint8Array(count);
const WELCOME: Reply = {
  type: "Welcome",
  version: 1,
  nonce: bytes(32),
  origin: "https://taube.example",
  nowMs: 5,
  generation: bytes(16),
};

function inState(state: State): ClientSession {
  const session = new ClientSession();
  if (state === State.NEW) return session;
  session.hello();
  session.receive(encode(WELCOME));
  if (state === State.LOGGING_IN || state === State.DEVICE) {
    session.request((request) => ({
      type: "Login",
      request,
      account: bytes(32),
      device: bytes(16),
      signature: bytes(64),
    }));
  }
  if (state === State.DEVICE) {
    give(session, {
      type: "LoggedIn",
      request: 1,
      classicLeft: 0,
      hybridLeft: 0,
      lastResorts: [],
      remint: false,
      wakes: false,
    });
  }
  if (state === State.CLOSED) session.close();
  expect(session.state).toBe(state);
  return session;
}

function give(session: ClientSession, message: Reply | Event): Reply | Event {
  return session.receive(encode(message));
}

function refused(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    if (error instanceof WireError) return error.kind;
    throw error;
  }
  return null;
}

describe.each(Object.values(State))("while the connection is %s", (state) => {
  test.each([...EXAMPLES.keys()])("a %s crosses only if the table says so", (type) => {
    const session = inState(state);
    const message = EXAMPLES.get(type) as Message;
    const isSecondWelcome = type === "Welcome" && session.welcome !== null;
    const isAllowed = TRANSITIONS[state][type] !== undefined && !isSecondWelcome;
    if (COMMANDS.includes(type as never)) {
      if (type === "Hello") expect(refused(() => session.hello()) !== OUT_OF_ORDER).toBe(isAllowed);
      else if (type === "Acknowledge") expect(refused(() => session.acknowledge(1)) !== OUT_OF_ORDER).toBe(isAllowed);
      else {
        const answer = refused(() => session.request((request) => ({ ...message, request }) as never));
        expect(answer !== OUT_OF_ORDER).toBe(isAllowed);
      }
    } else {
      expect(refused(() => give(session, message as Reply)) !== OUT_OF_ORDER).toBe(isAllowed);
    }
  });
});

test("replies come in any order and answer their own request, once, with the kind that belongs to it", () => {
  const session = inState(State.ANONYMOUS);
  const [first, frame] = session.request((request) => ({ type: "ReadGate", request, name: bytes(32) }));
  const [second] = session.request((request) => ({ type: "FetchCertificate", request, account: bytes(32) }));
  expect(decodeCommand(frame)).toMatchObject({ type: "ReadGate", request: first });
  expect(give(session, { type: "Failed", request: second, code: 27, retryAfterMs: 0, detail: "" })).toBeTruthy();
  expect(give(session, { type: "GateState", request: first, value: bytes(0) })).toBeTruthy();
  expect(session.underWay).toBe(0);
  expect(refused(() => give(session, { type: "GateState", request: first, value: bytes(0) }))).toBe(BAD_FRAME);
  const [third] = session.request((request) => ({ type: "ReadGate", request, name: bytes(32) }));
  expect(refused(() => give(session, { type: "Done", request: third }))).toBe(BAD_FRAME);
});

test("a login that failed leaves the connection anonymous", () => {
  const session = inState(State.LOGGING_IN);
  give(session, { type: "Failed", request: 1, code: 20, retryAfterMs: 0, detail: "" });
  expect(session.state).toBe(State.ANONYMOUS);
});

test.each([...CATALOGUE.values()].filter((kind) => kind.closes))("$name closes the connection", (kind) => {
  const session = inState(State.DEVICE);
  give(session, { type: "Failed", request: 0, code: kind.code, retryAfterMs: 0, detail: "" });
  expect(session.state).toBe(State.CLOSED);
});

test("a second Welcome, and one of another version, are refused", () => {
  expect(refused(() => give(inState(State.ANONYMOUS), WELCOME))).toBe(OUT_OF_ORDER);
  const session = new ClientSession();
  session.hello();
  expect(refused(() => give(session, { ...WELCOME, version: 2 } as Reply))).toBe(NO_COMMON_VERSION);
});

test("delivery numbers rise by one; ephemeral envelopes have none", () => {
  const session = inState(State.DEVICE);
  const deliver = (number: number) => give(session, { type: "Deliver", number, serial: bytes(8), body: bytes(1) });
  deliver(1);
  deliver(0);
  deliver(2);
  expect(refused(() => deliver(4))).toBe(BAD_FRAME);
});

test("only so many requests are under way at once", () => {
  const session = inState(State.ANONYMOUS);
  const ask = () => session.request((request) => ({ type: "ReadGate", request, name: bytes(32) }));
  for (let count = 0; count < MAX_UNDER_WAY; count++) ask();
  expect(refused(ask)).toBe(BUSY);
  give(session, { type: "GateState", request: 1, value: bytes(0) });
  expect(ask()[0]).toBe(MAX_UNDER_WAY + 1);
});

test("a login signs these bytes", () => {
  const { origin, device, nonce, bytes: signed } = VECTORS.login_message;
  expect(hex(loginMessage(origin, unhex(device), unhex(nonce)))).toBe(signed);
});
