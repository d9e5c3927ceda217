/** How the tests in real browsers run: two files at a time, against the app as it was built and a real server. */

import { defineConfig } from "vitest/config";
import { ALIASES } from "./vite.config.ts";

export default defineConfig({
  resolve: { alias: ALIASES },
  test: {
    include: ["test/browser/**/*.test.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    execArgv: "WebSocket" in globalThis ? [] : ["--experimental-websocket"],
  },
});
