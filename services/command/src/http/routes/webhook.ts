/** Webhooks over HTTP. Who makes or changes one decides where events go, and what this process connects to, so that needs the scope "admin"; what a
 *  URL may be is judged here, and once more each time that something is sent (reliability T9). */

import type { z } from 'zod';
import { parseStartPoint, START_POINTS } from '../../event/cursor.ts';
import type { GroupProgress } from '../../group/group.ts';
import { readTarget } from '../../webhook/target.ts';
import { type LastAttempt, type LogLine, stateOf, type Webhook } from '../../webhook/webhook.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import { invalid, json, operation, problem } from '../operation.ts';
import { DeadLetterChoice, DeadLetterCount, DeadLetterList, DeadLetterQuery } from '../subscription-schema.ts';
import { deadLettersJson } from '../subscription-view.ts';
import {
  NewWebhook,
  RotatedSecret,
  SecretRotation,
  WebhookChange,
  WebhookDeliveries,
  WebhookList,
  WebhookListQuery,
  WebhookPath,
  WebhookProgress,
  WebhookRequest,
  WebhookTest,
  WebhookView,
} from '../webhook-schema.ts';
import { filterFault, termsOf } from './subscription.ts';

const EXAMPLE = {
  id: '0mk5x3v9qx2m4q8w1z5t',
  url: 'https://vms.example.com/lapi-events',
  name: 'vms',
  description: '',
  filter: { kinds: ['alarm.*'] },
  ordered: true,
  concurrency: 4,
  batch: { max: 1 },
  timeoutSeconds: 10,
  maxAttempts: 20,
  state: 'active',
  failures: 0,
  lastAttempt: { at: '2026-03-01T09:15:02.120Z', status: 204, durationMs: 38 },
  lastSuccessAt: '2026-03-01T09:15:02.158Z',
  createdAt: '2026-03-01T01:00:00.000Z',
} as const;
const EXAMPLE_PROGRESS = {
  lag: 12,
  waiting: 2,
  inFlight: 1,
  deadLetters: 0,
  acknowledged: 51_034,
  deadLettersDropped: 0,
  oldestAt: '2026-03-01T09:15:02.120Z',
};
const EXAMPLE_SECRET = 'whsec_…';
const NO_STORE = [['Cache-Control', 'no-store']] as const;

const iso = (ms: number): string => new Date(ms).toISOString();

function attemptView({ atMs, result, ms }: LastAttempt) {
  return { at: iso(atMs), ...(typeof result === 'number' ? { status: result } : { error: result }), durationMs: ms };
}

function toView(webhook: Webhook) {
  const { id, url, name, description, filter, ordered, concurrency, batch, timeoutMs, maxAttempts } = webhook;
  const { off, failures, failingSinceMs, openUntilMs, last, lastSuccessAtMs, createdAtMs } = webhook;
  return {
    id,
    url,
    name,
    description,
    filter,
    ordered,
    concurrency,
    batch: { max: batch },
    timeoutSeconds: timeoutMs / 1_000,
    maxAttempts,
    state: stateOf(webhook),
    ...(off === undefined ? {} : { disabled: { reason: off.reason, at: iso(off.atMs) } }),
    failures,
    ...(failingSinceMs === undefined ? {} : { failingSince: iso(failingSinceMs) }),
    ...(openUntilMs === undefined ? {} : { openUntil: iso(openUntilMs) }),
    ...(last === undefined ? {} : { lastAttempt: attemptView(last) }),
    ...(lastSuccessAtMs === undefined ? {} : { lastSuccessAt: iso(lastSuccessAtMs) }),
    createdAt: iso(createdAtMs),
  };
}

function progressView({ oldestAtMs, ...counts }: GroupProgress) {
  return { ...counts, ...(oldestAtMs === undefined ? {} : { oldestAt: iso(oldestAtMs) }) };
}

function deliveryView({ type, message, ids, count, attempt, ...rest }: LogLine) {
  const events = [...ids];
  return { ...attemptView(rest), type: type === 'test' ? 'webhook.test' : type, message, events, count, attempt };
}

const noWebhook = (id: string): Answer => problem('not_found', `there is no webhook ${id}`);

function webhookAnswer(id: string, webhook: Webhook | undefined): Answer {
  return webhook === undefined ? noWebhook(id) : json(200, toView(webhook));
}

/** What the schema cannot say. */
function faultOf({ url, filter }: z.output<typeof WebhookChange>, broker: Broker): Answer | undefined {
  const target = url === undefined ? undefined : readTarget(url, broker.webhooks.rules);
  if (target?.status === 'refused') return invalid([{ path: 'body.url', problem: target.why }]);
  return filter === undefined ? undefined : filterFault(termsOf(filter));
}

export const createWebhook = operation({
  id: 'createWebhook',
  tag: 'Webhooks',
  summary: 'Have events sent to a URL',
  description:
    'Each request is signed as Standard Webhooks say. What is not answered with 2xx is tried again for hours; what then still fails becomes a dead letter.',
  scope: 'admin',
  body: WebhookRequest,
  bodyExample: { url: EXAMPLE.url, name: 'vms', filter: { kinds: ['alarm.*'] }, concurrency: 4 },
  responses: {
    201: {
      description: 'The webhook, and its secret, which is shown this one time. `Location` is where to read it.',
      schema: NewWebhook,
      example: { ...EXAMPLE, secret: EXAMPLE_SECRET },
    },
  },
  async handle({ body }, broker) {
    const fault = faultOf(body, broker);
    if (fault !== undefined) return fault;
    const start = parseStartPoint(body.from, broker.keyspace.shards, broker.nowMs());
    if (start === undefined) return invalid([{ path: 'body.from', problem: `is not ${START_POINTS}` }]);
    const { url, name, description, ordered, concurrency, batch, timeoutSeconds, maxAttempts, secret } = body;
    const about = { url, name, description, filter: termsOf(body.filter), ordered, concurrency, maxAttempts };
    const spec = { ...about, batch: batch.max, timeoutMs: timeoutSeconds * 1_000 };
    const made = await broker.webhooks.all.create(spec, start, secret);
    if (made.status === 'full') {
      return problem('rate_limited', 'the number of webhooks (LAPI_WEBHOOKS, LAPI_SUBSCRIPTIONS); delete one first');
    }
    return json(201, { ...toView(made.webhook), secret: made.secret }, [
      ['Location', `/v1/webhooks/${made.webhook.id}`],
      ...NO_STORE,
    ]);
  },
});

export const listWebhooks = operation({
  id: 'listWebhooks',
  tag: 'Webhooks',
  summary: 'List webhooks',
  description: 'Oldest first.',
  scope: 'read',
  query: WebhookListQuery,
  responses: { 200: { description: 'A page.', schema: WebhookList, example: { items: [EXAMPLE] } } },
  async handle({ query: { limit, cursor } }, broker) {
    const found = await broker.webhooks.all.list(cursor, limit);
    const last = found.length === limit ? found.at(-1) : undefined;
    return json(200, { items: found.map(toView), ...(last === undefined ? {} : { cursor: last.id }) });
  },
});

export const readWebhook = operation({
  id: 'readWebhook',
  tag: 'Webhooks',
  summary: 'Read a webhook, and what it still has to send',
  scope: 'read',
  params: WebhookPath,
  responses: {
    200: {
      description: 'The webhook.',
      schema: WebhookProgress,
      example: { ...EXAMPLE, progress: EXAMPLE_PROGRESS },
    },
  },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    const { all } = broker.webhooks;
    const webhook = await all.read(id);
    if (webhook === undefined) return noWebhook(id);
    const progress = await all.progress(id);
    return json(200, { ...toView(webhook), ...(progress === undefined ? {} : { progress: progressView(progress) }) });
  },
});

export const changeWebhook = operation({
  id: 'changeWebhook',
  tag: 'Webhooks',
  summary: 'Change a webhook',
  description:
    'It keeps its place, and goes on with the new settings within seconds. A new `url` closes the breaker. `ordered` cannot be changed.',
  scope: 'admin',
  params: WebhookPath,
  body: WebhookChange,
  bodyExample: { concurrency: 8 },
  responses: { 200: { description: 'As it is now.', schema: WebhookView, example: EXAMPLE } },
  errors: ['not_found'],
  async handle({ params: { id }, body }, broker) {
    const fault = faultOf(body, broker);
    if (fault !== undefined) return fault;
    const { filter, batch, timeoutSeconds, ...same } = body;
    const given = Object.fromEntries(Object.entries(same).filter(([, value]) => value !== undefined));
    const change = {
      ...given,
      ...(filter === undefined ? {} : { filter: termsOf(filter) }),
      ...(batch === undefined ? {} : { batch: batch.max }),
      ...(timeoutSeconds === undefined ? {} : { timeoutMs: timeoutSeconds * 1_000 }),
    };
    return webhookAnswer(id, await broker.webhooks.all.change(id, change));
  },
});

export const deleteWebhook = operation({
  id: 'deleteWebhook',
  tag: 'Webhooks',
  summary: 'Delete a webhook',
  description: 'With its place, its log and its dead letters. A request on its way may still arrive.',
  scope: 'admin',
  params: WebhookPath,
  responses: { 204: { description: 'Deleted.' } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    return (await broker.webhooks.all.remove(id)) ? { kind: 'empty', status: 204 } : noWebhook(id);
  },
});

export const enableWebhook = operation({
  id: 'enableWebhook',
  tag: 'Webhooks',
  summary: 'Switch a webhook on',
  description:
    'It goes on where it stopped; what retention took meanwhile comes as gaps. Told as event `webhook.enabled`. Switching on one that is on changes nothing.',
  scope: 'admin',
  params: WebhookPath,
  responses: { 200: { description: 'As it is now.', schema: WebhookView, example: EXAMPLE } },
  errors: ['not_found', 'conflict'],
  async handle({ params: { id } }, broker) {
    const enabled = await broker.webhooks.all.enable(id);
    if (enabled === 'unmade')
      return problem('conflict', `the making or the deletion of webhook ${id} broke off; delete it`);
    return webhookAnswer(id, enabled);
  },
});

export const disableWebhook = operation({
  id: 'disableWebhook',
  tag: 'Webhooks',
  summary: 'Switch a webhook off',
  description:
    'Within seconds nothing is sent any more; it keeps its place. Told as event `webhook.disabled`. Switching off one that is off changes nothing.',
  scope: 'admin',
  params: WebhookPath,
  responses: { 200: { description: 'As it is now.', schema: WebhookView, example: { ...EXAMPLE, state: 'disabled' } } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    return webhookAnswer(id, await broker.webhooks.all.disable(id));
  },
});

export const rotateWebhookSecret = operation({
  id: 'rotateWebhookSecret',
  tag: 'Webhooks',
  summary: 'Give a webhook a new secret',
  description:
    "Requests carry two signatures, the new and the previous secret's, until `previousSignsUntil`: change the receiver in that time. A secret before the previous one ends at once.",
  scope: 'admin',
  params: WebhookPath,
  body: SecretRotation.optional(),
  bodyOptional: true,
  bodyExample: { overlapSeconds: 86_400 },
  responses: {
    200: {
      description: 'The new secret, shown this one time.',
      schema: RotatedSecret,
      example: { secret: EXAMPLE_SECRET, previousSignsUntil: '2026-03-02T09:15:02.120Z' },
    },
  },
  errors: ['not_found'],
  async handle({ params: { id }, body }, broker) {
    const { secret, overlapSeconds } = body ?? SecretRotation.parse({});
    const rotated = await broker.webhooks.all.rotate(id, secret, overlapSeconds * 1_000);
    if (rotated === undefined) return noWebhook(id);
    return json(200, { secret: rotated.secret, previousSignsUntil: iso(rotated.previousUntilMs) }, NO_STORE);
  },
});

export const testWebhook = operation({
  id: 'testWebhook',
  tag: 'Webhooks',
  summary: 'Send a test now',
  description:
    'One signed request of the type `webhook.test`, whatever the state; the answer says what came of it, which is status and time and nothing else of what the receiver answered. It counts for nothing.',
  scope: 'admin',
  params: WebhookPath,
  responses: {
    200: { description: 'What came of it.', schema: WebhookTest, example: { status: 204, durationMs: 38 } },
  },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    const tested = await broker.webhooks.all.test(id);
    if (tested === undefined) return noWebhook(id);
    if (tested === 'busy') return problem('rate_limited', 'tests of webhooks at the same time in this process');
    const { status, error, durationMs } = tested;
    return json(200, { ...(status === undefined ? { error } : { status }), durationMs });
  },
});

export const listWebhookDeliveries = operation({
  id: 'listWebhookDeliveries',
  tag: 'Webhooks',
  summary: 'List the last requests of a webhook',
  description: 'The last 100, newest first.',
  scope: 'read',
  params: WebhookPath,
  responses: {
    200: {
      description: 'Requests and what came of them.',
      schema: WebhookDeliveries,
      example: {
        items: [
          {
            at: '2026-03-01T09:15:02.120Z',
            status: 204,
            durationMs: 38,
            type: 'events',
            message: 'msg_Gb3yC1rVtU0m0aXJ8r0Pq3JcN4wTzH5d',
            events: ['07-1735689600000-51149'],
            count: 1,
            attempt: 1,
          },
        ],
      },
    },
  },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    const { all } = broker.webhooks;
    if ((await all.read(id)) === undefined) return noWebhook(id);
    return json(200, { items: (await all.log(id)).map(deliveryView) });
  },
});

export const listWebhookDeadLetters = operation({
  id: 'listWebhookDeadLetters',
  tag: 'Webhooks',
  summary: 'List events that could not be delivered',
  description: 'Oldest first. They are kept until they are replayed or discarded, or have to make room for newer ones.',
  scope: 'read',
  params: WebhookPath,
  query: DeadLetterQuery,
  responses: { 200: { description: 'A page.', schema: DeadLetterList, example: { items: [] } } },
  errors: ['not_found'],
  async handle({ params: { id }, query: { after, limit } }, broker) {
    const { all } = broker.webhooks;
    if ((await all.read(id)) === undefined) return noWebhook(id);
    const letters = await all.deadLetters(id, { after, limit });
    return { kind: 'bytes', status: 200, contentType: 'application/json', bytes: deadLettersJson(letters) };
  },
});

const COUNTED = {
  200: { description: 'How many there were.', schema: DeadLetterCount, example: { count: 1 } },
} as const;
const CHOICE_EXAMPLE = { ids: ['07-1735689600000-51149'] };

export const replayWebhookDeadLetters = operation({
  id: 'replayWebhookDeadLetters',
  tag: 'Webhooks',
  summary: 'Send dead letters again',
  description: 'As if for the first time; all of them when no ids are given.',
  scope: 'admin',
  params: WebhookPath,
  body: DeadLetterChoice.optional(),
  bodyOptional: true,
  bodyExample: CHOICE_EXAMPLE,
  responses: COUNTED,
  errors: ['not_found'],
  async handle({ params: { id }, body }, broker) {
    const { all } = broker.webhooks;
    if ((await all.read(id)) === undefined) return noWebhook(id);
    return json(200, { count: await all.replay(id, body?.ids) });
  },
});

export const discardWebhookDeadLetters = operation({
  id: 'discardWebhookDeadLetters',
  tag: 'Webhooks',
  summary: 'Forget dead letters of a webhook',
  description: 'All of them when no ids are given.',
  scope: 'admin',
  params: WebhookPath,
  body: DeadLetterChoice.optional(),
  bodyOptional: true,
  bodyExample: CHOICE_EXAMPLE,
  responses: COUNTED,
  errors: ['not_found'],
  async handle({ params: { id }, body }, broker) {
    const { all } = broker.webhooks;
    if ((await all.read(id)) === undefined) return noWebhook(id);
    return json(200, { count: await all.discard(id, body?.ids) });
  },
});
