import { type RedisServer, startRedis, startRedisCluster, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  type Keyspace,
  openConnection,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { customAlphabet } from 'nanoid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { QueuedRequest } from '../lane/new-command.ts';
import { FakeLane, type FakeLaneOptions } from '../testing/fake-lane.ts';
import { commandIdOf, type JobPace, type TargetStatus } from './job.ts';
import type { JobOrder } from './job-order.ts';
import { JobRunner, type JobRunnerParts } from './job-runner.ts';
import type { NewJob } from './job-store.ts';
import { Jobs, type JobsParts } from './jobs.ts';
import { RedisJobStore, type RedisJobStoreOptions } from './redis-job-store.ts';

const LEASE_MS = 1_500;
const HOUR = 3_600_000;
const newId = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 20);
const newPrefix = customAlphabet('abcdefghijklmnopqrstuvwxyz', 8);
const codesOf = (count: number): DeviceCode[] =>
  Array.from({ length: count }, (_, i) => `JOB${String(i).padStart(5, '0')}` as DeviceCode);

const sorted = (texts: readonly string[]): string[] => texts.toSorted((a, b) => (a < b ? -1 : 1));

let redis: RedisServer;
let connection: RedisConnection;
/** Released at the end, newest first: the tests run side by side. */
const open: (() => Promise<void> | void)[] = [];

beforeAll(async () => {
  redis = await startRedis();
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
});
afterAll(async () => {
  for (const release of open.splice(0).reverse()) await release();
  await closeConnection(connection);
  await redis.stop();
});

function newStore(over: Partial<RedisJobStoreOptions> = {}): {
  readonly store: RedisJobStore;
  readonly keyspace: Keyspace;
} {
  const keyspace = createKeyspace(newPrefix(), 4);
  return {
    keyspace,
    store: new RedisJobStore(connection, keyspace, { activeJobs: 100, keptJobs: 100, leaseMs: LEASE_MS, ...over }),
  };
}

function newJob(count: number, pace: Partial<JobPace> = {}): Omit<NewJob, 'createdAtMs'> {
  return {
    id: newId(),
    name: 'test',
    command: {
      method: 'PUT',
      url: '/LAPI/V1.0/System/Time',
      lane: 'normal',
      timeoutMs: 5_000,
      maxAttempts: 1,
      backoffMs: 1_000,
      repeatable: false,
    },
    pace: { concurrency: 10, offline: 'wait', ...pace },
    keyId: 'k1',
    notBeforeMs: 0,
    deadlineMs: Date.now() + HOUR,
    data: Buffer.from('{"n":12345678901234567890}'),
    targets: codesOf(count).map((code) => ({ code, groups: [], known: true })),
  };
}

async function put(store: RedisJobStore, job: Omit<NewJob, 'createdAtMs'>): Promise<string> {
  const reserved = await store.reserve(job.id, undefined);
  if (reserved.status !== 'reserved') throw new Error(reserved.status);
  await store.open({ ...job, createdAtMs: reserved.createdAtMs });
  return job.id;
}

async function leased(store: RedisJobStore, id: string): Promise<number> {
  const lease = await store.lease(id);
  if (lease.status !== 'leased') throw new Error(lease.status);
  return lease.fence;
}

const started: TargetStatus = { state: 'starting', tries: 1, reason: '', startedAtMs: 5 };
const succeeded: TargetStatus = { ...started, state: 'succeeded', executed: 'yes', endedAtMs: 6, responseCode: 0 };

describe.concurrent('the store of jobs', () => {
  it('a job is there with everything once it is open, and not before', async () => {
    const { store } = newStore();
    const job = newJob(2_500);
    const targets = job.targets.map((target, i) => ({
      ...target,
      known: i !== 7,
      groups: i === 1 ? ['site-1', 'site-2'] : [],
    }));
    const reserved = await store.reserve(job.id, undefined);
    expect(await store.read(job.id)).toBeUndefined();
    await store.open({ ...job, targets, createdAtMs: reserved.status === 'reserved' ? reserved.createdAtMs : 0 });
    const read = await store.read(job.id);
    expect(read).toMatchObject({ id: job.id, name: 'test', total: 2_500, counts: { todo: 2_499, failed: 1 } });
    expect(read?.command).toEqual(job.command);
    expect(await store.data(job.id)).toEqual(job.data);
    const loaded = await store.load(job.id);
    expect(loaded.map(({ code }) => code)).toEqual(targets.map(({ code }) => code));
    expect(loaded[1]?.groups).toEqual(['site-1', 'site-2']);
    expect(loaded[7]).toMatchObject({ state: 'failed', reason: 'device_unknown', executed: 'no' });
  });

  it('fences only grow, one runner has the lease, and a lower fence changes nothing', async () => {
    const { store } = newStore();
    const id = await put(store, newJob(3));
    const first = await leased(store, id);
    expect(await store.lease(id)).toMatchObject({ status: 'busy' });
    await store.release(id, first);
    const second = await leased(store, id);
    expect(second).toBeGreaterThan(first);
    expect(await store.apply(id, { fence: first, targets: [{ index: 0, to: started }] })).toEqual({ status: 'fenced' });
    expect((await store.load(id))[0]).toMatchObject({ state: 'todo' });
    // Nor can it give back what it does not have.
    expect(await store.release(id, first)).toEqual({ status: 'fenced' });
    expect(await store.lease(id)).toMatchObject({ status: 'busy' });
    expect(await store.apply(id, { fence: second, targets: [{ index: 0, to: started }] })).toMatchObject({
      status: 'applied',
    });
  });

  it('a lease that is not renewed ends', async () => {
    const { store } = newStore({ leaseMs: 50 });
    const id = await put(store, newJob(1));
    const first = await leased(store, id);
    const second = await waitFor(
      async () => {
        const lease = await store.lease(id);
        return lease.status === 'leased' ? lease.fence : undefined;
      },
      { deadlineMs: 2_000, what: 'the lease to end' },
    );
    expect(second).toBe(first + 1);
  });

  it('counts follow the targets, however often a change is written', async () => {
    const { store } = newStore();
    const id = await put(store, newJob(3));
    const fence = await leased(store, id);
    const changes = [0, 1].map((index) => ({ index, to: started }));
    for (let i = 0; i < 3; i++) await store.apply(id, { fence, targets: changes, job: { wave: 1, waveStarted: 2 } });
    expect(await store.read(id)).toMatchObject({ counts: { todo: 1, starting: 2 }, progress: { waveStarted: 2 } });
    const ends = [
      { index: 0, to: succeeded },
      { index: 1, to: { ...started, state: 'todo', tries: 0 } as const },
    ];
    for (let i = 0; i < 2; i++) await store.apply(id, { fence, targets: ends });
    expect(await store.read(id)).toMatchObject({
      counts: { todo: 2, starting: 0, succeeded: 1 },
      progress: { waveStarted: 1, roundEnded: 1, roundFailed: 0 },
    });
  });

  it('devices that are unknown or away are no failures of the command', async () => {
    const { store } = newStore();
    const id = await put(store, newJob(4));
    const fence = await leased(store, id);
    const failed = (reason: string): TargetStatus => ({ ...succeeded, state: 'failed', reason });
    const reasons = ['device_unknown', 'device_offline', 'device_error', 'timeout'];
    await store.apply(id, { fence, targets: reasons.map((reason, index) => ({ index, to: failed(reason) })) });
    expect((await store.read(id))?.progress).toMatchObject({ roundEnded: 2, roundFailed: 2 });
  });

  it('a paused job starts nobody, while what is out may end', async () => {
    const { store } = newStore();
    const id = await put(store, newJob(2));
    const fence = await leased(store, id);
    expect(await store.pause(id)).toEqual({ status: 'steered' });
    const start = { fence, while: 'running', targets: [{ index: 0, to: started }] } as const;
    expect(await store.apply(id, start)).toMatchObject({ status: 'refused', progress: { state: 'paused' } });
    expect((await store.load(id))[0]).toMatchObject({ state: 'todo' });
    expect(await store.apply(id, { fence, targets: [{ index: 1, to: succeeded }] })).toMatchObject({
      status: 'applied',
    });
    expect(await store.pause(id)).toEqual({ status: 'conflict', state: 'paused' });
    expect(await store.resume(id)).toEqual({ status: 'steered' });
    expect(await store.apply(id, start)).toMatchObject({ status: 'applied' });
  });

  it('what ended is kept for 7 days, takes no place, and can be retried', async () => {
    const { store, keyspace } = newStore({ activeJobs: 1 });
    const id = await put(store, newJob(1));
    const fence = await leased(store, id);
    expect(await store.retry(id, ['failed'], Date.now() + HOUR)).toEqual({ status: 'conflict', state: 'running' });
    const atMs = await store.attend(id, 10_000);
    await store.apply(id, { fence, job: { state: 'finished_with_failures', endedAtMs: 7 } });
    await store.release(id, fence);
    expect(await store.reserve(newId(), undefined)).toEqual({ status: 'full' });
    await store.settle({ id, atMs });
    expect(await store.lease(id)).toEqual({ status: 'ended' });
    expect(await connection.pttl(keyspace.jobCodes(id))).toBeGreaterThan(6.9 * 24 * HOUR);
    const other = await store.reserve(newId(), undefined);
    expect(other.status).toBe('reserved');
    expect(await store.retry(id, ['failed'], Date.now() + HOUR)).toEqual({ status: 'full' });
  });

  it('a job that was asked for again meanwhile is not taken out of the active ones', async () => {
    const { store } = newStore();
    const id = await put(store, newJob(1));
    const seenMs = await store.attend(id, 0);
    await store.attend(id, 10);
    await store.settle({ id, atMs: seenMs });
    await waitFor(async () => (await store.due(10)).some((due) => due.id === id), {
      deadlineMs: 3_000,
      what: 'the job to be due',
    });
  });

  it('one key is one job, as long as that job is listed', async () => {
    const { store } = newStore({ keptJobs: 2 });
    const key = { key: 'k'.repeat(64), request: 'a'.repeat(64) };
    const job = newJob(1);
    expect(await store.reserve(job.id, key)).toMatchObject({ status: 'reserved' });
    expect(await store.reserve(newId(), key)).toEqual({ status: 'repeated', id: job.id });
    expect(await store.reserve(newId(), { ...key, request: 'b'.repeat(64) })).toEqual({
      status: 'conflict',
      id: job.id,
    });
    // Its creator died: whoever finds the reservation frees the key.
    const atMs = await store.attend(job.id, 0);
    await store.settle({ id: job.id, atMs });
    expect(await store.reserve(newId(), key)).toMatchObject({ status: 'reserved' });
  });

  it('the oldest jobs that have ended make room for new ones', async () => {
    const { store } = newStore({ keptJobs: 2 });
    const ids: string[] = [];
    for (let i = 0; i < 4; i++) {
      const id = await put(store, newJob(1));
      ids.push(id);
      if (i === 0) continue;
      const fence = await leased(store, id);
      const atMs = await store.attend(id, 10_000);
      await store.apply(id, { fence, job: { state: 'succeeded', endedAtMs: 7 } });
      await store.settle({ id, atMs });
    }
    const kept = (await store.list(undefined, 10)).items.map(({ id }) => id);
    // The first is active, so it stays.
    expect(kept).toEqual([ids[3], ids[0]]);
    expect(await store.read(ids[1] ?? '')).toBeUndefined();
  });

  it('pages hold every job once, newest first, and every target once, in order', async () => {
    const { store } = newStore();
    const ids = await Promise.all(Array.from({ length: 7 }, () => put(store, newJob(1))));
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await store.list(cursor, 3);
      seen.push(...page.items.map(({ id }) => id));
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(sorted(seen)).toEqual(sorted(ids));

    const id = await put(store, newJob(2_100));
    const fence = await leased(store, id);
    await store.apply(id, { fence, targets: [3, 1_005, 2_099].map((index) => ({ index, to: succeeded })) });
    const first = await store.targets(id, 0, 2, 'succeeded');
    expect(first.items.map(({ index }) => index)).toEqual([3, 1_005]);
    const second = await store.targets(id, first.next ?? -1, 2, 'succeeded');
    expect(second.items.map(({ index }) => index)).toEqual([2_099]);
    expect(second.next).toBeUndefined();
    expect((await store.targets(id, 0, 2_100)).items).toHaveLength(2_100);
  });
});

describe.concurrent('the store of jobs on a Cluster', () => {
  it('a whole life of a job', async () => {
    const cluster = await startRedisCluster();
    open.push(() => cluster.stop());
    const shared = openConnection({ url: cluster.url, commandTimeoutMs: 2_000 }, 'state');
    open.push(() => closeConnection(shared));
    await ready(shared, 10_000);
    const store = new RedisJobStore(shared, createKeyspace('jobs', 4), {
      activeJobs: 10,
      keptJobs: 10,
      leaseMs: LEASE_MS,
    });
    const id = await put(store, newJob(1_200));
    const fence = await leased(store, id);
    await store.pause(id);
    await store.resume(id);
    await store.apply(id, { fence, targets: [{ index: 1_199, to: succeeded }] });
    const atMs = await store.attend(id, 10_000);
    await store.apply(id, { fence, while: 'running', job: { state: 'finished_with_failures', endedAtMs: 9 } });
    await store.settle({ id, atMs });
    expect(await store.retry(id, ['failed'], Date.now() + HOUR)).toEqual({ status: 'steered' });
    expect(await store.cancel(id)).toEqual({ status: 'steered' });
    expect((await store.list(undefined, 10)).items.map((job) => job.progress.state)).toEqual(['stopping']);
    expect((await store.load(id))[1_199]).toMatchObject({ state: 'succeeded' });
  });
});

const known = { provisioned: true, owner: { node: 'edge.1', epoch: 1, session: 's', sinceMs: 0 } } as const;

interface Stage {
  readonly store: RedisJobStore;
  readonly keyspace: Keyspace;
  readonly lane: FakeLane;
  readonly parts: JobRunnerParts;
  readonly online: Set<string>;
  readonly events: string[];
  /** Lets a runner take turns until the job has ended. */
  until(id: string, runner: JobRunner, deadlineMs?: number): Promise<void>;
}

function stage(
  fate: FakeLaneOptions['fate'] = () => ({ beginsAfterMs: 1, end: { state: 'succeeded', afterMs: 5 } }),
): Stage {
  const { store, keyspace } = newStore();
  const nowMs = (): number => Date.now();
  const lane = new FakeLane({ nowMs, fate });
  open.push(() => lane.stop());
  const online = new Set<string>(codesOf(1_000));
  const events: string[] = [];
  const parts: JobRunnerParts = {
    bench: store,
    catalogue: store,
    commands: lane,
    keyspace,
    registry: {
      lookUp: async (code) => (online.has(code) ? (known as never) : { provisioned: true, owner: undefined }),
    },
    nodes: { liveness: () => 'alive', refresh: async () => undefined },
    time: { nowMs, known: true, maxErrorMs: () => 0 } as never,
    recordsKeptMs: HOUR,
    tell: (event, job) => events.push(`${event} ${job.progress.state}`),
    addTurn: async () => undefined,
    onFailure: () => undefined,
  };
  return {
    store,
    keyspace,
    lane,
    parts,
    online,
    events,
    async until(id, runner, deadlineMs = 15_000) {
      const signal = new AbortController();
      open.push(() => signal.abort());
      await waitFor(
        async () => {
          void runner.take(`${id}.0`, signal.signal);
          const job = await store.read(id);
          return job?.endedAtMs !== undefined;
        },
        { deadlineMs, what: `job ${id} to end` },
      );
    },
  };
}

function newRunner(parts: JobRunnerParts): JobRunner {
  const runner = new JobRunner(parts);
  runner.start();
  open.push(() => runner.stop());
  return runner;
}

describe.concurrent('a runner', () => {
  it('sends every device its command once, with the bytes that were asked for', async () => {
    const bodies = new Set<string>();
    const { store, lane, parts, until, keyspace, events } = stage((request: QueuedRequest) => {
      bodies.add(Buffer.from(request.body).toString());
      return { beginsAfterMs: 0, end: { state: 'succeeded' } };
    });
    const id = await put(store, newJob(250, { concurrency: 40 }));
    await until(id, newRunner(parts));
    expect(await store.read(id)).toMatchObject({
      counts: { succeeded: 250, todo: 0 },
      progress: { state: 'succeeded' },
    });
    expect(sorted(lane.sent.map(({ code }) => code))).toEqual(codesOf(250));
    expect(bodies).toEqual(new Set(['{"n":12345678901234567890}']));
    const [code] = codesOf(1);
    expect(lane.records.has(commandIdOf(id, code as DeviceCode, 1, keyspace.shardOf(code as DeviceCode)))).toBe(true);
    expect(events[0]).toBe('started running');
    await waitFor(() => events.at(-1) === 'finished succeeded', { deadlineMs: 2_000, what: 'the end as an event' });
    expect(await store.due(10)).toEqual([]);
  });

  it('two runners at a time share no job: one has the lease', async () => {
    const { store, lane, parts, until } = stage();
    const id = await put(store, newJob(60, { concurrency: 5 }));
    const other = newRunner(parts);
    const runner = newRunner(parts);
    const signal = new AbortController();
    open.push(() => signal.abort());
    for (let i = 0; i < 20; i++) void other.take(`${id}.0`, signal.signal);
    await until(id, runner);
    expect(lane.sent).toHaveLength(60);
  });

  it('a command that waits for a device which went away is taken back, and sent when the device is there', async () => {
    let waits = true;
    const { store, lane, parts, until, online } = stage(() =>
      waits ? undefined : { beginsAfterMs: 1, end: { state: 'succeeded' } },
    );
    const id = await put(store, newJob(1, { concurrency: 1 }));
    const runner = newRunner(parts);
    const done = until(id, runner, 20_000);
    await waitFor(() => lane.records.size === 1, { deadlineMs: 5_000, what: 'the command' });
    online.clear();
    await waitFor(async () => (await store.read(id))?.counts.todo === 1, {
      deadlineMs: 10_000,
      what: 'the command to be taken back',
    });
    waits = false;
    online.add(codesOf(1)[0] as string);
    await done;
    expect(lane.sent).toHaveLength(1);
    expect((await store.load(id))[0]).toMatchObject({ state: 'succeeded', tries: 2 });
  });

  it('a pause takes back what nobody has written yet, and lets the rest end', async () => {
    const { store, lane, parts, until } = stage(({ code }) =>
      code === codesOf(1)[0] ? { beginsAfterMs: 1, end: { state: 'succeeded', afterMs: 900 } } : undefined,
    );
    const id = await put(store, newJob(20, { concurrency: 5 }));
    const runner = newRunner(parts);
    const signal = new AbortController();
    void runner.take(`${id}.0`, signal.signal);
    await waitFor(async () => (await store.read(id))?.counts.active === 5, { deadlineMs: 5_000, what: 'five devices' });
    await store.pause(id);
    await waitFor(async () => (await store.read(id))?.counts.active === 0, {
      deadlineMs: 5_000,
      what: 'nothing to be out',
    });
    expect(await store.read(id)).toMatchObject({ counts: { succeeded: 1, todo: 19 }, progress: { state: 'paused' } });
    expect(lane.sent).toHaveLength(1);
    await store.cancel(id);
    await until(id, runner);
    expect(await store.read(id)).toMatchObject({
      counts: { succeeded: 1, cancelled: 19 },
      progress: { state: 'cancelled' },
    });
  });

  it('a retry leaves alone what was answered late, and nothing that may have happened is ever called not executed', async () => {
    const { store, lane, parts, until, online, keyspace } = stage(() => ({
      beginsAfterMs: 1,
      end: { state: 'timed_out' },
    }));
    const id = await put(store, newJob(2));
    const runner = newRunner(parts);
    await until(id, runner);
    expect(await store.read(id)).toMatchObject({
      counts: { timed_out: 2 },
      progress: { state: 'finished_with_failures' },
    });
    const [first = '' as DeviceCode] = codesOf(1);
    lane.end(commandIdOf(id, first, 1, keyspace.shardOf(first)), 'succeeded', 'yes');
    online.clear();
    expect(await store.retry(id, ['timed_out'], Date.now() + 1_500)).toEqual({ status: 'steered' });
    await waitFor(async () => (await store.read(id))?.progress.state === 'running', {
      deadlineMs: 2_000,
      what: 'the retry',
    });
    await until(id, runner);
    const [late, away] = await store.load(id);
    expect(late).toMatchObject({ state: 'succeeded', executed: 'yes', tries: 1 });
    expect(away).toMatchObject({ state: 'expired', executed: 'maybe', tries: 1 });
    expect(lane.sent).toHaveLength(2);
  });

  it('a full lane costs the device time and nothing else', async () => {
    const { store, lane, parts } = stage();
    lane.refusal = { status: 'refused', error: 'lane_full', detail: 'full' };
    const id = await put(store, newJob(3, { offline: 'fail' }));
    const runner = newRunner(parts);
    const signal = new AbortController();
    open.push(() => signal.abort());
    void runner.take(`${id}.0`, signal.signal);
    await waitFor(async () => (await store.read(id))?.startedAtMs !== undefined, {
      deadlineMs: 5_000,
      what: 'a start',
    });
    await waitFor(async () => (await store.read(id))?.counts.todo === 3, {
      deadlineMs: 5_000,
      what: 'all to wait again',
    });
    expect((await store.load(id)).map(({ tries }) => tries)).toEqual([0, 0, 0]);
  });

  it('a record that is gone means that nobody knows', async () => {
    const { store, lane, parts, until } = stage(() => undefined);
    const id = await put(store, newJob(1));
    const runner = newRunner(parts);
    const done = until(id, runner);
    await waitFor(async () => (await store.read(id))?.counts.active === 1, { deadlineMs: 5_000, what: 'a command' });
    lane.records.clear();
    await done;
    expect((await store.load(id))[0]).toMatchObject({ state: 'unknown', executed: 'maybe', reason: 'record_lost' });
  });
});

/** Cuts a runner off from everything at its n-th call, or the first of a name: for ever (killed), or for longer than its lease (paused). The call that it was in may
 *  have been done. */
function mortal(
  parts: JobRunnerParts,
  dies: { readonly atCall: number | string; readonly done: boolean; readonly wakesMs?: number },
): JobRunnerParts {
  let calls = 0;
  let resting: Promise<void> | undefined;
  const through = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(object, name) {
        const member = Reflect.get(object, name) as unknown;
        if (typeof member !== 'function') return member;
        return async (...args: unknown[]): Promise<unknown> => {
          calls += 1;
          const call = (): unknown => Reflect.apply(member, object, args);
          if (resting === undefined && (calls === dies.atCall || name === dies.atCall)) {
            const { wakesMs } = dies;
            resting =
              wakesMs === undefined
                ? new Promise(() => undefined)
                : new Promise((resolve) => setTimeout(resolve, wakesMs));
            const early = dies.done ? await call() : undefined;
            await resting;
            return dies.done ? early : await call();
          }
          if (resting !== undefined) await resting;
          return await call();
        };
      },
    });
  return {
    ...parts,
    bench: through(parts.bench),
    catalogue: through(parts.catalogue),
    commands: through(parts.commands),
    registry: through(parts.registry),
  };
}

describe.concurrent('runners that die', () => {
  it('whenever one is killed or paused, another goes on: nothing is lost, nothing is sent twice', {
    timeout: 60_000,
  }, async () => {
    const points = [2, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 22, 26, 31, 37];
    await Promise.all(
      points.flatMap((atCall) =>
        [
          { atCall, done: true },
          { atCall, done: false },
          { atCall, done: true, wakesMs: 2 * LEASE_MS },
          { atCall, done: false, wakesMs: 2 * LEASE_MS },
        ].map(async (dies) => {
          const { store, lane, parts, until } = stage();
          const id = await put(store, newJob(12, { concurrency: 3, waves: { first: 2, growth: 2 } }));
          const victim = new JobRunner(mortal(parts, dies));
          const signal = new AbortController();
          void victim.take(`${id}.0`, signal.signal).catch(() => undefined);
          await until(id, newRunner(parts), 30_000);
          const what = JSON.stringify(dies);
          expect((await store.read(id))?.counts, what).toMatchObject({
            succeeded: 12,
            todo: 0,
            starting: 0,
            active: 0,
          });
          expect(sorted(lane.sent.map(({ code }) => code)), what).toEqual(codesOf(12));
          // What the paused one does when it wakes comes to nothing.
          if (dies.wakesMs !== undefined)
            await waitFor(() => victim.running === 0, { deadlineMs: 10_000, what: 'the paused runner to stop' });
          expect(lane.sent, what).toHaveLength(12);
          expect((await store.read(id))?.progress.state, what).toBe('succeeded');
        }),
      ),
    );
  });
});

describe.concurrent('a runner that dies while it takes back', () => {
  it('what was taken back for a pause is sent after it, and has not been cancelled', async () => {
    await Promise.all(
      [true, false].map(async (done) => {
        let waits = true;
        const { store, lane, parts, until } = stage(() =>
          waits ? undefined : { beginsAfterMs: 1, end: { state: 'succeeded' } },
        );
        const id = await put(store, newJob(6, { concurrency: 3 }));
        const victim = new JobRunner(mortal(parts, { atCall: 'cancel', done }));
        void victim.take(`${id}.0`, new AbortController().signal);
        await waitFor(async () => (await store.read(id))?.counts.active === 3, { deadlineMs: 5_000, what: 'a start' });
        await store.pause(id);
        await waitFor(async () => (await store.load(id))[0]?.reason === 'recalled', {
          deadlineMs: 5_000,
          what: 'the recall',
        });
        await store.resume(id);
        await waitFor(async () => (await store.lease(id)).status === 'leased', {
          deadlineMs: 5_000,
          what: 'its death',
        });
        waits = false;
        for (const record of lane.records.values()) if (record.state === 'queued') lane.let(record.id);
        await until(id, newRunner(parts));
        expect((await store.read(id))?.counts).toMatchObject({ succeeded: 6, cancelled: 0 });
        expect(sorted(lane.sent.map(({ code }) => code))).toEqual(codesOf(6));
      }),
    );
  });
});

function newJobs(store: RedisJobStore, over: Partial<JobsParts> = {}): Jobs {
  return new Jobs({
    catalogue: store,
    devices: { get: async () => undefined, list: async () => [] },
    registry: { lookUp: async () => ({ provisioned: true, owner: undefined }) },
    nodes: { liveness: () => 'alive', refresh: async () => undefined },
    confirm: async () => true,
    storeFull: () => false,
    nowMs: () => Date.now(),
    random: newId,
    nudge: async () => undefined,
    tell: () => undefined,
    activeJobs: 100,
    ...over,
  });
}

function orderOf(): JobOrder {
  const { name, command, pace, data, keyId } = newJob(0);
  return {
    name,
    command,
    pace,
    data,
    keyId,
    targets: { kind: 'codes', codes: codesOf(1) },
    expires: { afterMs: HOUR },
  };
}

describe.concurrent('jobs', () => {
  it('10,000 devices are one job, and no job is made when the store is full', async () => {
    const { store } = newStore();
    let isFull = false;
    const jobs = newJobs(store, { storeFull: () => isFull });
    const order: JobOrder = { ...orderOf(), targets: { kind: 'codes', codes: codesOf(10_000) } };
    const created = await jobs.create(order);
    expect(created).toMatchObject({ status: 'created', job: { total: 10_000 } });
    isFull = true;
    expect(await jobs.create(order)).toMatchObject({ status: 'refused', error: 'store_full' });
    expect((await store.list(undefined, 10)).items).toHaveLength(1);
  });

  it('a request that is repeated gets its job, although its devices are gone and its time is over', async () => {
    const { store } = newStore();
    let isGone = false;
    const rows = codesOf(2).map((code) => ({ code, tags: [], firmware: '', owner: undefined }) as never);
    const jobs = newJobs(store, { devices: { get: async () => undefined, list: async () => (isGone ? [] : rows) } });
    const order: JobOrder = {
      ...orderOf(),
      targets: { kind: 'filter', tag: 'once' },
      expires: { atMs: Date.now() + 2_000 },
      idempotency: { key: 'api:once', request: 'a'.repeat(64) },
    };
    const made = await jobs.create(order);
    const id = made.status === 'created' ? made.job.id : '';
    expect(id).not.toBe('');
    isGone = true;
    expect(await jobs.create(order)).toMatchObject({ status: 'repeated', job: { id } });
    const late = { ...order, expires: { atMs: Date.now() - 1 } };
    expect(await jobs.create(late)).toMatchObject({ status: 'repeated', job: { id } });
    const other = { ...order, idempotency: { key: 'api:once', request: 'b'.repeat(64) } };
    expect(await jobs.create(other)).toMatchObject({ status: 'refused', error: 'key_conflict' });
  });

  it('the time limit of a retry counts from the begin of the window where that is still to come', async () => {
    const { store } = newStore();
    const notBeforeMs = Date.now() + 100 * HOUR;
    const id = await put(store, { ...newJob(1), notBeforeMs, deadlineMs: notBeforeMs + HOUR });
    const fence = await leased(store, id);
    const cancelled: TargetStatus = { ...succeeded, state: 'cancelled', executed: 'no' };
    await store.apply(id, { fence, targets: [{ index: 0, to: cancelled }], job: { state: 'cancelled', endedAtMs: 7 } });
    const retried = await newJobs(store).retry(id, { states: ['cancelled'], ttlMs: HOUR });
    expect(retried).toMatchObject({ status: 'steered', job: { notBeforeMs, deadlineMs: notBeforeMs + HOUR } });
  });

  it.each<[string, Partial<JobOrder>, string]>([
    ['an end that has passed', { notAfterMs: Date.now() - 1 }, 'has passed'],
    ['a limit before the begin', { notBeforeMs: Date.now() + 2 * HOUR, expires: { atMs: Date.now() + HOUR } }, 'after'],
    ['a begin that is far away', { notBeforeMs: Date.now() + 1_000 * HOUR }, 'within 37 days'],
  ])('%s is refused, of a dry run too', async (_, over, detail) => {
    const jobs = newJobs(newStore().store);
    const refusal = {
      status: 'refused',
      error: 'invalid_request',
      part: 'window',
      detail: expect.stringContaining(detail),
    };
    expect(await jobs.survey({ ...orderOf(), ...over })).toEqual(refusal);
    expect(await jobs.create({ ...orderOf(), ...over })).toEqual(refusal);
  });
});
