/** The pass-through route, the fast path of direct commands: an HTTP client of a device only changes its base URL; path, query and body go to
 *  the device as they came, and its answer comes back with its own bytes. Ends become statuses by protocol 13.2 and 13.3.
 *  Also how every route that calls a device judges the path first (C5, C10, S13). Commands in a JSON envelope: command.ts. */

import {
  BrokerError,
  type DeviceCode,
  httpStatusOf,
  isDeviceCode,
  isLapiMethod,
  LAPI_METHODS,
} from '@lapi-broker/protocol';
import { allows, type Caller, missingScope } from '../../access/access.ts';
import type { CommandEnd, DirectCommand } from '../../dispatch/dispatch.ts';
import { LIMITS } from '../../limits.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import type { Exchange } from '../exchange.ts';
import { faultsOf, invalid, jsonFault, type RawOperation } from '../operation.ts';
import type { Fault } from '../problem.ts';
import { CallHeaders, DeviceAnswer, DevicePath } from '../schema.ts';

type Times = Pick<DirectCommand, 'timeoutMs' | 'connectTimeoutMs'>;

const PREFIX = '/v1/devices/';
const NOTHING = Buffer.alloc(0);
export const JSON_TYPE = 'application/json';
const DEFAULT_TIMES: Times = { timeoutMs: LIMITS.timeoutMs.default, connectTimeoutMs: LIMITS.connectTimeoutMs.default };

export const OUTCOMES = {
  200: { description: 'The device answered success.', schema: DeviceAnswer, contentType: JSON_TYPE },
  '4XX': {
    description:
      "The device's own refusal (2 → 400, 3 and 5 → 403, 2001 → 404), or a problem of the broker: see `source`.",
  },
  '5XX': { description: "The device's own error (4 → 501, others → 502), or a problem of the broker: see `source`." },
} as const;

export const CALL_ERRORS = [
  'invalid_request',
  'forbidden_by_policy',
  'device_unknown',
  'method_not_allowed',
  'request_too_large',
  'device_offline',
  'node_draining',
  'device_busy',
  'timeout_not_sent',
  'timeout',
  'outcome_unknown',
] as const;

export const passThrough: RawOperation = {
  kind: 'raw',
  id: 'callDevice',
  tag: 'Commands',
  summary: 'Call a LAPI resource of a device',
  description: `Everything after \`/v1/devices/{code}\` is the RequestURL, query included. The body, JSON or empty, becomes \`Data\` as it came. A call is made at most once and never repeated by the broker. \`Idempotency-Key\` is refused here, because a key that is not honoured would promise what does not hold; commands (POST …/commands) honour it.`,
  scope: 'call',
  params: DevicePath,
  headers: CallHeaders,
  responses: OUTCOMES,
  errors: CALL_ERRORS,
  serve(exchange, broker) {
    const caller = broker.access.authenticate(exchange.request);
    // Only a call without a body, by a key that is known already, needs no promise before it is dispatched: the usual GET.
    if (!(caller instanceof Promise)) {
      if (caller.status === 'refused') return exchange.refuse(caller);
      if (!exchange.hasBody) return pass(exchange, caller, NOTHING, broker);
    }
    // The transport hands over a body only to those who ask in the first tick, so it is read beside the authentication.
    const reading = exchange.hasBody ? exchange.readBody(broker.directBodyBytes, broker.bodies) : undefined;
    void (async () => {
      try {
        const who = await caller;
        if (who.status === 'refused') return exchange.refuse(who);
        const read = await reading;
        if (read === undefined || read.status === 'read') return pass(exchange, who, read?.body ?? NOTHING, broker);
        return exchange.refuseBody(read.status, broker.directBodyBytes);
      } catch (error) {
        return exchange.failed(error);
      }
    })();
  },
};

function pass(exchange: Exchange, caller: Caller, body: Buffer, broker: Broker): void {
  const { request } = exchange;
  if (!allows(caller, 'call')) {
    exchange.refuse(missingScope('call'));
    return;
  }
  const { method } = request;
  if (!isLapiMethod(method)) {
    const headers = [['Allow', LAPI_METHODS.join(', ')]] as const;
    exchange.problem('method_not_allowed', `LAPI has no ${method}`, { headers });
    return;
  }
  const rawCode = request.params[0] ?? '';
  const code = isDeviceCode(rawCode) ? rawCode : exchange.params(['code']).code;
  const path = request.path.slice(PREFIX.length + rawCode.length);
  const url = request.query === undefined ? path : `${path}?${request.query}`;
  const judged = judgePath(url, caller, broker);
  if (judged !== undefined) {
    exchange.answer(judged);
    return;
  }

  const faults: Fault[] = [];
  if (code === undefined || !isDeviceCode(code))
    faults.push({ path: 'path.code', problem: 'must be 1–64 of A–Z a–z 0–9 . _ : -' });
  const times = timesOf(exchange, faults);
  refuseIdempotencyKey(exchange, faults);
  const fault = body.length === 0 ? undefined : jsonFault(body);
  if (fault !== undefined) faults.push({ path: 'body', problem: fault });
  if (faults.length > 0) {
    exchange.answer(invalid(faults));
    return;
  }

  const { timeoutMs, connectTimeoutMs } = times;
  broker.dispatch.begin(
    {
      code: code as DeviceCode,
      method,
      url,
      body,
      timeoutMs,
      connectTimeoutMs,
      withdrawn: () => exchange.response.ended,
    },
    (end) => answerPass(exchange, end),
    (error) => exchange.failed(error),
  );
}

/** Never throws. */
function answerPass(exchange: Exchange, end: CommandEnd): void {
  try {
    if (end.status === 'answered') {
      exchange.send(httpStatusOf(end.responseCode, end.success), JSON_TYPE, withSource(end.body));
    } else {
      exchange.problem(end.error, end.detail, { command: { written: end.written } });
    }
  } catch (error) {
    exchange.failed(error);
  }
}

function timesOf(exchange: Exchange, faults: Fault[]): Times {
  const { request } = exchange;
  const timeout = request.header('x-lapi-timeout');
  const connect = request.header('x-lapi-connect-timeout');
  if (timeout === '' && connect === '') return DEFAULT_TIMES;
  const parsed = CallHeaders.safeParse({
    ...(timeout === '' ? {} : { 'X-LAPI-Timeout': timeout }),
    ...(connect === '' ? {} : { 'X-LAPI-Connect-Timeout': connect }),
  });
  if (!parsed.success) {
    faults.push(...faultsOf(parsed.error, 'header'));
    return DEFAULT_TIMES;
  }
  return { timeoutMs: parsed.data['X-LAPI-Timeout'], connectTimeoutMs: parsed.data['X-LAPI-Connect-Timeout'] };
}

function refuseIdempotencyKey(exchange: Exchange, faults: Fault[]): void {
  if (exchange.request.header('idempotency-key') === '') return;
  faults.push({ path: 'header.Idempotency-Key', problem: 'not supported here; POST …/commands takes it' });
}

export function judgePath(url: string, caller: Caller, broker: Broker): Answer | undefined {
  const verdict = broker.policy.judge(url);
  switch (verdict.status) {
    case 'open':
      return undefined;
    case 'guarded':
      return allows(caller, 'admin')
        ? undefined
        : { kind: 'problem', error: 'forbidden_by_policy', detail: verdict.reason };
    default:
      return { kind: 'problem', error: verdict.status, detail: verdict.reason };
  }
}

const OPEN = 0x7b;
const CLOSE = 0x7d;
const SOURCE = Buffer.from('"source":"device"}');

/** The device's object with `"source":"device"` as its last member, its own bytes untouched (13.2). Last, because parsers keep the last of
 *  two equal names: a device that sends a `source` of its own cannot pass for the broker (protocol S6). */
export function withSource(object: Uint8Array): Buffer {
  let end = object.length - 1;
  while (end > 0 && (object[end] as number) <= 0x20) end--;
  let start = 0;
  while (start < end && (object[start] as number) <= 0x20) start++;
  if (object[start] !== OPEN || object[end] !== CLOSE)
    throw new BrokerError('internal', 'the answer of a node is not one JSON object');
  let last = end - 1;
  while (last > start && (object[last] as number) <= 0x20) last--;
  const empty = last === start;
  const spliced = Buffer.allocUnsafe(end - start + (empty ? 0 : 1) + SOURCE.length);
  // Without a view where the end is written over anyway.
  spliced.set(start === 0 && object.length <= spliced.length ? object : object.subarray(start, end), 0);
  let at = end - start;
  if (!empty) spliced[at++] = 0x2c;
  spliced.set(SOURCE, at);
  return spliced;
}
