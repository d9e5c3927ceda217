/** A worker that adds, fails and hangs, for tests of what a page does about it. */

import { serve } from "../../../src/rpc";

export interface Counting {
  add(one: number, other: number): Promise<number>;
  /** An error that nobody catches. */
  fail(): Promise<void>;
  /** Says nothing any more. */
  hang(): Promise<void>;
}

declare const self: DedicatedWorkerGlobalScope;

const target: Counting = {
  add: async (one, other) => one + other,
  fail: () => {
    setTimeout(() => {
      throw new Error("a bug");
    });
    return new Promise(() => {});
  },
  hang: async () => {
    for (;;);
  },
};

serve<Counting, never>(self, { add: true, fail: true, hang: true }, Promise.resolve(target), () => ({
  code: "internal",
  params: {},
}));
