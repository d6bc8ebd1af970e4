/** Each fault does what its name says, and nothing else. */

import { expect, test } from 'vitest';
import { createBench, next } from './fixture/bench.ts';

test('slow: the answer comes after its delay', async () => {
  await using bench = await createBench();
  const { code } = await bench.onlineDevice({ faults: { slowMs: 200 } });
  const answer = await bench.server.call(code, 'GET', '/System/DeviceInfo');
  expect(answer?.code).toBe(0);
  expect(answer?.tookMs).toBeGreaterThanOrEqual(195);
});

test('mute: calls stay unanswered while keepalives and events go on', async () => {
  await using bench = await createBench({ timeoutS: 0.1 });
  const { server } = bench;
  const device = await bench.onlineDevice({ faults: { mute: true } });
  expect(await server.call(device.code, 'GET', '/System/DeviceInfo', {}, 200)).toBeUndefined();
  expect(await device.notify('Alarm', {})).toMatchObject({ status: 'answered' });
  const before = server.requestsOf(device.code, '/Keepalive').length;
  await server.until(() => server.requestsOf(device.code, '/Keepalive').length > before, 'a keepalive');
});

test.each([{ wrongSignature: true }, { unknownCode: true }])(
  '%o: registration is refused at step 2 and tried again',
  async (faults) => {
    await using bench = await createBench();
    const device = bench.device({ faults });
    const failed = next(device, 'failed');
    device.start();
    expect(await failed).toMatchObject({ step: 2, httpStatus: 401 });
    await bench.server.until(() => bench.server.refusals >= 2, 'a second try');
    expect(bench.server.registrations).toHaveLength(0);
  },
);

test('half-open: nothing is read or written any more, and TCP stays open', async () => {
  await using bench = await createBench({ timeoutS: 0.05 });
  const { server } = bench;
  const device = await bench.onlineDevice({ faults: { halfOpenAfterMs: 150 }, answerDeadlineMs: 300 });
  await server.until(() => server.requestsOf(device.code, '/Keepalive').length >= 2, 'keepalives at first');
  while ((await server.call(device.code, 'GET', '/System/DeviceInfo', {}, 100)) !== undefined)
    expect(device.state).toBe('online');
  const seen = server.received.length;
  const unanswered = device.notify('Alarm', {});
  server.sendText(device.code, 'x'.repeat(16 * 1024 * 1024));
  expect(await unanswered).toEqual({ status: 'unanswered' });
  expect(server.received.length).toBe(seen);
  // More than the kernel takes for a reader that does not read.
  expect(server.unsentBytes(device.code)).toBeGreaterThan(0);
  expect(server.online).toEqual([device.code]);
  expect(device.state).toBe('online');
  device.cut();
  expect(device.state).toBe('waiting');
});

test('flap: the device cuts its connection and comes back again and again', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const device = bench.device({ faults: { flapMs: 50 }, reconnect: { minMs: 60_000, maxMs: 60_000 } });
  device.start();
  await server.until(() => server.registrations.length >= 3, 'three registrations');
  expect(device.onlineCount).toBeGreaterThanOrEqual(2);
});

test('storm: Retry-After is ignored', async () => {
  await using bench = await createBench();
  bench.server.refusing = { status: 503, retryAfterS: 30 };
  const device = bench.device({ faults: { storm: true }, reconnect: { minMs: 60_000, maxMs: 60_000 } });
  const failed = next(device, 'failed');
  device.start();
  expect((await failed).nextAttemptMs).toBeLessThanOrEqual(50);
  bench.server.refusing = undefined;
  expect(await device.untilOnline(2000)).toBe(true);
});

test('no keepalive: none is sent, and calls are answered', async () => {
  await using bench = await createBench({ timeoutS: 0.05 });
  const { code } = await bench.onlineDevice({ faults: { noKeepalive: true } });
  const reference = await bench.onlineDevice();
  await bench.server.until(
    () => bench.server.requestsOf(reference.code, '/Keepalive').length >= 5,
    'keepalives of another device',
  );
  expect((await bench.server.call(code, 'GET', '/System/DeviceInfo'))?.code).toBe(0);
  expect(bench.server.requestsOf(code, '/Keepalive')).toHaveLength(0);
});

test('garbage: text that is no JSON, and binary messages, keep coming', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const text = await bench.onlineDevice({ faults: { garbage: 'text' } });
  const binary = await bench.onlineDevice({ faults: { garbage: 'binary' } });
  await server.until(() => new Set(server.unreadable.map(({ code }) => code)).size === 2, 'garbage of both');
  expect(server.unreadable.find(({ code }) => code === text.code)?.isBinary).toBe(false);
  expect(server.unreadable.find(({ code }) => code === binary.code)?.isBinary).toBe(true);
});

test.each(['utf8', 'rsv'] as const)(
  'garbage %s: the frame breaks the rules, so the server drops the connection (E6)',
  async (garbage) => {
    await using bench = await createBench();
    const device = await bench.onlineDevice({ faults: { garbage } });
    expect(await next(device, 'offline')).toMatchObject({ cause: 'remote' });
  },
);

test('unmasked: the answer is a frame without a mask, which a strict server refuses (E4)', async () => {
  await using bench = await createBench();
  const device = await bench.onlineDevice({ faults: { unmasked: true } });
  const offline = next(device, 'offline');
  const answered = bench.server.call(device.code, 'GET', '/System/DeviceInfo', {}, 500);
  expect(await offline).toMatchObject({ code: 1002 });
  expect(await answered).toBeUndefined();
});

test('big: a successful answer carries the padding, another one does not', async () => {
  await using bench = await createBench();
  const { code } = await bench.onlineDevice({ faults: { bigAnswerBytes: 200_000 } });
  expect(String((await bench.server.call(code, 'GET', '/System/DeviceInfo'))?.data.Padding)).toHaveLength(200_000);
  expect((await bench.server.call(code, 'GET', '/No/Such/Thing'))?.data).toEqual({});
});
