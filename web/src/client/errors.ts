/**
 * What goes wrong for a person: each a code of api.ts with its parameters, which the screens put into words.
 *
 *     UserError
 *     └── DeviceReplaced   this device is no longer the account's: nothing is sent any more
 *
 * `failureOf` turns whatever was thrown into such a code. Nothing here knows where an error is shown, or its sentence.
 * Source: docs/protocol/device.md.
 */

import { Retry, TaubeError, WireError } from "../wire/errors";
import { type ErrorCode, type Failure, isFailure } from "./api";
import { TransportError } from "./transport";

/** A refusal for a person; has the shape of a `Failure`. */
export class UserError extends TaubeError implements Failure {
  readonly code: ErrorCode;
  readonly params: Record<string, string | number>;

  constructor(code: ErrorCode, params: Record<string, string | number> = {}, cause?: unknown) {
    super(code, { cause });
    this.name = "UserError";
    this.code = code;
    this.params = params;
  }

  /** Whether waiting may help. */
  get retry(): boolean {
    return TRY_LATER.has(this.code);
  }
}

const TRY_LATER: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["offline", "later", "link_drained"]);

/** Another copy of this profile, or another device, became the account's device; what is here can only be read. */
export class DeviceReplaced extends UserError {
  constructor(cause?: unknown) {
    super("replaced", {}, cause);
  }
}

/** What was thrown, as a code for the screens. What nobody foresaw is a bug: `internal`. */
export function failureOf(error: unknown): Failure {
  if (error instanceof UserError) return { code: error.code, params: error.params };
  if (error instanceof WireError) {
    const code = error.kind.retry === Retry.LATER ? "later" : "refused";
    return { code, params: { code: error.kind.name } };
  }
  if (error instanceof TransportError) {
    return error.retry ? { code: "offline", params: {} } : { code: "refused", params: { code: error.name } };
  }
  if (isFailure(error)) return { code: error.code, params: error.params };
  return { code: "internal", params: {} };
}

/** `failureOf` as an error that can be thrown. */
export function userErrorOf(error: unknown): UserError {
  if (error instanceof UserError) return error;
  const failure = failureOf(error);
  return new UserError(failure.code, failure.params, error);
}
