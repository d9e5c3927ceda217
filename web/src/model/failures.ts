/** Failures as the screens show them. This file knows no words. */

import { type Failure, isFailure } from "../client/api";

/** What was thrown, as a failure; whatever is no failure is a bug. */
export function failureOf(error: unknown): Failure {
  return isFailure(error) ? error : { code: "internal", params: {} };
}
