/** What schedules promise with several processes on one real Redis: each moment once, nothing early, nothing while paused, and what is done about
 *  moments at which nobody was there. Commands are a list with keys, as lanes are one (their own suite shows that). */

import { randomBytes } from 'node:crypto';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import type { CommandId, DeviceCode } from '@lapi-broker/protocol';
import { openWorkQueue } from '@lapi-broker/queue';
import {
  closeConnection,
  createKeyspace,
  type Keyspace,
  openConnection,
  RedisClock,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { afterAll, beforeAll, describe, expect, type TestContext, test, vi } from 'vitest';
import { StoreTimeKeeper } from '../dispatch/store-time.ts';
import type { QueuedRequest, Submitted } from '../lane/queued-commands.ts';
import { carryOut } from './carry-out.ts';
import { createSchedules } from './parts.ts';
import { RedisScheduleStore } from './redis-schedule-store.ts';
import { newScheduleId, type ScheduleSpec } from './schedule.ts';
import type { Schedules } from './schedules.ts';

const URL_ASKED = '/LAPI/V1.0/Channels/1/Image/DayNightMode';
const LIMIT = 20;

let redis: RedisServer;
let connection: RedisConnection;

beforeAll(async () => {
  redis = await startRedis();
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
});
afterAll(async () => {
  await closeConnection(connection);
  await redis.stop();
});

/** Redis time. */
async function storeNowMs(): Promise<number> {
  const [seconds, micros] = await connection.time();
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}

/** Never due but once within the life of a test. */
const spec = (over: Partial<ScheduleSpec> = {}): ScheduleSpec => ({
  name: 'test',
  cron: '0 0 1 1 *',
  timeZone: 'UTC',
  graceMs: 60_000,
  keyId: 'key',
  createdAtMs: 0,
  work: {
    kind: 'command',
    command: {
      code: 'CAM-1' as DeviceCode,
      method: 'PUT',
      url: URL_ASKED,
      data: '{"Mode":2}',
      lane: 'normal',
      timeoutMs: 10_000,
      ttlMs: 60_000,
      maxAttempts: 1,
      backoffMs: 1_000,
    },
  },
  ...over,
});

interface Fleet {
  readonly keyspace: Keyspace;
  readonly store: RedisScheduleStore;
  /** One per command that exists, in the order of acceptance. */
  readonly commands: { readonly key: string; readonly request: QueuedRequest; readonly atMs: number }[];
  readonly events: { readonly kind: string; readonly data: Record<string, unknown> }[];
  /** Answers instead of accepting. */
  refusal: Submitted | undefined;
  submit(request: QueuedRequest): Promise<Submitted>;
  /** A process that fires schedules. */
  start(): Promise<Schedules>;
  /** As another process would, with a clock that is right. */
  addTimer(id: string, atMs: number): Promise<void>;
  /** A schedule that is due then. */
  put(nextAtMs: number | undefined, over?: Partial<ScheduleSpec>): Promise<string>;
}

function fleet({ onTestFinished }: TestContext): Fleet {
  const keyspace = createKeyspace(`t-${randomBytes(4).toString('hex')}`);
  const store = new RedisScheduleStore(connection, keyspace, LIMIT);
  const all: Fleet = {
    keyspace,
    store,
    commands: [],
    events: [],
    refusal: undefined,
    async submit(request) {
      if (all.refusal !== undefined) return all.refusal;
      const key = request.idempotencyKey ?? '';
      const atMs = await storeNowMs();
      const at = all.commands.findIndex((each) => each.key === key);
      if (at < 0) all.commands.push({ key, request, atMs });
      const id = `command-${at < 0 ? all.commands.length - 1 : at}` as CommandId;
      // Only what callers look at.
      return { status: at < 0 ? 'accepted' : 'repeated', id, state: 'queued' } as Submitted;
    },
    async start() {
      const clock = new RedisClock();
      const time = new StoreTimeKeeper(connection, clock, () => performance.now());
      const { schedules, parts } = createSchedules({
        config: { REDIS_URL: redis.url, LAPI_SCHEDULES: LIMIT, LAPI_CONFIRM_COMMANDS: 'auto' },
        state: connection,
        submits: connection,
        keyspace,
        stream: {
          append: async ({ kind, data }) => {
            all.events.push({ kind, data: JSON.parse(Buffer.from(data).toString()) });
            return '0-1';
          },
        },
        commands: all,
        jobs: { create: () => Promise.reject(new Error('no jobs here')) },
        time: clock,
        metrics: createMetrics('command'),
        log: createLog({ service: 'command', level: 'silent' }),
        onEvent: () => undefined,
        sweepMs: 200,
      });
      const each = [time, ...parts];
      onTestFinished(async () => {
        for (const part of [...each].reverse()) await part.stop?.();
      });
      for (const part of each) await part.start?.();
      return schedules;
    },
    async addTimer(id, atMs) {
      const other = openWorkQueue({
        redis: { url: redis.url, commandTimeoutMs: 2_000 },
        name: 'schedule',
        prefix: keyspace.queue('schedule'),
        concurrency: 1,
        handler: () => Promise.reject(new Error('it is not yet time')),
      });
      await other.start();
      await other.add(`${id}@${atMs}`, { delayMs: atMs - (await storeNowMs()) });
      await other.stop();
    },
    async put(nextAtMs, over) {
      const id = newScheduleId(await storeNowMs(), () => randomBytes(6).toString('hex').slice(0, 11));
      expect(await store.put(id, spec(over), nextAtMs)).toBe('stored');
      return id;
    },
  };
  return all;
}

const within = (what: string) => ({ deadlineMs: 10_000, what });

describe.concurrent('a moment', () => {
  test('is carried out once by two processes, and each schedule moves on to the next one', async (context) => {
    const all = fleet(context);
    await Promise.all([all.start(), all.start()]);
    const atMs = (await storeNowMs()) + 200;
    const ids = await Promise.all(Array.from({ length: 10 }, () => all.put(atMs)));
    await waitFor(() => all.events.length === 10, within('ten firings'));
    const records = await Promise.all(ids.map((id) => all.store.read(id)));
    expect(new Set(all.commands.map(({ key }) => key))).toEqual(new Set(ids.map((id) => `schedule:${id}:${atMs}`)));
    expect(all.commands.length).toBe(10);
    expect(all.commands[0]?.request).toMatchObject({
      code: 'CAM-1',
      method: 'PUT',
      url: URL_ASKED,
      expires: { afterMs: 60_000 },
      keyId: 'key',
      body: Buffer.from('{"Mode":2}'),
    });
    for (const record of records) {
      expect(record?.last).toMatchObject({ status: 'fired', atMs });
      expect(record?.nextAtMs).toBe(Date.UTC(new Date(atMs).getUTCFullYear() + 1, 0, 1));
      expect(record?.missed).toBe(0);
    }
    expect(await all.store.due(atMs + 60_000, 100)).toEqual([]);
    expect(new Set(all.events.map(({ kind, data }) => `${kind} ${data.id}`)).size).toBe(10);
  });

  test('makes one command when a process died after it had made it', async (context) => {
    const all = fleet(context);
    const atMs = (await storeNowMs()) - 500;
    const id = await all.put(atMs);
    const firing = await carryOut({ commands: all, jobs: { create: () => Promise.reject() } }, { id, ...spec() }, atMs);
    expect(firing).toEqual({ status: 'fired', atMs, command: 'command-0' });
    await all.start();
    await waitFor(() => all.events.length === 1, within('the firing'));
    expect(all.commands.length).toBe(1);
    expect((await all.store.read(id))?.last).toEqual(firing);
  });

  test('that passed while nobody was there is carried out once if it is not older than the grace time', async (context) => {
    const all = fleet(context);
    const nowMs = await storeNowMs();
    const late = await all.put(nowMs - 20_000);
    const tooLate = await all.put(nowMs - 20_000, { graceMs: 10_000 });
    await Promise.all([all.start(), all.start()]);
    await waitFor(() => all.events.length === 2, within('both'));
    expect(all.commands.map(({ key }) => key)).toEqual([`schedule:${late}:${nowMs - 20_000}`]);
    expect(await all.store.read(tooLate)).toMatchObject({
      last: { status: 'missed', atMs: nowMs - 20_000 },
      missed: 1,
    });
    expect(all.events.find(({ data }) => data.id === tooLate)).toMatchObject({
      kind: 'schedule.failed',
      data: { missed: 1 },
    });
  });

  test('is tried again while the store does not confirm, and is failed at once when the command is refused', async (context) => {
    const all = fleet(context);
    all.refusal = { status: 'refused', error: 'broker_unavailable', detail: 'not confirmed', mayExist: true };
    await all.start();
    const atMs = (await storeNowMs()) - 1_000;
    const id = await all.put(atMs);
    const again = vi.spyOn(all, 'submit');
    await waitFor(() => again.mock.calls.length > 0, within('an attempt'));
    expect((await all.store.read(id))?.nextAtMs).toBe(atMs);
    all.refusal = { status: 'refused', error: 'lane_full', detail: '100 commands wait' };
    await waitFor(() => all.events.length === 1, within('the end'));
    expect((await all.store.read(id))?.last).toEqual({
      status: 'failed',
      atMs,
      error: 'lane_full',
      detail: '100 commands wait',
    });
    expect(all.events[0]).toMatchObject({
      kind: 'schedule.failed',
      data: { id, status: 'failed', error: 'lane_full' },
    });
  });

  test('of a paused or removed schedule is not carried out; a resumed one goes on from now', async (context) => {
    const all = fleet(context);
    const schedules = await all.start();
    const atMs = (await storeNowMs()) + 300;
    const [paused, removed, control] = [await all.put(atMs), await all.put(atMs), await all.put(atMs)];
    expect(await schedules.pause(paused)).toMatchObject({ nextAtMs: undefined });
    expect(await schedules.remove(removed)).toBe(true);
    await waitFor(() => all.events.length === 1, within('the control'));
    expect(all.commands.map(({ key }) => key)).toEqual([`schedule:${control}:${atMs}`]);
    expect(await schedules.resume(paused)).toMatchObject({ missed: 0, last: undefined });
    expect((await all.store.read(paused))?.nextAtMs).toBe(Date.UTC(new Date(atMs).getUTCFullYear() + 1, 0, 1));
    expect(await schedules.read(removed)).toBeUndefined();
    expect(await schedules.pause(removed)).toBeUndefined();
    expect(await schedules.resume(removed)).toBeUndefined();
  });
});

describe('the clock of a process', () => {
  test.for([
    ['an hour ahead', 3_600_000, 2_500],
    ['an hour behind', -3_600_000, 1_000],
  ] as const)('%s makes nothing early, and what is due is carried out', async ([_, aheadMs, inMs], context) => {
    context.onTestFinished(() => void vi.useRealTimers());
    const all = fleet(context);
    const atMs = (await storeNowMs()) + inMs;
    const id = await all.put(atMs);
    await all.addTimer(id, atMs);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + aheadMs });
    await all.start();
    await waitFor(() => all.commands.length === 1, within('the firing'));
    expect(all.commands[0]?.atMs).toBeGreaterThanOrEqual(atMs);
    expect(all.commands[0]?.atMs).toBeLessThan(atMs + 2_000);
  });
});

test('a timer in the work queue makes a firing punctual', async (context) => {
  const all = fleet(context);
  const schedules = await all.start();
  // The next minute may be too far for a test, so the timer comes from another process.
  const atMs = (await storeNowMs()) + 600;
  const id = await all.put(atMs);
  await all.addTimer(id, atMs);
  await waitFor(() => all.commands.length === 1, within('the firing'));
  expect(all.commands[0]?.atMs).toBeGreaterThanOrEqual(atMs);
  expect(all.commands[0]?.atMs).toBeLessThan(atMs + 900);
  expect((await schedules.read(id))?.last?.status).toBe('fired');
});

test('there are never more schedules than the limit, and they are listed in the order of making, page by page', async (context) => {
  const all = fleet(context);
  const schedules = await all.start();
  const { createdAtMs: _, ...asked } = spec({ cron: '0 3 * * *', timeZone: 'Europe/Berlin' });
  const made = await Promise.all(Array.from({ length: LIMIT + 5 }, () => schedules.create(asked, true)));
  expect(made.filter((each) => each === 'full').length).toBe(5);
  const pages = [await schedules.list(undefined, 15)];
  pages.push(await schedules.list(pages[0]?.at(-1)?.id, 15));
  const ids = pages.flat().map(({ id }) => id);
  expect(pages.map((page) => page.length)).toEqual([15, 5]);
  expect(ids).toEqual([...ids].sort());
  expect(new Set(ids).size).toBe(LIMIT);
  const first = pages[0]?.[0];
  expect(await all.store.due(first?.nextAtMs ?? 0, 100)).toContain(first?.id);
  expect(await schedules.remove(first?.id ?? '')).toBe(true);
  expect(await schedules.create(asked, false)).toMatchObject({ nextAtMs: undefined, missed: 0 });
});
