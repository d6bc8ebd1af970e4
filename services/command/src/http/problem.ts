/** Every error answer of the API, made in one place: a problem document (RFC 9457) that also carries the members of protocol 13.3.
 *  Codes, statuses and public texts come from ERRORS; what is added here is the one case at hand. Pure. */

import type { HeaderList } from '@lapi-broker/http';
import { type ErrorCode, errorDefinition } from '@lapi-broker/protocol';

export const PROBLEM_TYPE = 'application/problem+json';

/** One wrong part of a request: where, and what is wrong with it. */
export interface Fault {
  /** `body.tags.3`, `query.limit`, `header.X-LAPI-Timeout`, `path.code`. */
  readonly path: string;
  readonly problem: string;
}

export interface ProblemCase {
  readonly detail: string;
  readonly requestId: string;
  /** LAPI or HTTP method, for codes that are retryable for GET only. */
  readonly method: string;
  /** Present when the call was about a command to a device. `written`: bytes of it reached, or may have reached, the device's socket. */
  readonly command?: {
    readonly written: boolean;
    /** When absent, what `written` alone tells. */
    readonly executed?: 'yes' | 'no' | 'maybe';
    readonly id?: string;
    readonly state?: string;
  };
  readonly faults?: readonly Fault[];
  /** Overrides the code's own. */
  readonly retryable?: boolean;
  /** Overrides the code's own. */
  readonly retryAfterMs?: number;
  readonly headers?: HeaderList;
}

export interface Problem {
  readonly status: number;
  readonly headers: HeaderList;
  readonly body: string;
}

export function createProblem(code: ErrorCode, about: ProblemCase): Problem {
  const { status, title, retryable, cause, remedy, retryAfterS } = errorDefinition(code);
  const headers: [string, string][] = [['Content-Type', PROBLEM_TYPE]];
  const waitS = about.retryAfterMs === undefined ? retryAfterS : Math.max(1, Math.ceil(about.retryAfterMs / 1000));
  if (waitS !== undefined) headers.push(['Retry-After', String(waitS)]);
  if (code === 'unauthenticated') headers.push(['WWW-Authenticate', 'Bearer realm="lapi-broker"']);
  for (const [name, value] of about.headers ?? []) headers.push([name, value]);
  const { command, faults } = about;
  const body = JSON.stringify({
    type: problemType(code),
    title,
    status,
    detail: about.detail,
    code,
    error: code,
    source: 'broker',
    retryable: about.retryable ?? (retryable === 'get' ? about.method === 'GET' : retryable),
    written: command?.written ?? false,
    ...(command === undefined
      ? {}
      : { executed: command.executed ?? (command.written ? 'maybe' : 'no'), id: command.id, state: command.state }),
    cause,
    remedy,
    ...(faults === undefined ? {} : { errors: faults }),
    requestId: about.requestId,
  });
  return { status, headers, body };
}

export function problemType(code: ErrorCode): string {
  return `urn:lapi-broker:error:${code}`;
}
