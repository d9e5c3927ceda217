/**
 * The one place that names scripts to be run: the engine's worker and the service worker, and nothing else.
 *
 * The server's policy demands Trusted Types: wherever the browser knows them, no other code can start a script, and no
 * text can become HTML. This file does not know what the workers do.
 */

import engineWorkerUrl from "./engine_worker.ts?worker&url";

interface Policies {
  createPolicy(
    name: string,
    rules: { createScriptURL(url: string): string },
  ): { createScriptURL(url: string): unknown };
}

const SCRIPTS = [engineWorkerUrl, "/sw.js"];

const policies = (globalThis as { trustedTypes?: Policies }).trustedTypes;
const policy = policies?.createPolicy("taube", {
  createScriptURL(url) {
    if (!SCRIPTS.includes(url)) throw new TypeError(`${url} is no script of ours`);
    return url;
  },
});

function scriptUrl(url: string): string {
  return (policy?.createScriptURL(url) ?? url) as string;
}

/** The worker that runs the engine; dedicated to this page. */
export function startEngineWorker(): Worker {
  return new Worker(scriptUrl(engineWorkerUrl), { type: "module", name: "taube-engine" });
}

/** The service worker of this origin, fetched anew when its bytes changed. */
export function registerServiceWorker(): Promise<ServiceWorkerRegistration> {
  return navigator.serviceWorker.register(scriptUrl("/sw.js"), { scope: "/", updateViaCache: "none" });
}
