/** What a work queue promises, on one Redis and on a Cluster of three masters, with the store going away under it. */

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type RedisCluster,
  type RedisServer,
  startProcess,
  startRedis,
  startRedisCluster,
  waitFor,
} from '@lapi-broker/fixture';
import { createKeyspace } from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest';
import { openWorkQueue, type WorkQueue, type WorkQueueOptions } from './work-queue.ts';

const ODD_IDS = ['0123', '17', 'aa:bb:cc:dd:ee:ff', 'meta', 'id', 'wait', '100%', '%3A', ':', 'ünïcode 1', '='];

interface Seen {
  readonly ids: string[];
  readonly events: { readonly event: string; readonly facts: Record<string, unknown> }[];
}

const newKeyspace = () => createKeyspace(`t-${randomBytes(4).toString('hex')}`);

async function startQueue(
  { onTestFinished }: Pick<TestContext, 'onTestFinished'>,
  url: string,
  keyspace = newKeyspace(),
  options: Partial<WorkQueueOptions> = {},
): Promise<Seen & { readonly queue: WorkQueue }> {
  const ids: string[] = [];
  const events: Seen['events'] = [];
  const queue = openWorkQueue({
    redis: { url, commandTimeoutMs: 1_000 },
    name: 'lane',
    prefix: keyspace.queue('lane'),
    concurrency: 4,
    handler: async (id) => {
      ids.push(id);
    },
    onEvent: (event, facts) => events.push({ event, facts }),
    ...options,
  });
  onTestFinished(() => queue.stop());
  await queue.start();
  return { queue, ids, events };
}

const now = { delayMs: 0 };

const handled = (seen: Seen, ...ids: string[]): Promise<boolean> =>
  waitFor(() => ids.every((id) => seen.ids.includes(id)), {
    deadlineMs: 5_000,
    what: `${ids.join(', ')} to be handled`,
  });

function promises(store: () => { readonly url: string }): void {
  test('any id is handled as it was given, also where BullMQ would refuse or confuse it', async (context) => {
    const seen = await startQueue(context, store().url);
    await Promise.all(ODD_IDS.map((id) => seen.queue.add(id, now)));
    await handled(seen, ...ODD_IDS);
    expect([...seen.ids].sort()).toEqual([...ODD_IDS].sort());
  });

  test('an id is handled after its delay, not before', async (context) => {
    const seen = await startQueue(context, store().url);
    const addedMs = performance.now();
    await seen.queue.add('late', { delayMs: 300 });
    await seen.queue.add('soon', now);
    await handled(seen, 'soon', 'late');
    expect(seen.ids).toEqual(['soon', 'late']);
    expect(performance.now() - addedMs).toBeGreaterThan(290);
  });

  test('an id that waits already is one job; after it was handled it can be added again', async (context) => {
    const seen = await startQueue(context, store().url);
    await seen.queue.add('a', { delayMs: 200 });
    await seen.queue.add('a', { delayMs: 200 });
    await handled(seen, 'a');
    await seen.queue.add('a', now);
    await waitFor(() => seen.ids.length === 2, { deadlineMs: 5_000, what: 'the second time' });
    await seen.queue.add('b', { delayMs: 300 });
    await handled(seen, 'b');
    expect(seen.ids).toEqual(['a', 'a', 'b']);
  });

  test('two processes share the work, each id goes to one of them', async (context) => {
    const keyspace = newKeyspace();
    const busy = (ids: string[]) => async (id: string) => {
      ids.push(id);
      await sleep(5);
    };
    const [one, two]: [string[], string[]] = [[], []];
    const first = await startQueue(context, store().url, keyspace, { handler: busy(one) });
    await startQueue(context, store().url, keyspace, { handler: busy(two) });
    const ids = Array.from({ length: 60 }, (_, i) => `n${i}`);
    await Promise.all(ids.map((id) => first.queue.add(id, now)));
    await waitFor(() => one.length + two.length === 60, { deadlineMs: 10_000, what: '60 ids' });
    expect([...one, ...two].sort()).toEqual([...ids].sort());
    expect(Math.min(one.length, two.length)).toBeGreaterThan(0);
  });
}

describe('on one Redis', () => {
  let redis: RedisServer;

  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  describe.concurrent('a work queue', () => promises(() => redis));

  test('a handler that fails is reported and done with: others go on, and nothing of it stays in the store', async (context) => {
    const keyspace = newKeyspace();
    const seen = await startQueue(context, redis.url, keyspace, {
      handler: async (id) => {
        if (id === 'bad') throw new Error('no');
        seen.ids.push(id);
      },
    });
    await seen.queue.add('bad', now);
    await seen.queue.add('good', now);
    await handled(seen, 'good');
    await waitFor(() => seen.events.some(({ event }) => event === 'queue.handler_failed'), {
      deadlineMs: 5_000,
      what: 'the report',
    });
    const { facts } = seen.events.find(({ event }) => event === 'queue.handler_failed') ?? { facts: {} };
    expect(facts).toMatchObject({ queue: 'lane', id: 'bad', err: new Error('no') });
    await waitFor(
      async () => ((await redis.command('KEYS', `${keyspace.queue('lane')}*=*`)) as string[]).length === 0,
      {
        deadlineMs: 5_000,
        what: 'the jobs to be removed',
      },
    );
  });

  test('when all that it held is lost, it goes on with what is added', async (context) => {
    const keyspace = newKeyspace();
    const seen = await startQueue(context, redis.url, keyspace);
    await seen.queue.add('lost', { delayMs: 60_000 });
    const keys = (await redis.command('KEYS', `${keyspace.queue('lane')}*`)) as string[];
    await redis.command('UNLINK', ...keys);
    await seen.queue.add('lost', now);
    await handled(seen, 'lost');
  });

  test('what runs is told to end when the queue stops, may ask for a next time, and is waited for', async (context) => {
    const ended: string[] = [];
    const seen = await startQueue(context, redis.url, newKeyspace(), {
      handler: async (id, signal) => {
        seen.ids.push(id);
        await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
        await seen.queue.add('next', { delayMs: 60_000 });
        ended.push(id);
      },
    });
    await seen.queue.add('x', now);
    await handled(seen, 'x');
    await seen.queue.stop();
    expect(ended).toEqual(['x']);
    await expect(seen.queue.add('y', now)).rejects.toMatchObject({ code: 'broker_unavailable' });
  });

  test('what a killed process was handling is not handed to another; it is told, and its id is free again', async (context) => {
    const keyspace = newKeyspace();
    const seen = await startQueue(context, redis.url, keyspace, { lockMs: 900 });
    const doomed = await startProcess({
      name: 'doomed worker',
      command: process.execPath,
      args: [
        '--conditions=source',
        '--disable-warning=ExperimentalWarning',
        new URL('./testing/hanging-worker.ts', import.meta.url).pathname,
        redis.url,
        keyspace.queue('doomed'),
      ],
      ready: (line) => (line === 'handling' ? true : undefined),
    });
    await doomed.kill();
    const other = await startQueue(context, redis.url, keyspace, {
      name: 'doomed',
      prefix: keyspace.queue('doomed'),
      lockMs: 900,
    });
    await waitFor(() => other.events.some(({ event }) => event === 'queue.stalled'), {
      deadlineMs: 10_000,
      what: 'the loss to be told',
    });
    expect(other.events.find(({ event }) => event === 'queue.stalled')?.facts).toEqual({
      queue: 'doomed',
      id: 'fatal',
    });
    expect(other.ids).toEqual([]);
    await other.queue.add('fatal', now);
    await handled(other, 'fatal');
    expect(seen.ids).toEqual([]);
  });

  test('a store that refuses to give out work is asked about twice a second, not as fast as it refuses', async (context) => {
    let finish: () => void = () => undefined;
    const seen = await startQueue(context, redis.url, newKeyspace(), {
      concurrency: 1,
      handler: (id) => {
        seen.ids.push(id);
        if (id !== 'first') return Promise.resolve();
        return new Promise((resolve) => {
          finish = resolve;
        });
      },
    });
    context.onTestFinished(() => redis.command('CONFIG', 'SET', 'min-replicas-to-write', '0').then(() => undefined));
    await seen.queue.add('first', now);
    await handled(seen, 'first');
    await seen.queue.add('kept', { delayMs: 300 });
    await redis.command('CONFIG', 'SET', 'min-replicas-to-write', '1');
    // It had no place for more meanwhile, so it believes that there is more.
    finish();
    await waitFor(() => seen.events.some(({ event }) => event === 'queue.error'), {
      deadlineMs: 5_000,
      what: 'a refusal',
    });
    const commands = async (): Promise<number> =>
      Number(/total_commands_processed:(\d+)/.exec(String(await redis.command('INFO', 'stats')))?.[1]);
    const before = await commands();
    await sleep(1_000);
    expect((await commands()) - before).toBeLessThan(100);
    await redis.command('CONFIG', 'SET', 'min-replicas-to-write', '0');
    await handled(seen, 'kept');
  });
});

describe('while the store is away', () => {
  let redis: RedisServer;

  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  test('an add fails soon, and the worker goes on by itself when the store is back, with what it had', async (context) => {
    const keyspace = newKeyspace();
    const seen = await startQueue(context, redis.url, keyspace);
    await seen.queue.add('before', { delayMs: 1_500 });
    await waitFor(async () => (await redis.command('EXISTS', `${keyspace.queue('lane')}:lane:marker`)) === 0, {
      deadlineMs: 1_000,
      what: 'the worker to know when it is due, so that nothing else will wake it',
    });
    await redis.kill('SIGKILL');
    const asked = performance.now();
    await expect(seen.queue.add('meanwhile', now)).rejects.toMatchObject({ code: 'broker_unavailable' });
    expect(performance.now() - asked).toBeLessThan(10_000);
    await redis.restart();
    await handled(seen, 'before');
    await seen.queue.add('after', now);
    await handled(seen, 'after');
    expect(seen.ids).toEqual(['before', 'after']);
  });

  test('a handler that ends meanwhile is done when the store is back: its id is free at once', async (context) => {
    let finish: () => void = () => undefined;
    const seen = await startQueue(context, redis.url, newKeyspace(), {
      handler: (id) => {
        seen.ids.push(id);
        return seen.ids.length > 1
          ? Promise.resolve()
          : new Promise((resolve) => {
              finish = resolve;
            });
      },
    });
    await seen.queue.add('long', now);
    await handled(seen, 'long');
    await redis.kill('SIGKILL');
    finish();
    await redis.restart();
    await waitFor(
      async () => {
        await seen.queue.add('long', now);
        return seen.ids.length === 2;
      },
      { deadlineMs: 5_000, intervalMs: 50, what: 'the id to be handled again' },
    );
  });

  test('a store that accepts bytes and does not answer counts as away', async (context) => {
    const seen = await startQueue(context, redis.url);
    await redis.kill('SIGSTOP');
    const asked = performance.now();
    await expect(seen.queue.add('unanswered', now)).rejects.toMatchObject({ code: 'broker_unavailable' });
    // Its own deadline is two seconds; a busy machine may add to it.
    expect(performance.now() - asked).toBeLessThan(10_000);
    await sleep(1_500);
    await redis.kill('SIGCONT');
    await waitFor(() => seen.queue.add('after', now).then(() => true), { deadlineMs: 5_000, what: 'an add' });
    await handled(seen, 'after');
  });

  test('stop() ends soon and leaves nothing', async (context) => {
    const seen = await startQueue(context, redis.url);
    await redis.kill('SIGKILL');
    await waitFor(() => seen.events.some(({ event }) => event === 'redis.closed'), {
      deadlineMs: 5_000,
      what: 'the loss',
    });
    const asked = performance.now();
    await seen.queue.stop();
    expect(performance.now() - asked).toBeLessThan(10_000);
    await redis.restart();
  });
});

describe('on a Cluster of three masters', () => {
  let cluster: RedisCluster;

  beforeAll(async () => {
    cluster = await startRedisCluster();
  });
  afterAll(() => cluster.stop());

  describe.concurrent('a work queue', () => promises(() => cluster));

  test('goes on by itself when its master was away and is back, with what it had', async (context) => {
    const keyspace = newKeyspace();
    const seen = await startQueue(context, cluster.url, keyspace);
    const key = `${keyspace.queue('lane')}:lane:meta`;
    const holds = await Promise.all(
      cluster.masters.map((each) =>
        each.command('EXISTS', key).then(
          (count) => count === 1,
          () => false,
        ),
      ),
    );
    const master = cluster.masters[holds.indexOf(true)] as RedisServer;
    await seen.queue.add('before', { delayMs: 1_000 });
    await master.kill('SIGKILL');
    await expect(seen.queue.add('meanwhile', now)).rejects.toMatchObject({ code: 'broker_unavailable' });
    await master.restart();
    await cluster.settled();
    await handled(seen, 'before');
    await waitFor(() => seen.queue.add('after', now).then(() => true), { deadlineMs: 10_000, what: 'an add' });
    await handled(seen, 'after');
  });
});
