import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { waitFor } from '@lapi-broker/fixture';
import { systemClock } from '@lapi-broker/runtime';
import { createLog } from '@lapi-broker/telemetry';
import { afterEach, describe, expect, test } from 'vitest';
import { devicesToShed, Isolation, mostAreReady } from './isolation.ts';

const closing: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

describe('how many devices a node without a lease lets go', () => {
  test('none before 30 s, and none unless most peers are ready', () => {
    expect(devicesToShed(29_999, 20_000, 1_000, 0.5)).toBe(0);
    expect(devicesToShed(30_000, 20_000, 1_000, 0.5)).toBe(20);
    expect(devicesToShed(60_000, Number.NEGATIVE_INFINITY, 1_000, 0.5)).toBe(0);
    expect(mostAreReady({ ready: 2, asked: 3 })).toBe(true);
    for (const [ready, asked] of [
      [1, 3],
      [1, 2],
      [0, 0],
    ] as const)
      expect(mostAreReady({ ready, asked })).toBe(false);
  });

  test('none while peers have only just found the store again: it may be here in a moment', () => {
    expect(devicesToShed(60_000, 9_999, 1_000, 0.5)).toBe(0);
    expect(devicesToShed(60_000, 10_000, 1_000, 0.5)).toBe(20);
  });

  test('2 % a second, spread by chance, and never more than there are', () => {
    expect(devicesToShed(60_000, 10_000, 1_000, 0)).toBe(10);
    expect(devicesToShed(60_000, 10_000, 1_000, 0.999)).toBe(30);
    expect(devicesToShed(60_000, 10_000, 1, 0.5)).toBe(1);
    expect(devicesToShed(60_000, 10_000, 0, 0.5)).toBe(0);
  });
});

async function peer(nodeName: string, status: () => number): Promise<{ url: string; asked: () => number }> {
  let asked = 0;
  const server: Server = createServer((request, response) => {
    asked++;
    response.writeHead(request.url === '/readyz' ? status() : 404, { 'lapi-node': nodeName }).end('{}');
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  closing.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked: () => asked };
}

function start(peers: readonly string[], lease: { ageMs: number }): { closed: string[]; shed: () => number } {
  const closed: string[] = [];
  let shed = 0;
  const open = new Set(
    Array.from({ length: 100 }, () => ({ close: (_: number, __: string, why: string) => closed.push(why) })),
  );
  const isolation = new Isolation({
    nodeName: 'edge-1',
    peers,
    leaseAgeMs: () => lease.ageMs,
    sessions: { size: open.size, values: () => open.values() },
    // Ten times as fast, so that two looks are a while.
    clock: { ...systemClock, monotonicMs: () => 10 * systemClock.monotonicMs() },
    random: Math.random,
    onShed: (devices) => {
      shed += devices;
    },
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  isolation.start();
  closing.push(() => isolation.stop());
  return { closed, shed: () => shed };
}

test('a node that alone has lost the store lets devices go, told as isolated; its own answer does not count', async () => {
  const self = await peer('edge-1', () => 503);
  const other = await peer('edge-2', () => 200);
  const { closed, shed } = start([self.url, other.url], { ageMs: 31_000 });
  await waitFor(() => closed.length > 0, { deadlineMs: 20_000, what: 'devices to be let go' });
  expect(new Set(closed)).toEqual(new Set(['isolated']));
  expect(shed()).toBe(closed.length);
});

test('while nobody is ready devices stay, and while the lease is confirmed nobody is asked', async () => {
  const others = [await peer('edge-2', () => 503), await peer('edge-3', () => 503)];
  const lease = { ageMs: 1_000 };
  const watched = start([...others.map(({ url }) => url), 'http://127.0.0.1:1'], lease);
  const quiet = start([(await peer('edge-4', () => 200)).url], { ageMs: 1_000 });
  const [first] = others;
  expect(first?.asked()).toBe(0);
  lease.ageMs = 60_000;
  await waitFor(() => others.every(({ asked }) => asked() > 0), { deadlineMs: 20_000, what: 'peers to be asked' });
  expect(watched.closed).toEqual([]);
  expect(quiet.closed).toEqual([]);
});
