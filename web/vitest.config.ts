/** How the tests of web/test/ run: in Node, against the sources, with the aliases of the build. */

import { defineConfig } from "vitest/config";
import { ALIASES } from "./vite.config.ts";

export default defineConfig({
  resolve: { alias: ALIASES },
  test: { include: ["test/**/*.test.{ts,tsx}"], testTimeout: 30_000, maxWorkers: 2 },
});
