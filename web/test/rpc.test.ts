/** Calls between page and worker: answers, refusals, events, and workers that fail. */

import { afterEach, describe, expect, test, vi } from "vitest";
import type { Failure } from "../src/client/api";
import { Client, type Methods, serve, type WorkerPort } from "../src/rpc";

interface Target {
  add(one: number, other: number): Promise<number>;
  refuse(): Promise<void>;
  never(): Promise<void>;
  bytes(data: Uint8Array): Promise<Uint8Array>;
}
const METHODS: Methods<Target> = { add: true, refuse: true, never: true, bytes: true };
const failureOf = (error: unknown): Failure => {
  const code = error instanceof RangeError ? "chat_unknown" : "internal";
  return { code, params: {} };
};

/** A worker with its scope, joined by a real MessageChannel. */
class Worker implements WorkerPort {
  static readonly all: Worker[] = [];
  private readonly channel = new MessageChannel();
  readonly host;
  readonly heard: unknown[] = [];
  isDead = false;
  private failed: ((event: Event) => void)[] = [];

  constructor(target: Promise<Target> = Promise.resolve(TARGET), isDeaf = false) {
    Worker.all.push(this);
    const { port2 } = this.channel;
    port2.onmessage = () => {};
    port2.addEventListener("message", ({ data }) => this.heard.push(data));
    this.host = isDeaf ? null : serve<Target, string>(port2, METHODS, target, failureOf);
    this.channel.port1.start();
  }

  postMessage(message: unknown): void {
    this.channel.port1.postMessage(message);
  }

  addEventListener(type: string, listener: (event: never) => void): void {
    if (type === "message") this.channel.port1.addEventListener("message", listener as (event: Event) => void);
    else this.failed.push(listener as (event: Event) => void);
  }

  terminate(): void {
    this.isDead = true;
    this.channel.port1.close();
    this.channel.port2.close();
  }

  crash(): void {
    for (const listener of this.failed.splice(0)) listener(new Event("error"));
  }
}

const TARGET: Target = {
  add: async (one, other) => one + other,
  refuse: async () => {
    throw new RangeError("no");
  },
  never: () => new Promise(() => {}),
  bytes: async (data) => data.slice().reverse(),
};
const clients: Client<Target, string>[] = [];

function client(start: () => WorkerPort = () => new Worker(), options = {}): Client<Target, string> {
  const made = new Client<Target, string>(start, METHODS, options);
  clients.push(made);
  return made;
}

afterEach(() => {
  for (const one of clients.splice(0)) one.close();
  for (const one of Worker.all.splice(0)) one.terminate();
});

describe("calls", () => {
  test("are answered each for itself, and refused as failures", async () => {
    const { api } = client();
    expect(await Promise.all([api.add(1, 2), api.add(3, 4)])).toEqual([3, 7]);
    expect(await api.bytes(Uint8Array.of(1, 2))).toEqual(Uint8Array.of(2, 1));
    await expect(api.refuse()).rejects.toEqual({ code: "chat_unknown", params: {} });
  });

  test("wait until there is something to call, and fail with it", async () => {
    let ready: (target: Target) => void = () => {};
    const { api } = client(() => new Worker(new Promise((resolve) => (ready = resolve))));
    const answer = api.add(1, 1);
    ready(TARGET);
    expect(await answer).toBe(2);
    const broken = client(() => new Worker(Promise.reject(new RangeError("no")))).api;
    await expect(broken.add(1, 1)).rejects.toEqual({ code: "chat_unknown", params: {} });
  });

  test("reach the methods that are listed and no others", async () => {
    const { port1, port2 } = new MessageChannel();
    port2.onmessage = () => {};
    serve(port2, METHODS, Promise.resolve(TARGET), failureOf);
    const answers: unknown[] = [];
    port1.onmessage = ({ data }) => answers.push(data);
    for (const method of ["toString", "constructor", "__proto__"])
      port1.postMessage({ rpc: "ask", id: 1, method, parameters: [] });
    port1.postMessage("nonsense");
    await vi.waitFor(() => expect(answers).toHaveLength(3));
    for (const answer of answers) expect(answer).toMatchObject({ rpc: "refusal", failure: { code: "chat_unknown" } });
    port1.close();
  });

  test("with values that cannot be sent, or too many at once, are refused", async () => {
    const { api } = client();
    await expect(api.add((() => 1) as unknown as number, 1)).rejects.toMatchObject({ code: "internal" });
    const waiting = Array.from({ length: 512 }, () => api.never());
    for (const one of waiting) one.catch(() => {});
    await expect(api.add(1, 1)).rejects.toMatchObject({ code: "internal" });
  });

  test("bring events to all who listen", async () => {
    const page = client();
    const heard: string[] = [];
    page.listen((event) => heard.push(event));
    const end = page.listen((event) => heard.push(event));
    Worker.all[0]?.host?.tell("one");
    await vi.waitFor(() => expect(heard).toEqual(["one", "one"]));
    end();
    Worker.all[0]?.host?.tell("two");
    await vi.waitFor(() => expect(heard).toEqual(["one", "one", "two"]));
  });
});

describe("a worker", () => {
  test("that fails is started anew, and what it was asked is rejected", async () => {
    const page = client();
    const restarted = vi.fn();
    page.onRestart(restarted);
    const lost = page.api.never();
    Worker.all[0]?.crash();
    await expect(lost).rejects.toEqual({ code: "internal", params: {} });
    expect(Worker.all[0]?.isDead).toBe(true);
    expect(await page.api.add(2, 2)).toBe(4); // waits for the new one
    expect(restarted).toHaveBeenCalledOnce();
    expect(Worker.all).toHaveLength(2);
  });

  test("that owes an answer and says nothing is ended; one that is only slow is not", async () => {
    const deaf = client(() => new Worker(undefined, Worker.all.length === 0), { tickMs: 10 });
    await expect(deaf.api.add(1, 1)).rejects.toEqual({ code: "internal", params: {} });
    expect(await deaf.api.add(1, 1)).toBe(2);
    expect(Worker.all).toHaveLength(2);
    const slow = deaf.api.never();
    slow.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(Worker.all).toHaveLength(2);
  });

  test("that fails again and again is started less and less often", async () => {
    const page = client();
    for (let round = 0; round < 3; round++) {
      await vi.waitFor(() => expect(Worker.all).toHaveLength(round + 1), { timeout: 2000 });
      Worker.all[round]?.crash();
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(Worker.all).toHaveLength(3);
    await vi.waitFor(() => expect(Worker.all).toHaveLength(4), { timeout: 2000 });
    page.close();
    await expect(page.api.add(1, 1)).rejects.toMatchObject({ code: "internal" });
  });
});
