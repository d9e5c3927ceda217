/** Links: to a real server, and to one that does on a word what a good one never would, under a clock that tests turn. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ACCOUNT_SCOPE, type Core, DEVICE_SCOPE, PACKAGES_SCOPE } from "../../src/client/e2e";
import {
  BackOff,
  ConnectionLost,
  DeadlineMissed,
  type DeviceLink,
  type Link,
  NotTaube,
  type Socket,
  socketUrl,
  Transport,
  type TransportOptions,
  Unreachable,
} from "../../src/client/transport";
import { decodeCommand, encode } from "../../src/wire/codec";
import { LOGIN_REFUSED, WireError } from "../../src/wire/errors";
import type { Command, Event, Reply } from "../../src/wire/messages";
import { TestServer } from "../server";
import { makeCore } from "./core";

const bytes = (count: number, value = 0) => new Uint8Array(count).fill(value);
const look = (request: number): Command => ({ type: "ReadGate", request, name: bytes(32) });

async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => null,
    (error: unknown) => error,
  );
}

// ---------------------------------------------------------------- a real server

interface Device {
  core: Core;
  account: Uint8Array;
  device: Uint8Array;
}

describe("with a real server", () => {
  let server: TestServer;
  const open: Transport[] = [];

  beforeAll(async () => {
    server = await TestServer.start();
  });
  afterAll(async () => {
    await Promise.all(open.map((transport) => transport.close()));
    await server.remove();
  });

  function transport(options: TransportOptions = {}): Transport {
    const made = new Transport(server.origin, options);
    open.push(made);
    return made;
  }

  async function register(network: Transport): Promise<Device> {
    const core = makeCore();
    for (const scope of [ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE]) core.load(scope, []);
    const account = core.createAccount();
    const device = core.createDevice();
    const deviceList = core.signDeviceList(1, [device]);
    const { genesis } = account;
    const invitation = await server.invitation();
    const link = await network.anonymous("register");
    await link.expect("Done", (request) => ({ type: "Register", request, invitation, genesis, deviceList }));
    return { core, account: account.accountId, device: device.deviceId };
  }

  async function logIn(network: Transport, who: Device): Promise<DeviceLink> {
    return network.device(who.account, who.device, async (origin, nonce) => who.core.loginSignature(origin, nonce));
  }

  async function eventsUntil(link: DeviceLink, type: Event["type"]): Promise<Event[]> {
    const seen: Event[] = [];
    for await (const batch of link.events()) {
      seen.push(...batch);
      if (batch.some((event) => event.type === type)) break;
    }
    return seen;
  }

  test("someone registers, logs in, is written to and acknowledges", async () => {
    const network = transport();
    const who = await register(network);
    const link = await logIn(network, who);
    expect(link.loggedIn.classicLeft).toBe(0);
    const minted = await link.expect("Minted", (request) => ({ type: "MintAddresses", request, count: 2 }));
    const addresses = minted.addresses.map(({ address }) => address);
    expect(await eventsUntil(link, "CaughtUp")).toEqual([{ type: "CaughtUp", upto: 0 }]);
    const sender = await network.anonymous("send");
    const sent = sender.expect("Sent", (request) => ({ type: "Send", request, flags: 0, addresses, body: bytes(300) }));
    const events: Event[] = [];
    for await (const batch of link.events()) {
      events.push(...batch);
      if (events.length === 2) break;
    }
    link.acknowledge(2);
    expect((await sent).statuses).toEqual(bytes(2));
    expect(events.map((event) => (event.type === "Deliver" ? event.serial : null))).toEqual(
      minted.addresses.map(({ serial }) => serial),
    );
    await link.close();
    expect(link.lost).toBeInstanceOf(ConnectionLost);
  });

  test("purposes have connections of their own, asked for at once or one by one", async () => {
    let count = 0;
    const network = transport({
      connect: (url) => {
        count += 1;
        return new WebSocket(url);
      },
    });
    const [one, two, other] = await Promise.all(["send", "send", "gate"].map((purpose) => network.anonymous(purpose)));
    expect(one).toBe(two);
    expect(one).not.toBe(other);
    expect(await network.anonymous("gate")).toBe(other);
    expect(count).toBe(2);
    const replies = await Promise.all([1, 2, 3].map(() => (one as Link).expect("GateState", look)));
    expect(replies.map(({ value }) => value.length)).toEqual([0, 0, 0]);
  });

  test("a refusal is a typed error and the link stays good", async () => {
    const link = await transport().anonymous("certificate");
    const asked = link.expect("Certificate", (request) => ({ type: "FetchCertificate", request, account: bytes(32) }));
    expect(await errorOf(asked)).toMatchObject({ kind: { name: "account_unknown" } });
    expect(await link.expect("GateState", look)).toBeTruthy();
  });

  test("an idle anonymous link is closed, and the next one is new", async () => {
    const network = transport({ idleMs: 50 });
    const link = await network.anonymous("send");
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(link.lost).toBeInstanceOf(ConnectionLost);
    expect(await network.anonymous("send")).not.toBe(link);
  });

  test("a login that is refused says so and leaves no link", async () => {
    const network = transport();
    const who = await register(network);
    const error = await errorOf(network.device(who.account, who.device, async () => bytes(64)));
    expect(error).toMatchObject({ kind: LOGIN_REFUSED });
  });

  test("a newer connection of the device takes over, and the older one is told", async () => {
    const network = transport();
    const who = await register(network);
    const older = await logIn(network, who);
    await logIn(network, who);
    expect((await eventsUntil(older, "Replaced")).at(-1)).toEqual({ type: "Replaced" });
    expect(older.replaced).toBe(true);
  });

  test("a silent link is asked whether the server is still there", async () => {
    const network = transport({ probeAfterMs: 30 });
    const link = await logIn(network, await register(network));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await network.check();
    expect(link.lost).toBeNull();
    await network.close();
  });

  test("a server that drains tells when to come back, and one that fell is unreachable until it stands again", async () => {
    const network = transport();
    const who = await register(network);
    const link = await logIn(network, who);
    const events = eventsUntil(link, "Draining");
    await server.stop();
    expect((await events).at(-1)?.type).toBe("Draining");
    expect(link.isOpen).toBe(false);
    expect(await errorOf(network.anonymous("send"))).toBeInstanceOf(Unreachable);
    await server.start();
    const again = await logIn(network, who);
    const under = again.request(look);
    under.catch(() => {});
    await server.stop("SIGKILL");
    await eventsUntil(again, "Draining");
    expect(again.lost).toBeInstanceOf(ConnectionLost);
    await server.start();
  });

  test("a server that answers under another name is refused", async () => {
    const network = new Transport(server.origin.replace("127.0.0.1", "localhost"));
    expect(await errorOf(network.anonymous("send"))).toBeInstanceOf(NotTaube);
  });
});

// ---------------------------------------------------------------- a server that does as it is told

/** A clock that stands until it is turned. */
class Clock {
  nowMs = 0;
  private waiting: { atMs: number; then: () => void }[] = [];

  readonly after = (ms: number, then: () => void): (() => void) => {
    const one = { atMs: this.nowMs + ms, then };
    this.waiting.push(one);
    return () => {
      this.waiting = this.waiting.filter((other) => other !== one);
    };
  };

  async turn(ms: number): Promise<void> {
    const end = this.nowMs + ms;
    for (;;) {
      await settled();
      const next = this.waiting.sort((one, other) => one.atMs - other.atMs)[0];
      if (next === undefined || next.atMs > end) break;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      this.waiting.shift();
      next.then();
    }
    this.nowMs = end;
    await settled();
  }
}

async function settled(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** The other end of a socket. */
class Wire extends EventTarget {
  binaryType: BinaryType = "blob";
  bufferedAmount = 0;
  isClosed = false;
  readonly heard: Command[] = [];

  send(data: unknown): void {
    this.heard.push(decodeCommand(data as Uint8Array));
  }

  close(): void {
    this.isClosed = true;
    queueMicrotask(() => this.dispatchEvent(new globalThis.Event("close")));
  }

  open(): void {
    this.dispatchEvent(new globalThis.Event("open"));
  }

  give(...messages: (Reply | Event)[]): void {
    for (const message of messages) this.giveRaw(encode(message).buffer);
  }

  giveRaw(data: unknown): void {
    this.dispatchEvent(Object.assign(new globalThis.Event("message"), { data }));
  }
}

const ORIGIN = "https://taube.example";
const welcome = (origin = ORIGIN): Reply => ({
  type: "Welcome",
  version: 1,
  nonce: bytes(32, 1),
  origin,
  nowMs: 5,
  generation: bytes(16),
});
const deliver = (number: number, size = 1): Event => ({
  type: "Deliver",
  number,
  serial: bytes(8),
  body: bytes(size),
});

function world(): { clock: Clock; wire: Wire; transport: Transport } {
  const clock = new Clock();
  const wire = new Wire();
  const transport = new Transport(ORIGIN, {
    connect: () => wire as unknown as Socket,
    after: clock.after,
    nowMs: () => clock.nowMs,
  });
  return { clock, wire, transport };
}

async function greeted(): Promise<{ clock: Clock; wire: Wire; link: Link; transport: Transport }> {
  const { clock, wire, transport } = world();
  const opening = transport.anonymous("send");
  await settled();
  wire.open();
  wire.give(welcome());
  return { clock, wire, link: await opening, transport };
}

async function loggedIn(): Promise<{ clock: Clock; wire: Wire; link: DeviceLink; transport: Transport }> {
  const { clock, wire, transport } = world();
  const opening = transport.device(bytes(32), bytes(16), async (_origin, nonce) => {
    expect(nonce).toEqual(bytes(32, 1));
    return bytes(64);
  });
  await settled();
  wire.open();
  wire.give(welcome());
  await settled();
  wire.give({
    type: "LoggedIn",
    request: 1,
    classicLeft: 1,
    hybridLeft: 2,
    lastResorts: [],
    remint: false,
    wakes: false,
  });
  return { clock, wire, link: await opening, transport };
}

describe("with a server that does as it is told", () => {
  test("one that says nothing is unreachable in time", async () => {
    const { clock, wire, transport } = world();
    const opening = errorOf(transport.anonymous("send"));
    await settled();
    wire.open();
    await clock.turn(9_999);
    expect(wire.isClosed).toBe(false);
    await clock.turn(1);
    expect(await opening).toBeInstanceOf(Unreachable);
    expect(wire.isClosed).toBe(true);
  });

  test("one that calls itself otherwise is refused, and nothing was asked of it", async () => {
    const { wire, transport } = world();
    const opening = errorOf(transport.anonymous("send"));
    await settled();
    wire.open();
    wire.give(welcome("https://other.example"));
    expect(await opening).toBeInstanceOf(NotTaube);
    expect(wire.heard.map(({ type }) => type)).toEqual(["Hello"]);
  });

  test("a missed deadline is told to all who wait, and ends the link", async () => {
    const { clock, wire, link } = await greeted();
    const [short, long] = [errorOf(link.request(look, 1_000)), errorOf(link.request(look))];
    await clock.turn(1_000);
    expect(await short).toBeInstanceOf(DeadlineMissed);
    expect(await long).toBeInstanceOf(DeadlineMissed);
    expect(wire.isClosed).toBe(true);
    expect(await errorOf(link.request(look))).toBeInstanceOf(DeadlineMissed);
  });

  test.each([
    ["text", "hello"],
    ["rubbish", Uint8Array.of(0xc1).buffer],
    ["a reply to nothing", encode({ type: "Done", request: 9 }).buffer],
    ["another answer than asked for", encode({ type: "Done", request: 1 }).buffer],
  ])("%s ends the link", async (_what, data) => {
    const { wire, link } = await greeted();
    const asked = errorOf(link.request(look));
    await settled();
    wire.giveRaw(data);
    expect(await asked).toBeInstanceOf(NotTaube);
  });

  test("a refusal of a number from the future may be tried later, at the latest in an hour", async () => {
    const { wire, link } = await greeted();
    const asked = errorOf(link.request(look));
    await settled();
    wire.give({ type: "Failed", request: 1, code: 999, retryAfterMs: 2 ** 50, detail: "" });
    const error = (await asked) as WireError;
    expect(error).toBeInstanceOf(WireError);
    expect([error.kind.retry, error.retryAfterMs]).toEqual(["later", 3_600_000]);
    expect(link.isOpen).toBe(true);
  });

  test("a draining server gets no new request but answers what is under way", async () => {
    const { wire, link } = await greeted();
    const asked = link.request(look);
    await settled();
    wire.give({ type: "Draining", retryAfterMs: 100 });
    expect(link.isOpen).toBe(false);
    wire.give({ type: "GateState", request: 1, value: bytes(0) });
    expect(await asked).toMatchObject({ type: "GateState" });
  });

  test("a request waits while the network takes nothing, up to its deadline", async () => {
    const { clock, wire, link } = await greeted();
    wire.bufferedAmount = 10_000_000;
    const [first, second] = [link.request(look), errorOf(link.request(look, 60_000))];
    await clock.turn(500);
    expect(wire.heard).toHaveLength(1);
    wire.bufferedAmount = 0;
    await clock.turn(100);
    expect(wire.heard).toHaveLength(3);
    wire.give({ type: "GateState", request: 1, value: bytes(0) });
    expect(await first).toBeTruthy();
    wire.bufferedAmount = 10_000_000;
    const stuck = errorOf(link.request(look, 2_000));
    await clock.turn(2_050);
    expect(await stuck).toBeInstanceOf(DeadlineMissed);
    expect(await second).toBeInstanceOf(DeadlineMissed);
  });

  test("events come in order, those that had arrived even after the link was cut", async () => {
    const { wire, link } = await loggedIn();
    wire.give(deliver(1), deliver(2), { type: "CaughtUp", upto: 2 });
    wire.close();
    await settled();
    const seen: string[] = [];
    for await (const batch of link.events(2)) seen.push(batch.map(({ type }) => type).join());
    expect(seen).toEqual(["Deliver,Deliver", "CaughtUp"]);
    expect(link.lost).toBeInstanceOf(ConnectionLost);
    link.acknowledge(2);
    expect(wire.heard.some(({ type }) => type === "Acknowledge")).toBe(false);
  });

  test("ephemeral envelopes are dropped first when we are behind", async () => {
    const { wire, link } = await loggedIn();
    for (let number = 1; number <= 256; number++) wire.give(deliver(number));
    wire.give(deliver(0), deliver(257));
    wire.close();
    const numbers: number[] = [];
    for await (const batch of link.events()) {
      for (const event of batch) if (event.type === "Deliver") numbers.push(event.number);
    }
    expect(numbers).toHaveLength(257);
    expect(numbers).not.toContain(0);
  });

  test.each([
    ["too many", 1, 4097],
    ["too large", 65_536, 257],
  ])("a server that sends %s events for its window is cut off", async (_what, size, count) => {
    const { wire, link } = await loggedIn();
    for (let number = 1; number <= count; number++) wire.give(deliver(number, size));
    expect(link.lost).toBeInstanceOf(ConnectionLost);
    expect(wire.isClosed).toBe(true);
  });

  test("a link that has gone silent is asked after a minute, and lost if nobody answers", async () => {
    const { clock, wire, link } = await loggedIn();
    await clock.turn(59_000);
    wire.give({ type: "CaughtUp", upto: 0 });
    await clock.turn(59_000);
    expect(wire.heard).toHaveLength(2);
    await clock.turn(1_000);
    expect(wire.heard.at(-1)).toMatchObject({ type: "MintAddresses", count: 1 });
    wire.give({ type: "Minted", request: 2, addresses: [] });
    await clock.turn(59_999);
    expect(wire.heard).toHaveLength(3);
    await clock.turn(20_001);
    expect(link.lost).toBeInstanceOf(DeadlineMissed);
  });

  test("a hint that the network changed finds a dead link out at once", async () => {
    const { clock, wire, link, transport } = await loggedIn();
    await transport.check();
    expect(wire.heard).toHaveLength(2);
    await clock.turn(3_000);
    const checking = transport.check();
    await clock.turn(5_000);
    await checking;
    expect(link.lost).toBeInstanceOf(DeadlineMissed);
    for await (const _ of link.events()) expect.unreachable();
  });

  test("after such a hint nothing waits long for an anonymous link that is dead, and none that is silent is used", async () => {
    const { clock, wire, link, transport } = await greeted();
    await transport.check();
    expect(link.isOpen).toBe(true);
    const asked = errorOf(link.expect("GateState", look));
    await clock.turn(3_000);
    const checking = transport.check();
    await clock.turn(5_000);
    await checking;
    expect(await asked).toBeInstanceOf(DeadlineMissed);
    const opening = transport.anonymous("send");
    await settled();
    wire.open();
    wire.give(welcome());
    const next = await opening;
    const answered = next.expect("GateState", look);
    await clock.turn(3_000);
    const checkingAgain = transport.check();
    wire.give({ type: "GateState", request: 1, value: bytes(0) });
    await answered;
    await clock.turn(5_000);
    await checkingAgain;
    expect(next.isOpen).toBe(true);
    await transport.check();
    expect(next.lost).toBeInstanceOf(ConnectionLost);
  });

  test("a login whose signature fails leaves no link", async () => {
    const { wire, transport } = world();
    const opening = errorOf(transport.device(bytes(32), bytes(16), () => Promise.reject(new Error("no key"))));
    await settled();
    wire.open();
    wire.give(welcome());
    expect(await opening).toMatchObject({ message: "no key" });
    expect(wire.isClosed).toBe(true);
  });

  test("a browser that opens no connection, and one that says nothing of why, is unreachable", async () => {
    const blocked = new Transport(ORIGIN, {
      connect: () => {
        throw new DOMException("blocked", "SecurityError");
      },
    });
    expect(await errorOf(blocked.anonymous("send"))).toBeInstanceOf(Unreachable);
    const { wire, transport } = world();
    const opening = errorOf(transport.anonymous("send"));
    await settled();
    wire.close();
    expect(await opening).toBeInstanceOf(Unreachable);
  });

  test("closing ends what is under way, in a second at most", async () => {
    const { clock, wire, link } = await greeted();
    wire.close = () => {};
    const asked = errorOf(link.request(look));
    await settled();
    const closing = link.close();
    expect(await asked).toBeInstanceOf(ConnectionLost);
    await clock.turn(1_000);
    await closing;
  });
});

test("back-off doubles, spreads and is capped", () => {
  const least = new BackOff(() => 0);
  expect([1, 2, 3, 4].map(() => least.nextMs())).toEqual([250, 500, 1000, 2000]);
  for (let count = 0; count < 30; count++) least.nextMs();
  expect(least.nextMs()).toBe(30_000);
  const most = new BackOff(() => 0.999_999);
  expect(most.nextMs()).toBeCloseTo(500, 0);
  expect(most.nextMs(10_000)).toBeCloseTo(15_000, -1);
  most.succeeded();
  expect(most.nextMs()).toBeCloseTo(500, 0);
  expect(new BackOff(() => 0).nextMs(2 ** 50)).toBe(3_600_000);
});

test.each([
  ["https://chat.example.org", "wss://chat.example.org/v1/socket"],
  ["https://Chat.example.org:8443", "wss://chat.example.org:8443/v1/socket"],
  ["http://127.0.0.1:8580", "ws://127.0.0.1:8580/v1/socket"],
  ["http://localhost:1", "ws://localhost:1/v1/socket"],
  ["https://[2001:db8::1]:8443", "wss://[2001:db8::1]:8443/v1/socket"],
  ["http://[::1]:80", "ws://[::1]:80/v1/socket"],
])("the origin %s leads to %s", (origin, url) => {
  expect(socketUrl(origin)).toBe(url);
});

test.each([
  "http://chat.example.org",
  "chat.example.org",
  "https://chat.example.org/",
  "https://user@chat.example.org",
  "https://chat.example.org:0",
  "https://chat.example.org:99999",
  "ftp://chat.example.org",
  "http://127.0.0.1.example.org",
  "https://",
  "",
])("%j is no origin, or no safe one", (origin) => {
  expect(() => new Transport(origin)).toThrow(NotTaube);
});
