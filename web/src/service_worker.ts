/** The service worker: one classic file, `/sw.js`, that takes over at once. It does not know the engine. */

declare const self: ServiceWorkerGlobalScope;
/** Every file of this build, as the paths under which the server has them; put in by build.mjs. */
declare const __FILES__: string[];
/** Changes with any byte of the build. */
declare const __VERSION__: string;

self.addEventListener("install", () => {
  console.debug(__VERSION__, __FILES__.length);
});

export {};
