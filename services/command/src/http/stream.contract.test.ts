import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
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
  node(options?: { feed?: Partial<FeedLimits>; routes?: EventRouteParts['limits'] }): Promise<Node>;
  /** A client that is closed with the test. */
  listen(node: Node, path: string, headers?: Record<string, string>): Promise<SseClient>;
  open(node: Node, headers?: Record<string, string>): Promise<StreamClient>;
}

const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const READER = { authorization: 'Bearer reader' };
const CALLER = { authorization: 'Bearer caller' };

function rig(maxLength = 100_000): Rig {
  prefixes += 1;
  const keyspace = createKeyspace(`feed${prefixes}`, 4);
  const stream = new RedisEventStream({ state, keyspace, maxLength });
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

function byDevice(events: readonly { readonly id: string; readonly code: string }[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { id, code } of events) found.set(code, [...(found.get(code) ?? []), id]);
  return found;
}

describe('GET /v1/events', () => {
  it('shows 50 subscribers that join and resume at any moment of a flow every id from their cursor exactly once', async () => {
    const { append, node, listen } = rig();
    const nodes = [await node(), await node()];
    const ids: string[] = [];
    const flowing = (async () => {
      for (let i = 0; i < 4000; i += 8) {
        ids.push(...(await Promise.all(Array.from({ length: 8 }, (_, k) => append(`cam-${(i + k) % 37}`)))));
      }
    })();
    const subscribers = await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        await until('its moment', () => ids.length >= i * 60);
        const home = nodes[i % 2] as Node;
        const first = await listen(home, i % 3 === 0 ? '/v1/events?from=start' : '/v1/events');
        await until('some events', () => first.messages.length >= 40);
        // Cut in the middle, and resumed at the other process.
        first.close();
        await until('cut', () => first.ended);
        const second = await listen(nodes[(i + 1) % 2] as Node, '/v1/events', {
          ...READER,
          'last-event-id': first.lastId,
        });
        return { first, second };
      }),
    );
    await flowing;
    const last = new Set(ids.slice(-8));
    for (const [i, { first, second }] of subscribers.entries()) {
      await until('the end of the flow', () => {
        const missing = new Set(last);
        for (const { id } of second.events().slice(-400)) missing.delete(id);
        return missing.size === 0 && (i % 3 !== 0 || first.events().length + second.events().length >= 4000);
      });
      const seen = idsOf(first, second);
      expect(new Set(seen).size).toBe(seen.length);
      for (let shard = 0; shard < 4; shard++) {
        const own = seen.filter((id) => id.startsWith(`0${shard}-`));
        const stored = ids.filter((id) => id.startsWith(`0${shard}-`)).toSorted((a, b) => order(a) - order(b));
        const begun = decodeCursor(first.firstId, 4)?.get(shard) ?? ORIGIN;
        expect(own).toEqual(stored.filter((id) => order(id) > order(eventId(shard, begun))));
      }
      if (i % 3 === 0) expect(seen).toHaveLength(4000);
      expect(first.named('gap').length + second.named('gap').length).toBe(0);
    }
  }, 60_000);

  it('shows two processes the same order of each device', async () => {
    const { append, node, listen } = rig();
    const clients = await Promise.all([node(), node()].map(async (each) => await listen(await each, '/v1/events')));
    for (let i = 0; i < 60; i++) await Promise.all(Array.from({ length: 10 }, (_, k) => append(`cam-${k}`)));
    await until('all', () => clients.every((client) => client.messages.length === 600));
    const [one, other] = clients.map((client) => byDevice(client.events()));
    expect(one).toEqual(other);
    for (const own of one?.values() ?? []) expect(own).toEqual(own.toSorted((a, b) => order(a) - order(b)));
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

  it('tells the gap before the rest when events were trimmed since the cursor', async () => {
    const { append, node, listen } = rig(100);
    const home = await node({ feed: { recentEntries: 8 } });
    const before = await append('cam-1');
    const client = await listen(home, '/v1/events?device=cam-1&from=start');
    await until('the first', () => client.messages.length === 1);
    client.close();
    await until('cut', () => client.ended);
    const live = await listen(home, '/v1/events');
    for (let i = 1; i <= 30; i++) {
      await Promise.all(Array.from({ length: 20 }, () => append('cam-1')));
      // The feed itself must keep up with so short a stream.
      await until('the tail', () => live.messages.length === i * 20);
    }
    const last = idsOf(live).at(-1);
    const resumed = await listen(home, '/v1/events?device=cam-1', { ...READER, 'last-event-id': client.lastId });
    await until('the last', () => idsOf(resumed).at(-1) === last);
    expect(resumed.messages[0]?.event).toBe('gap');
    const to = idsOf(resumed)[0];
    expect(JSON.parse(resumed.messages[0]?.data ?? '')).toMatchObject({
      from: before,
      to,
      count: null,
      reason: 'trimmed',
    });
    expect(resumed.named('gap')).toHaveLength(1);
    expect(idsOf(resumed)).toEqual(idsOf(live).slice(idsOf(live).indexOf(to ?? '')));
    expect(resumed.messages.length).toBeLessThan(600);
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
    const stream = new RedisEventStream({ state: connection, keyspace, maxLength: 1000 });
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

/** Orders ids of one shard. */
function order(id: string): number {
  const [, ms, seq] = id.split('-').map(Number);
  return ((ms ?? 0) - 1_700_000_000_000) * 1000 + (seq ?? 0);
}
