/** The engine's worker: hosts the engine beside the page and answers what the page asks. */

import coreUrl from "taube_core.wasm?url";

declare const self: DedicatedWorkerGlobalScope;

self.addEventListener("message", () => self.postMessage(coreUrl));
