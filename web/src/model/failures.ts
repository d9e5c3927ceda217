/** Failures as the screens show them. This file knows no words. */

import type { Failure } from "../client/api";

/** What was thrown, as a failure; whatever is no failure is a bug. */
export function failureOf(error: unknown): Failure {
  if (typeof error === "object" && error !== null && "code" in error && "params" in error) return error as Failure;
  return { code: "internal", params: {} };
}
