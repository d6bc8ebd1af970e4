/** What processes agree on about webhooks, on a real Redis: who sees to a lane, when the breaker is open, who switched something off. */

import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { RedisWebhookStore } from './redis-webhook-store.ts';
import type { LogLine, WebhookSpec } from './webhook.ts';
import type { LaneName, Report } from './webhook-store.ts';

const LEASE_MS = 200;
const OPTIONS = {
  limit: 3,
  leaseMs: LEASE_MS,
  failures: 3,
  openMs: { first: 100, longest: 300 },
  failingMs: 60_000,
  random: () => 0.5,
};
const ID = '0mk5x3v9qx2m4q8w1z5t';
const FIRST: LaneName = { id: ID, lane: 0 };
const SECOND: LaneName = { id: ID, lane: 1 };
const SPEC: WebhookSpec = {
  url: 'https://vms.example.com/',
  name: '',
  description: '',
  filter: {},
  ordered: true,
  concurrency: 2,
  batch: 1,
  timeoutMs: 10_000,
  maxAttempts: 20,
};
const LINE: LogLine = { atMs: 1, type: 'events', message: 'm', ids: [], count: 1, attempt: 1, result: 500, ms: 1 };
const FAILED: Report = { line: LINE, verdict: 'failed', askedMs: 0, url: SPEC.url };
const DELIVERED: Report = { line: { ...LINE, result: 204 }, verdict: 'delivered', askedMs: 0, url: SPEC.url };

let redis: RedisServer;
let connection: RedisConnection;
let store: RedisWebhookStore;
let tests = 0;

beforeAll(async () => {
  redis = await startRedis();
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
});
afterAll(async () => {
  await closeConnection(connection);
  await redis.stop();
});
beforeEach(async () => {
  tests += 1;
  store = new RedisWebhookStore(connection, createKeyspace(`s${tests}`), OPTIONS);
  await store.put(ID, SPEC, 1_000, 'sealed');
});

const on = async (): Promise<void> => expect(await store.switch(ID, undefined)).toBe('switched');
const status = async (lane: LaneName, token = 'x'): Promise<string> => (await store.take(lane, token)).status;
const taken = (lane: LaneName, token: string): Promise<true> =>
  waitFor(async () => ((await status(lane, token)) === 'taken' ? true : undefined), {
    deadlineMs: 10_000,
    what: 'the lane',
  });

test('a new webhook is off, and no lane of it can be taken', async () => {
  expect(await store.read(ID)).toMatchObject({ ...SPEC, id: ID, createdAtMs: 1_000, off: { reason: 'new' } });
  expect(await status(FIRST)).toBe('idle');
  await on();
  expect(await status(FIRST)).toBe('taken');
});

test('a lane has one holder, who keeps it by renewing, and gives it back', async () => {
  await on();
  expect(await status(FIRST, 'a')).toBe('taken');
  expect(await status(FIRST, 'b')).toBe('busy');
  const held = { ...FIRST, token: 'a' };
  expect(await store.renew([held, { ...FIRST, token: 'b' }])).toEqual([{ ...FIRST, token: 'b' }]);
  expect(await store.release(FIRST, 'b', 0)).toBe(false);
  expect(await status(FIRST, 'b')).toBe('busy');
  expect(await store.release(FIRST, 'a', 0)).toBe(true);
  expect(await status(FIRST, 'b')).toBe('taken');
  expect(await store.renew([held])).toEqual([held]);
});

test('a lane whose holder is silent is listed as due, and another takes it', async () => {
  await on();
  expect(await status(FIRST, 'dead')).toBe('taken');
  await waitFor(async () => (await store.due(Date.now(), 10)).length > 0, {
    deadlineMs: 10_000,
    what: 'the end of a lease',
  });
  expect(await store.due(Date.now(), 10)).toEqual([{ ...FIRST, atMs: expect.any(Number) }]);
  await taken(FIRST, 'b');
  expect(await store.release(FIRST, 'dead', undefined)).toBe(false);
  expect(await store.renew([{ ...FIRST, token: 'dead' }])).toHaveLength(1);
});

test('further lanes are there when they are woken, once, and up to their number', async () => {
  await on();
  expect(await status(SECOND)).toBe('idle');
  expect(await store.wake(SECOND)).toBe(true);
  expect(await store.wake(SECOND)).toBe(false);
  expect(await status(SECOND, 'a')).toBe('taken');
  expect(await store.wake(SECOND)).toBe(false);
  expect(await store.release(SECOND, 'a', undefined)).toBe(true);
  expect(await status(SECOND)).toBe('idle');
  const third = { id: ID, lane: 2 };
  await store.wake(third);
  expect(await status(third)).toBe('idle');
  expect(await store.due(Date.now() + 1_000, 10)).toEqual([{ ...FIRST, atMs: expect.any(Number) }]);
});

test('a change, a switch and a rotation take every lane away', async () => {
  await on();
  for (const disturb of [
    () => store.change(ID, { name: 'x' }),
    () => store.rotate(ID, 'other', 1_000),
    async () => {
      await store.switch(ID, 'asked');
      await store.switch(ID, undefined);
    },
  ]) {
    await taken(FIRST, 'a');
    await store.wake(SECOND);
    expect(await status(SECOND, 'b')).toBe('taken');
    await disturb();
    expect(
      await store.renew([
        { ...FIRST, token: 'a' },
        { ...SECOND, token: 'b' },
      ]),
    ).toHaveLength(2);
  }
  await taken(FIRST, 'a');
  await store.switch(ID, 'asked');
  expect(await store.due(Date.now() + 60_000, 10)).toEqual([]);
});

test('the breaker opens after so many failures in a row, for twice as long each time, and what was on its way says nothing new', async () => {
  await on();
  expect(await store.report(ID, FAILED)).toEqual({ status: 'noted' });
  expect(await store.report(ID, FAILED)).toEqual({ status: 'noted' });
  await store.report(ID, DELIVERED);
  for (let i = 0; i < 2; i++) expect(await store.report(ID, FAILED)).toEqual({ status: 'noted' });
  expect(await store.report(ID, FAILED)).toEqual({ status: 'opened', restMs: 100 });
  const late = await store.report(ID, FAILED);
  expect(late.status === 'opened' && late.restMs <= 100).toBe(true);
  expect(await status(FIRST)).toBe('rest');
  for (const restMs of [200, 300, 300]) {
    await taken(FIRST, 'probe');
    expect(await store.report(ID, FAILED)).toEqual({ status: 'opened', restMs });
    await store.release(FIRST, 'probe', 0);
  }
  await taken(FIRST, 'probe');
  await store.wake(SECOND);
  expect(await status(SECOND)).toBe('idle');
  expect(await store.report(ID, DELIVERED)).toEqual({ status: 'noted' });
  await store.wake(SECOND);
  expect(await status(SECOND)).toBe('taken');
  expect(await store.read(ID)).toMatchObject({ failures: 0, openUntilMs: undefined, failingSinceMs: undefined });
});

test('a rest that the receiver asked for holds up all lanes, and the first lane goes on when another was let through', async () => {
  await on();
  await store.wake(SECOND);
  expect(await store.report(ID, { ...FAILED, askedMs: 60_000 })).toEqual({ status: 'opened', restMs: 60_000 });
  expect([await status(FIRST), await status(SECOND)]).toEqual(['rest', 'idle']);
  await store.report(ID, DELIVERED);
  expect(await status(FIRST)).toBe('taken');
});

test('one report switches a webhook off, and those after it are told to stop', async () => {
  await on();
  expect(await store.report(ID, { ...FAILED, verdict: 'gone' })).toEqual({ status: 'switched off', reason: 'gone' });
  expect(await store.report(ID, { ...FAILED, verdict: 'gone' })).toEqual({ status: 'stop' });
  expect(await store.report(ID, DELIVERED)).toEqual({ status: 'stop' });
  expect(await status(FIRST)).toBe('idle');
  const patient = new RedisWebhookStore(connection, createKeyspace(`s${tests}`), { ...OPTIONS, failingMs: 0 });
  await on();
  expect(await patient.report(ID, FAILED)).toEqual({ status: 'switched off', reason: 'failing' });
  expect(await store.switch(ID, 'asked')).toBe('same');
});

test('what the receiver at the URL before says counts for nothing once the URL is another', async () => {
  await on();
  await store.change(ID, { url: 'https://new.example.com/' });
  expect(await store.report(ID, { ...FAILED, verdict: 'gone' })).toEqual({ status: 'stop' });
  expect(await store.read(ID)).toMatchObject({ off: undefined, failures: 0, last: undefined });
  expect(await store.log(ID)).toHaveLength(1);
  expect(await status(FIRST)).toBe('taken');
});

test('a test is logged and counts for nothing; of the log the newest lines are kept', async () => {
  await on();
  for (let i = 0; i < 5; i++) await store.report(ID, { line: LINE, verdict: undefined, askedMs: 0, url: SPEC.url });
  expect(await store.read(ID)).toMatchObject({ failures: 0, last: undefined });
  for (let i = 1; i <= 110; i++) await store.report(ID, { ...DELIVERED, line: { ...LINE, result: 204, atMs: i } });
  const log = await store.log(ID);
  expect([log.length, log[0]?.atMs, log.at(-1)?.atMs]).toEqual([100, 110, 11]);
});

test('never more than the limit; what is removed is gone, and reports about it make nothing anew', async () => {
  const more = ['0mk5x3v9qx2m4q8w1z5u', '0mk5x3v9qx2m4q8w1z5v', '0mk5x3v9qx2m4q8w1z5w'];
  const put = await Promise.all(more.map((id) => store.put(id, SPEC, 1, 's')));
  expect(put.toSorted()).toEqual(['full', 'stored', 'stored']);
  expect((await store.list(undefined, 10)).map(({ id }) => id)).toEqual([
    ID,
    ...more.filter((_, i) => put[i] === 'stored'),
  ]);
  expect((await store.list(ID, 1)).map(({ id }) => id)).toEqual([more[put.indexOf('stored')]]);
  expect(await store.remove(ID)).toBe(true);
  expect(await store.remove(ID)).toBe(false);
  expect(await store.report(ID, FAILED)).toEqual({ status: 'stop' });
  expect(await store.read(ID)).toBeUndefined();
  expect(await store.change(ID, { name: 'x' })).toBeUndefined();
  expect(await store.rotate(ID, 'x', 0)).toBeUndefined();
  expect(await store.switch(ID, undefined)).toBe('gone');
});
