/** What connections, scripts and meta promise, on real servers: one Redis and a Cluster of three masters. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  freePort,
  type RedisServer,
  startRedis,
  startRedisCluster,
  startTcpProxy,
  waitFor,
} from '@lapi-broker/fixture';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  checkMeta,
  closeConnection,
  createKeyspace,
  createScript,
  guarded,
  isCluster,
  nodeFor,
  openConnection,
  type RedisConnection,
  ready,
} from './index.ts';

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Event {
  readonly event: string;
  readonly facts: Record<string, unknown>;
}

function open(url: string, commandTimeoutMs = 1000): { connection: RedisConnection; events: Event[] } {
  const events: Event[] = [];
  const connection = openConnection({ url, commandTimeoutMs }, 'state', (event, facts) =>
    events.push({ event, facts }),
  );
  cleanups.push(() => closeConnection(connection));
  return { connection, events };
}

async function startOne(): Promise<RedisServer> {
  const server = await startRedis();
  cleanups.push(() => server.stop());
  return server;
}

const unavailable = { code: 'broker_unavailable' };

describe.each([
  ['standalone', startRedis],
  ['cluster', startRedisCluster],
] as const)('%s', (_, start) => {
  let server: { readonly url: string; stop(): Promise<void> };
  let folder: string;
  const scripts = new Map<string, URL>();
  beforeAll(async () => {
    server = await start();
    folder = await mkdtemp(path.join(tmpdir(), 'lapi-script-'));
    const texts = {
      echo: '#!lua\nredis.call("SET", KEYS[1], ARGV[1])\nreturn {redis.call("GET", KEYS[1]), ARGV[2], #ARGV}',
      count: '#!lua\nreturn redis.call("INCR", KEYS[1])',
      broken: '#!lua\nreturn redis.call("HGET", KEYS[1])',
    };
    for (const [name, text] of Object.entries(texts)) {
      const file = path.join(folder, `${name}.lua`);
      await writeFile(file, text);
      scripts.set(name, pathToFileURL(file));
    }
  });
  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });
  const script = (name: string): URL => scripts.get(name) as URL;

  test('a closed connection looks for no servers any more', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      const { connection } = open(server.url);
      await ready(connection, 5_000);
      const looks = isCluster(connection) ? vi.spyOn(connection, 'refreshSlotsCache') : vi.fn();
      vi.advanceTimersByTime(10_000);
      if (isCluster(connection)) expect(looks).toHaveBeenCalled();
      await closeConnection(connection);
      looks.mockClear();
      // Ready again for all that its timer could know.
      connection.status = 'ready';
      vi.advanceTimersByTime(10_000);
      expect(looks).not.toHaveBeenCalled();
      connection.status = 'end';
    } finally {
      vi.useRealTimers();
    }
  });

  test('directly after ready, commands to every shard succeed', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    const { events, shards } = createKeyspace('direct');
    await Promise.all(Array.from({ length: shards }, (_, shard) => guarded(connection.set(events(shard), '1'))));
  });

  test('a script gets Buffers byte by byte and can answer with Buffers', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const echo = createScript(connection, script('echo'), 1, { replies: 'buffer' });
    expect(await echo(['{a}k'], [bytes, 'text'])).toEqual([bytes, Buffer.from('text'), 2]);
    const asText = createScript(connection, script('echo'), 1);
    expect(await asText(['{a}k'], ['ä', 7])).toEqual(['ä', '7', 2]);
  });

  test('calls that meet a server without the script load it and run exactly once each', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    const count = createScript(connection, script('count'), 1);
    const { events, shards } = createKeyspace(`count-${performance.now()}`);
    const masters = Array.from({ length: shards }, (_, shard) => nodeFor(connection, events(shard)));
    for (const master of new Set(masters)) await master?.script('FLUSH');
    await Promise.all(Array.from({ length: 160 }, (_, i) => count([events(i % shards)], [])));
    const totals = await Promise.all(Array.from({ length: shards }, (_, shard) => connection.get(events(shard))));
    expect(totals).toEqual(totals.map(() => String(160 / shards)));
  });

  test('a wrong script is internal, because asking again cannot help; wrong keys never leave', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    await expect(createScript(connection, script('broken'), 1)(['{a}k'], [])).rejects.toMatchObject({
      code: 'internal',
    });
    await expect(createScript(connection, script('count'), 1)(['{a}k', '{a}l'], [])).rejects.toThrow(RangeError);
  });

  test('the shard count of the first start is kept; another one is refused with both named', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    const prefix = `meta-${performance.now()}`;
    const starts = await Promise.allSettled(
      [8, 16, 8, 32].map((n) => checkMeta(connection, createKeyspace(prefix, n))),
    );
    const kept = Number(await connection.hget(createKeyspace(prefix).meta(), 'shards'));
    expect(starts.map(({ status }) => status === 'fulfilled')).toEqual([8, 16, 8, 32].map((n) => n === kept));
    await checkMeta(connection, createKeyspace(prefix, kept));
    const other = kept === 64 ? 128 : 64;
    await expect(checkMeta(connection, createKeyspace(prefix, other))).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringContaining(`${kept} shards`) as string,
    });
  });

  test('closing is quick and may be repeated, also before the connection was ready', async () => {
    const { connection } = open(server.url);
    await ready(connection, 10_000);
    const { connection: early } = open(server.url);
    const startedMs = performance.now();
    await Promise.all([closeConnection(connection), closeConnection(early)]);
    await closeConnection(connection);
    expect(performance.now() - startedMs).toBeLessThan(1500);
    await expect(guarded(connection.get('k'))).rejects.toMatchObject(unavailable);
  });
});

test('a command before the connection is ready fails at once instead of waiting', async () => {
  const { connection } = open(`redis://127.0.0.1:${await freePort()}`, 10_000);
  const startedMs = performance.now();
  await expect(guarded(connection.get('k'))).rejects.toMatchObject(unavailable);
  expect(performance.now() - startedMs).toBeLessThan(1000);
  await expect(ready(connection, 300)).rejects.toMatchObject(unavailable);
  await closeConnection(connection);
  await expect(ready(connection, 300)).rejects.toMatchObject(unavailable);
});

test('a command under way fails when the connection breaks, long before its time limit, and never runs twice (D11)', async () => {
  const server = await startOne();
  const proxy = await startTcpProxy({ target: { port: server.port } });
  cleanups.push(() => proxy.stop());
  const { connection } = open(`redis://127.0.0.1:${proxy.port}`, 20_000);
  await ready(connection, 5000);
  // The command reaches the server, its answer does not come back.
  proxy.blackhole('down');
  const startedMs = performance.now();
  const counted = guarded(connection.incr('n'));
  await waitFor(async () => (await server.command('GET', 'n')) === '1', {
    deadlineMs: 5000,
    what: 'the command to run',
  });
  proxy.cut();
  await expect(counted).rejects.toMatchObject(unavailable);
  expect(performance.now() - startedMs).toBeLessThan(5000);
  proxy.heal();
  await ready(connection, 10_000);
  await guarded(connection.ping());
  expect(await guarded(connection.get('n'))).toBe('1');
});

test('commands to a hung server fail within their time limit; afterwards the connection works again', async () => {
  const server = await startOne();
  const { connection, events } = open(server.url, 300);
  await ready(connection, 5000);
  await server.kill('SIGSTOP');
  const startedMs = performance.now();
  await expect(guarded(connection.set('k', '1'))).rejects.toMatchObject(unavailable);
  expect(performance.now() - startedMs).toBeLessThan(1000);
  await waitFor(() => events.some(({ event }) => event === 'redis.closed'), {
    deadlineMs: 3000,
    what: 'the hung connection to be dropped',
  });
  await server.kill('SIGCONT');
  await waitFor(() => guarded(connection.set('k', '2')), { deadlineMs: 5000, what: 'the connection' });
});

test('an outage is reported once per kind, not once per attempt, and never with credentials', async () => {
  const server = await startOne();
  await server.command('CONFIG', 'SET', 'requirepass', 'topsecret');
  const wrong = open(`redis://:othersecret@127.0.0.1:${server.port}`);
  await expect(ready(wrong.connection, 200)).rejects.toMatchObject(unavailable);
  const { connection, events } = open(`redis://:topsecret@127.0.0.1:${server.port}`);
  await ready(connection, 5000);
  await server.kill('SIGKILL');
  let attempts = 0;
  connection.on('reconnecting', () => {
    attempts++;
  });
  await waitFor(() => attempts >= 5, { deadlineMs: 10_000, what: 'some attempts' });
  const errors = events.filter(({ event }) => event === 'redis.error');
  expect(errors.length).toBeGreaterThan(0);
  expect(errors.length).toBeLessThan(attempts);
  expect(wrong.events.some(({ event }) => event === 'redis.error')).toBe(true);
  expect(JSON.stringify([...events, ...wrong.events])).not.toMatch(/topsecret|othersecret/);
});

test('a server that may evict keys is reported, one that may not is not (D12)', async () => {
  const server = await startOne();
  const careful = open(server.url);
  await ready(careful.connection, 5000);
  expect(careful.events.map(({ event }) => event)).not.toContain('redis.evicts');
  await server.command('config', 'set', 'maxmemory-policy', 'allkeys-lru');
  const careless = open(server.url);
  await ready(careless.connection, 5000);
  expect(careless.events.find(({ event }) => event === 'redis.evicts')?.facts).toMatchObject({ policy: 'allkeys-lru' });
});

test('the end of a connection that its owner closed is no news', async () => {
  const server = await startOne();
  const { connection, events } = open(server.url);
  await ready(connection, 5000);
  await closeConnection(connection);
  expect(events.map(({ event }) => event)).not.toContain('redis.closed');
});
