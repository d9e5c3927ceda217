/**
 * The service worker: keeps the app on the device, and wakes it.
 *
 * A new build is fetched in the background and waits until the page, which asks the person first, says `take_over`; a
 * first build, and one that no page is open of, takes over by itself. What is of the server (`/v1`, `/.well-known`)
 * always goes to the server.
 */

import { Shell } from "./shell_cache";

declare const self: ServiceWorkerGlobalScope;
/** Every file of this build, as the paths under which the server has them; put in by build.mjs. */
declare const __FILES__: string[];
/** Changes with any byte of the build. */
declare const __VERSION__: string;

const shell = new Shell({
  files: __FILES__,
  version: __VERSION__,
  isLazy: (path) => path.startsWith("/assets/lazy/"),
  caches: self.caches,
  fetch: (request) => self.fetch(request),
});

self.addEventListener("install", (event) => event.waitUntil(shell.fill()));

self.addEventListener("activate", (event) => {
  event.waitUntil(shell.removeOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  const path = shell.pathOf(url, request.mode === "navigate");
  if (path !== null) event.respondWith(shell.get(path));
});

self.addEventListener("message", (event) => {
  if (event.data === "take_over") event.waitUntil(self.skipWaiting());
});
