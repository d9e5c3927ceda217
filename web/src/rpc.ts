/**
 * Calls between page and worker, as messages: questions with numbers, answers or Failures, and events.
 *
 *     worker:  serve(self, METHODS, target, failureOf)        page:  const client = new Client(start, METHODS, internal)
 *              host.tell(event)                                      await client.api.status(); client.listen(…)
 *
 * Only methods that are listed can be called. The page asks a worker that owes an answer whether it still lives; one
 * that does not say so within some seconds, or that failed, is ended and started anew, and what it was asked is
 * rejected. This file knows neither what is asked nor what is told.
 */

import type { Failure } from "./client/api";

/** The methods of *T* that may be called from the other side; each has to be listed. */
export type Methods<T> = Readonly<Record<keyof T & string, true>>;

type Question = { rpc: "ask"; id: number; method: string; parameters: readonly unknown[] } | { rpc: "ping" };
type Answer =
  | { rpc: "answer"; id: number; value: unknown }
  | { rpc: "refusal"; id: number; failure: Failure }
  | { rpc: "event"; event: unknown }
  | { rpc: "pong" };

/** One end of a channel: a Worker, or the scope inside one. */
export interface Port {
  postMessage(message: unknown): void;
  addEventListener(type: "message", listener: (event: MessageEvent<unknown>) => void): void;
}

/** A worker, as it is seen from the page. */
export interface WorkerPort extends Port {
  addEventListener(type: "message", listener: (event: MessageEvent<unknown>) => void): void;
  addEventListener(type: "error" | "messageerror", listener: (event: Event) => void): void;
  terminate(): void;
}

export interface Host<E> {
  tell(event: E): void;
}

/** Answer on *port* with the methods of *target*; questions wait until there is one. */
export function serve<T extends object, E>(
  port: Port,
  methods: Methods<T>,
  target: Promise<T>,
  failureOf: (error: unknown) => Failure,
): Host<E> {
  const say = (answer: Answer) => port.postMessage(answer);
  target.catch(() => {}); // whoever asks is told
  const answer = async ({ id, method, parameters }: Extract<Question, { rpc: "ask" }>) => {
    try {
      if (!Object.hasOwn(methods, method)) throw new RangeError(`there is no ${method} to be called`);
      const known = (await target) as Record<string, (...parameters: readonly unknown[]) => Promise<unknown>>;
      say({ rpc: "answer", id, value: await known[method]?.(...parameters) });
    } catch (error) {
      say({ rpc: "refusal", id, failure: failureOf(error) });
    }
  };
  port.addEventListener("message", ({ data }) => {
    if (!isRpc(data)) return;
    const question = data as Question;
    if (question.rpc === "ask") answer(question);
    else if (question.rpc === "ping") say({ rpc: "pong" });
  });
  return { tell: (event) => say({ rpc: "event", event }) };
}

export interface ClientOptions {
  readonly tickMs?: number;
}

const TICK_MS = 5_000;
/** Looks in a row at which a worker that owes an answer had said nothing. */
const MOST_SILENT = 4;
const MOST_PENDING = 512;
const FIRST_RESTART_MS = 200;
const MOST_RESTART_MS = 30_000;
/** A worker that lived so many looks is a good one. */
const GOOD_TICKS = 12;

interface Pending {
  resolve(value: unknown): void;
  reject(failure: Failure): void;
}

/** The page's end: calls, events, and the life of the worker. */
export class Client<T extends object, E> {
  /** The methods of the other side. Each rejects with a Failure. */
  readonly api: T;
  private readonly listeners = new Set<(event: E) => void>();
  private readonly restarts = new Set<() => void>();
  private readonly pending = new Map<number, Pending>();
  private readonly timer: ReturnType<typeof setInterval>;
  private worker: WorkerPort | null = null;
  private restarting: ReturnType<typeof setTimeout> | null = null;
  private waiting: Question[] = [];
  private lastId = 0;
  private silent = 0;
  private failures = 0;
  private ticks = 0;
  private isClosed = false;

  constructor(
    private readonly startWorker: () => WorkerPort,
    methods: Methods<T>,
    { tickMs = TICK_MS }: ClientOptions = {},
  ) {
    const calls = Object.keys(methods).map((method) => [
      method,
      (...parameters: readonly unknown[]) => this.ask(method, parameters),
    ]);
    this.api = Object.fromEntries(calls) as T;
    this.timer = setInterval(() => this.tick(), tickMs);
    this.start();
  }

  /** Call *listener* with every event from now on; returns what ends it. */
  listen(listener: (event: E) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Call *listener* after a worker that failed was started anew. */
  onRestart(listener: () => void): () => void {
    this.restarts.add(listener);
    return () => this.restarts.delete(listener);
  }

  /** End the worker; what was asked is rejected. Idempotent. */
  close(): void {
    this.isClosed = true;
    clearInterval(this.timer);
    if (this.restarting !== null) clearTimeout(this.restarting);
    this.worker?.terminate();
    this.worker = null;
    this.rejectAll();
  }

  private ask(method: string, parameters: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.isClosed || this.pending.size >= MOST_PENDING) return reject(internal());
      const id = ++this.lastId;
      const question: Question = { rpc: "ask", id, method, parameters };
      this.pending.set(id, { resolve, reject });
      try {
        if (this.worker === null) this.waiting.push(question);
        else this.worker.postMessage(question);
      } catch {
        this.pending.delete(id); // a value that cannot be sent
        reject(internal());
      }
    });
  }

  private start(): void {
    this.restarting = null;
    const worker = this.startWorker();
    this.worker = worker;
    this.silent = 0;
    this.ticks = 0;
    worker.addEventListener("message", ({ data }) => {
      if (this.worker !== worker || !isRpc(data)) return;
      this.silent = 0;
      this.hear(data as Answer);
    });
    const failed = (event: Event) => {
      event.preventDefault();
      if (this.worker === worker) this.lost();
    };
    worker.addEventListener("error", failed);
    worker.addEventListener("messageerror", failed);
    for (const question of this.waiting.splice(0)) worker.postMessage(question);
  }

  private hear(answer: Answer): void {
    if (answer.rpc === "event") {
      for (const listener of [...this.listeners]) listener(answer.event as E);
    } else if (answer.rpc !== "pong") {
      const pending = this.pending.get(answer.id);
      this.pending.delete(answer.id);
      if (answer.rpc === "answer") pending?.resolve(answer.value);
      else pending?.reject(answer.failure);
    }
  }

  /** Time is counted in looks, so that a device that slept does not take its worker for a dead one. */
  private tick(): void {
    if (this.worker === null) return;
    if (++this.ticks === GOOD_TICKS) this.failures = 0;
    if (this.pending.size === 0) {
      this.silent = 0;
      return;
    }
    if (++this.silent > MOST_SILENT) this.lost();
    else this.worker.postMessage({ rpc: "ping" });
  }

  private lost(): void {
    this.worker?.terminate();
    this.worker = null;
    this.rejectAll();
    const waitMs = Math.min(FIRST_RESTART_MS * 2 ** Math.min(this.failures, 20), MOST_RESTART_MS);
    this.failures += 1;
    this.restarting = setTimeout(() => {
      this.start();
      for (const listener of [...this.restarts]) listener();
    }, waitMs);
  }

  private rejectAll(): void {
    this.waiting = [];
    for (const { reject } of [...this.pending.values()]) reject(internal());
    this.pending.clear();
  }
}

function internal(): Failure {
  return { code: "internal", params: {} };
}

function isRpc(data: unknown): data is { rpc: string } {
  return typeof data === "object" && data !== null && "rpc" in data;
}
