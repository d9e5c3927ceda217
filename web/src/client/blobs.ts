/**
 * Moves sealed files to and from the server: uploads that go on where they were cut off, downloads that are checked.
 *
 * A file is sealed in memory, always to the same bytes under its key, so an upload may be continued by another worker
 * after days. No request says who makes it. It does not know messages, chats or the store.
 * Source: docs/protocol/content.md, CNT-40 and CNT-41; docs/protocol/delivery.md, BLB-01 to BLB-10.
 */

import { encodeBase64, joined, same } from "../bytes";
import { BLOB_UNKNOWN } from "../wire/errors";
import { CHUNK_BYTES, type Core, CoreError } from "./e2e";
import { UserError } from "./errors";

/** Bytes in one request: more where they go fast, fewer after one was cut off. What an answer confirms is durable. */
const FIRST_PIECE_BYTES = 128 * 1024;
const LEAST_PIECE_BYTES = 32 * 1024;
const MOST_PIECE_BYTES = 1024 * 1024;
const FAST_MS = 3_000;
const TAG_BYTES = 16;
/** A message may claim any size; above this nothing is fetched. */
export const MAX_FETCHED_BYTES = 100 * 1024 * 1024;
/** No byte for so long: the connection is lost. */
const SILENCE_MS = 30_000;
/** Tries in a row that brought nothing. */
const MOST_TRIES = 4;
const RETRY_MS = 500;
const REFUSAL_MS = 5_000;
/** Chunks between two looks at whatever else this worker has to do. */
const CHUNKS_AT_ONCE = 8;

export interface BlobsOptions {
  /** An instance that nothing else uses: if a file made it trap, no group's state would go with it. */
  readonly core: () => Promise<Core>;
  readonly fetch?: typeof fetch;
  readonly silenceMs?: number;
  readonly retryMs?: number;
}

/** The files of one server. */
export class Blobs {
  private readonly fetch: typeof fetch;

  constructor(
    private readonly origin: string,
    private readonly options: BlobsOptions,
  ) {
    this.fetch = options.fetch ?? ((url, init) => globalThis.fetch(url, init));
  }

  /**
   * Put the file there under the name that *secret* (32 bytes) gives; goes on where an earlier attempt ended. Resolves
   * with the SHA-256 of the sealed bytes when the blob is complete. Rejects with UserError: offline, later,
   * file_not_taken, refused; and with whatever *signal* says.
   */
  async upload(
    { secret, key, data }: { secret: Uint8Array; key: Uint8Array; data: Uint8Array },
    progress: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    const sealed = await this.seal(key, data, signal);
    const hash = await sha256(sealed);
    const url = await this.urlOf(await sha256(secret));
    const proof = { "Upload-Secret": encodeBase64(secret) };
    const begin = { ...proof, "Upload-Length": String(sealed.length) };
    let offset = -1; // not known
    let most = FIRST_PIECE_BYTES;
    for (let tries = 0; ; ) {
      try {
        const beganMs = performance.now();
        const response =
          offset < 0
            ? await this.ask(url, { method: "POST", headers: begin, signal })
            : await this.ask(url, {
                method: "PATCH",
                headers: { ...proof, "Upload-Offset": String(offset), "Content-Type": "application/octet-stream" },
                body: sealed.subarray(offset, offset + most),
                signal,
              });
        const reached = await reachedBy(response, data.length);
        if (reached > offset) tries = 0;
        else if (++tries >= MOST_TRIES) throw new UserError("offline");
        offset = Math.min(reached, sealed.length);
        progress(offset / sealed.length);
        if (performance.now() - beganMs < FAST_MS) most = Math.min(2 * most, MOST_PIECE_BYTES);
        if (response.headers.get("Upload-Complete") === "?1") return hash;
      } catch (error) {
        if (signal.aborted || !isCutOff(error) || ++tries >= MOST_TRIES) throw userError(error);
        offset = -1; // ask: something of the last request may have arrived
        most = Math.max(most / 2, LEAST_PIECE_BYTES);
        await this.wait(tries, signal);
      }
    }
  }

  /**
   * The whole file, checked. Rejects with UserError: file_gone, file_altered, file_too_large, offline, later, refused.
   */
  async download(
    { blob, key, hash, size }: { blob: Uint8Array; key: Uint8Array; hash: Uint8Array; size: number },
    progress: (part: number) => void,
  ): Promise<Uint8Array> {
    if (size > MAX_FETCHED_BYTES) throw new UserError("file_too_large", { bytes: size, most: MAX_FETCHED_BYTES });
    const core = await this.options.core();
    const length = sealedSize(core, size);
    const sealed = new Sealed(length);
    const url = await this.urlOf(blob);
    for (let tries = 0; sealed.filled < length; ) {
      const before = sealed.filled;
      try {
        await this.fill(sealed, url, progress);
      } catch (error) {
        if (!isCutOff(error)) throw userError(error);
        tries = sealed.filled > before ? 1 : tries + 1;
        if (tries >= MOST_TRIES) throw userError(error);
        await this.wait(tries);
      }
    }
    if (!same(await sha256(sealed.data), hash)) throw new UserError("file_altered");
    return this.open(key, size, sealed.data);
  }

  /** Fetch from where *sealed* ends. */
  private async fill(sealed: Sealed, url: string, progress: (part: number) => void): Promise<void> {
    const silence = new AbortController();
    const watch = this.watch(silence);
    try {
      const headers = sealed.filled > 0 ? { Range: `bytes=${sealed.filled}-` } : {};
      const response = await this.ask(url, { method: "GET", headers, signal: silence.signal });
      if (response.status === 416) throw new UserError("file_altered");
      if (!response.ok) throw await refusalOf(response, 0);
      if (response.status !== 206) sealed.filled = 0;
      const reader = response.body?.getReader();
      if (reader === undefined) throw new TypeError("the answer has no body");
      for (;;) {
        watch.heard();
        const { done, value } = await reader.read();
        if (done) break;
        if (!sealed.append(value)) {
          silence.abort();
          throw new UserError("file_altered");
        }
        progress(sealed.filled / sealed.length);
      }
      if (sealed.filled < sealed.length) {
        // the server says how long the blob is; one that is shorter than its message claims will not grow
        if (totalOf(response) !== sealed.length) throw new UserError("file_altered");
        throw new TypeError("cut off");
      }
    } finally {
      watch.end();
    }
  }

  /** The sealed form of a file: the same bytes at every time. */
  private async seal(key: Uint8Array, data: Uint8Array, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const core = await this.options.core();
    const chunks: Uint8Array[] = [];
    const count = chunkCount(core, data.length);
    for (let index = 0; index < count; index++) {
      if (index % CHUNKS_AT_ONCE === 0) {
        signal.throwIfAborted();
        await pause();
      }
      const piece = data.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
      chunks.push(core.sealBlob(key, data.length, index, piece));
    }
    return joined(...chunks);
  }

  private async open(key: Uint8Array, size: number, sealed: Uint8Array): Promise<Uint8Array> {
    const core = await this.options.core();
    const step = CHUNK_BYTES + TAG_BYTES;
    const pieces: Uint8Array[] = [];
    try {
      for (let index = 0; index * step < sealed.length; index++) {
        if (index % CHUNKS_AT_ONCE === 0) await pause();
        pieces.push(core.openBlob(key, size, index, sealed.subarray(index * step, (index + 1) * step)));
      }
    } catch (error) {
      throw error instanceof CoreError ? new UserError("file_altered", {}, error) : error;
    }
    return joined(...pieces);
  }

  private async urlOf(name: Uint8Array): Promise<string> {
    return `${this.origin}/v1/blobs/${encodeBase64(name)}`;
  }

  /** One request that says nothing of who makes it; it ends when nothing was heard for too long. */
  private async ask(url: string, init: RequestInit & { signal: AbortSignal }): Promise<Response> {
    const silence = new AbortController();
    const watch = this.watch(silence);
    const stop = () => silence.abort(init.signal.reason);
    init.signal.addEventListener("abort", stop);
    try {
      init.signal.throwIfAborted();
      const aside: RequestInit = {
        credentials: "omit",
        referrerPolicy: "no-referrer",
        redirect: "error",
        cache: "no-store",
      };
      return await this.fetch(url, { ...init, ...aside, signal: init.method === "GET" ? init.signal : silence.signal });
    } finally {
      watch.end();
      init.signal.removeEventListener("abort", stop);
    }
  }

  /** Aborts *controller* when `heard` was not called for too long. */
  private watch(controller: AbortController): { heard(): void; end(): void } {
    const ms = this.options.silenceMs ?? SILENCE_MS;
    const give = () => controller.abort(new TypeError("nothing was heard for too long"));
    let timer = setTimeout(give, ms);
    return {
      heard: () => {
        clearTimeout(timer);
        timer = setTimeout(give, ms);
      },
      end: () => clearTimeout(timer),
    };
  }

  private async wait(tries: number, signal?: AbortSignal): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, (this.options.retryMs ?? RETRY_MS) * 2 ** tries));
    signal?.throwIfAborted();
  }
}

/** The sealed bytes as they arrive; room is made for what has come, not for what was claimed. */
class Sealed {
  filled = 0;
  private room = new Uint8Array(0);

  constructor(readonly length: number) {}

  get data(): Uint8Array<ArrayBuffer> {
    return this.room.slice(0, this.filled);
  }

  /** False when there is more than there should be. */
  append(piece: Uint8Array): boolean {
    const end = this.filled + piece.length;
    if (end > this.length) return false;
    if (end > this.room.length) {
      const larger = new Uint8Array(Math.min(this.length, Math.max(end, 2 * this.room.length)));
      larger.set(this.room.subarray(0, this.filled));
      this.room = larger;
    }
    this.room.set(piece, this.filled);
    this.filled = end;
    return true;
  }
}

function chunkCount(core: Core, size: number): number {
  return Math.ceil(core.paddedSize(size) / CHUNK_BYTES);
}

function sealedSize(core: Core, size: number): number {
  return core.paddedSize(size) + TAG_BYTES * chunkCount(core, size);
}

async function sha256(data: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data as Uint8Array<ArrayBuffer>));
}

/** How far the upload is, as an answer to the uploader says. 409 says it too: the server is elsewhere than we thought. */
async function reachedBy(response: Response, bytes: number): Promise<number> {
  if (!response.ok && response.status !== 409) throw await refusalOf(response, bytes);
  const offset = Number(response.headers.get("Upload-Offset") ?? Number.NaN);
  if (!Number.isSafeInteger(offset) || offset < 0) throw new UserError("refused", { code: `HTTP ${response.status}` });
  return offset;
}

/** How long the whole blob is, by the answer to a `GET`. */
function totalOf(response: Response): number {
  const range = /\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "");
  return Number(range?.[1] ?? response.headers.get("Content-Length") ?? Number.NaN);
}

async function refusalOf(response: Response, bytes: number): Promise<UserError> {
  const tooLate = new Promise<null>((resolve) => setTimeout(resolve, REFUSAL_MS, null));
  const said: unknown = await Promise.race([response.json().catch(() => null), tooLate]);
  const name = typeof said === "object" && said !== null && "name" in said ? String(said.name) : "";
  const code = /^\w{1,40}$/.test(name) ? name : `HTTP ${response.status}`;
  // only the server itself can say that there is no such blob; a proxy before it says 404 while the server is away
  if (name === BLOB_UNKNOWN.name) return new UserError("file_gone", { code });
  if (response.status === 413) return new UserError("file_not_taken", { bytes });
  const isPassing = [404, 408, 429, 502, 503, 504, 507].includes(response.status);
  return new UserError(isPassing ? "later" : "refused", { code });
}

/** Whether the connection was lost, as `fetch` and its streams say it. */
function isCutOff(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof DOMException && error.name !== "DataCloneError");
}

function userError(error: unknown): unknown {
  return isCutOff(error) ? new UserError("offline", {}, error) : error;
}

/** Lets everything else of this worker happen. */
function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
