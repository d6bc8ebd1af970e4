/** The messages of `WS /v1/stream`, all JSON text. What comes in is validated by the schemas here (closed: an unknown member is refused).
 *
 *  client → broker
 *    {type:'subscribe', id, filter?: {devices?, kinds?, tags?}, from?}      id is the client's own name for the subscription
 *    {type:'consume', id, subscription, maxInFlight?}      becomes a consumer of a durable subscription
 *    {type:'ack', id, ackIds}      {type:'nack', id, ackIds, delaySeconds?}      {type:'extend', id, ackIds, seconds}
 *    {type:'unsubscribe', id}      of a consumer: what it has not settled is handed out again at once
 *    {type:'command', id, code, method, url, data?, timeoutMs?, connectTimeoutMs?}      needs the scope `call`
 *    {type:'ping'}
 *  broker → client
 *    {type:'subscribed', id, cursor}                       before the first event of that subscription
 *    {type:'event', subscription, cursor, event}           `event` as on GET /v1/events; resume with `from: cursor`
 *    {type:'gap', subscription, cursor, gap: {shard, from, to, count, reason}}
 *    {type:'heartbeat', subscription, cursor, store: 'available' | 'unavailable'}      after 15 s without anything else
 *    {type:'unsubscribed', id, cursor}                     of a consumer without a cursor; with a problem when the broker ended it
 *    {type:'consuming', id, maxInFlight}
 *    {type:'delivery', consumer, ackId, attempt, event | gap}
 *    {type:'settled', id, results: ['done' | 'stale' | 'invalid', …]}      one per ack, nack or extend, in their order
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
import { GROUP_LIMITS, GROUP_NAME } from '../group/group.ts';
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

/** Bounds that the API states in seconds. */
export const seconds = ({ min, max }: { readonly min: number; readonly max: number }) =>
  z
    .number()
    .int()
    .min(min / 1_000)
    .max(max / 1_000);

export const SubscriptionName = z
  .string()
  .regex(GROUP_NAME, 'must be 1–64 of A–Z a–z 0–9 . _ -, a letter or digit first')
  .describe('Name of the subscription.')
  .meta({ examples: ['vms-alarms'] });

// None that is given out is longer.
const ackId = z.string().min(1).max(200);
export const settleShape = {
  ackIds: z.array(ackId).min(1).max(GROUP_LIMITS.batch.max).describe('From deliveries.'),
};
export const nackShape = {
  ...settleShape,
  delaySeconds: seconds({ min: 0, max: GROUP_LIMITS.nackDelayMs.max })
    .default(0)
    .describe('Again, not before this many seconds.'),
};
export const extendShape = {
  ...settleShape,
  seconds: seconds(GROUP_LIMITS.ackDeadlineMs).describe('The consumer needs so long, from now on.'),
};

const Consume = z.strictObject({
  type: z.literal('consume'),
  id: Id,
  subscription: SubscriptionName,
  maxInFlight: z
    .number()
    .int()
    .min(1)
    .max(GROUP_LIMITS.maxInFlight.max)
    .default(GROUP_LIMITS.batch.default)
    .describe('Deliveries to this consumer that it has not settled.'),
});
const Ack = z.strictObject({ type: z.literal('ack'), id: Id, ...settleShape });
const Nack = z.strictObject({ type: z.literal('nack'), id: Id, ...nackShape });
const Extend = z.strictObject({ type: z.literal('extend'), id: Id, ...extendShape });
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

export const ClientMessage = z.discriminatedUnion('type', [
  Subscribe.describe('Events that match the filter, from a place on.'),
  Consume.describe('Become a consumer of a durable subscription.'),
  Ack.describe('These deliveries are done.'),
  Nack.describe('Hand these deliveries out again.'),
  Extend.describe('These deliveries take longer.'),
  Unsubscribe.describe(
    'End a subscription or a consumer; what a consumer has not settled is handed out again at once.',
  ),
  Command.describe('Call a device now. Needs the scope `call`.'),
  Ping.describe('Is the broker there?'),
]);
export type ClientMessage = z.output<typeof ClientMessage>;
export type CommandMessage = z.output<typeof Command>;
export type SubscribeMessage = z.output<typeof Subscribe>;
export type ConsumeMessage = z.output<typeof Consume>;
export type SettleMessage = z.output<typeof Ack | typeof Nack | typeof Extend>;

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
