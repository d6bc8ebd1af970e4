/** Webhooks on a real Redis, real groups and real receivers: what arrives, how often, in which order, and what becomes of a receiver that fails. */

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { RedisEventStream } from '@lapi-broker/bus';
import { createSecretVault } from '@lapi-broker/device';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, ready } from '@lapi-broker/redis';
import { Lifecycle, systemClock } from '@lapi-broker/runtime';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { Webhook as Judge } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { readCommandConfig } from '../config.ts';
import { EventFeed } from '../event/event-feed.ts';
import type { Groups } from '../group/group.ts';
import { createGroups } from '../group/parts.ts';
import { record } from '../testing/event-record.ts';
import { type Answering, type Received, type Verify, WebhookReceiver } from '../testing/webhook-receiver.ts';
import { createWebhooks, type WebhookWiring } from './parts.ts';
import { type LogLine, stateOf, type Webhook, type WebhookSpec } from './webhook.ts';
import type { Webhooks } from './webhooks.ts';

const PACE = {
  failures: 3,
  openMs: { first: 200, longest: 800 },
  failingMs: 60_000,
  leaseMs: 1_000,
  firstRetryMs: 50,
  timing: { sweepMs: 200, renewMs: 250 },
} as const;
const WAIT = { deadlineMs: 20_000 } as const;

/** By the library of the Standard Webhooks project. */
const verify: Verify = (secret, text, headers) => void new Judge(secret).verify(text, headers);

let redis: RedisServer;
let prefix: string;
const cleanUps: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());
beforeEach(() => {
  prefix = `w${randomBytes(4).toString('hex')}`;
});
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Process {
  readonly webhooks: Webhooks;
  readonly groups: Groups;
  readonly lifecycle: Lifecycle;
  readonly text: () => Promise<string>;
  append(code: string, n: number, data?: string): Promise<void>;
}

/** What webhooks need of a command process. */
async function startProcess(ports: readonly number[], pace: WebhookWiring['pace'] = {}): Promise<Process> {
  const config = readCommandConfig({
    REDIS_URL: redis.url,
    LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
    LAPI_WEBHOOK_ALLOW: '127.0.0.1',
    LAPI_WEBHOOK_ALLOW_HTTP: 'true',
    LAPI_WEBHOOK_PORTS: ports.join(','),
  });
  const keyspace = createKeyspace(prefix);
  const open = () => openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  const [state, submits] = [open(), open()];
  await Promise.all([ready(state, 5_000), ready(submits, 5_000)]);
  const stream = new RedisEventStream({ state, keyspace });
  const log = createLog({ service: 'command', level: 'silent' });
  const monotonicMs = (): number => performance.now();
  const metrics = createMetrics('command');
  const feed = new EventFeed({ stream, shardOf: (code) => keyspace.shardOf(code), clock: systemClock, log });
  const instance = `c${randomBytes(4).toString('hex')}`;
  const groups = createGroups({ config, state, keyspace, stream, feed, instance, metrics, log, monotonicMs });
  const webhooks = createWebhooks({
    config,
    version: 'test',
    state,
    submits,
    keyspace,
    stream,
    groups: groups.groups,
    vault: createSecretVault({ current: Buffer.alloc(32, 7) }),
    time: { nowMs: () => Date.now() },
    metrics,
    log,
    onEvent: () => undefined,
    monotonicMs,
    pace: { ...PACE, ...pace },
  });
  const lifecycle = new Lifecycle([feed, ...groups.parts, ...webhooks.parts], log);
  cleanUps.push(async () => {
    await lifecycle.stop();
    await stream.stop();
    await Promise.all([closeConnection(state), closeConnection(submits)]);
  });
  await lifecycle.start();
  return {
    webhooks: webhooks.webhooks,
    groups: groups.groups,
    lifecycle,
    text: () => metrics.text(),
    async append(code, n, data = '') {
      await stream.append(record({ code: code as DeviceCode, seq: n, data: Buffer.from(`{"n":${n}${data}}`) }));
    },
  };
}

async function startReceiver(answer?: Answering): Promise<WebhookReceiver> {
  const receiver = await new WebhookReceiver(verify, answer).start();
  cleanUps.push(async () => {
    await receiver.stop();
    expect(receiver.unverified).toEqual([]);
  });
  return receiver;
}

async function make(
  { webhooks }: Pick<Process, 'webhooks'>,
  receiver: WebhookReceiver,
  part: Partial<WebhookSpec> = {},
): Promise<string> {
  const made = await webhooks.create(
    {
      url: receiver.url,
      name: '',
      description: '',
      filter: { kinds: ['alarm.*'] },
      ordered: true,
      concurrency: 1,
      batch: 1,
      timeoutMs: 2_000,
      maxAttempts: 20,
      ...part,
    },
    { from: 'start' },
    undefined,
  );
  if (made.status !== 'made') throw new Error(made.status);
  receiver.secret = made.secret;
  return made.webhook.id;
}

const numbers = (events: Received['events'], code: string): unknown[] =>
  events.filter((event) => event.code === code).map(({ data }) => (data as { n: number }).n);
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

async function stateBecomes({ webhooks }: Process, id: string, state: string): Promise<Webhook> {
  return await waitFor(
    async () => {
      const webhook = await webhooks.read(id);
      return webhook !== undefined && stateOf(webhook) === state ? webhook : undefined;
    },
    { ...WAIT, what: `state ${state}` },
  );
}

const settled = ({ webhooks }: Process, id: string, count: number): Promise<true> =>
  waitFor(async () => ((await webhooks.progress(id))?.acknowledged === count ? true : undefined), {
    ...WAIT,
    what: `${count} acknowledged`,
  });

/** An attempt is noted after it was settled. */
const logged = ({ webhooks }: Process, id: string, count: number): Promise<readonly LogLine[]> =>
  waitFor(
    async () => {
      const lines = await webhooks.log(id);
      return lines.length === count ? lines : undefined;
    },
    { ...WAIT, what: `${count} lines of the log` },
  );

test('events arrive once, in the order of their device, signed, with every digit', async () => {
  const receiver = await startReceiver();
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  for (const n of upTo(5))
    for (const code of ['CAM-1', 'CAM-2']) await process.append(code, n, ',"big":9007199254740993');
  await settled(process, id, 10);
  for (const code of ['CAM-1', 'CAM-2']) expect(numbers(receiver.taken, code)).toEqual(upTo(5));
  expect(receiver.received).toHaveLength(10);
  expect(new Set(receiver.received.map(({ message }) => message)).size).toBe(10);
  expect(receiver.received[0]?.text).toContain('"big":9007199254740993');
  expect(receiver.received[0]?.headers['user-agent']).toBe('lapi-broker/test');
  expect(receiver.mostOpen).toBe(1);
  const log = await logged(process, id, 10);
  expect(log[0]).toMatchObject({ type: 'events', count: 1, attempt: 1, result: 204, ids: [expect.any(String)] });
});

test('what a receiver refuses comes again as the same message, in its place, until it is taken', async () => {
  let refusals = 2;
  const receiver = await startReceiver(() => (refusals-- > 0 ? 500 : 200));
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  for (const n of upTo(3)) await process.append('CAM-1', n);
  await settled(process, id, 3);
  expect(numbers(receiver.taken, 'CAM-1')).toEqual([1, 2, 3]);
  expect(receiver.received.flatMap(({ events }) => numbers(events, 'CAM-1'))).toEqual([1, 1, 1, 2, 3]);
  expect(new Set(receiver.received.slice(0, 3).map(({ message }) => message)).size).toBe(1);
  expect((await logged(process, id, 5)).map(({ attempt }) => attempt)).toEqual([1, 1, 3, 2, 1]);
  expect(await process.webhooks.read(id)).toMatchObject({ failures: 0, failingSinceMs: undefined });
});

test('a breaker opens, lets one request try, and closes; no attempt is spent while it is open', async () => {
  let broken = true;
  const receiver = await startReceiver(() => (broken ? 503 : 204));
  const process = await startProcess([receiver.port], { openMs: { first: 160, longest: 160 } });
  for (const n of upTo(40)) await process.append(`CAM-${n}`, n);
  const id = await make(process, receiver, { concurrency: 4, batch: 5, ordered: false, maxAttempts: 10 });
  await stateBecomes(process, id, 'open');
  // Three rests: each ends in one request, with one event.
  const probes = await waitFor(
    () => {
      const found = receiver.received.filter(({ events }) => events.length === 1);
      return found.length >= 3 ? found : undefined;
    },
    { ...WAIT, what: 'three probes' },
  );
  for (const [i, { atMs }] of probes.slice(1).entries()) expect(atMs - Number(probes[i]?.atMs)).toBeGreaterThan(110);
  // Before it opened, and on the way meanwhile: one more of each lane at most.
  expect(receiver.received.length - probes.length).toBeLessThanOrEqual(PACE.failures + 3);
  broken = false;
  await settled(process, id, 40);
  expect(await stateBecomes(process, id, 'active')).toMatchObject({ failures: 0 });
  expect((await process.webhooks.progress(id))?.deadLetters).toBe(0);
});

test('an event that fails too often becomes a dead letter, does not hold up its device, and can be sent again', async () => {
  let poison = true;
  const receiver = await startReceiver(({ events }) =>
    poison && events.some(({ data }) => (data as { n: number }).n === 1) ? 400 : 204,
  );
  const process = await startProcess([receiver.port], { failures: 10 });
  const id = await make(process, receiver, { maxAttempts: 3 });
  for (const n of upTo(3)) await process.append('CAM-1', n);
  await waitFor(() => numbers(receiver.taken, 'CAM-1').length === 2, { ...WAIT, what: 'the other two' });
  const letters = await process.webhooks.deadLetters(id, { after: undefined, limit: 10 });
  expect(letters.map(({ attempts, event }) => [attempts, event.record.data.toString()])).toEqual([[3, '{"n":1}']]);
  poison = false;
  expect(await process.webhooks.replay(id, undefined)).toBe(1);
  await waitFor(() => numbers(receiver.taken, 'CAM-1').includes(1), { ...WAIT, what: 'the dead letter' });
  expect(numbers(receiver.taken, 'CAM-1')).toEqual([2, 3, 1]);
});

test('a receiver that says 410 is left alone, and everybody is told; switched on, it goes on where it stopped', async () => {
  let gone = true;
  const receiver = await startReceiver(() => (gone ? 410 : 204));
  const other = await startReceiver();
  const process = await startProcess([receiver.port, other.port]);
  await make(process, other, { filter: { kinds: ['webhook.*'] } });
  const id = await make(process, receiver, { name: 'vms' });
  for (const n of upTo(3)) await process.append('CAM-1', n);
  expect((await stateBecomes(process, id, 'disabled')).off).toMatchObject({ reason: 'gone' });
  await waitFor(() => other.taken.length === 1, { ...WAIT, what: 'webhook.disabled' });
  expect(other.taken[0]).toMatchObject({
    kind: 'webhook.disabled',
    code: '',
    data: { id, name: 'vms', reason: 'gone' },
  });
  expect(receiver.received).toHaveLength(1);
  gone = false;
  await process.webhooks.enable(id);
  await waitFor(() => receiver.taken.length === 3, { ...WAIT, what: 'all three' });
  expect(numbers(receiver.taken, 'CAM-1')).toEqual([1, 2, 3]);
  await waitFor(() => other.taken.length === 2, { ...WAIT, what: 'webhook.enabled' });
  expect(other.taken[1]).toMatchObject({ kind: 'webhook.enabled', data: { id, name: 'vms' } });
});

test('nothing but failures for too long switches a webhook off, once', async () => {
  const receiver = await startReceiver(() => 500);
  const process = await startProcess([receiver.port], { failingMs: 300 });
  const id = await make(process, receiver, { concurrency: 4, ordered: false });
  for (const n of upTo(8)) await process.append(`CAM-${n}`, n);
  expect((await stateBecomes(process, id, 'disabled')).off).toMatchObject({ reason: 'failing' });
  expect(await process.text()).toMatch(/lapi_webhooks_disabled_total\{[^}]*reason="failing"[^}]*\} 1\n/);
});

test('a receiver that asks for time with Retry-After gets it from all lanes', async () => {
  let first = true;
  const receiver = await startReceiver((_, response) => {
    if (!first) return 204;
    first = false;
    response.writeHead(429, { 'Retry-After': '1' }).end();
    return undefined;
  });
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  for (const n of upTo(4)) await process.append(`CAM-${n}`, n);
  await settled(process, id, 4);
  const [asked = 0, then = 0] = receiver.received.map(({ atMs }) => atMs);
  expect(then - asked).toBeGreaterThan(950);
});

test('as many requests at a time as asked for, and each device in its order', async () => {
  const receiver = await startReceiver(async () => {
    await sleep(30);
    return 204;
  });
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver, { concurrency: 4 });
  for (const n of upTo(10)) for (const camera of upTo(6)) await process.append(`CAM-${camera}`, n);
  await settled(process, id, 60);
  for (const camera of upTo(6)) expect(numbers(receiver.taken, `CAM-${camera}`)).toEqual(upTo(10));
  expect(receiver.mostOpen).toBe(4);
});

test('a request holds as many events as asked for, and what failed is not mixed with what did not', async () => {
  let first: Received | undefined;
  const receiver = await startReceiver(async (received) => {
    if (first === undefined) {
      first = received;
      // So that there is more than fits beside what comes again.
      for (const n of upTo(25)) await process.append(`CAM-${n}`, n);
      return 500;
    }
    await sleep(30);
    return 204;
  });
  const process = await startProcess([receiver.port]);
  for (const n of upTo(3)) await process.append(`OTHER-${n}`, n);
  const id = await make(process, receiver, { batch: 5, ordered: false });
  await settled(process, id, 28);
  expect(Math.max(...receiver.received.map(({ events }) => events.length))).toBe(5);
  expect(first?.events.length).toBe(3);
  for (const { events } of receiver.received) {
    expect([0, events.length]).toContain(events.filter(({ code }) => code.startsWith('OTHER')).length);
  }
});

test('an event that the receiver will not take ends up alone, and those beside it arrive', async () => {
  const receiver = await startReceiver(({ events }) => (events.some(({ code }) => code === 'CAM-3') ? 400 : 204));
  const process = await startProcess([receiver.port], { failures: 100 });
  for (const n of upTo(8)) await process.append(`CAM-${n}`, n);
  const id = await make(process, receiver, { batch: 8, ordered: false, maxAttempts: 5 });
  await settled(process, id, 7);
  const dead = await waitFor(
    async () => {
      const letters = await process.webhooks.deadLetters(id, { after: undefined, limit: 10 });
      return letters.length > 0 ? letters : undefined;
    },
    { ...WAIT, what: 'a dead letter' },
  );
  expect(dead.map(({ event }) => event.record.code)).toEqual(['CAM-3']);
});

test('a process that leaves gives its lanes to another, and nothing is lost or sent twice', async () => {
  const receiver = await startReceiver(async () => {
    await sleep(10);
    return 204;
  });
  const leaving = await startProcess([receiver.port]);
  const staying = await startProcess([receiver.port]);
  const id = await make(leaving, receiver, { concurrency: 2 });
  const appending = (async () => {
    for (const n of upTo(60)) await staying.append(`CAM-${n % 3}`, n);
  })();
  await waitFor(() => receiver.taken.length > 10, { ...WAIT, what: 'some' });
  await leaving.lifecycle.drain(5_000);
  await leaving.lifecycle.stop();
  await appending;
  await settled(staying, id, 60);
  expect(receiver.taken.map(({ data }) => (data as { n: number }).n).toSorted((a, b) => a - b)).toEqual(upTo(60));
});

test('two processes never send at the same time what one lane may', async () => {
  const receiver = await startReceiver(async () => {
    await sleep(5);
    return 204;
  });
  const processes = [await startProcess([receiver.port]), await startProcess([receiver.port])] as const;
  const id = await make(processes[0], receiver);
  for (const n of upTo(40)) await processes[n % 2]?.append(`CAM-${n % 5}`, n);
  await settled(processes[1], id, 40);
  expect(receiver.mostOpen).toBe(1);
});

test('what the work queue loses is found again', async () => {
  const receiver = await startReceiver(() => (receiver.received.length === 1 ? 503 : 204));
  const process = await startProcess([receiver.port], { failures: 1, openMs: { first: 300, longest: 300 } });
  const id = await make(process, receiver);
  for (const n of upTo(4)) await process.append(`CAM-${n}`, n);
  await stateBecomes(process, id, 'open');
  // The turn that was to end the rest.
  const keys = (await redis.command('KEYS', `${createKeyspace(prefix).queue('webhook')}*`)) as string[];
  expect(keys).not.toEqual([]);
  await redis.command('UNLINK', ...keys);
  await settled(process, id, 4);
  expect(receiver.taken).toHaveLength(4);
});

test('after a rotation both secrets verify for a while, or the new one alone', async () => {
  const receiver = await startReceiver();
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  const first = receiver.secret;
  const signatures = () => String(receiver.received.at(-1)?.headers['webhook-signature']).split(' ').length;
  await process.webhooks.rotate(id, undefined, 60_000);
  // The receiver still has the first one; what does not verify fails the test at its end.
  await process.webhooks.test(id);
  expect(signatures()).toBe(2);
  const second = await process.webhooks.rotate(id, undefined, 0);
  receiver.secret = String(second?.secret);
  expect(receiver.secret).not.toBe(first);
  await process.webhooks.test(id);
  expect(signatures()).toBe(1);
  await process.append('CAM-1', 1);
  await waitFor(() => receiver.taken.length === 1, { ...WAIT, what: 'the event' });
  expect(receiver.received.map(({ type }) => type)).toEqual(['webhook.test', 'webhook.test', 'events']);
});

test('switched off, nothing is sent; deleted, nothing of it is left in the store', async () => {
  const receiver = await startReceiver();
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  await process.webhooks.disable(id);
  await process.append('CAM-1', 1);
  await sleep(300);
  expect(receiver.received).toEqual([]);
  expect(await process.webhooks.remove(id)).toBe(true);
  expect(await process.webhooks.remove(id)).toBe(false);
  const keys = (await redis.command('KEYS', `${prefix}:*`)) as string[];
  expect(keys.filter((key) => key.includes('{webhooks}') || key.includes('group'))).toEqual([]);
});

test('what is changed counts within seconds, also for a webhook whose breaker is open', async () => {
  const broken = await startReceiver(() => 500);
  const good = await startReceiver();
  const process = await startProcess([broken.port, good.port], { openMs: { first: 60_000, longest: 60_000 } });
  const id = await make(process, broken, { ordered: false });
  for (const n of upTo(5)) await process.append('CAM-1', n);
  await stateBecomes(process, id, 'open');
  good.secret = broken.secret;
  await process.webhooks.change(id, { url: good.url, concurrency: 2 });
  await settled(process, id, 5);
  expect(good.taken).toHaveLength(5);
});

test('a secret is in the store as ciphertext only', async () => {
  const receiver = await startReceiver();
  const process = await startProcess([receiver.port]);
  const id = await make(process, receiver);
  await process.webhooks.rotate(id, undefined, 60_000);
  const hash = ((await redis.command('HGETALL', createKeyspace(prefix).webhook(id))) as string[]).join(' ');
  const key = Buffer.from(receiver.secret.slice('whsec_'.length), 'base64');
  for (const text of [receiver.secret.slice(6, 30), key.toString('hex'), key.toString('latin1')]) {
    expect(hash).not.toContain(text);
  }
});
