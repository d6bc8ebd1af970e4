/** Every error that a platform can see: one code, one HTTP status, one meaning (protocol 13.3, RFC 9457).
 *  `cause` says what happened, `remedy` what the caller can do. Nobody matches on texts; codes are stable. */

interface ErrorDefinition {
  readonly status: number;
  /** May the same call be made again without risk? `get` = only when the method was GET, because the device may have acted. */
  readonly retryable: boolean | 'get';
  readonly title: string;
  readonly cause: string;
  readonly remedy: string;
  /** Seconds for the Retry-After header, where it makes sense. */
  readonly retryAfterS?: number;
}

export const ERRORS = {
  invalid_request: {
    status: 400,
    retryable: false,
    title: 'Invalid request',
    cause: 'A part of the request is malformed or outside its range; detail names it.',
    remedy: 'Correct the named part. The OpenAPI document states every shape.',
  },
  unauthenticated: {
    status: 401,
    retryable: false,
    title: 'API key missing or unknown',
    cause: 'No valid API key came with the request.',
    remedy: 'Send `Authorization: Bearer <key>`.',
  },
  forbidden: {
    status: 403,
    retryable: false,
    title: 'API key lacks a scope',
    cause: 'The key is valid but not allowed to do this; detail names the missing scope.',
    remedy: 'Use a key with that scope.',
  },
  forbidden_by_policy: {
    status: 403,
    retryable: false,
    title: 'LAPI path not open for calls',
    cause: 'The broker keeps this path for itself, or the key may not call it.',
    remedy: 'Registration and subscription are done by the broker; for guarded paths use a key with the admin scope.',
  },
  device_unknown: {
    status: 404,
    retryable: false,
    title: 'Device unknown',
    cause: 'No device with this DeviceCode is provisioned.',
    remedy: 'Check the code (case-sensitive), or provision it with PUT /v1/devices/{code}.',
  },
  not_found: {
    status: 404,
    retryable: false,
    title: 'Not found',
    cause: 'There is no such resource.',
    remedy: 'Check the path; /openapi.json lists all.',
  },
  method_not_allowed: {
    status: 405,
    retryable: false,
    title: 'Method not allowed',
    cause: 'The resource exists, but not with this method.',
    remedy: 'Use one of the methods in the Allow header.',
  },
  conflict: {
    status: 409,
    retryable: false,
    title: 'Conflict',
    cause: 'The resource is not in a state that allows this; detail says why.',
    remedy: 'Read the resource, then decide again.',
  },
  key_conflict: {
    status: 409,
    retryable: false,
    title: 'Idempotency-Key used before',
    cause:
      'The same Idempotency-Key came within 24 hours with another request for this device; detail names that command.',
    remedy: 'Use a new key for a new command; repeat a command with exactly the request of the first time.',
  },
  not_repeatable: {
    status: 422,
    retryable: false,
    title: 'Command not repeatable',
    cause: 'More than one attempt was asked for a command that is not declared safe to repeat.',
    remedy: 'Set retrySafe, if the device may be asked twice to do it; else leave maxAttempts at 1.',
  },
  request_too_large: {
    status: 413,
    retryable: false,
    title: 'Request too large',
    cause: 'The body exceeds the limit named in detail.',
    remedy: 'Send less.',
  },
  range_not_satisfiable: {
    status: 416,
    retryable: false,
    title: 'Range not satisfiable',
    cause: 'The range begins behind the end of the resource; Content-Range tells its size.',
    remedy: 'Ask for a range within the resource.',
  },
  device_offline: {
    status: 503,
    retryable: true,
    title: 'Device offline',
    cause: 'The device is provisioned but has no session; nothing was sent to it.',
    remedy: 'Call again later, or wait for its presence.online event.',
    retryAfterS: 5,
  },
  node_draining: {
    status: 503,
    retryable: true,
    title: 'Node draining',
    cause: 'The node of the device is leaving; nothing was sent to the device.',
    remedy: 'Call again; the device registers at another node within seconds.',
    retryAfterS: 2,
  },
  device_busy: {
    status: 429,
    retryable: true,
    title: 'Device busy',
    cause: 'Too many calls are waiting for this device, or its connection takes no more bytes; nothing was sent.',
    remedy: 'Call again after Retry-After.',
    retryAfterS: 1,
  },
  rate_limited: {
    status: 429,
    retryable: true,
    title: 'Too many requests',
    cause: 'A limit named in detail is reached.',
    remedy: 'Slow down; call again after Retry-After.',
    retryAfterS: 1,
  },
  lane_full: {
    status: 429,
    retryable: true,
    title: 'Lane full',
    cause: 'As many commands wait for this device as may; detail names the limit. Nothing was accepted.',
    remedy:
      'Wait until some were delivered, expired or cancelled; a coalesceKey lets a newer command replace an older one.',
    retryAfterS: 10,
  },
  timeout_not_sent: {
    status: 504,
    retryable: true,
    title: 'Timed out before sending',
    cause: 'The deadline passed while the call waited; nothing was sent to the device.',
    remedy: 'Call again, perhaps with a longer timeout.',
  },
  timeout: {
    status: 504,
    retryable: 'get',
    title: 'Device did not answer in time',
    cause: 'The request was written to the device and no answer came before the deadline. The device may have acted.',
    remedy: 'Read the state of the device before you repeat anything that changes it.',
  },
  outcome_unknown: {
    status: 502,
    retryable: 'get',
    title: 'Outcome unknown',
    cause: 'The connection was lost after the request was written. The device may have acted.',
    remedy: 'Read the state of the device before you repeat anything that changes it.',
  },
  broker_unavailable: {
    status: 503,
    retryable: true,
    title: 'Broker unavailable',
    cause:
      'The broker cannot reach its store or another part of itself; unless detail says otherwise, nothing was sent to the device.',
    remedy: 'Call again after Retry-After.',
    retryAfterS: 2,
  },
  store_full: {
    status: 503,
    retryable: true,
    title: 'Store nearly full',
    cause:
      'The store has little memory left, so no further command is queued. Those accepted before are kept, direct calls go on.',
    remedy: 'Call again after Retry-After; whoever operates the broker must give Redis more memory.',
    retryAfterS: 30,
  },
  internal: {
    status: 500,
    retryable: false,
    title: 'Internal error',
    cause: 'The broker failed in a way it does not know.',
    remedy: 'Report it with the request id.',
  },
} as const satisfies Record<string, ErrorDefinition>;

export type ErrorCode = keyof typeof ERRORS;

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text);
}

export function errorDefinition(code: ErrorCode): ErrorDefinition {
  return ERRORS[code];
}

/** A broken contract or a failed dependency. Expected outcomes are returned as unions instead. */
export class BrokerError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, detail: string, options?: { cause?: unknown }) {
    super(detail, options);
    this.name = 'BrokerError';
    this.code = code;
  }
}
