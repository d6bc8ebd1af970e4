/** Direct commands over HTTP, in two forms. The pass-through route is the fast path: an HTTP client of a device only changes its base URL;
 *  path, query and body go to the device as they came, and its answer comes back with its own bytes. The other form is a JSON envelope.
 *  Both map ends to statuses by protocol 13.2 and 13.3, and both judge the path first (C5, C10, S13). */

import {
  BrokerError,
  type DeviceCode,
  httpStatusOf,
  isDeviceCode,
  isLapiMethod,
  LAPI_METHODS,
  MemberNames,
  scanJson,
} from '@lapi-broker/protocol';
import { nanoid } from 'nanoid';
import { allows, type Caller, missingScope } from '../../access/access.ts';
import type { CommandEnd, CommandError, DirectCommand } from '../../dispatch/dispatch.ts';
import { LIMITS } from '../../limits.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import type { Exchange } from '../exchange.ts';
import { type Decoded, decodeJson, faultsOf, invalid, jsonFault, operation, type RawOperation } from '../operation.ts';
import type { Fault } from '../problem.ts';
import { CallHeaders, CommandOutcome, CommandRequest, DeviceAnswer, DevicePath } from '../schema.ts';

type Times = Pick<DirectCommand, 'timeoutMs' | 'connectTimeoutMs'>;

const PREFIX = '/v1/devices/';
const NOTHING = Buffer.alloc(0);
const JSON_TYPE = 'application/json';
const DEFAULT_TIMES: Times = { timeoutMs: LIMITS.timeoutMs.default, connectTimeoutMs: LIMITS.connectTimeoutMs.default };

const OUTCOMES = {
  200: { description: 'The device answered success.', schema: DeviceAnswer, contentType: JSON_TYPE },
  '4XX': {
    description:
      "The device's own refusal (2 → 400, 3 and 5 → 403, 2001 → 404), or a problem of the broker: see `source`.",
  },
  '5XX': { description: "The device's own error (4 → 501, others → 502), or a problem of the broker: see `source`." },
} as const;

const ERRORS = [
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

const NO_IDEMPOTENCY =
  'A direct call is made at most once and never repeated by the broker. `Idempotency-Key` is refused here, because a key that is not honoured would promise what does not hold.';

export const passThrough: RawOperation = {
  kind: 'raw',
  id: 'callDevice',
  tag: 'Commands',
  summary: 'Call a LAPI resource of a device',
  description: `Everything after \`/v1/devices/{code}\` is the RequestURL, query included. The body, JSON or empty, becomes \`Data\` as it came. ${NO_IDEMPOTENCY}`,
  scope: 'call',
  params: DevicePath,
  headers: CallHeaders,
  responses: OUTCOMES,
  errors: ERRORS,
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
  faults.push({ path: 'header.Idempotency-Key', problem: 'not supported for direct calls; leave it out' });
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

/** Ends that are not the device's own, as states of a command (reliability §4). */
export const STATES: Record<CommandError, 'failed' | 'expired' | 'timed_out' | 'unknown'> = {
  device_unknown: 'failed',
  rate_limited: 'failed',
  device_offline: 'failed',
  device_busy: 'failed',
  node_draining: 'failed',
  request_too_large: 'failed',
  broker_unavailable: 'failed',
  timeout_not_sent: 'expired',
  timeout: 'timed_out',
  outcome_unknown: 'unknown',
};

const DATA = new MemberNames(['data'], 'exact');
const NULL = Buffer.from('null');

/** `data` is cut out before the rest is parsed, because it may be large and must keep its digits (protocol E18). */
function decodeCommand(bytes: Buffer): Decoded {
  const member = dataOf(bytes);
  if (member === undefined) return decodeJson(bytes);
  const fault = jsonFault(bytes);
  if (fault !== undefined) return { status: 'bad', fault: { path: 'body', problem: fault } };
  return decodeJson(Buffer.concat([bytes.subarray(0, member.start), NULL, bytes.subarray(member.end)]));
}

function dataOf(bytes: Buffer): { readonly start: number; readonly end: number } | undefined {
  const scan = scanJson(bytes, DATA);
  return scan.status === 'ok' ? scan.members[0] : undefined;
}

export const createCommand = operation({
  id: 'createCommand',
  tag: 'Commands',
  summary: 'Send a command to a device',
  description: `The same call as the pass-through route, as a JSON envelope. ${NO_IDEMPOTENCY}`,
  scope: 'call',
  params: DevicePath,
  body: CommandRequest,
  bodyLimit: 'direct',
  bodyExample: {
    mode: 'direct',
    method: 'PUT',
    url: '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl',
    data: { PTZCmd: 1026, Para1: 5, Para2: 5, Para3: 0 },
  },
  responses: {
    ...OUTCOMES,
    200: { description: 'The device answered success.', schema: CommandOutcome, contentType: JSON_TYPE },
  },
  errors: ERRORS,
  decode: decodeCommand,
  async handle({ caller, params, body, bytes, exchange }, broker) {
    const faults: Fault[] = [];
    refuseIdempotencyKey(exchange, faults);
    if (faults.length > 0) return invalid(faults);
    const judged = caller === undefined ? undefined : judgePath(body.url, caller, broker);
    if (judged !== undefined) return judged;
    const data = dataOf(bytes);
    const dataBytes = data === undefined ? NOTHING : bytes.subarray(data.start, data.end);
    const end = await broker.dispatch.call({
      code: params.code,
      method: body.method,
      url: body.url,
      body: dataBytes.equals(NULL) ? NOTHING : dataBytes,
      timeoutMs: body.timeoutMs,
      connectTimeoutMs: body.connectTimeoutMs,
      withdrawn: () => exchange.response.ended,
    });
    const id = nanoid();
    if (end.status === 'refused') {
      const { error, detail, written } = end;
      return { kind: 'problem', error, detail, method: body.method, command: { written, id, state: STATES[error] } };
    }
    const head = JSON.stringify({ id, state: end.success ? 'succeeded' : 'failed', executed: 'yes', source: 'device' });
    return {
      kind: 'bytes',
      status: httpStatusOf(end.responseCode, end.success),
      contentType: JSON_TYPE,
      bytes: Buffer.concat([Buffer.from(`${head.slice(0, -1)},"response":`), end.body, Buffer.from('}')]),
    };
  },
});
