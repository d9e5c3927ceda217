/**
 * Every numbered error that may travel in a frame: number, name, whose fault, whether to retry, and what it means.
 *
 *     TaubeError
 *     ├── WireError            a refusal that travels as `Failed`; carries an ErrorKind
 *     └── FrameError           the peer's bytes are no message; a `WireError` with the kind to answer
 *
 * The catalogue is written from src/taube/wire/errors.py by `make docs`. An error never carries anything about a person.
 * Source: docs/protocol/connection.md, "Errors".
 */

/** Who has to change something before the same request can succeed. */
export enum Fault {
  CALLER = "caller",
  RESOURCE = "resource",
  SERVER = "server",
}

/** Whether the same request may be sent again. */
export enum Retry {
  NEVER = "never",
  LATER = "later",
  AFTER_CHANGE = "after a change",
}

/** One row of the catalogue. */
export interface ErrorKind {
  readonly code: number;
  readonly name: string;
  readonly fault: Fault;
  readonly retry: Retry;
  readonly closes: boolean;
}

/** Every error by its number. */
export const CATALOGUE = new Map<number, ErrorKind>();

function kind(code: number, name: string, fault: Fault, retry: Retry, closes = false): ErrorKind {
  const row = { code, name, fault, retry, closes };
  CATALOGUE.set(code, row);
  return row;
}

// generated: errors
/** The frame is not a message of this protocol. */
export const BAD_FRAME = kind(1, "bad_frame", Fault.CALLER, Retry.NEVER);
/** This server does not know that kind of frame. */
export const UNKNOWN_TYPE = kind(2, "unknown_type", Fault.CALLER, Retry.NEVER);
/** The frame is larger than 128 KiB. */
export const TOO_LARGE = kind(3, "too_large", Fault.CALLER, Retry.NEVER, true);
/** Client and server share no protocol version: one of them needs an update. */
export const NO_COMMON_VERSION = kind(4, "no_common_version", Fault.CALLER, Retry.AFTER_CHANGE, true);
/** That command is not allowed in this state of the connection. */
export const OUT_OF_ORDER = kind(5, "out_of_order", Fault.CALLER, Retry.NEVER);
/** Too many requests: wait as long as the answer says. */
export const RATE_LIMITED = kind(6, "rate_limited", Fault.RESOURCE, Retry.LATER);
/** The server is at its limit: wait as long as the answer says. */
export const BUSY = kind(7, "busy", Fault.SERVER, Retry.LATER);
/** The server is about to stop: connect again. */
export const DRAINING = kind(8, "draining", Fault.SERVER, Retry.LATER, true);
/** The server met an error of its own and did nothing. */
export const INTERNAL = kind(9, "internal", Fault.SERVER, Retry.LATER);
/** The server cannot write its storage at the moment; nothing was kept. */
export const STORAGE = kind(10, "storage", Fault.SERVER, Retry.LATER);
/** A newer connection of the same device took over. */
export const REPLACED = kind(11, "replaced", Fault.RESOURCE, Retry.NEVER, true);
/** The connection was silent for too long. */
export const IDLE = kind(12, "idle", Fault.CALLER, Retry.LATER, true);
/** The signature, the device or the account is not known here. */
export const LOGIN_REFUSED = kind(20, "login_refused", Fault.CALLER, Retry.AFTER_CHANGE);
/** The account's device list no longer names this device. */
export const DEVICE_REVOKED = kind(21, "device_revoked", Fault.CALLER, Retry.AFTER_CHANGE);
/** This server knows no such invitation. */
export const INVITATION_UNKNOWN = kind(22, "invitation_unknown", Fault.CALLER, Retry.AFTER_CHANGE);
/** The invitation has been used up. */
export const INVITATION_USED = kind(23, "invitation_used", Fault.CALLER, Retry.AFTER_CHANGE);
/** The invitation has expired. */
export const INVITATION_EXPIRED = kind(24, "invitation_expired", Fault.CALLER, Retry.AFTER_CHANGE);
/** Genesis statement or device list is not valid. */
export const STATEMENT_INVALID = kind(25, "statement_invalid", Fault.CALLER, Retry.NEVER);
/** The server holds a device list with the same or a higher counter. */
export const LIST_OUTDATED = kind(26, "list_outdated", Fault.CALLER, Retry.AFTER_CHANGE);
/** This server knows no such account. */
export const ACCOUNT_UNKNOWN = kind(27, "account_unknown", Fault.CALLER, Retry.AFTER_CHANGE);
/** Another copy of this device was used, or an older state of it came back. */
export const MARK_DIFFERS = kind(28, "mark_differs", Fault.CALLER, Retry.AFTER_CHANGE);
/** The address was revoked, altered, or is not of this server. */
export const ADDRESS_GONE = kind(40, "address_gone", Fault.RESOURCE, Retry.NEVER);
/** The device has published no key package of that suite. */
export const NO_KEY_PACKAGE = kind(41, "no_key_package", Fault.RESOURCE, Retry.LATER);
/** The device has as many key packages here as it may. */
export const TOO_MANY_KEY_PACKAGES = kind(42, "too_many_key_packages", Fault.CALLER, Retry.AFTER_CHANGE);
/** The server sends no push to that address. */
export const PUSH_REFUSED = kind(43, "push_refused", Fault.CALLER, Retry.AFTER_CHANGE);
/** The request for a blob lacks a field. */
export const BLOB_BAD_REQUEST = kind(50, "blob_bad_request", Fault.CALLER, Retry.NEVER);
/** Only who has its secret writes a blob. */
export const BLOB_SECRET_WRONG = kind(51, "blob_secret_wrong", Fault.CALLER, Retry.NEVER);
/** There is no such blob: it was never finished, or its time is over. */
export const BLOB_UNKNOWN = kind(52, "blob_unknown", Fault.RESOURCE, Retry.NEVER);
/** The upload stands at another offset: go on from the one in the answer. */
export const BLOB_CONFLICT = kind(53, "blob_conflict", Fault.CALLER, Retry.AFTER_CHANGE);
/** The blob is larger than this server takes. */
export const BLOB_TOO_LARGE = kind(54, "blob_too_large", Fault.CALLER, Retry.NEVER);
/** The server has no room for files at the moment; messages go on without. */
export const NO_ROOM = kind(55, "no_room", Fault.SERVER, Retry.LATER);
// end

/** Base of every error that Taube throws on purpose. */
export class TaubeError extends Error {
  override name = "TaubeError";
}

/** A refusal as it travels: its kind, when to try again, and a detail without personal facts. */
export class WireError extends TaubeError {
  override name = "WireError";

  constructor(
    readonly kind: ErrorKind,
    readonly retryAfterMs = 0,
    readonly detail = "",
  ) {
    super(detail ? `${kind.name}: ${detail}` : kind.name);
  }
}

/** Bytes that are no message. *request* is the request id if it could still be read, else 0. */
export class FrameError extends WireError {
  override name = "FrameError";

  constructor(
    kind: ErrorKind,
    readonly request = 0,
    detail = "",
  ) {
    super(kind, 0, detail);
  }
}
