/** Files to a real server and back: resumed where they were cut, checked, and refused when they are not what they were. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Blobs } from "../../src/client/blobs";
import { browserRandom } from "../../src/client/e2e";
import { Random } from "../random";
import { TestServer } from "../server";
import { makeCore } from "./core";

/** A network between client and server that breaks connections after some bytes in one direction. */
class BadNetwork {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  /** After how many bytes of each of the next connections to break it, and whose. */
  cuts: { bytes: number; of: "client" | "server" }[] = [];
  connections = 0;
  bytes = 0;

  private constructor(target: string) {
    const [host = "", port = ""] = target.split(":");
    this.server = createServer((near) => {
      const far = connect(Number(port), host);
      const cut = this.cuts.shift();
      let left = cut?.bytes ?? Number.POSITIVE_INFINITY;
      this.connections += 1;
      const end = () => {
        near.destroy();
        far.destroy();
      };
      for (const [from, to, name] of [
        [near, far, "client"],
        [far, near, "server"],
      ] as const) {
        this.sockets.add(from);
        from.on("error", end);
        from.on("close", end);
        from.on("data", (data: Buffer) => {
          this.bytes += data.length;
          const passing = cut?.of === name ? data.subarray(0, Math.max(left, 0)) : data;
          if (cut?.of === name) left -= data.length;
          to.write(passing, () => {
            if (left <= 0) end();
          });
        });
      }
    });
  }

  static async to(target: string): Promise<BadNetwork> {
    const network = new BadNetwork(target);
    network.server.listen(0, "127.0.0.1");
    await once(network.server, "listening");
    return network;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}

let server: TestServer;
let network: BadNetwork;
const random = new Random(5);
const never = new AbortController().signal;

beforeAll(async () => {
  server = await TestServer.start();
  network = await BadNetwork.to(server.address);
}, 60_000);

afterAll(async () => {
  network.close();
  await server.remove();
});

function blobs(options: { silenceMs?: number; fetch?: typeof fetch } = {}): Blobs {
  // a connection of its own for each request, so that each of them can be cut
  const alone: typeof fetch = (url, init) =>
    fetch(url, { ...init, headers: { ...(init?.headers as Record<string, string>), Connection: "close" } });
  return new Blobs(network.origin, { core: async () => makeCore(), retryMs: 1, fetch: alone, ...options });
}

function file(size: number) {
  const data = new Uint8Array(size);
  for (let at = 0; at < size; at += 4096) data.set(random.bytes(Math.min(16, size - at)), at);
  return { secret: browserRandom(32), key: browserRandom(32), data };
}

const areSame = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0;
const sha256 = (data: Uint8Array) => new Uint8Array(createHash("sha256").update(data).digest());

async function put(size: number) {
  const { secret, key, data } = file(size);
  const hash = await blobs().upload({ secret, key, data }, () => {}, never);
  return { blob: sha256(secret), key, hash, size, data };
}

describe("files", () => {
  test.each([0, 1, 65_536, 65_537, 700_000])("of %i bytes come back as they were (CNT-40, CNT-41)", async (size) => {
    const steps: number[] = [];
    const sent = file(size);
    const hash = await blobs().upload(sent, (part) => steps.push(part), never);
    expect(steps.at(-1)).toBe(1);
    expect([...steps].sort((one, other) => one - other)).toEqual(steps);
    const there = { blob: sha256(sent.secret), key: sent.key, hash, size };
    const back: number[] = [];
    expect(areSame(await blobs().download(there, (part) => back.push(part)), sent.data)).toBe(true);
    expect(back.at(-1)).toBe(1);
  });

  test("that were cut off go on where they were, up and down (BLB-03, BLB-07)", async () => {
    const sent = file(1_500_000);
    network.cuts = [
      { bytes: 100, of: "server" }, // the first answer is lost
      { bytes: 60_000, of: "client" },
      { bytes: 100, of: "server" },
      { bytes: 1e9, of: "client" },
      { bytes: 200_000, of: "client" },
    ];
    network.bytes = 0;
    const hash = await blobs().upload(sent, () => {}, never);
    expect(network.bytes).toBeLessThan(1_500_000 * 1.6);
    network.cuts = [
      { bytes: 400_000, of: "server" },
      { bytes: 900, of: "server" },
      { bytes: 300_000, of: "server" },
    ];
    network.bytes = 0;
    const there = { blob: sha256(sent.secret), key: sent.key, hash, size: sent.data.length };
    expect(areSame(await blobs().download(there, () => {}), sent.data)).toBe(true);
    expect(network.cuts).toEqual([]);
    expect(network.bytes).toBeLessThan(1_500_000 * 1.3);
  });

  test("are continued by another worker, with what is there already", async () => {
    const sent = file(1_500_000);
    const stopped = new AbortController();
    const upload = blobs().upload(sent, (part) => part > 0.2 && stopped.abort(), stopped.signal);
    await expect(upload).rejects.toThrow();
    const steps: number[] = [];
    network.bytes = 0;
    const hash = await blobs().upload(sent, (part) => steps.push(part), never);
    expect(steps[0]).toBeGreaterThan(0.1);
    expect(network.bytes).toBeLessThan(1_500_000);
    const again: number[] = [];
    expect(await blobs().upload(sent, (part) => again.push(part), never)).toEqual(hash);
    expect(again).toEqual([1]);
  });

  test("that are not what their message says are refused (CNT-41)", async () => {
    const { data: _, ...there } = await put(100_000);
    const refused = [
      { ...there, hash: browserRandom(32) },
      { ...there, key: browserRandom(32) },
      { ...there, size: there.size - 40_000 },
      { ...there, size: there.size + 40_000 },
      { ...there, size: 90_000_000 },
    ];
    for (const one of refused) {
      await expect(blobs().download(one, () => {})).rejects.toMatchObject({ code: "file_altered" });
    }
    const large = { ...there, size: 2 ** 30 };
    await expect(blobs().download(large, () => {})).rejects.toMatchObject({ code: "file_too_large" });
    const gone = { ...there, blob: browserRandom(32) };
    await expect(blobs().download(gone, () => {})).rejects.toMatchObject({ code: "file_gone" });
  });

  test("need a server that answers, and say so when it does not", async () => {
    const sent = file(1000);
    const nowhere = new Blobs("http://127.0.0.1:1", { core: async () => makeCore(), retryMs: 1 });
    await expect(nowhere.upload(sent, () => {}, never)).rejects.toMatchObject({ code: "offline" });
    const there = { blob: sent.key, key: sent.key, hash: sent.key, size: 5 };
    await expect(nowhere.download(there, () => {})).rejects.toMatchObject({ code: "offline" });
    const silent = createServer(() => {});
    silent.listen(0, "127.0.0.1");
    await once(silent, "listening");
    const origin = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const waiting = new Blobs(origin, { core: async () => makeCore(), retryMs: 1, silenceMs: 50 });
    await expect(waiting.upload(sent, () => {}, never)).rejects.toMatchObject({ code: "offline" });
    await expect(waiting.download(there, () => {})).rejects.toMatchObject({ code: "offline" });
    silent.close();
  });

  test("are not taken for gone because of what something before the server says", async () => {
    const sent = file(1000);
    const answer = async () => new Response("<h1>Not Found</h1>", { status: 404 });
    const there = { blob: sent.key, key: sent.key, hash: sent.key, size: 5 };
    await expect(blobs({ fetch: answer }).download(there, () => {})).rejects.toMatchObject({ code: "later" });
    await expect(blobs({ fetch: answer }).upload(sent, () => {}, never)).rejects.toMatchObject({ code: "later" });
  });

  test("say nothing of who moves them", async () => {
    const asked: RequestInit[] = [];
    const watched: typeof fetch = (url, init) => {
      asked.push(init ?? {});
      return fetch(url, init);
    };
    const sent = file(10);
    await blobs({ fetch: watched }).upload(sent, () => {}, never);
    for (const init of asked) expect(init).toMatchObject({ credentials: "omit", referrerPolicy: "no-referrer" });
  });
});
