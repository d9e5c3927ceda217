/**
 * Keeps the app's own files on the device, so that it starts at once and without a network.
 *
 * Each build has a cache of its own, filled before the build takes over and removed when the next one has. A file that
 * has its hash in its name is taken from the cache of the build before, if it is there: an update costs what changed.
 * It knows files and versions, and nothing of what the app does.
 */

const PREFIX = "taube-shell-";
/** Where every address that a person may open leads: the page reads the rest of the address itself. */
const PAGES = ["/", "/i", "/c", "/index.html"];
const FETCH_TIMEOUT_MS = 60_000;

export interface ShellOptions {
  /** Paths of this build. "/" is the page. */
  files: readonly string[];
  version: string;
  caches: CacheStorage;
  fetch(request: Request): Promise<Response>;
}

export class Shell {
  readonly #name: string;
  readonly #files: ReadonlySet<string>;

  constructor(private readonly options: ShellOptions) {
    this.#name = PREFIX + options.version;
    this.#files = new Set(options.files);
  }

  /** Fetch what is missing. Rejects when anything could not be had: then the build before goes on. */
  async fill(): Promise<void> {
    const cache = await this.options.caches.open(this.#name);
    await Promise.all(this.options.files.map((path) => this.#bring(cache, path)));
  }

  /** Forget the builds before. */
  async removeOthers(): Promise<void> {
    const names = await this.options.caches.keys();
    const old = names.filter((name) => name.startsWith(PREFIX) && name !== this.#name);
    await Promise.all(old.map((name) => this.options.caches.delete(name)));
  }

  /** The path under which this build has what is asked for; null for what is no file of it. */
  pathOf(url: URL, isNavigation: boolean): string | null {
    if (isNavigation) return PAGES.includes(url.pathname) ? "/" : null;
    return url.search === "" && this.#files.has(url.pathname) && url.pathname !== "/" ? url.pathname : null;
  }

  /** A file of this build: from the device, else from the server. */
  async get(path: string): Promise<Response> {
    const cache = await this.options.caches.open(this.#name);
    return (await cache.match(path)) ?? (await this.#bring(cache, path));
  }

  async #bring(cache: Cache, path: string): Promise<Response> {
    const here = await cache.match(path);
    if (here) return here;
    const response = (isHashed(path) ? await this.options.caches.match(path) : undefined) ?? (await this.#load(path));
    await cache.put(path, response.clone());
    return response;
  }

  async #load(path: string): Promise<Response> {
    const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
    const response = await this.options.fetch(new Request(path, { cache: "no-cache", signal }));
    if (response.status !== 200 || response.redirected) throw new TypeError(`${path}: ${response.status}`);
    return response;
  }
}

/** Whether the bytes behind a path can never change. */
function isHashed(path: string): boolean {
  return /^\/assets\/.+-[\w-]{8,}\.\w+$/.test(path);
}
