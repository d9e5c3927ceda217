/** What real browsers are driven for beside tests: the pictures of the README and the figures of the bench, by name. */

import { mergeConfig } from "vitest/config";
import browser from "./vitest.browser.config.ts";

const config = mergeConfig(browser, { test: { testTimeout: 300_000 } });
if (config.test) config.test.include = ["test/browser/{screenshots,figures}.ts"];

export default config;
