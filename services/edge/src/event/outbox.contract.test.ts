import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, startTcpProxy, type TcpProxy, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode, Epoch, EventRecord, SessionId } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { EVENT_OVERHEAD_BYTES, STORE_DEADLINE_MS } from '../limits.ts';
import { Outbox, type Sender, type StoreResult } from './outbox.ts';

const LIMITS = { sessionEvents: 64, sessionBytes: 1_000_000, nodeBytes: 2_000_000, waitMs: 4_000 };
const BODY = Buffer.alloc(40_000, 0x30);
const EVENT_BYTES = BODY.length + EVENT_OVERHEAD_BYTES;
const KINDS = ['objectrealtimedata', 'structure', 'alarm.MotionAlarmOn'] as const;

interface Offered {
  readonly kind: string;
  readonly seq: number;
  result: StoreResult | undefined;
}

let redis: RedisServer;
let proxy: TcpProxy;
let state: RedisConnection;
let direct: RedisConnection;
let stream: RedisEventStream;
let outbox: Outbox;
let nowMs = 0;
let counted: Map<string, number>;
let prefixes = 0;

beforeAll(async () => {
  redis = await startRedis();
  direct = openConnection({ url: redis.url, commandTimeoutMs: 5_000 }, 'state');
  await ready(direct, 5_000);
});

afterAll(async () => {
  await closeConnection(direct);
  await redis.stop();
});

beforeEach(async () => {
  proxy = await startTcpProxy({ target: { port: Number(new URL(redis.url).port) } });
  const connection = { url: `redis://${proxy.host}:${proxy.port}`, commandTimeoutMs: 60_000 };
  state = openConnection(connection, 'state');
  await ready(state, 5_000);
  prefixes += 1;
  stream = open(state);
  counted = new Map();
  const inc = (labels: { class: string; result: string }): void => {
    const name = `${labels.class} ${labels.result}`;
    counted.set(name, (counted.get(name) ?? 0) + 1);
  };
  outbox = new Outbox(
    stream,
    { events: { inc } },
    () => nowMs,
    () => 0,
    LIMITS,
  );
});

afterEach(async () => {
  await stream.stop();
  await closeConnection(state);
  await proxy.stop();
});

const open = (connection: RedisConnection): RedisEventStream =>
  new RedisEventStream({
    state: connection,
    keyspace: createKeyspace(`outbox${prefixes}`, 4),
    appendTimeoutMs: 300,
  });

type Device = Sender & { readonly code: DeviceCode };

let devices = 0;
const sender = (): Device => ({ code: `cam-${++devices}` as DeviceCode, unstoredEvents: 0 });

let seqs = 0;
function offer(from: Device, kind: string, data: Buffer = BODY): Offered {
  const offered: Offered = { kind, seq: ++seqs, result: undefined };
  const event: EventRecord = {
    code: from.code,
    kind,
    url: '',
    at: 0,
    receivedAt: 0,
    epoch: 1 as Epoch,
    session: 's' as SessionId,
    seq: offered.seq,
    tags: [],
    dedupKey: '',
    images: '',
    data,
  };
  outbox.store(from, event, (result) => {
    expect(offered.result, 'told once').toBeUndefined();
    offered.result = result;
  });
  expect(outbox.unstored.bytes).toBeLessThanOrEqual(LIMITS.nodeBytes);
  const { events, bytes } = outbox.unstoredOf(from.code);
  expect(bytes).toBeLessThanOrEqual(LIMITS.sessionBytes);
  expect(events).toBeLessThanOrEqual(LIMITS.sessionEvents);
  expect(events).toBe(from.unstoredEvents);
  return offered;
}

/** By shard. */
async function inStream(): Promise<number[][]> {
  const reader = open(direct);
  const pages = await Promise.all([0, 1, 2, 3].map((shard) => reader.read(shard, '0-0', 10_000)));
  await reader.stop();
  return pages.map((page) => page.map(({ event }) => event.seq));
}

const told = (all: readonly Offered[]): Promise<unknown> =>
  waitFor(() => all.every(({ result }) => result !== undefined), { deadlineMs: 20_000, what: 'an answer for each' });

describe.each<[string, () => void]>([
  ['takes nothing in', () => proxy.pause()],
  [
    'is away',
    () => {
      proxy.refuse();
      proxy.cut();
    },
  ],
])('while the store %s', (_how, fail) => {
  test('un-stored events stay within the budgets, lossy ones give way first and alarms last, none counts as stored, and all is well afterwards', async () => {
    const before = offer(sender(), 'structure');
    await told([before]);
    expect(before.result).toBe('stored');
    fail();
    // Many devices, each with all kinds in turn, until nobody can put anything in any more.
    const senders = Array.from({ length: 6 }, sender);
    const offered: Offered[] = [];
    const accepted = new Map<string, number>(KINDS.map((kind) => [kind, 0]));
    for (let round = 0; round < 12; round++) {
      for (const from of senders) {
        for (const kind of KINDS) {
          const each = offer(from, kind);
          offered.push(each);
          if (each.result !== 'full') accepted.set(kind, outbox.unstored.bytes);
        }
      }
    }
    const [lossy, normal, alarm] = KINDS.map((kind) => accepted.get(kind) ?? 0) as [number, number, number];
    // The fill of the node when it took the last of each class; up to three are offered between two of a class.
    const fills = [
      [lossy, LIMITS.nodeBytes / 2],
      [normal, (LIMITS.nodeBytes * 7) / 8],
      [alarm, LIMITS.nodeBytes],
    ] as const;
    for (const [fill, limit] of fills) {
      expect(fill).toBeGreaterThan(limit - 3 * EVENT_BYTES);
      expect(fill).toBeLessThanOrEqual(limit);
    }
    expect(counted.get('lossy node_full')).toBeGreaterThan(counted.get('normal node_full') ?? 0);
    expect(counted.get('normal node_full')).toBeGreaterThan(counted.get('alarm node_full') ?? 0);
    expect(counted.get('alarm node_full')).toBeGreaterThan(0);

    nowMs += STORE_DEADLINE_MS;
    outbox.look(nowMs);
    await told(offered);
    expect(offered.map(({ result }) => result)).not.toContain('stored');

    proxy.heal();
    await waitFor(() => outbox.unstored.bytes === 0, { deadlineMs: 20_000, what: 'nothing left un-stored' });
    for (const { code } of senders) expect(outbox.unstoredOf(code)).toEqual({ events: 0, bytes: 0 });
    const after = KINDS.map((kind) => offer(senders[0] as Device, kind));
    await told(after);
    expect(after.map(({ result }) => result)).toEqual(['stored', 'stored', 'stored']);
    const shards = await inStream();
    const kept = shards.flat();
    for (const { seq } of [before, ...after]) expect(kept).toContain(seq);
    for (const { result, seq } of offered) if (result === 'full') expect(kept).not.toContain(seq);
    for (const seqs of shards) expect(seqs).toEqual(seqs.toSorted((a, b) => a - b));
  });
});

test('one device cannot take the budget of the node, and keeps room for its own alarms', () => {
  proxy.pause();
  const flooding = sender();
  const floods = Array.from({ length: 100 }, () => offer(flooding, 'objectrealtimedata', Buffer.from('{}')));
  expect(floods.filter(({ result }) => result !== 'full')).toHaveLength(LIMITS.sessionEvents / 2);
  expect(counted.get('lossy session_full')).toBe(100 - LIMITS.sessionEvents / 2);
  expect(offer(flooding, 'alarm.x').result).toBeUndefined();
  expect(offer(sender(), 'objectrealtimedata').result).toBeUndefined();
});

test('who waits in vain is told so after the deadline, and what the store may still take counts until it is settled (V3)', async () => {
  proxy.pause();
  const from = sender();
  const late = offer(from, 'alarm.x');
  outbox.look(nowMs + STORE_DEADLINE_MS - 1);
  expect(late.result).toBeUndefined();
  nowMs += STORE_DEADLINE_MS;
  outbox.look(nowMs);
  expect(late.result).toBe('failed');
  expect(counted).toEqual(new Map([['alarm late', 1]]));
  expect(outbox.unstoredOf(from.code)).toEqual({ events: 1, bytes: EVENT_BYTES });
  proxy.heal();
  await waitFor(() => outbox.unstored.events === 0, { deadlineMs: 20_000, what: 'settled' });
  expect(outbox.unstoredOf(from.code)).toEqual({ events: 0, bytes: 0 });
  expect(counted).toEqual(new Map([['alarm late', 1]]));
});
