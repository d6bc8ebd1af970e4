import { ENTRY_BYTES, RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, startRedisSentinel, waitFor } from '@lapi-broker/fixture';
import { createServer, type Server } from '@lapi-broker/http';
import type { DeviceCode, SessionId } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { systemClock } from '@lapi-broker/runtime';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Caller, Refusal } from '../access/access.ts';
import type { Scope } from '../access/api-key.ts';
import { PathPolicy } from '../access/policy.ts';
import type { CommandEnd, DirectCommand } from '../dispatch/dispatch.ts';
import { decodeCursor } from '../event/cursor.ts';
import { EventFeed } from '../event/event-feed.ts';
import type { FeedLimits } from '../event/feed-limits.ts';
import { eventId, ORIGIN, parsePosition } from '../event/position.ts';
import { record } from '../testing/event-record.ts';
import { FakeGroups } from '../testing/fake-groups.ts';
import { openEvents, type SseClient } from '../testing/sse-client.ts';
import { openStream, type StreamClient } from '../testing/stream-client.ts';
import { type EventConnections, type EventRouteParts, registerEventRoutes } from './stream.ts';

let redis: RedisServer;
let state: RedisConnection;
let prefixes = 0;

beforeAll(async () => {
  redis = await startRedis();
  state = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(state, 5_000);
});

afterAll(async () => {
  await closeConnection(state);
  await redis.stop();
});

interface Node {
  readonly port: number;
  readonly feed: EventFeed;
  readonly connections: EventConnections;
  readonly server: Server;
  readonly counted: number[];
}

interface Rig {
  readonly stream: RedisEventStream;
  readonly keys: Map<string, { id: string; scopes: Scope[] }>;
  readonly commands: DirectCommand[];
  answer: (command: DirectCommand) => CommandEnd;
  append(code: string, part?: Parameters<typeof record>[0]): Promise<string>;
  /** The stream with the events of that device. */
  eventsKey(code: string): string;
  node(options?: { feed?: Partial<FeedLimits>; routes?: EventRouteParts['limits'] }): Promise<Node>;
  /** A client that is closed with the test. */
  listen(node: Node, path: string, headers?: Record<string, string>): Promise<SseClient>;
  open(node: Node, headers?: Record<string, string>): Promise<StreamClient>;
  fetchPage(node: Node, path: string): Promise<PageView>;
}

interface PageView {
  readonly events: readonly { readonly id: string; readonly code: string }[];
  readonly gaps: readonly unknown[];
  readonly cursor: string;
  readonly more: boolean;
}

const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const READER = { authorization: 'Bearer reader' };
const CALLER = { authorization: 'Bearer caller' };

function rig(maxEvents = 100_000, connection = state): Rig {
  prefixes += 1;
  const keyspace = createKeyspace(`feed${prefixes}`, 4);
  const retention = { maxAgeMs: 3_600_000, maxBytes: maxEvents * (ENTRY_BYTES + 2) };
  const stream = new RedisEventStream({ state: connection, keyspace, retention });
  cleanUps.push(() => stream.stop());
  const keys: Rig['keys'] = new Map([
    ['reader', { id: 'k1', scopes: ['read'] }],
    ['caller', { id: 'k2', scopes: ['read', 'call'] }],
    ['only-calls', { id: 'k3', scopes: ['call'] }],
  ]);
  const authenticate = ({ header }: { header(name: string): string }): Promise<Caller | Refusal> => {
    const key = keys.get(header('authorization').replace(/^Bearer /, ''));
    if (key === undefined)
      return Promise.resolve({ status: 'refused', error: 'unauthenticated', detail: 'unknown key' });
    return Promise.resolve({ status: 'caller', keyId: key.id, scopes: new Set(key.scopes) });
  };
  const commands: DirectCommand[] = [];
  const made: Rig = {
    stream,
    keys,
    commands,
    answer: () => ({ status: 'answered', success: true, responseCode: 0, body: Buffer.from('{"ResponseCode":0}') }),
    async append(code, part = {}) {
      const id = await stream.append(record({ code: code as DeviceCode, session: 's' as SessionId, ...part }));
      return eventId(keyspace.shardOf(code as DeviceCode), parsePosition(id));
    },
    eventsKey: (code) => keyspace.events(keyspace.shardOf(code as DeviceCode)),
    async node(options = {}) {
      const feed = new EventFeed({
        stream,
        shardOf: (code) => keyspace.shardOf(code),
        clock: systemClock,
        log: { info: () => undefined, warn: () => undefined },
        limits: { sweepMs: 20, auditMs: 200, retryMs: 20, ...options.feed },
      });
      const counted: number[] = [];
      const defects: unknown[] = [];
      const server = createServer({ host: '127.0.0.1', port: 0, onError: (error) => defects.push(error) });
      const connections = registerEventRoutes(server, {
        feed,
        broker: {
          access: { authenticate, forget: () => undefined },
          policy: new PathPolicy(),
          groups: new FakeGroups(),
          dispatch: {
            call: (command) => {
              commands.push(command);
              return Promise.resolve(made.answer(command));
            },
            begin: () => undefined,
          },
        },
        observer: {
          answered: (_, status) => counted.push(status),
          newRequestId: () => 'request-1',
          leaving: () => false,
          defect: (error) => defects.push(error),
        },
        clock: systemClock,
        limits: { sweepMs: 20, ...options.routes },
      });
      const listening = await server.listen();
      cleanUps.push(async () => {
        connections.stop();
        await feed.stop();
        listening.close();
        expect(defects).toEqual([]);
        expect(connections.count).toBe(0);
        expect(feed.counts).toMatchObject({ subscribers: 0, behind: 0 });
      });
      return { port: listening.port, feed, connections, server: listening, counted };
    },
    async listen(node, path, headers = READER) {
      const client = await openEvents(node.port, path, headers);
      cleanUps.push(() => client.close());
      return client;
    },
    async fetchPage(node, path) {
      const answer = await fetch(`http://127.0.0.1:${node.port}${path}`, {
        headers: { ...READER, accept: 'application/json' },
      });
      expect(answer.status).toBe(200);
      return (await answer.json()) as PageView;
    },
    async open(node, headers = CALLER) {
      const client = await openStream(node.port, headers);
      cleanUps.push(() => client.close());
      return client;
    },
  };
  return made;
}

const until = (what: string, condition: () => boolean, deadlineMs = 10_000): Promise<unknown> =>
  waitFor(condition, { deadlineMs, what, intervalMs: 2 });

function idsOf(...clients: readonly SseClient[]): string[] {
  return clients.flatMap((client) => client.events().map(({ id }) => id));
}

function ofShard(ids: readonly string[], shard: number): string[] {
  return ids.filter((id) => id.startsWith(`0${shard}-`));
}

/** One connection of either kind. */
interface Reader {
  ids(): readonly string[];
  gaps(): number;
  /** The cursor that it was greeted with. */
  begun(): string;
  /** Cuts it, and answers where to resume. */
  leave(): string;
}

async function sseReader(client: SseClient): Promise<Reader> {
  await until('the greeting', () => client.firstId !== '');
  return {
    ids: () => idsOf(client),
    gaps: () => client.named('gap').length,
    begun: () => client.firstId,
    leave: () => {
      client.close();
      return client.lastId;
    },
  };
}

async function socketReader(client: StreamClient, from: string): Promise<Reader> {
  client.send({ type: 'subscribe', id: 's', from });
  await until('the greeting', () => client.named('subscribed').length === 1);
  let left: number | undefined;
  const told = () => client.messages.slice(0, left);
  return {
    ids: () => told().flatMap(({ event }) => (event === undefined ? [] : [event.id])),
    gaps: () => client.named('gap').length,
    begun: () => client.messages[0]?.cursor ?? '',
    leave: () => {
      left = client.messages.length;
      client.close();
      return client.messages.at(-1)?.cursor ?? '';
    },
  };
}

/** Runs `step` `count` times, so many per second as the machine lets it, at most `perSecond`. */
async function flowOf(count: number, perSecond: number, step: (i: number) => Promise<void>): Promise<void> {
  const startedMs = performance.now();
  const steps: Promise<void>[] = [];
  while (steps.length < count) {
    const due = Math.min(count, Math.ceil(((performance.now() - startedMs) * perSecond) / 1_000));
    while (steps.length < due) steps.push(step(steps.length));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await Promise.all(steps);
}

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 16_807) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

function byDevice(events: readonly { readonly id: string; readonly code: string }[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { id, code } of events) found.set(code, [...(found.get(code) ?? []), id]);
  return found;
}

describe('the seam between replay and live', () => {
  it('shows 50 subscribers, SSE and WebSocket, that join and resume at random moments of a flow of 2,000 events/s at two processes every id from their cursor on exactly once, in order', async () => {
    const { append, node, listen, open } = rig();
    const nodes = [await node(), await node()];
    const ids: string[] = [];
    let isOver = false;
    const flow = flowOf(4_000, 2_000, async (i) => {
      ids.push(await append(`cam-${i % 37}`));
    }).then(() => {
      isOver = true;
    });
    const random = seeded(42);
    const subscribers = await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        const [joinAt, leaveAfter] = [Math.floor(random() * 3_000), Math.floor(random() * 400)];
        await until('its moment', () => ids.length >= joinAt, 30_000);
        const home = (turn: number): Node => nodes[(i + turn) % 2] as Node;
        const join = async (turn: number, from: string): Promise<Reader> => {
          if (i % 2 === 0) return sseReader(await listen(home(turn), `/v1/events?from=${from}`));
          return socketReader(await open(home(turn)), from);
        };
        const first = await join(0, i % 5 === 0 ? 'start' : 'now');
        await until('some events', () => isOver || first.ids().length >= leaveAfter, 30_000);
        // Cut in the middle, and resumed at the other process.
        const cursor = first.leave();
        const second = await join(1, cursor);
        return { first, second, isFromStart: i % 5 === 0 };
      }),
    );
    await flow;
    const stored = [0, 1, 2, 3].map((shard) => ofShard(ids, shard).toSorted((a, b) => numberOf(a) - numberOf(b)));
    for (const { first, second, isFromStart } of subscribers) {
      const seen = (): string[] => [...first.ids(), ...second.ids()];
      const expected = stored.map((all, shard) => {
        const begun = decodeCursor(first.begun(), 4)?.get(shard) ?? ORIGIN;
        return all.filter((id) => numberOf(id) > begun.seq);
      });
      const count = expected.flat().length;
      await until('the end of the flow', () => seen().length >= count, 30_000);
      for (const [shard, own] of expected.entries()) expect(ofShard(seen(), shard)).toEqual(own);
      if (isFromStart) expect(count).toBe(4_000);
      expect(first.gaps() + second.gaps()).toBe(0);
    }
  }, 90_000);
});

describe('a failover that loses the last events (D9)', () => {
  it('takes every reader back, says exactly from where and how many, and then brings all that the new master took', async () => {
    const sentinels = await startRedisSentinel();
    const connection = openConnection({ url: sentinels.url, commandTimeoutMs: 500 }, 'state');
    await ready(connection, 10_000);
    const made = rig(100_000, connection);
    cleanUps.unshift(async () => {
      await closeConnection(connection);
      await sentinels.stop();
    });
    const { append, node, listen, open, fetchPage } = made;
    const home = await node({ feed: { rewindMs: 60_000 } });
    const live = await listen(home, '/v1/events?device=cam-1');
    const kept = [await append('cam-1'), await append('cam-1'), await append('cam-1')];
    await waitFor(
      async () => {
        const lengths = sentinels.replicas.map(({ command }) => command('XLEN', made.eventsKey('cam-1')));
        return (await Promise.all(lengths)).every((length) => length === 3);
      },
      { deadlineMs: 10_000, what: 'the replicas' },
    );
    // From here on no replica hears of anything.
    for (const { command } of sentinels.replicas) await command('REPLICAOF', '127.0.0.1', 1);
    const lost = [await append('cam-1'), await append('cam-1')];
    await until('five', () => live.messages.length === 5);
    const cursor = live.lastId;
    await sentinels.master.kill('SIGKILL');

    const taken: string[] = [];
    const store = () => waitFor(() => append('cam-1'), { deadlineMs: 60_000, what: 'an append' });
    // As many as were lost, so that their numbers tell nothing.
    for (let i = 0; i < 2; i++) taken.push(await store());
    await until('the live one', () => idsOf(live).at(-1) === taken[1], 30_000);
    const resumed = await listen(home, '/v1/events?device=cam-1', { ...READER, 'last-event-id': cursor });
    const socket = await open(home);
    socket.send({ type: 'subscribe', id: 's', filter: { devices: ['cam-1'] }, from: cursor });
    await until('the others', () => [idsOf(resumed), socket.eventIds()].every((seen) => seen.at(-1) === taken[1]));
    const page = await fetchPage(home, `/v1/events?device=cam-1&from=${cursor}`);

    const shard = kept[0]?.slice(0, 2) ?? '';
    const gap = {
      shard: Number(shard),
      from: `${shard}-0-0`,
      to: lost[1]?.replace(/5$/, '6'),
      count: 5,
      reason: 'rewound',
    };
    const again = [...kept, ...taken];
    expect(taken.map(numberOf)).toEqual([4, 5]);
    expect(idsOf(live)).toEqual([...kept, ...lost, ...again]);
    expect(live.messages[5]).toMatchObject({ event: 'gap' });
    for (const client of [live, resumed])
      expect(client.named('gap').map(({ data }) => JSON.parse(data))).toEqual([gap]);
    expect([idsOf(resumed), socket.eventIds()]).toEqual([again, again]);
    expect(socket.named('gap').map((message) => message.gap)).toEqual([gap]);
    expect(page).toMatchObject({ gaps: [gap], more: false });
    expect(page.events.map(({ id }) => id)).toEqual(again);
  }, 120_000);
});

describe('GET /v1/events', () => {
  it('tells the gap before the rest, from, to and count exact, over every way out, when events were trimmed since the cursor', async () => {
    const { append, node, listen, open, fetchPage } = rig(100);
    const home = await node({ feed: { recentEntries: 8 } });
    const ids = [await append('cam-1')];
    const client = await listen(home, '/v1/events?device=cam-1&from=start');
    await until('the first', () => client.messages.length === 1);
    client.close();
    await until('cut', () => client.ended);
    for (let i = 0; i < 60; i++) {
      ids.push(...(await Promise.all(Array.from({ length: 10 }, () => append('cam-1')))));
    }
    const cursor = client.lastId;
    const sse = await listen(home, '/v1/events?device=cam-1', { ...READER, 'last-event-id': cursor });
    const socket = await open(home);
    socket.send({ type: 'subscribe', id: 's', filter: { devices: ['cam-1'] }, from: cursor });
    await until('the last', () => [idsOf(sse), socket.eventIds()].every((seen) => seen.at(-1) === ids.at(-1)));
    const page = await fetchPage(home, `/v1/events?device=cam-1&limit=1000&from=${cursor}`);

    const kept = idsOf(sse);
    const [to] = kept;
    const count = ids.indexOf(to ?? '') - 1;
    expect(count).toBeGreaterThan(400);
    expect(kept).toEqual(ids.slice(-kept.length));
    const gap = { shard: Number(ids[0]?.slice(0, 2)), from: ids[0], to, count, reason: 'trimmed' };
    expect(sse.messages[0]).toMatchObject({ event: 'gap' });
    expect(sse.named('gap').map(({ data }) => JSON.parse(data))).toEqual([gap]);
    expect(socket.messages.slice(0, 3).map(({ type }) => type)).toEqual(['subscribed', 'gap', 'event']);
    expect(socket.named('gap').map((message) => message.gap)).toEqual([gap]);
    expect(socket.eventIds()).toEqual(kept);
    expect(page).toMatchObject({ gaps: [gap], more: false });
    expect(page.events.map(({ id }) => id)).toEqual(kept);
  });

  it('tells a reader that falls behind while events are trimmed exactly what it missed, where it missed it', async () => {
    // About 40 of the events below.
    const { append, node, listen } = rig(16_000);
    const home = await node();
    const client = await listen(home, '/v1/events?device=cam-1');
    const data = Buffer.from(JSON.stringify({ Image: 'x'.repeat(100_000) }));
    const ids = [await append('cam-1', { data })];
    await until('the first', () => client.messages.length === 1);
    client.stopReading();
    for (let i = 0; i < 30; i++) {
      ids.push(...(await Promise.all(Array.from({ length: 10 }, () => append('cam-1', { data })))));
    }
    await until('behind', () => home.feed.counts.behind === 1);
    client.readOn();
    await until('live', () => idsOf(client).at(-1) === ids.at(-1) && home.feed.counts.behind === 0);
    ids.push(await append('cam-1'));
    await until('one more', () => idsOf(client).at(-1) === ids.at(-1));
    expect(client.named('gap').length).toBeGreaterThan(0);
    // Every number once, as an event or inside a gap that was told in its place.
    let number = 0;
    for (const { event, data: text } of client.messages) {
      const { id, from, to, count } = JSON.parse(text) as Record<'id' | 'from' | 'to', string> & { count: number };
      if (event === 'gap') {
        expect([from, numberOf(from), count]).toEqual([ids[number - 1], number, numberOf(to) - number - 1]);
        number += count;
      } else {
        number += 1;
        expect(id).toBe(ids[number - 1]);
      }
    }
    expect(number).toBe(ids.length);
  }, 30_000);

  it('shows two processes the same order of each device', async () => {
    const { append, node, listen } = rig();
    const clients = await Promise.all([node(), node()].map(async (each) => await listen(await each, '/v1/events')));
    for (let i = 0; i < 60; i++) await Promise.all(Array.from({ length: 10 }, (_, k) => append(`cam-${k}`)));
    await until('all', () => clients.every((client) => client.messages.length === 600));
    const [one, other] = clients.map((client) => byDevice(client.events()));
    expect(one).toEqual(other);
    for (const own of one?.values() ?? []) expect(own).toEqual(own.toSorted((a, b) => numberOf(a) - numberOf(b)));
  });

  it('resumes by a time, by `from` with a cursor, and lets Last-Event-ID win over `from`', async () => {
    const { append, node, listen } = rig();
    const home = await node();
    const ids: string[] = [];
    for (let i = 0; i < 10; i++) {
      ids.push(await append('cam-1'));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const time = new Date(Number(ids[4]?.split('-')[1])).toISOString().replace('Z', '+00:00');
    const byTime = await listen(home, `/v1/events?device=cam-1&from=${time}`);
    await until('from the time', () => byTime.messages.length === 6);
    expect(idsOf(byTime)).toEqual(ids.slice(4));
    const cursor = byTime.messages[2]?.id ?? '';
    const byCursor = await listen(home, `/v1/events?device=cam-1&from=${cursor}`);
    await until('from the cursor', () => byCursor.messages.length === 3);
    expect(idsOf(byCursor)).toEqual(ids.slice(7));
    const byHeader = await listen(home, '/v1/events?device=cam-1&from=start', {
      ...READER,
      'last-event-id': ids[8] ?? '',
    });
    await until('from the header', () => byHeader.messages.length === 1);
    expect(idsOf(byHeader)).toEqual(ids.slice(9));
  });

  it('filters by device, kind and tag, given as lists or repeated', async () => {
    const { append, node, listen } = rig();
    const home = await node();
    const clients = {
      devices: await listen(home, '/v1/events?device=cam-1,cam-2&device=door*'),
      kinds: await listen(home, '/v1/events?kind=presence.*%2Cstructure'),
      tags: await listen(home, '/v1/events?tag=gate&tag=yard&kind=alarm.*'),
    };
    const alarm = await append('cam-1', { tags: ['gate', 'x'] });
    const face = await append('cam-3', { kind: 'structure' });
    const online = await append('door-9', { kind: 'presence.online', tags: ['yard'] });
    const other = await append('cam-9', { tags: ['yard'] });
    await until('all', () => idsOf(...Object.values(clients)).length === 6);
    expect(new Set(idsOf(clients.devices))).toEqual(new Set([alarm, online]));
    expect(new Set(idsOf(clients.kinds))).toEqual(new Set([face, online]));
    expect(new Set(idsOf(clients.tags))).toEqual(new Set([alarm, other]));
  });

  it('passes the bytes of the device on: integers above 2^53 unchanged, line ends harmless (E18)', async () => {
    const { append, node, listen } = rig();
    const client = await listen(await node(), '/v1/events');
    await append('cam-1', { data: Buffer.from('{"Id":18446744073709551615,\r\n"Text":"a\\nb","F":1.0}') });
    await until('the event', () => client.messages.length === 1);
    expect(client.messages[0]?.data).toContain('"data":{"Id":18446744073709551615,  "Text":"a\\nb","F":1.0}');
  });

  it('cuts a reader that does not read with a cursor that resumes without loss, and leaves the others alone', async () => {
    const { append, node, listen } = rig();
    const home = await node({ feed: { slowGraceMs: 400 } });
    const slow = await listen(home, '/v1/events');
    const healthy = await listen(home, '/v1/events');
    const data = Buffer.from(JSON.stringify({ Image: 'x'.repeat(100_000) }));
    const ids = [await append('cam-1', { data })];
    await until('the first', () => slow.messages.length === 1);
    slow.stopReading();
    for (let i = 0; i < 20; i++) {
      ids.push(...(await Promise.all(Array.from({ length: 10 }, (_, k) => append(`cam-${k}`, { data })))));
    }
    await until('cut', () => home.feed.counts.slowClosed === 1);
    slow.readOn();
    await until('closed', () => slow.ended);
    await until('the other got all', () => healthy.messages.length === 201);
    const resumed = await listen(home, '/v1/events', { ...READER, 'last-event-id': slow.lastId });
    await until('the rest', () => new Set(idsOf(slow, resumed)).size === 201);
    const seen = idsOf(slow, resumed);
    expect(new Set(seen)).toEqual(new Set(ids));
    expect(seen).toHaveLength(201);
    expect(JSON.parse(slow.named('closed')[0]?.data ?? '')).toEqual({ reason: 'slow_consumer', cursor: slow.lastId });
  }, 30_000);

  it('lets a reader that pauses leave the live flow, and brings it back in order without loss when it reads on', async () => {
    const { append, node, listen } = rig();
    const home = await node();
    const client = await listen(home, '/v1/events?device=cam-1');
    const data = Buffer.from(JSON.stringify({ Image: 'x'.repeat(100_000) }));
    const ids = [await append('cam-1')];
    await until('the first', () => client.messages.length === 1);
    client.stopReading();
    for (let i = 0; i < 200; i++) ids.push(await append('cam-1', { data }));
    await until('behind', () => home.feed.counts.behind === 1);
    client.readOn();
    await until('all', () => client.messages.length === 201);
    await until('live', () => home.feed.counts.behind === 0);
    ids.push(await append('cam-1'));
    await until('one more', () => client.messages.length === 202);
    expect(idsOf(client)).toEqual(ids);
    expect(home.feed.counts.slowClosed).toBe(0);
  }, 30_000);

  it('greets with retry and a cursor, and keeps an idle stream alive with comments that move the cursor', async () => {
    const { append, node, listen } = rig();
    const home = await node({ feed: { heartbeatMs: 60 } });
    const client = await listen(home, '/v1/events?kind=never');
    await until('the greeting', () => client.lastId !== '');
    expect(client.headers['content-type']).toBe('text/event-stream; charset=utf-8');
    expect(client.headers['cache-control']).toBe('no-store');
    expect(client.retryMs).toBe(2000);
    const greeted = client.lastId;
    await append('cam-1');
    await until('a later cursor', () => client.comments.includes('heartbeat') && client.lastId !== greeted);
    const next = await append('cam-2');
    const resumed = await listen(home, '/v1/events', { ...READER, 'last-event-id': client.lastId });
    await until('the next', () => resumed.messages.length > 0);
    expect(idsOf(resumed)).toEqual([next]);
  });

  it.each([
    ['/v1/events?from=yesterday', {}, 'query.from'],
    ['/v1/events', { 'last-event-id': 'AAAA' }, 'header.Last-Event-ID'],
    ['/v1/events?device=a/b', {}, 'query'],
    ['/v1/events?colour=red', {}, 'query.colour'],
    ['/v1/events?from=now&from=start', {}, 'query.from'],
    ['/v1/events?kind=%zz', {}, 'query'],
  ])('refuses %s %o with a problem that names the part', async (path, headers, part) => {
    const { node, listen } = rig();
    const home = await node();
    const client = await listen(home, path, { ...READER, ...headers });
    await until('the answer', () => client.ended);
    expect(client.status).toBe(400);
    expect(JSON.parse(client.body)).toMatchObject({ code: 'invalid_request', errors: [{ path: part }] });
    expect(home.counted).toEqual([400]);
  });

  it('refuses who has no key, no scope, or too many connections, and counts a closed connection no more', async () => {
    const { node, listen } = rig();
    const home = await node({ routes: { connectionsPerKey: 2, connections: 3 } });
    expect((await listen(home, '/v1/events', {})).status).toBe(401);
    expect((await listen(home, '/v1/events', { authorization: 'Bearer only-calls' })).status).toBe(403);
    const first = await listen(home, '/v1/events');
    await listen(home, '/v1/events');
    expect((await listen(home, '/v1/events')).status).toBe(429);
    expect((await listen(home, '/v1/events', CALLER)).status).toBe(200);
    expect((await listen(home, '/v1/events', CALLER)).status).toBe(429);
    first.close();
    await until('gone', () => home.connections.count === 2);
    expect((await listen(home, '/v1/events')).status).toBe(200);
  });

  it('ends the stream of a revoked key with its cursor', async () => {
    const { node, listen, keys } = rig();
    const client = await listen(await node({ routes: { recheckMs: 50 } }), '/v1/events');
    keys.delete('reader');
    await until('ended', () => client.ended);
    expect(JSON.parse(client.named('closed')[0]?.data ?? '')).toEqual({
      reason: 'unauthenticated',
      cursor: client.lastId,
    });
  });

  it('says goodbye with the cursor when the process leaves, and refuses new ones (I8)', async () => {
    const { append, node, listen } = rig();
    const home = await node();
    const client = await listen(home, '/v1/events');
    const first = await append('cam-1');
    await until('the event', () => client.messages.length === 1);
    await home.connections.drain(500);
    await until('ended', () => client.ended);
    expect(JSON.parse(client.named('closed')[0]?.data ?? '')).toEqual({ reason: 'draining', cursor: client.lastId });
    expect((await listen(home, '/v1/events')).status).toBe(503);
    const next = await append('cam-1');
    const resumed = await listen(await node(), '/v1/events', { ...READER, 'last-event-id': client.lastId });
    await until('the next', () => resumed.messages.length > 0);
    expect(idsOf(client, resumed)).toEqual([first, next]);
  });
});

describe('GET /v1/events as pages', () => {
  it('gives what is stored in pages, the bytes of devices unchanged, and a cursor that the stream takes too', async () => {
    const { append, node, listen, fetchPage } = rig();
    const home = await node();
    const data = Buffer.from('{"Id":18446744073709551615,\r\n"F":1.0}');
    const ids = [await append('cam-1', { data }), await append('cam-2'), await append('cam-1', { kind: 'structure' })];
    const answer = await fetch(`http://127.0.0.1:${home.port}/v1/events?limit=1`, {
      headers: { ...READER, accept: 'application/json' },
    });
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'application/json']);
    const text = await answer.text();
    expect(text).toContain('"data":{"Id":18446744073709551615,  "F":1.0}}],"gaps":[],"cursor":"');
    const first = JSON.parse(text) as PageView;
    const rest = await fetchPage(home, `/v1/events?from=${first.cursor}`);
    expect(new Set([...first.events, ...rest.events].map(({ id }) => id))).toEqual(new Set(ids));
    expect([first.more, rest.more]).toEqual([true, false]);
    const filtered = await fetchPage(home, '/v1/events?kind=structure');
    expect(filtered.events.map(({ id }) => id)).toEqual([ids[2]]);
    expect(await fetchPage(home, '/v1/events?from=now')).toMatchObject({ events: [], gaps: [], more: false });

    const client = await listen(home, `/v1/events?from=${rest.cursor}`);
    const next = await append('cam-2');
    await until('the next', () => client.messages.length > 0);
    expect(idsOf(client)).toEqual([next]);
  });

  it.each([
    ['/v1/events?limit=0', 'application/json', 'query.limit'],
    ['/v1/events?limit=1001', 'application/json', 'query.limit'],
    ['/v1/events?limit=5&limit=6', 'application/json', 'query.limit'],
    ['/v1/events?limit=5', 'text/event-stream, application/json', 'query.limit'],
    ['/v1/events?from=yesterday', 'application/json', 'query.from'],
  ])('refuses %s for %s with a problem that names the part', async (path, accept, part) => {
    const { node } = rig();
    const home = await node();
    const answer = await fetch(`http://127.0.0.1:${home.port}${path}`, { headers: { ...READER, accept } });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ code: 'invalid_request', errors: [{ path: part }] });
  });

  it('refuses who asks for more pages at once than one key may, and serves it afterwards', async () => {
    const { node, append, fetchPage } = rig();
    const home = await node({ routes: { pagesPerKey: 2 } });
    await append('cam-1');
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        fetch(`http://127.0.0.1:${home.port}/v1/events`, { headers: { ...READER, accept: 'application/json' } }),
      ),
    );
    const statuses = answers.map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
    expect(await fetchPage(home, '/v1/events')).toMatchObject({ more: false });
  });
});

describe('WS /v1/stream', () => {
  it('carries several subscriptions and resumes each from its cursor', async () => {
    const { append, node, open } = rig();
    const home = await node();
    const client = await open(home);
    client.send({ type: 'subscribe', id: 'alarms', filter: { kinds: ['alarm.*'] } });
    client.send({ type: 'subscribe', id: 'one', filter: { devices: ['cam-2'] } });
    await until('subscribed', () => client.named('subscribed').length === 2);
    const alarm = await append('cam-1');
    const face = await append('cam-2', { kind: 'structure' });
    await until('both', () => client.named('event').length === 2);
    expect(client.eventIds('alarms')).toEqual([alarm]);
    expect(client.eventIds('one')).toEqual([face]);
    client.send({ type: 'unsubscribe', id: 'one' });
    await until('unsubscribed', () => client.named('unsubscribed').length === 1);
    const { cursor } = client.named('unsubscribed')[0] ?? {};
    const missed = await append('cam-2', { kind: 'structure' });
    client.send({ type: 'subscribe', id: 'one', filter: { devices: ['cam-2'] }, from: cursor });
    await until('what was missed', () => client.eventIds('one').length === 2);
    expect(client.eventIds('one')).toEqual([face, missed]);
    const last = client.named('event').at(-1);
    const other = await open(home);
    client.close();
    await until('its subscriptions gone', () => home.feed.counts.subscribers === 0);
    const next = await append('cam-2', { kind: 'structure' });
    other.send({ type: 'subscribe', id: 'x', filter: { devices: ['cam-2'] }, from: last?.cursor });
    await until('the next', () => other.eventIds('x').length === 1);
    expect(other.eventIds('x')).toEqual([next]);
  });

  it('sends commands with their digits unchanged and gives the answer of the device back as it came', async () => {
    const made = rig();
    made.answer = () => ({
      status: 'answered',
      success: true,
      responseCode: 0,
      body: Buffer.from('{"ResponseCode":0,"Data":{"Id":18446744073709551615}}'),
    });
    const client = await made.open(await made.node());
    client.send(
      '{"type":"command","id":"c1","code":"cam-1","method":"PUT","url":"/LAPI/V1.0/X","data":{"N":9007199254740993},"timeoutMs":2000}',
    );
    await until('the reply', () => client.named('reply').length === 1);
    expect(made.commands[0]).toMatchObject({
      code: 'cam-1',
      method: 'PUT',
      url: '/LAPI/V1.0/X',
      timeoutMs: 2000,
      connectTimeoutMs: 0,
    });
    expect(String(Buffer.from(made.commands[0]?.body ?? []))).toBe('{"N":9007199254740993}');
    expect(client.texts[0]).toBe(
      '{"type":"reply","id":"c1","status":200,"executed":"yes","source":"device","response":{"ResponseCode":0,"Data":{"Id":18446744073709551615}}}',
    );
  });

  it('says for a refused command whether anything was written, and dispatches nothing that the key may not call', async () => {
    const made = rig();
    made.answer = () => ({ status: 'refused', error: 'outcome_unknown', written: true, detail: 'session lost' });
    const home = await made.node();
    const caller = await made.open(home);
    const reader = await made.open(home, READER);
    const command = { type: 'command', id: 'c', code: 'cam-1', method: 'PUT', url: '/LAPI/V1.0/System/Time' };
    caller.send(command);
    caller.send({ ...command, id: 'guarded', url: '/LAPI/V1.0/System/Reboot' });
    caller.send({ ...command, id: 'reserved', url: '/LAPI/V1.0/System/UpServer/Register' });
    reader.send(command);
    await until('replies', () => caller.named('reply').length === 3 && reader.named('reply').length === 1);
    const replies = new Map(caller.named('reply').map((reply) => [reply.id, reply]));
    expect(replies.get('c')).toMatchObject({ status: 502, executed: 'maybe', problem: { code: 'outcome_unknown' } });
    expect(replies.get('guarded')).toMatchObject({
      status: 403,
      executed: 'no',
      problem: { code: 'forbidden_by_policy' },
    });
    expect(replies.get('reserved')).toMatchObject({ status: 403, executed: 'no' });
    expect(reader.named('reply')[0]).toMatchObject({ status: 403, executed: 'no', problem: { code: 'forbidden' } });
    expect(made.commands).toHaveLength(1);
  });

  it('answers nonsense with an error that names the message, and stays open', async () => {
    const { node, open } = rig();
    const client = await open(await node({ routes: { subscriptions: 2 } }));
    client.send('not json');
    client.send({ type: 'subscribe', id: 's1', colour: 'red' });
    client.send({ type: 'subscribe', id: 's2', from: 'yesterday' });
    client.send({ type: 'subscribe', id: 's3', filter: { devices: ['a/b'] } });
    client.send({ type: 'unsubscribe', id: 's4' });
    client.send({ type: 'command', id: 's5', code: 'a b', method: 'GET', url: '/LAPI/V1.0/X' });
    client.send('['.repeat(1000));
    client.sendBinary(new Uint8Array([1, 2, 3]));
    for (const id of ['a', 'a', 'b', 'c']) client.send({ type: 'subscribe', id });
    client.send({ type: 'ping' });
    await until('all answers', () => client.named('error').length === 10 && client.named('pong').length === 1);
    expect(client.named('error').map(({ id, problem }) => [id, problem?.code])).toEqual([
      [undefined, 'invalid_request'],
      ['s1', 'invalid_request'],
      ['s2', 'invalid_request'],
      ['s3', 'invalid_request'],
      ['s4', 'not_found'],
      ['s5', 'invalid_request'],
      [undefined, 'invalid_request'],
      [undefined, 'invalid_request'],
      ['a', 'conflict'],
      ['c', 'rate_limited'],
    ]);
    await until('subscribed', () => client.named('subscribed').length === 2);
    expect(client.closed).toBeUndefined();
  });

  it.each([
    ['without a key', 401, {}],
    ['with a key that may not read', 403, { authorization: 'Bearer only-calls' }],
    ['from a page of another origin', 403, { ...CALLER, origin: 'https://evil.example' }],
  ])('refuses an upgrade %s', async (_, status, headers) => {
    const { node } = rig();
    const home = await node();
    await expect(openStream(home.port, headers)).rejects.toThrow(String(status));
    expect(home.connections.count).toBe(0);
  });

  it('accepts a page of its own host, and refuses another WebSocket version and plain GET', async () => {
    const { node, open, listen } = rig();
    const home = await node();
    await open(home, { ...CALLER, origin: `http://127.0.0.1:${home.port}` });
    const version8 = await listen(home, '/v1/stream', {
      ...CALLER,
      upgrade: 'websocket',
      connection: 'Upgrade',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      'sec-websocket-version': '8',
    });
    expect([version8.status, version8.headers['sec-websocket-version']]).toEqual([400, '13']);
    expect((await listen(home, '/v1/stream', CALLER)).status).toBe(400);
  });

  it('closes a socket whose peer does not read with code 4008 or drops it, and keeps its memory bounded', async () => {
    const { append, node, open } = rig();
    const home = await node({ feed: { slowGraceMs: 300 }, routes: { closingMs: 300 } });
    const client = await open(home);
    client.send({ type: 'subscribe', id: 'all' });
    await until('subscribed', () => client.named('subscribed').length === 1);
    const healthy = await open(home);
    healthy.send({ type: 'subscribe', id: 'all' });
    await until('subscribed', () => healthy.named('subscribed').length === 1);
    const data = Buffer.from(JSON.stringify({ Image: 'x'.repeat(200_000) }));
    client.stopReading();
    for (let i = 0; i < 20; i++) await Promise.all(Array.from({ length: 5 }, (_, k) => append(`cam-${k}`, { data })));
    await until('cut', () => home.feed.counts.slowClosed === 1);
    await until('only the other is left', () => home.connections.count === 1);
    expect(home.feed.counts.subscribers).toBe(1);
    client.readOn();
    await until('the other got all', () => healthy.named('event').length === 100);
  }, 30_000);

  it('closes a socket that asks for much and reads none of it, and takes no more commands from it meanwhile while all hold too much', async () => {
    const it = rig();
    const body = Buffer.from(JSON.stringify({ ResponseCode: 0, Data: 'x'.repeat(4_000_000) }));
    it.answer = () => ({ status: 'answered', success: true, responseCode: 0, body });
    const home = await it.node({
      routes: { totalWaitingBytes: 100_000, commandWaitingBytes: 38_000_000, stuckMs: 2_000, closingMs: 300 },
    });
    const healthy = await it.open(home);
    const greedy = await it.open(home);
    greedy.stopReading();
    const command = (id: string) => ({
      type: 'command',
      id,
      code: 'cam-1',
      method: 'GET',
      url: '/LAPI/V1.0/System/DeviceInfo',
    });
    let sent = 0;
    // Commands that were taken stop: what waits for it is above the bound of the process, though below its own.
    await until('no further command is taken', () => {
      const taken = it.commands.length;
      greedy.send(command(`g${++sent}`));
      return sent > taken + 20;
    });
    expect(home.connections.count).toBe(2);
    it.answer = () => ({ status: 'answered', success: true, responseCode: 0, body: Buffer.from('{"ResponseCode":0}') });
    healthy.send(command('h'));
    await until('the other is answered', () => healthy.named('reply').length === 1);
    expect(healthy.named('reply')[0]?.status).toBe(200);
    await until('only the other is left', () => home.connections.count === 1);
    healthy.send(command('h2'));
    await until('and goes on', () => healthy.named('reply').length === 2);
  }, 30_000);

  it('tells the cursors of all subscriptions when the process leaves, then closes with 1001 (I8)', async () => {
    const { append, node, open } = rig();
    const home = await node();
    const client = await open(home);
    const idle = await open(home);
    client.send({ type: 'subscribe', id: 'a' });
    client.send({ type: 'subscribe', id: 'b', filter: { devices: ['cam-1'] } });
    await until('subscribed', () => client.named('subscribed').length === 2);
    await append('cam-1');
    await until('events', () => client.named('event').length === 2);
    await home.connections.drain(500);
    await until('closed', () => client.closed !== undefined && idle.closed !== undefined);
    expect(client.closed).toEqual({ code: 1001, reason: 'draining' });
    expect(idle.closed).toEqual({ code: 1001, reason: 'draining' });
    const closing = client.messages.at(-1);
    expect(closing).toMatchObject({ type: 'closing', reason: 'draining' });
    expect(Object.keys(closing?.cursors ?? {})).toEqual(['a', 'b']);
    const next = await append('cam-1');
    const again = await open(await node());
    again.send({ type: 'subscribe', id: 'a', from: closing?.cursors?.a });
    await until('the next', () => again.eventIds().length === 1);
    expect(again.eventIds()).toEqual([next]);
  });

  it('cuts a peer off that sends refused messages without end, and serves one that makes a mistake now and then', async () => {
    const it = rig();
    const node = await it.node({ routes: { messagesBurst: 200, messagesPerSecond: 200 } });
    const client = await it.open(node);
    client.send({ type: 'nonsense' });
    client.send({ type: 'ping' });
    await waitFor(() => client.named('pong').length === 1, { deadlineMs: 5_000, what: 'the pong' });
    for (let i = 0; i < 500; i++) client.send({ type: 'nonsense' });
    await waitFor(() => client.closed, { deadlineMs: 5_000, what: 'the close' });
    expect(client.closed).toEqual({ code: 1008, reason: 'too_many_messages' });
    expect(client.named('error').length).toBeLessThan(20);
    expect(client.named('closing')).toMatchObject([{ reason: 'too_many_messages' }]);
  });

  it('pings a silent peer, keeps one that answers, and ends the socket of a revoked key with 1008', async () => {
    const { node, open, keys } = rig();
    const home = await node({ routes: { pingMs: 30, silenceMs: 200, recheckMs: 600 } });
    const client = await open(home);
    await until('pings', () => client.pings >= 10);
    expect(client.closed).toBeUndefined();
    keys.delete('caller');
    await until('closed', () => client.closed !== undefined);
    expect(client.closed).toEqual({ code: 1008, reason: 'unauthenticated' });
  });

  it('drops a peer that says nothing at all, not even pong', async () => {
    const { node, open } = rig();
    const home = await node({ routes: { pingMs: 30, silenceMs: 150 } });
    const client = await open(home);
    client.stopReading();
    await until('dropped', () => home.connections.count === 0);
  });
});

describe('store away', () => {
  it('keeps streams open, says so, and goes on without loss when the store is back', async () => {
    const own = await startRedis();
    const connection = openConnection({ url: own.url, commandTimeoutMs: 500 }, 'state');
    await ready(connection, 5_000);
    const keyspace = createKeyspace('away', 4);
    const stream = new RedisEventStream({ state: connection, keyspace });
    const feed = new EventFeed({
      stream,
      shardOf: (code) => keyspace.shardOf(code),
      clock: systemClock,
      log: { info: () => undefined, warn: () => undefined },
      limits: { sweepMs: 20, auditMs: 100, heartbeatMs: 50, retryMs: 50 },
    });
    const server = createServer({ host: '127.0.0.1', port: 0 });
    const connections = registerEventRoutes(server, {
      feed,
      broker: {
        access: {
          authenticate: () => ({ status: 'caller', keyId: 'k', scopes: new Set<Scope>(['read']) }),
          forget: () => undefined,
        },
        policy: new PathPolicy(),
        groups: new FakeGroups(),
        dispatch: { call: () => Promise.reject(new Error('not used')), begin: () => undefined },
      },
      observer: { answered: () => undefined, newRequestId: () => 'r', leaving: () => false, defect: () => undefined },
      clock: systemClock,
    });
    const listening = await server.listen();
    cleanUps.push(async () => {
      connections.stop();
      await feed.stop();
      listening.close();
      await stream.stop();
      await closeConnection(connection);
      await own.stop();
    });
    const client = await openEvents(listening.port, '/v1/events');
    cleanUps.push(() => client.close());
    await stream.append(record({}));
    await until('the event', () => client.messages.length === 1);
    await own.kill('SIGKILL');
    await until('told', () => client.comments.includes('store unavailable'));
    expect(client.ended).toBe(false);
    await own.restart();
    await until('back', () => !feed.storeAway, 20_000);
    await stream.append(record({}));
    await until('the next', () => client.messages.filter(({ event }) => event === 'message').length >= 2, 20_000);
    expect(new Set(idsOf(client)).size).toBe(2);
  }, 60_000);
});

/** Number of an event in its shard, which orders the events of a shard. */
function numberOf(id: string): number {
  return Number(id.split('-')[2]);
}
