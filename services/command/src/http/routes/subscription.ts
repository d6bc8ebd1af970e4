/** Durable subscriptions over HTTP: made, changed and deleted; pulled and settled by consumers; their dead letters.
 *  A pull stays open until there is something, its time is over, its client has left (what came too late for it is given back), or the process
 *  leaves (answered empty, so that the client asks another). */

import type { z } from 'zod';
import { parseStartPoint, START_POINTS } from '../../event/cursor.ts';
import { type FilterTerms, parseFilter } from '../../event/filter.ts';
import { type Delivery, GROUP_LIMITS, type PullOptions, type Verdict } from '../../group/group.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import type { Exchange } from '../exchange.ts';
import { invalid, json, operation, problem } from '../operation.ts';
import type { Filter } from '../stream-message.ts';
import {
  AckRequest,
  DeadLetterChoice,
  DeadLetterCount,
  DeadLetterList,
  DeadLetterQuery,
  ExtendRequest,
  NackRequest,
  PullAnswer,
  PullRequest,
  SettleAnswer,
  SubscriptionChange,
  SubscriptionList,
  SubscriptionPath,
  SubscriptionProgress,
  SubscriptionRequest,
  SubscriptionView,
} from '../subscription-schema.ts';
import { deadLettersJson, progressView, pullJson, subscriptionView } from '../subscription-view.ts';

const EXAMPLE = {
  name: 'vms-alarms',
  filter: { kinds: ['alarm.*'], tags: ['site-7'] },
  ackDeadlineSeconds: 30,
  maxInFlight: 1_000,
  maxAttempts: 5,
  ordered: true,
  createdAt: '2026-03-01T01:00:00.000Z',
};

const EXAMPLE_PROGRESS = {
  ...EXAMPLE,
  lag: 120,
  waiting: 14,
  inFlight: 100,
  deadLetters: 1,
  acknowledged: 51_034,
  deadLettersDropped: 0,
  oldestAt: '2026-03-01T09:15:02.120Z',
};

const EXAMPLE_EVENT = {
  id: '07-1735689600000-51149',
  seq: 7,
  code: '210235TEST0000000001',
  kind: 'alarm.MotionAlarmOn',
  url: '/LAPI/V1.0/System/Event/Notification/Alarm',
  at: '2025-01-01T00:00:00.000Z',
  receivedAt: '2025-01-01T00:00:00.120Z',
  epoch: 1_795_203_277_545_951,
  tags: ['site-7'],
  dedupKey: null,
  images: [],
  data: { AlarmInfo: { AlarmType: 'MotionAlarmOn' } },
};

/** Lists that ask nothing are left out, so that the same wish reads the same. */
export function termsOf({ devices, kinds, tags }: z.output<typeof Filter>): FilterTerms {
  return {
    ...(devices?.length ? { devices } : {}),
    ...(kinds?.length ? { kinds } : {}),
    ...(tags?.length ? { tags } : {}),
  };
}

export function filterFault(terms: FilterTerms): Answer | undefined {
  const parsed = parseFilter(terms);
  return parsed.status === 'invalid' ? invalid([{ path: 'body.filter', problem: parsed.detail }]) : undefined;
}

export const createSubscription = operation({
  id: 'createSubscription',
  tag: 'Subscriptions',
  summary: 'Make a durable subscription',
  description:
    'A named reader of events that keeps its place: consumers pull its events and acknowledge them; what is not acknowledged comes again. The same request again answers 200 and the same subscription, which keeps its place.',
  scope: 'call',
  body: SubscriptionRequest,
  bodyExample: { name: 'vms-alarms', filter: { kinds: ['alarm.*'], tags: ['site-7'] }, from: 'now' },
  responses: {
    200: { description: 'It exists, made by the same request.', schema: SubscriptionView, example: EXAMPLE },
    201: { description: 'Made; `Location` is where to read it.', schema: SubscriptionView, example: EXAMPLE },
  },
  errors: ['conflict'],
  async handle({ body }, broker) {
    const { name, filter, from, ackDeadlineSeconds, maxInFlight, maxAttempts, ordered } = body;
    const terms = termsOf(filter);
    const fault = filterFault(terms);
    if (fault !== undefined) return fault;
    const start = parseStartPoint(from, broker.keyspace.shards, broker.nowMs());
    if (start === undefined) return invalid([{ path: 'body.from', problem: `is not ${START_POINTS}` }]);
    const ackDeadlineMs = ackDeadlineSeconds * 1_000;
    const spec = { name, filter: terms, ackDeadlineMs, maxInFlight, maxAttempts, ordered };
    const made = await broker.groups.create(spec, 'platform', start);
    switch (made.status) {
      case 'conflict':
        return problem('conflict', `there is another subscription ${name}; change it, or delete it first`);
      case 'full':
        return problem('rate_limited', `${made.limit} subscriptions; delete one first`);
      case 'created':
      case 'existing':
        return json(made.status === 'created' ? 201 : 200, subscriptionView(made.group), [
          ['Location', `/v1/subscriptions/${name}`],
        ]);
    }
  },
});

export const listSubscriptions = operation({
  id: 'listSubscriptions',
  tag: 'Subscriptions',
  summary: 'List durable subscriptions',
  description: 'In order of their names.',
  scope: 'read',
  orScope: 'call',
  responses: { 200: { description: 'All of them.', schema: SubscriptionList, example: { items: [EXAMPLE] } } },
  async handle(_, broker) {
    return json(200, { items: (await broker.groups.list('platform')).map(subscriptionView) });
  },
});

export const readSubscription = operation({
  id: 'readSubscription',
  tag: 'Subscriptions',
  summary: 'Read a durable subscription and how far it is',
  scope: 'read',
  orScope: 'call',
  params: SubscriptionPath,
  responses: { 200: { description: 'It, and its backlog.', schema: SubscriptionProgress, example: EXAMPLE_PROGRESS } },
  errors: ['not_found'],
  async handle({ params: { name } }, broker) {
    const group = await broker.groups.get(name);
    return json(200, progressView(group, await broker.groups.progress(name)));
  },
});

export const changeSubscription = operation({
  id: 'changeSubscription',
  tag: 'Subscriptions',
  summary: 'Change a durable subscription',
  description: 'It keeps its place. `ordered` cannot be changed.',
  scope: 'call',
  params: SubscriptionPath,
  body: SubscriptionChange,
  bodyExample: { ackDeadlineSeconds: 60 },
  responses: { 200: { description: 'As it is now.', schema: SubscriptionView, example: EXAMPLE } },
  errors: ['not_found'],
  async handle({ params: { name }, body: { filter, ackDeadlineSeconds, maxInFlight, maxAttempts } }, broker) {
    const terms = filter === undefined ? undefined : termsOf(filter);
    const fault = terms === undefined ? undefined : filterFault(terms);
    if (fault !== undefined) return fault;
    const changed = await broker.groups.change(name, {
      ...(terms === undefined ? {} : { filter: terms }),
      ...(ackDeadlineSeconds === undefined ? {} : { ackDeadlineMs: ackDeadlineSeconds * 1_000 }),
      ...(maxInFlight === undefined ? {} : { maxInFlight }),
      ...(maxAttempts === undefined ? {} : { maxAttempts }),
    });
    return json(200, subscriptionView(changed));
  },
});

export const deleteSubscription = operation({
  id: 'deleteSubscription',
  tag: 'Subscriptions',
  summary: 'Delete a durable subscription',
  description: 'With its place and its dead letters. Its consumers get `not_found` from then on.',
  scope: 'call',
  params: SubscriptionPath,
  responses: { 204: { description: 'Deleted.' } },
  errors: ['not_found'],
  async handle({ params: { name } }, broker) {
    await broker.groups.get(name);
    await broker.groups.remove(name);
    return { kind: 'empty', status: 204 };
  },
});

export const pullEvents = operation({
  id: 'pullEvents',
  tag: 'Subscriptions',
  summary: 'Take events of a durable subscription',
  description:
    'Answers as soon as there is one, or empty after `waitSeconds`, or earlier when this process leaves: pull again. Each delivery is to be acknowledged within the ack deadline; else it is handed out again, to any consumer. Any number of consumers may pull at the same time.',
  scope: 'read',
  params: SubscriptionPath,
  body: PullRequest.optional(),
  bodyOptional: true,
  bodyExample: { max: 100, waitSeconds: 20 },
  responses: {
    200: {
      description: 'Deliveries, perhaps none.',
      schema: PullAnswer,
      example: {
        deliveries: [
          { ackId: 'k3v9x2m4q8', attempt: 1, event: EXAMPLE_EVENT },
          {
            ackId: 'w1z5t6r0ya',
            attempt: 1,
            gap: { shard: 7, from: '07-1735689600000-51149', to: '07-1735689712345-58002', count: 6_852 },
          },
        ],
      },
    },
  },
  errors: ['not_found', 'node_draining'],
  async handle({ params: { name }, body, exchange }, broker) {
    const { max = GROUP_LIMITS.batch.default, waitSeconds = 0 } = body ?? {};
    const deliveries = await pull(name, { max, waitMs: waitSeconds * 1_000 }, exchange, broker);
    return { kind: 'bytes', status: 200, contentType: 'application/json', bytes: pullJson(deliveries) };
  },
});

async function pull(
  name: string,
  options: PullOptions,
  exchange: Exchange,
  { groups }: Broker,
): Promise<readonly Delivery[]> {
  const gone = new AbortController();
  exchange.onAborted(() => gone.abort());
  if (exchange.response.ended) return [];
  const deliveries = await groups.pull(name, { ...options, signal: gone.signal });
  if (!exchange.response.ended || deliveries.length === 0) return deliveries;
  const ackIds = deliveries.map(({ ackId }) => ackId);
  await groups.settle(name, ackIds, { type: 'release' });
  return [];
}

const SETTLED = {
  200: {
    description: 'What became of each id, in their order.',
    schema: SettleAnswer,
    example: { results: ['done', 'stale'] },
  },
} as const;

async function settle(name: string, ackIds: readonly string[], verdict: Verdict, { groups }: Broker): Promise<Answer> {
  return json(200, { results: await groups.settle(name, ackIds, verdict) });
}

export const ackEvents = operation({
  id: 'ackEvents',
  tag: 'Subscriptions',
  summary: 'Acknowledge deliveries',
  description: 'They are done and do not come again.',
  scope: 'read',
  params: SubscriptionPath,
  body: AckRequest,
  bodyExample: { ackIds: ['k3v9x2m4q8', 'w1z5t6r0ya'] },
  responses: SETTLED,
  errors: ['not_found'],
  handle({ params: { name }, body: { ackIds } }, broker) {
    return settle(name, ackIds, { type: 'ack' }, broker);
  },
});

export const nackEvents = operation({
  id: 'nackEvents',
  tag: 'Subscriptions',
  summary: 'Give deliveries back',
  description: 'They are handed out again, at once or after a delay, and become dead letters after `maxAttempts`.',
  scope: 'read',
  params: SubscriptionPath,
  body: NackRequest,
  bodyExample: { ackIds: ['k3v9x2m4q8'], delaySeconds: 60 },
  responses: SETTLED,
  errors: ['not_found'],
  handle({ params: { name }, body: { ackIds, delaySeconds } }, broker) {
    return settle(name, ackIds, { type: 'nack', delayMs: delaySeconds * 1_000 }, broker);
  },
});

export const extendEvents = operation({
  id: 'extendEvents',
  tag: 'Subscriptions',
  summary: 'Take longer over deliveries',
  description: 'Moves their ack deadline.',
  scope: 'read',
  params: SubscriptionPath,
  body: ExtendRequest,
  bodyExample: { ackIds: ['k3v9x2m4q8'], seconds: 120 },
  responses: SETTLED,
  errors: ['not_found'],
  handle({ params: { name }, body: { ackIds, seconds } }, broker) {
    return settle(name, ackIds, { type: 'extend', deadlineMs: seconds * 1_000 }, broker);
  },
});

export const listDeadLetters = operation({
  id: 'listDeadLetters',
  tag: 'Subscriptions',
  summary: 'List events that were handed out too often',
  description: 'Oldest first. They are kept until they are replayed or discarded, or have to make room for newer ones.',
  scope: 'read',
  params: SubscriptionPath,
  query: DeadLetterQuery,
  responses: {
    200: {
      description: 'A page.',
      schema: DeadLetterList,
      example: {
        items: [{ id: EXAMPLE_EVENT.id, attempts: 5, diedAt: '2025-01-01T00:03:10.000Z', event: EXAMPLE_EVENT }],
      },
    },
  },
  errors: ['not_found'],
  async handle({ params: { name }, query: { after, limit } }, broker) {
    const letters = await broker.groups.deadLetters(name, { after, limit });
    return { kind: 'bytes', status: 200, contentType: 'application/json', bytes: deadLettersJson(letters) };
  },
});

const COUNTED = {
  200: { description: 'How many there were.', schema: DeadLetterCount, example: { count: 1 } },
} as const;

export const replayDeadLetters = operation({
  id: 'replayDeadLetters',
  tag: 'Subscriptions',
  summary: 'Hand out dead letters again',
  description: 'As if for the first time; all of them when no ids are given.',
  scope: 'call',
  params: SubscriptionPath,
  body: DeadLetterChoice.optional(),
  bodyOptional: true,
  bodyExample: { ids: [EXAMPLE_EVENT.id] },
  responses: COUNTED,
  errors: ['not_found'],
  async handle({ params: { name }, body }, broker) {
    return json(200, { count: await broker.groups.replay(name, body?.ids) });
  },
});

export const discardDeadLetters = operation({
  id: 'discardDeadLetters',
  tag: 'Subscriptions',
  summary: 'Forget dead letters',
  description: 'All of them when no ids are given.',
  scope: 'call',
  params: SubscriptionPath,
  body: DeadLetterChoice.optional(),
  bodyOptional: true,
  bodyExample: { ids: [EXAMPLE_EVENT.id] },
  responses: COUNTED,
  errors: ['not_found'],
  async handle({ params: { name }, body }, broker) {
    return json(200, { count: await broker.groups.discard(name, body?.ids) });
  },
});
