import { describe, expect, test } from "vitest";
import { OLDEST } from "../vite.config.ts";

describe("the build", () => {
  test("promises no browser that lacks WebAssembly, modules and Web Locks", () => {
    expect(OLDEST).toEqual(["chrome111", "firefox114", "safari16.4"]);
  });
});
