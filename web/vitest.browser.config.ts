/** How the tests in real browsers run: three files at a time, as each waits for much, against the app as it was built and a real server. */

import { defineConfig } from "vitest/config";
import { ALIASES } from "./vite.config.ts";

export default defineConfig({
  resolve: { alias: ALIASES },
  test: {
    include: ["test/browser/**/*.test.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    maxWorkers: 3,
    execArgv: "WebSocket" in globalThis ? [] : ["--experimental-websocket"],
  },
});
