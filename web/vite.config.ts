/**
 * How Vite builds the page and the engine's worker, and serves both while one works on them (`npm start`).
 *
 * The service worker is built after them, since it names what they became: see build.mjs, which runs both.
 */

import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { catalogues } from "./catalogues.ts";

/** The oldest browsers that the app promises to run in; check.js tells a person who has an older one. */
export const OLDEST = ["chrome111", "firefox114", "safari16.4"];

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export const ALIASES = [
  // `import url from "taube_core.wasm?url"`: where the cryptographic core lies, under its hash
  { find: /^taube_core\.wasm/, replacement: here("../src/taube/client/taube_core.wasm") },
];

export default defineConfig({
  base: "/",
  plugins: [catalogues()],
  resolve: { alias: ALIASES },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: here("../src/taube/web"),
    emptyOutDir: true,
    target: OLDEST,
    cssTarget: OLDEST,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  worker: { format: "es" },
  // what the server of `make run` answers, while `npm start` serves the app
  server: { proxy: { "/v1": { target: process.env.TAUBE_SERVER ?? "http://127.0.0.1:8580", ws: true } } },
});
