/** Makes an order of the body that asks for a job. The one reading for `POST /v1/jobs` and for schedules, whose job is a part of their body.
 *  `command.data` is cut out before the rest is parsed, because it may be large and must keep its digits (protocol E18). Pure. */

import { createHash } from 'node:crypto';
import { findMembers, MemberNames, scanJson } from '@lapi-broker/protocol';
import { JOB_LIMITS } from '../job/job-limits.ts';
import type { JobOrder } from '../job/job-order.ts';
import { attemptsOf, isRepeatable } from './command-schema.ts';
import type { JobRequestBody } from './job-schema.ts';
import { type Decoded, decodeJson, jsonFault } from './operation.ts';
import type { Fault } from './problem.ts';

const COMMAND = new MemberNames(['command'], 'exact');
const DATA = new MemberNames(['data'], 'exact');
const NOTHING = Buffer.alloc(0);
const NULL = Buffer.from('null');
const OPEN_OBJECT = 0x7b;

export interface JobAsker {
  /** Id of the API key. */
  readonly keyId: string;
  readonly schedule?: string;
  /** Begins with who chose it: `api:`, `schedule:`. */
  readonly idempotencyKey?: string | undefined;
}

export type ReadOrder =
  | { readonly status: 'read'; readonly order: JobOrder }
  | { readonly status: 'bad'; readonly error: 'invalid_request'; readonly fault: Fault }
  | { readonly status: 'bad'; readonly error: 'not_repeatable' | 'request_too_large'; readonly detail: string };

/** For the schema: the body with `null` in place of `command.data`. */
export function decodeJobBody(bytes: Buffer): Decoded {
  const member = dataMember(bytes);
  if (member === undefined) return decodeJson(bytes);
  const fault = jsonFault(bytes);
  if (fault !== undefined) return { status: 'bad', fault: { path: 'body', problem: fault } };
  return decodeJson(Buffer.concat([bytes.subarray(0, member.start), NULL, bytes.subarray(member.end)]));
}

/** `bytes`: the JSON text from which `body` was read, that of the job alone. */
export function orderOf(body: JobRequestBody, bytes: Buffer, by: JobAsker): ReadOrder {
  const { name, command, targets, concurrency, ratePerSecond, perTag, waves, abort, window, offline } = body;
  const { method, url, lane, timeoutMs, backoffMs } = command;
  const member = dataMember(bytes);
  const given = member === undefined ? NOTHING : bytes.subarray(member.start, member.end);
  const data = given.equals(NULL) ? NOTHING : given;
  if (data.length > JOB_LIMITS.bodyBytes) {
    const detail = `\`command.data\` exceeds ${JOB_LIMITS.bodyBytes} bytes`;
    return { status: 'bad', error: 'request_too_large', detail };
  }
  const maxAttempts = attemptsOf(command);
  if (maxAttempts === 'not_repeatable') {
    const detail = `command.maxAttempts is ${command.maxAttempts}, and ${method} is repeated with retrySafe only`;
    return { status: 'bad', error: 'not_repeatable', detail };
  }
  const { failures, failurePercent, afterEnded = 10 } = abort ?? {};
  const notBeforeMs = window?.notBefore === undefined ? undefined : Date.parse(window.notBefore);
  const notAfterMs = window?.notAfter === undefined ? undefined : Date.parse(window.notAfter);
  if (notBeforeMs !== undefined && notAfterMs !== undefined && notAfterMs <= notBeforeMs) {
    const fault = { path: 'body.window.notAfter', problem: 'must be after window.notBefore' };
    return { status: 'bad', error: 'invalid_request', fault };
  }
  const { idempotencyKey, keyId, schedule } = by;
  return {
    status: 'read',
    order: {
      name,
      command: { method, url, lane, timeoutMs, maxAttempts, backoffMs, repeatable: isRepeatable(command) },
      data,
      pace: {
        concurrency,
        offline,
        ...(ratePerSecond === undefined ? {} : { ratePerSecond }),
        ...(perTag === undefined ? {} : { perTag }),
        ...(waves === undefined ? {} : { waves }),
        ...(abort === undefined
          ? {}
          : {
              abort: {
                afterEnded,
                ...(failures === undefined ? {} : { failures }),
                ...(failurePercent === undefined ? {} : { failurePercent }),
              },
            }),
      },
      targets: choiceOf(targets),
      ...(notBeforeMs === undefined ? {} : { notBeforeMs }),
      ...(notAfterMs === undefined ? {} : { notAfterMs }),
      expires:
        body.expiresAt === undefined
          ? { afterMs: body.ttlMs ?? JOB_LIMITS.ttlMs.default }
          : { atMs: Date.parse(body.expiresAt) },
      keyId,
      ...(schedule === undefined ? {} : { schedule }),
      ...(idempotencyKey === undefined
        ? {}
        : { idempotency: { key: idempotencyKey, request: createHash('sha256').update(bytes).digest('hex') } }),
    },
  };
}

function choiceOf({ codes, filter = {} }: JobRequestBody['targets']): JobOrder['targets'] {
  if (codes !== undefined) return { kind: 'codes', codes };
  const { tag, type, firmware, online } = filter;
  return {
    kind: 'filter',
    ...(tag === undefined ? {} : { tag }),
    ...(type === undefined ? {} : { type }),
    ...(firmware === undefined ? {} : { firmware }),
    ...(online === undefined ? {} : { online }),
  };
}

/** Where `command.data` is in the text; undefined too for what is no JSON. */
function dataMember(bytes: Buffer): { readonly start: number; readonly end: number } | undefined {
  const scan = scanJson(bytes, COMMAND);
  const command = scan.status === 'ok' ? scan.members[0] : undefined;
  if (command === undefined || bytes[command.start] !== OPEN_OBJECT) return undefined;
  return findMembers(bytes, command.start, DATA)[0];
}
