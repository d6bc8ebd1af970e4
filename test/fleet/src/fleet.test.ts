/** Many devices as one: start, pace, faults, provisioning, reports, the command itself. */

import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { runCommand, type Terminal } from './cli/run.ts';
import { parseFault } from './fault.ts';
import { next } from './fixture/bench.ts';
import { VendorServer, type VendorServerOptions } from './fixture/vendor-server.ts';
import { Fleet, type FleetOptions, planFleet } from './fleet.ts';
import { provisionDevices } from './provision.ts';
import { deriveSecret } from './signature.ts';
import { Durations } from './tally.ts';

const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function startServer(options: Partial<VendorServerOptions> = {}): Promise<VendorServer> {
  const server = new VendorServer({
    secretOf: (code) => (code.startsWith('210235SIM') ? deriveSecret('lapi-fleet', code) : undefined),
    ...options,
  });
  await server.start();
  cleanups.push(() => server.stop());
  return server;
}

function startFleet(options: FleetOptions): Fleet {
  const fleet = new Fleet(options);
  cleanups.push(() => fleet.stop(1000));
  fleet.start();
  return fleet;
}

function plan(text: string) {
  const parsed = parseFault(text);
  if (parsed.status === 'wrong') throw new Error(parsed.sentence);
  return parsed.plan;
}

interface ApiServer {
  readonly url: string;
  readonly puts: { readonly path: string; readonly key: string | undefined; readonly body: unknown }[];
  /** Statuses of the next answers; then 200. */
  readonly statuses: number[];
  mostAtOnce: number;
}

async function startApi(): Promise<ApiServer> {
  const api = {
    url: '',
    puts: [] as { path: string; key: string | undefined; body: unknown }[],
    statuses: [] as number[],
    mostAtOnce: 0,
  };
  let open = 0;
  const http: Server = createServer(async (request, response) => {
    open += 1;
    api.mostAtOnce = Math.max(api.mostAtOnce, open);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    api.puts.push({
      path: `${request.method} ${request.url}`,
      key: request.headers.authorization,
      body: JSON.parse(Buffer.concat(chunks).toString()),
    });
    setImmediate(() => {
      open -= 1;
      response.writeHead(api.statuses.shift() ?? 200).end('{}');
    });
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    http.closeAllConnections();
    return new Promise((resolve) => http.close(resolve));
  });
  api.url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  return api;
}

function createTerminal(): Terminal & { readonly lines: Record<'out' | 'error' | 'live', string[]> } {
  const lines = { out: [] as string[], error: [] as string[], live: [] as string[] };
  return {
    lines,
    interactive: true,
    out: (line) => lines.out.push(line),
    error: (line) => lines.error.push(line),
    live: (line) => lines.live.push(line),
  };
}

const byText = (left: string, right: string) => (left < right ? -1 : 1);

const never = new Promise<void>(() => undefined);

test('500 devices come online in one process, spread over two servers, answer calls, and all leave', async () => {
  const first = await startServer();
  const second = await startServer();
  const fleet = startFleet({
    devices: 500,
    urls: [first.url, second.url],
    mix: { nvr: 1, ipc: 1 },
    ratePerSecond: 2000,
  });
  expect(await fleet.untilOnline(15_000)).toBe(true);
  expect([first.online.length, second.online.length]).toEqual([250, 250]);
  const answers = await Promise.all(
    first.online.slice(0, 50).map((code) => first.call(code, 'GET', '/System/DeviceInfo')),
  );
  expect(answers.every((answer) => answer?.code === 0)).toBe(true);
  expect(fleet.snapshot()).toMatchObject({
    states: { online: 500 },
    failing: 0,
    counts: { online: 500, callsAnswered: 50 },
  });
  await fleet.stop();
  await first.until(() => first.online.length === 0, 'all gone');
  await second.until(() => second.online.length === 0, 'all gone');
  expect(first.received.filter(({ message }) => String(message.RequestURL).endsWith('/Unregister'))).toHaveLength(250);
  expect(fleet.snapshot().states.stopped).toBe(500);
});

test('registrations never begin faster than the wanted rate', async () => {
  const server = await startServer();
  const fleet = new Fleet({ devices: 60, urls: [server.url], ratePerSecond: 100 });
  cleanups.push(() => fleet.stop(1000));
  const startedMs = performance.now();
  const begun: number[] = [];
  for (const device of fleet.devices) device.on('registering', () => begun.push(performance.now() - startedMs));
  fleet.start();
  expect(await fleet.untilOnline(5000)).toBe(true);
  // A batch may hold what is due within its 20 ms.
  const ahead = begun.filter((ms, index) => index > ((ms + 20) / 1000) * 100 + 1);
  expect(ahead).toEqual([]);
  expect(begun).toHaveLength(60);
});

test('source addresses are used in equal parts', async () => {
  const server = await startServer();
  const fleet = startFleet({ devices: 10, urls: [server.url], sources: ['127.0.0.2', '127.0.0.3'] });
  expect(await fleet.untilOnline(5000)).toBe(true);
  const counts = Map.groupBy(server.registrations, ({ remoteAddress }) => remoteAddress);
  expect([counts.get('127.0.0.2')?.length, counts.get('127.0.0.3')?.length]).toEqual([5, 5]);
});

test('devices that cannot come online are not waited for, and are reported with their reason', async () => {
  const server = await startServer();
  const fleet = startFleet({
    devices: 10,
    urls: [server.url],
    faults: [plan('wrong-signature@2'), plan('unknown-code@1')],
    reconnect: { minMs: 60_000, maxMs: 60_000 },
  });
  const refused = Promise.all(fleet.devices.slice(0, 3).map((device) => next(device, 'failed')));
  expect(await fleet.untilOnline(5000)).toBe(true);
  await refused;
  expect(fleet.snapshot()).toMatchObject({ failing: 3, states: { online: 7 } });
  expect(fleet.snapshot().reasons).toEqual([['step 2: http 401', 3]]);
});

test('duplicate: two sockets use the same code, so each take-over ends the other (D3)', async () => {
  const server = await startServer();
  const reconnect = { minMs: 50, maxMs: 50 };
  const fleet = startFleet({ devices: 1, urls: [server.url], faults: [plan('duplicate')], reconnect });
  expect(fleet.devices.map(({ code }) => code)).toEqual(['210235SIMN0000000001', '210235SIMN0000000001']);
  await server.until(() => server.registrations.length >= 4, 'take-overs');
  expect(server.online).toHaveLength(1);
});

test('storm: its devices lose their connection together and come back at once', async () => {
  const server = await startServer();
  const reconnect = { minMs: 60_000, maxMs: 60_000 };
  startFleet({ devices: 20, urls: [server.url], ratePerSecond: 1000, faults: [plan('storm:0.5')], reconnect });
  await server.until(() => server.registrations.length >= 40, 'everybody twice');
  const again = server.registrations.slice(20, 40).map(({ atMs }) => atMs);
  expect(Math.max(...again) - Math.min(...again)).toBeLessThan(400);
});

test('the same plan gives the same codes and secrets', () => {
  const devices = () => planFleet({ devices: 50, mix: { nvr: 1, ipc: 2, radar: 1 } });
  expect(devices()).toEqual(devices());
  expect(new Set(devices().map(({ code }) => code)).size).toBe(50);
});

test('devices are provisioned with secret, type, tags and profile, a bounded number at a time', async () => {
  const api = await startApi();
  const devices = planFleet({ devices: 40, mix: { ipc: 1 } });
  const outcome = await provisionDevices(devices, { api: `${api.url}/`, key: 'k1', tags: ['sim'], concurrency: 4 });
  expect(outcome).toEqual({ status: 'done', devices: 40 });
  expect(api.puts.map(({ path }) => path).toSorted(byText)).toEqual(
    devices.map(({ code }) => `PUT /v1/devices/${code}`),
  );
  expect(api.puts[0]).toMatchObject({
    key: 'Bearer k1',
    body: {
      secret: devices.find(({ code }) => api.puts[0]?.path.endsWith(code))?.secret,
      type: 'ipc',
      tags: ['sim'],
      profile: 'ipc',
    },
  });
  expect(api.mostAtOnce).toBeLessThanOrEqual(4);
});

test('provisioning repeats what may pass and ends at what will not', async () => {
  const api = await startApi();
  const devices = planFleet({ devices: 3 });
  api.statuses.push(503, 429);
  expect(
    await provisionDevices(devices, { api: api.url, key: undefined, tags: [], concurrency: 1, retryMs: 1 }),
  ).toMatchObject({ status: 'done' });
  expect(api.puts).toHaveLength(5);
  api.statuses.push(200, 401);
  expect(await provisionDevices(devices, { api: api.url, key: undefined, tags: [], concurrency: 1 })).toEqual({
    status: 'failed',
    done: 1,
    sentence: `Provisioning 210235SIMN0000000002 at ${api.url} failed: HTTP 401 (is --key right?): {}.`,
  });
  await cleanups.pop()?.();
  const dead = { api: api.url, key: undefined, tags: [], retries: 1, retryMs: 1 };
  expect(await provisionDevices(devices, dead)).toMatchObject({
    status: 'failed',
    sentence: expect.stringContaining('ECONNREFUSED'),
  });
});

test('the command provisions, runs for its duration, reports and ends with 0 and a JSON summary', async () => {
  const api = await startApi();
  const server = await startServer({
    secretOf: (code) =>
      (api.puts.find(({ path }) => path.endsWith(code))?.body as { secret: string } | undefined)?.secret,
  });
  const terminal = createTerminal();
  const line = `--devices 20 --url ${server.url} --api ${api.url} --key k --alarms 300 --duration 1.2 --json`;
  expect(await runCommand(line.split(' '), terminal, never)).toBe(0);
  const summary = JSON.parse(terminal.lines.out[0] ?? '');
  expect(summary).toMatchObject({ exitCode: 0, devices: 20, online: 20, missing: 0, reasons: {} });
  expect(summary.counts.eventsAcked).toBeGreaterThan(10);
  expect(summary.eventAnswerMs.p99).toBeGreaterThanOrEqual(summary.eventAnswerMs.p50);
  expect(terminal.lines.live).toContainEqual(
    expect.stringMatching(/^\ds {2}online 20\/20 .* events [\d.]+\/s acked [\d.]+\/s {2}p50 [\d.]+ ms p99 [\d.]+ ms$/),
  );
  expect(terminal.lines.error).toEqual([]);
});

test('the command ends with 1 and says why when devices do not come online', async () => {
  const terminal = createTerminal();
  expect(await runCommand('--devices 3 --url ws://127.0.0.1:1 --wait 0.3'.split(' '), terminal, never)).toBe(1);
  expect(terminal.lines.error).toEqual([
    '3 of 3 devices did not come online within 0.3 s (step 1: ECONNREFUSED × 3: nothing listens at --url).',
  ]);
});

test('the command ends with 2 and one sentence for a wrong option, and with 0 for help', async () => {
  const terminal = createTerminal();
  expect(await runCommand(['--devices', 'x'], terminal, never)).toBe(2);
  expect(terminal.lines.error).toHaveLength(1);
  expect(await runCommand(['--help'], terminal, never)).toBe(0);
  expect(terminal.lines.out[0]).toContain('Usage');
});

test('an interrupt unregisters every device and ends with 0', async () => {
  const server = await startServer();
  const terminal = createTerminal();
  let interrupt: () => void = () => undefined;
  const interrupted = new Promise<void>((resolve) => {
    interrupt = resolve;
  });
  const ended = runCommand(['--devices', '20', '--url', server.url], terminal, interrupted);
  const greeted = () => new Set(server.received.map(({ code }) => code)).size;
  await server.until(() => greeted() === 20, 'a keepalive of each device');
  interrupt();
  expect(await ended).toBe(0);
  expect(server.received.filter(({ message }) => String(message.RequestURL).endsWith('/Unregister'))).toHaveLength(20);
});

test('a percentile is at most one bucket (4.4 %) above the true value', () => {
  const durations = new Durations();
  for (let ms = 1; ms <= 1000; ms += 1) durations.add(ms);
  expect(durations.percentile(50)).toBeGreaterThanOrEqual(500);
  expect(durations.percentile(50)).toBeLessThanOrEqual(500 * 1.045);
  expect(durations.percentile(99)).toBeLessThanOrEqual(990 * 1.045);
  expect(new Durations().percentile(50)).toBeUndefined();
});
