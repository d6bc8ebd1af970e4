/** Commands in a JSON envelope, in three modes. A direct command without a key is the same call as the pass-through route and leaves no trace; all
 *  others are recorded, and can be read, listed, cancelled and sent again here. Paths are judged before anything is accepted (C5, C10, S13).
 *  Statuses of direct calls: protocol 13.2 and 13.3. Of what waits: 202 accepted, 200 ended, whatever the end; `state` and `executed` say it. */

import { type CommandRecord, type CommandState, isEnded } from '@lapi-broker/lane';
import {
  BrokerError,
  type CommandId,
  type ErrorCode,
  errorDefinition,
  httpStatusOf,
  isErrorCode,
  MemberNames,
  scanJson,
} from '@lapi-broker/protocol';
import { nanoid } from 'nanoid';
import { z } from 'zod';
import type { Caller } from '../../access/access.ts';
import type { CommandEnd, CommandError } from '../../dispatch/dispatch.ts';
import type { QueuedRequest } from '../../lane/new-command.ts';
import type { Refused } from '../../lane/queued-commands.ts';
import { UNREADABLE } from '../../lane/recorded-calls.ts';
import { LIMITS } from '../../limits.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import {
  attemptsOf,
  CommandList,
  CommandListQuery,
  CommandPath,
  CommandRequest,
  CommandView,
  IdempotencyKey,
  RetryRequest,
} from '../command-schema.ts';
import { commandBytes, commandView, withResponse } from '../command-view.ts';
import type { Exchange } from '../exchange.ts';
import { type Decoded, decodeJson, faultsOf, invalid, json, jsonFault, operation, problem } from '../operation.ts';
import { CommandOutcome, DevicePath } from '../schema.ts';
import { CALL_ERRORS, JSON_TYPE, judgePath, OUTCOMES } from './call.ts';

const NOTHING = Buffer.alloc(0);
/** For the document. */
const ACCEPTED = {
  id: '07k3v9x2m4q8w1z5t6r0ya',
  code: '210235TEST0000000001',
  mode: 'queue',
  lane: 'normal',
  method: 'PUT',
  url: '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl',
  state: 'queued',
  attempts: 0,
  maxAttempts: 1,
  acceptedAt: '2026-01-31T22:00:00.000Z',
  expiresAt: '2026-01-31T23:00:00.000Z',
  responseBytes: 0,
};
const ENDED = {
  ...ACCEPTED,
  state: 'succeeded',
  executed: 'yes',
  attempts: 1,
  sentAt: '2026-01-31T22:00:00.004Z',
  endedAt: '2026-01-31T22:00:00.031Z',
  responseCode: 0,
  responseBytes: 55,
  response: { ResponseCode: 0, ResponseString: 'Succeed', Data: {} },
};
const CANCELLED = {
  ...ACCEPTED,
  state: 'cancelled',
  executed: 'no',
  reason: 'cancelled',
  endedAt: '2026-01-31T22:00:05.120Z',
};

const REPLAY = ['Idempotent-Replay', 'true'] as const;

const KeyHeader = z.object({ 'Idempotency-Key': IdempotencyKey.optional() });

export const createCommand = operation({
  id: 'createCommand',
  tag: 'Commands',
  summary: 'Send a command to a device, now or later',
  description: `\`direct\` answers as the pass-through route does. \`queue\` answers 202 once the command is kept, or 200 when it ended within \`waitMs\`; commands of one lane reach the device in the order in which they were accepted. \`direct-then-queue\` answers 200 when the device answered at once and 202 when nothing of it was written and it waits now; what was written without an answer is never sent again. \`data\` of a command that is kept holds at most ${LIMITS.keptBodyBytes / 1024} KiB. With an Idempotency-Key the call may be repeated without risk: the answer is then that of the first, with \`Idempotent-Replay: true\`.`,
  scope: 'call',
  params: DevicePath,
  headers: KeyHeader,
  body: CommandRequest,
  bodyLimit: 'direct',
  bodyExample: {
    mode: 'queue',
    method: 'PUT',
    url: '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl',
    data: { PTZCmd: 1026, Para1: 5, Para2: 5, Para3: 0 },
    ttlMs: 3_600_000,
    waitMs: 5_000,
  },
  responses: {
    ...OUTCOMES,
    200: {
      description: 'Direct: the device answered success. Queued: the command ended within `waitMs`, whatever the end.',
      schema: z.union([CommandOutcome, CommandView]),
      contentType: JSON_TYPE,
      example: ENDED,
    },
    202: {
      description: 'The command is kept and will be delivered; `Location` is where to read it.',
      schema: CommandView,
      contentType: JSON_TYPE,
      example: ACCEPTED,
    },
  },
  errors: [...CALL_ERRORS, 'key_conflict', 'not_repeatable', 'lane_full', 'store_full'],
  decode: decodeCommand,
  async handle({ caller, params, body, bytes, exchange }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const key = keyOf(exchange, body.idempotencyKey);
    if (key.status === 'refused') return key.answer;
    const judged = judgePath(body.url, caller, broker);
    if (judged !== undefined) return judged;
    const member = dataOf(bytes);
    const data = member === undefined ? NOTHING : bytes.subarray(member.start, member.end);
    const asked: Asked = { code: params.code, body, data: data.equals(NULL) ? NOTHING : data, exchange };
    if (body.mode === 'direct' && key.key === undefined) return await callDirect(asked, broker);

    if (asked.data.length > LIMITS.keptBodyBytes)
      return problem('request_too_large', `\`data\` of a command that is kept exceeds ${LIMITS.keptBodyBytes} bytes`);
    const request = requestOf(asked, key.key, caller, broker.nowMs());
    if ('kind' in request) return request;
    return body.mode === 'queue'
      ? await queue(request, body.waitMs ?? 0, broker)
      : await callRecorded(asked, body.mode, request, broker);
  },
});

interface Asked {
  readonly code: QueuedRequest['code'];
  readonly body: CommandRequest;
  readonly data: Buffer;
  readonly exchange: Exchange;
}

type KeyFound =
  | { readonly status: 'found'; readonly key: string | undefined }
  | { readonly status: 'refused'; readonly answer: Answer };

function keyOf(exchange: Exchange, inBody: string | undefined): KeyFound {
  const header = exchange.request.header('idempotency-key');
  if (header === '') return { status: 'found', key: inBody };
  const parsed = IdempotencyKey.safeParse(header);
  if (!parsed.success) return { status: 'refused', answer: invalid(faultsOf(parsed.error, 'header.Idempotency-Key')) };
  if (inBody === undefined || inBody === header) return { status: 'found', key: header };
  const fault = { path: 'body.idempotencyKey', problem: 'is another one than the header Idempotency-Key' };
  return { status: 'refused', answer: invalid([fault]) };
}

/** Everything that a command needs to be kept; or why it cannot be. */
function requestOf(
  { code, body, data }: Asked,
  key: string | undefined,
  caller: Caller,
  nowMs: number,
): QueuedRequest | Answer {
  const { method, url, timeoutMs, connectTimeoutMs = LIMITS.connectTimeoutMs.default } = body;
  const maxAttempts = body.mode === 'direct' ? 1 : attemptsOf(body);
  if (maxAttempts === 'not_repeatable')
    return problem(
      'not_repeatable',
      `maxAttempts is ${body.maxAttempts}, and ${method} is repeated with retrySafe only`,
    );
  const ttlMs = body.mode === 'direct' ? connectTimeoutMs + timeoutMs : (body.ttlMs ?? LIMITS.ttlMs.default);
  const expires = body.expiresAt === undefined ? { afterMs: ttlMs } : { atMs: Date.parse(body.expiresAt) };
  const expiresAtMs = expires.atMs ?? nowMs + ttlMs;
  if (expiresAtMs > nowMs + LIMITS.ttlMs.max + CLOCK_SLACK_MS)
    return invalid([{ path: 'body.expiresAt', problem: 'must be within 7 days from now' }]);
  const notBeforeMs = body.notBefore === undefined ? undefined : Date.parse(body.notBefore);
  if (notBeforeMs !== undefined && notBeforeMs >= expiresAtMs)
    return invalid([{ path: 'body.notBefore', problem: 'must be before the command expires' }]);
  return {
    code,
    method,
    url,
    body: data,
    lane: body.lane ?? 'normal',
    timeoutMs,
    expires,
    notBeforeMs,
    maxAttempts,
    backoffMs: body.backoffMs ?? LIMITS.backoffMs.default,
    coalesceKey: body.coalesceKey,
    idempotencyKey: key === undefined ? undefined : `api:${key}`,
    keyId: caller.keyId,
    awaited: body.mode !== 'queue' || (body.waitMs ?? 0) > 0,
  };
}

/** Clocks of platforms and ours differ. */
const CLOCK_SLACK_MS = 60_000;

async function callDirect({ code, body, data, exchange }: Asked, broker: Broker): Promise<Answer> {
  const { method, url, timeoutMs, connectTimeoutMs = LIMITS.connectTimeoutMs.default } = body;
  const end = await broker.dispatch.call({
    code,
    method,
    url,
    body: data,
    timeoutMs,
    connectTimeoutMs,
    withdrawn: () => exchange.response.ended,
  });
  return endOf(end, nanoid(), body);
}

async function callRecorded(
  asked: Asked,
  mode: 'direct' | 'direct-then-queue',
  request: QueuedRequest,
  broker: Broker,
): Promise<Answer> {
  const { body, exchange } = asked;
  const outcome = await broker.lanes.calls.call({
    ...request,
    mode,
    connectTimeoutMs: body.connectTimeoutMs ?? LIMITS.connectTimeoutMs.default,
    withdrawn: () => exchange.response.ended,
  });
  switch (outcome.status) {
    case 'refused':
      return refusal(outcome, request);
    case 'ended':
      return endOf(outcome.end, outcome.id, body, outcome.state);
    case 'queued':
      return await answerAccepted(outcome.record, body.waitMs ?? 0, broker);
    case 'repeated':
      return mode === 'direct' ? replayOf(outcome.id, outcome.record) : replayOfWaiting(outcome.id, outcome.record);
  }
}

async function queue(request: QueuedRequest, waitMs: number, broker: Broker): Promise<Answer> {
  const { commands } = broker.lanes;
  const submitted = await commands.submit(request);
  if (submitted.status === 'refused') return refusal(submitted, request);
  if (submitted.status === 'accepted') return await answerAccepted(submitted.record, waitMs, broker);
  const { id, state } = submitted;
  try {
    const ended = await commands.whenEnded(id, isEnded(state) ? 0 : waitMs);
    return replayOfWaiting(id, ended ?? (await commands.read(id)));
  } catch (error) {
    if (error instanceof BrokerError && error.code === 'broker_unavailable') return refusal(UNREADABLE, request);
    throw error;
  }
}

/** What is known of it once it has ended, or when the time is over. It was accepted, and stays so if the store goes away meanwhile. */
async function answerAccepted(accepted: CommandRecord, waitMs: number, broker: Broker): Promise<Answer> {
  if (waitMs === 0) return commandAnswer(accepted);
  const { commands } = broker.lanes;
  const { id } = accepted;
  try {
    const record = (await commands.whenEnded(id, waitMs)) ?? (await commands.read(id));
    return record === undefined ? gone(id) : commandAnswer(record);
  } catch (error) {
    if (error instanceof BrokerError && error.code === 'broker_unavailable') return commandAnswer(accepted);
    throw error;
  }
}

function commandAnswer(record: CommandRecord, isReplay = false): Answer {
  const location = ['Location', `/v1/commands/${record.id}`] as const;
  return {
    kind: 'bytes',
    status: isEnded(record.state) ? 200 : 202,
    contentType: JSON_TYPE,
    bytes: commandBytes(record),
    headers: isReplay ? [location, REPLAY] : [location],
  };
}

function replayOfWaiting(id: CommandId, record: CommandRecord | undefined): Answer {
  return record === undefined ? gone(id) : commandAnswer(record, true);
}

/** What the first call was answered, as far as the record tells. */
function replayOf(id: CommandId, record: CommandRecord | undefined): Answer {
  if (record === undefined) return gone(id);
  const { state, method, reason } = record;
  if (!isEnded(state)) return commandAnswer(record, true);
  if (record.executed === 'yes') {
    const status = httpStatusOf(record.responseCode, state === 'succeeded');
    return outcomeAnswer(status, id, state, record.response ?? NULL, [REPLAY]);
  }
  const written = record.executed !== 'no';
  const error: ErrorCode =
    state === 'timed_out' ? 'timeout' : written ? 'outcome_unknown' : isErrorCode(reason) ? reason : 'conflict';
  return {
    kind: 'problem',
    error,
    detail: errorDefinition(error).cause,
    method,
    command: { written, id, state },
    headers: [REPLAY],
  };
}

/** Ends that are not the device's own, as states of a command (reliability §4). */
const STATES: Record<CommandError, 'failed' | 'expired' | 'timed_out' | 'unknown'> = {
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

/** `recorded`: the state in its record, where it has one. */
function endOf(end: CommandEnd, id: string, { method }: CommandRequest, recorded?: CommandState): Answer {
  if (end.status === 'refused') {
    const { error, detail, written } = end;
    return { kind: 'problem', error, detail, method, command: { written, id, state: recorded ?? STATES[error] } };
  }
  const state = recorded ?? (end.success ? 'succeeded' : 'failed');
  return outcomeAnswer(httpStatusOf(end.responseCode, end.success), id, state, end.body);
}

function outcomeAnswer(
  status: number,
  id: string,
  state: CommandState,
  response: Uint8Array,
  headers: readonly (readonly [string, string])[] = [],
): Answer {
  const bytes = withResponse({ id, state, executed: 'yes', source: 'device' }, response);
  return { kind: 'bytes', status, contentType: JSON_TYPE, bytes, headers };
}

type Repeating = Pick<QueuedRequest, 'method' | 'idempotencyKey'>;

function refusal({ error, detail, mayExist }: Refused, { method, idempotencyKey }: Repeating): Answer {
  if (error === 'invalid_request') return invalid([{ path: 'body.expiresAt', problem: 'has passed' }]);
  if (mayExist !== true) return { kind: 'problem', error, detail, method, command: { written: false } };
  const retryable = idempotencyKey !== undefined || method === 'GET';
  return { kind: 'problem', error, detail, method, command: { written: true }, retryable };
}

function gone(id: CommandId): Answer {
  return problem('not_found', `no command ${id} is kept`);
}

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

export const readCommand = operation({
  id: 'readCommand',
  tag: 'Commands',
  summary: 'Read a command',
  description:
    'Its state, and the answer of the device once there is one. Records are kept for a day after the end unless the installation says otherwise. Each change of state is an event too (`command.*`), so nobody needs to ask again and again.',
  scope: 'read',
  orScope: 'call',
  params: CommandPath,
  responses: { 200: { description: 'The command.', schema: CommandView, contentType: JSON_TYPE, example: ENDED } },
  errors: ['not_found'],
  async handle({ params }, broker) {
    const record = await broker.lanes.commands.read(params.id);
    if (record === undefined) return gone(params.id);
    return { kind: 'bytes', status: 200, contentType: JSON_TYPE, bytes: commandBytes(record) };
  },
});

export const listCommands = operation({
  id: 'listCommands',
  tag: 'Commands',
  summary: 'List the commands of a device',
  description: 'Newest first, without the answers. Direct calls without an Idempotency-Key are not recorded.',
  scope: 'read',
  orScope: 'call',
  params: DevicePath,
  query: CommandListQuery,
  responses: { 200: { description: 'One page.', schema: CommandList, example: { items: [ACCEPTED] } } },
  errors: ['device_unknown'],
  async handle({ params, query }, broker) {
    const { limit, state } = query;
    let page = await broker.lanes.history(params.code, query.cursor, limit);
    const ofState = (): readonly CommandRecord[] =>
      page.items.filter((record) => state === undefined || record.state === state);
    for (let i = 1; i < LIMITS.historyScan && ofState().length === 0 && page.cursor !== undefined; i++)
      page = await broker.lanes.history(params.code, page.cursor, limit);
    const isEmpty = page.items.length === 0 && query.cursor === undefined;
    if (isEmpty && !(await broker.registry.lookUp(params.code)).provisioned)
      return problem('device_unknown', 'no device with this DeviceCode is provisioned');
    return json(200, { items: ofState().map(commandView), cursor: page.cursor });
  },
});

export const cancelCommand = operation({
  id: 'cancelCommand',
  tag: 'Commands',
  summary: 'Cancel a command that waits',
  description: 'What was sent cannot be called back, and what has ended stays as it is: 409 says which.',
  scope: 'call',
  params: CommandPath,
  responses: {
    200: { description: 'It ended `cancelled`.', schema: CommandView, contentType: JSON_TYPE, example: CANCELLED },
  },
  errors: ['not_found', 'conflict'],
  async handle({ params: { id } }, broker) {
    const { commands } = broker.lanes;
    const cancelled = await commands.cancel(id);
    if (cancelled.status === 'not_found') return gone(id);
    const record = await commands.read(id);
    if (cancelled.status === 'not_queued') return conflict(id, record);
    if (record === undefined) return gone(id);
    return { kind: 'bytes', status: 200, contentType: JSON_TYPE, bytes: commandBytes(record) };
  },
});

export const retryCommand = operation({
  id: 'retryCommand',
  tag: 'Commands',
  summary: 'Send an ended command once more',
  description:
    'As a new command at the end of the lane, with `retryOf`. Where the first ended `maybe`, the device may then act twice: read its state before.',
  scope: 'call',
  params: CommandPath,
  headers: KeyHeader,
  body: RetryRequest.optional(),
  bodyOptional: true,
  bodyExample: { ttlMs: 3_600_000 },
  responses: {
    202: {
      description: 'The new command.',
      schema: CommandView,
      contentType: JSON_TYPE,
      example: { ...ACCEPTED, id: '07z8c1b5n9p2d6f0h3j7ke', retryOf: ACCEPTED.id },
    },
  },
  errors: ['forbidden_by_policy', 'device_unknown', 'not_found', 'conflict', 'key_conflict', 'lane_full', 'store_full'],
  async handle({ caller, params: { id }, body, exchange }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const key = keyOf(exchange, undefined);
    if (key.status === 'refused') return key.answer;
    const { commands } = broker.lanes;
    const record = await commands.read(id);
    if (record === undefined) return gone(id);
    const judged = judgePath(record.url, caller, broker);
    if (judged !== undefined) return judged;
    const idempotencyKey = key.key === undefined ? undefined : `api:${key.key}`;
    const ttlMs = body?.ttlMs ?? LIMITS.ttlMs.default;
    const retried = await commands.retry(id, { keyId: caller.keyId, ttlMs, idempotencyKey, awaited: false });
    switch (retried.status) {
      case 'not_found':
        return gone(id);
      case 'not_ended':
        return conflict(id, record);
      case 'refused':
        return refusal(retried, { method: record.method, idempotencyKey });
      case 'accepted':
        return commandAnswer(retried.record);
      case 'repeated':
        return replayOfWaiting(retried.id, await commands.read(retried.id));
    }
  },
});

function conflict(id: CommandId, record: CommandRecord | undefined): Answer {
  if (record === undefined) return gone(id);
  const { state, executed = state === 'queued' ? 'no' : 'maybe' } = record;
  return {
    kind: 'problem',
    error: 'conflict',
    detail: CONFLICTS[state],
    command: { written: executed !== 'no', executed, id, state },
  };
}

const CONFLICTS: Record<CommandState, string> = {
  queued: 'the command still waits; cancel it first',
  sent: 'the command was sent to the device, and its answer is awaited',
  succeeded: 'the command has ended: the device did it',
  failed: 'the command has ended: the device, or the broker, refused it',
  timed_out: 'the command has ended: it was sent, and the device did not answer in time',
  unknown: 'the command has ended: it was sent, and nobody can know what became of it',
  expired: 'the command has ended: its time was over before it could be sent',
  cancelled: 'the command has ended: it was cancelled before',
};
