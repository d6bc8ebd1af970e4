/** The messages of `WS /v1/stream`, all JSON text. What comes in is validated by the schemas here (closed: an unknown member is refused).
 *
 *  client → broker
 *    {type:'subscribe', id, filter?: {devices?, kinds?, tags?}, from?}      id is the client's own name for the subscription
 *    {type:'unsubscribe', id}
 *    {type:'command', id, code, method, url, data?, timeoutMs?, connectTimeoutMs?}      needs the scope `call`
 *    {type:'ping'}
 *  broker → client
 *    {type:'subscribed', id, cursor}                       before the first event of that subscription
 *    {type:'event', subscription, cursor, event}           `event` as on GET /v1/events; resume with `from: cursor`
 *    {type:'gap', subscription, cursor, gap: {shard, from, to, count, reason}}
 *    {type:'heartbeat', subscription, cursor, store: 'available' | 'unavailable'}      after 15 s without anything else
 *    {type:'unsubscribed', id, cursor}
 *    {type:'reply', id, status, executed, source: 'device', response}                 the device's own bytes
 *    {type:'reply', id, status, executed, source: 'broker', problem}
 *    {type:'pong'}
 *    {type:'error', id?, problem}                          the message was refused; the socket stays open
 *    {type:'closing', reason, cursors: {<id>: cursor}}     the last message; close code 4008 slow_consumer, 1001 draining,
 *                                                          1008 unauthenticated, too_many_messages
 *
 *  `data` of a command is cut out of the text before the rest is parsed, because its digits must not change (protocol E18). Pure. */

import { isUtf8 } from 'node:buffer';
import { LAPI_METHODS, MemberNames, scanJson } from '@lapi-broker/protocol';
import { z } from 'zod';
import { FILTER_LIMITS } from '../event/filter.ts';
import { LIMITS } from '../limits.ts';
import { faultsOf } from './operation.ts';
import type { Fault } from './problem.ts';
import { DeviceCodeText } from './schema.ts';

export const MAX_CURSOR_LENGTH = 4_096;

const Id = z.string().min(1).max(64).describe('Chosen by the client; comes back in every message about it.');

const terms = (limit: number) => z.array(z.string().min(1).max(128)).max(limit).optional();

export const Filter = z
  .strictObject({
    devices: terms(FILTER_LIMITS.devices).describe('DeviceCodes, or patterns with `*`.'),
    kinds: terms(FILTER_LIMITS.kinds).describe('Kinds such as alarm.MotionAlarmOn or alarm.*.'),
    tags: terms(FILTER_LIMITS.tags).describe('Any of these tags of the device.'),
  })
  .describe('An absent list asks nothing; lists are joined by "and".');

const Subscribe = z.strictObject({
  type: z.literal('subscribe'),
  id: Id,
  filter: Filter.default({}),
  from: z.string().max(MAX_CURSOR_LENGTH).default('now'),
});
const Unsubscribe = z.strictObject({ type: z.literal('unsubscribe'), id: Id });
const Ping = z.strictObject({ type: z.literal('ping') });
const Command = z.strictObject({
  type: z.literal('command'),
  id: Id,
  code: DeviceCodeText,
  method: z.enum(LAPI_METHODS),
  url: z.string().min(1).max(LIMITS.urlBytes),
  data: z.unknown().optional(),
  timeoutMs: z.number().int().min(LIMITS.timeoutMs.min).max(LIMITS.timeoutMs.max).default(LIMITS.timeoutMs.default),
  connectTimeoutMs: z
    .number()
    .int()
    .min(LIMITS.connectTimeoutMs.min)
    .max(LIMITS.connectTimeoutMs.max)
    .default(LIMITS.connectTimeoutMs.default),
});

export const ClientMessage = z.discriminatedUnion('type', [Subscribe, Unsubscribe, Command, Ping]);
export type ClientMessage = z.output<typeof ClientMessage>;
export type CommandMessage = z.output<typeof Command>;
export type SubscribeMessage = z.output<typeof Subscribe>;

export type ReadMessage =
  /** `data`: JSON text of a command's data, empty when there is none. A view into the bytes given. */
  | { readonly status: 'read'; readonly message: ClientMessage; readonly data: Buffer }
  | { readonly status: 'invalid'; readonly id: string | undefined; readonly faults: readonly [Fault, ...Fault[]] };

const DATA = new MemberNames(['data'], 'exact');
const NULL = Buffer.from('null');
const NOTHING = Buffer.alloc(0);

const FAULTS = {
  too_deep: 'JSON nested more than 64 levels deep',
  too_many_keys: 'JSON with more than 10,000 keys',
  syntax: 'not valid JSON',
  control_in_string: 'not valid JSON',
} as const;

export function readStreamMessage(bytes: Buffer): ReadMessage {
  if (!isUtf8(bytes)) return invalid(undefined, 'not valid UTF-8');
  const scan = scanJson(bytes, DATA);
  if (scan.status !== 'ok') return invalid(undefined, FAULTS[scan.status]);
  const [member] = scan.members;
  const head =
    member === undefined ? bytes : Buffer.concat([bytes.subarray(0, member.start), NULL, bytes.subarray(member.end)]);
  const value: unknown = JSON.parse(head.toString());
  const parsed = ClientMessage.safeParse(value);
  if (!parsed.success) {
    const [first, ...others] = faultsOf(parsed.error, 'message');
    return {
      status: 'invalid',
      id: idOf(value),
      faults: [first ?? { path: 'message', problem: 'not a message of this protocol' }, ...others],
    };
  }
  const data = member === undefined ? NOTHING : bytes.subarray(member.start, member.end);
  return { status: 'read', message: parsed.data, data: data.equals(NULL) ? NOTHING : data };
}

/** So that the client knows which of its messages was refused. */
function idOf(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || !('id' in value)) return undefined;
  return typeof value.id === 'string' && value.id.length <= 64 ? value.id : undefined;
}

function invalid(id: string | undefined, problem: string): ReadMessage {
  return { status: 'invalid', id, faults: [{ path: 'message', problem }] };
}
