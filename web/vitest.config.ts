/** How the tests of web/test/ run: in Node, against the sources, with the aliases of the build and a WebSocket. */

import { defineConfig } from "vitest/config";
import { ALIASES } from "./vite.config.ts";

export default defineConfig({
  resolve: { alias: ALIASES },
  test: {
    include: ["test/**/*.test.{ts,tsx}"],
    exclude: ["test/browser/**"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    execArgv: "WebSocket" in globalThis ? [] : ["--experimental-websocket"],
  },
});
