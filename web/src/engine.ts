/**
 * The engine in a browser: an account with everything from outside that it needs, in the page's worker or in the service
 * worker, which has no page.
 *
 * Here browser things are put together and nothing is decided. Source: docs/protocol/device.md, "State".
 */

import coreUrl from "taube_core.wasm?url";
import { Account, type Channel, type Surroundings } from "./client/account";
import { Blobs } from "./client/blobs";
import { browserRandom, Core } from "./client/e2e";
import { Store } from "./client/store";
import type { Locks } from "./client/sync";
import { Transport } from "./client/transport";
import { Vault } from "./client/vault";

const CHANNEL = "taube";
const ABOUT_MS = 10_000;
const CORE_MS = 60_000;

/** The account of this browser. *live*: connect now; the service worker connects when it is woken. Never rejects. */
export function openEngine({ live }: { live: boolean }): Promise<Account> {
  return Account.open(browserSurroundings(), { live });
}

function browserSurroundings(): Surroundings {
  const makeCore = coreMaker();
  return {
    openStore: () => Store.open(),
    vault: (store) => new Vault(store, { nowMs: () => Date.now(), random: browserRandom, makeCore }),
    network: (origin) => new Transport(origin),
    files: (origin) => {
      let core: Promise<Core> | null = null;
      return new Blobs(origin, {
        core: () => {
          core ??= makeCore(browserRandom);
          core.catch(() => {
            core = null;
          });
          return core;
        },
      });
    },
    locks: navigator.locks as Locks,
    channel: channel(),
    monotonicMs: () => performance.now(),
    origin: self.location.origin,
    about: async (origin) => {
      const signal = AbortSignal.timeout(ABOUT_MS);
      return (await fetch(`${origin}/.well-known/taube`, { signal, credentials: "omit", cache: "no-store" })).json();
    },
    isPersisted: async () => (await navigator.storage?.persisted?.()) ?? false,
    bug: (error) => console.error(error),
  };
}

/** Makes cores; the module is fetched and compiled once, when one is first needed. */
function coreMaker(): (random: (size: number) => Uint8Array) => Promise<Core> {
  let compiling: Promise<WebAssembly.Module> | null = null;
  return async (random) => {
    compiling ??= compile();
    try {
      return new Core(random, await compiling);
    } catch (error) {
      compiling = null; // the network may be there the next time
      throw error;
    }
  };
}

async function compile(): Promise<WebAssembly.Module> {
  // a service worker's own requests do not pass by it, so it looks itself at what is kept on the device
  const kept = await caches.match(coreUrl).catch(() => undefined);
  const response = kept ?? (await fetch(coreUrl, { signal: AbortSignal.timeout(CORE_MS), credentials: "omit" }));
  if (!response.ok) throw new TypeError("the core could not be fetched");
  return WebAssembly.compile(await response.arrayBuffer());
}

function channel(): Channel {
  const wire = new BroadcastChannel(CHANNEL);
  return {
    post: (message) => wire.postMessage(message),
    listen: (hear) => {
      const heard = ({ data }: MessageEvent<unknown>) => hear(data);
      wire.addEventListener("message", heard);
      return () => wire.removeEventListener("message", heard);
    },
  };
}
