/** A device against a vendor-style server on real sockets: protocol 2 to 11 as a device lives them. */

import { expect, test } from 'vitest';
import { createBench, next } from './fixture/bench.ts';

test.each(['union', 'bare', 'wrapped'] as const)(
  'the challenge shape %s leads to a signed registration (H3)',
  async (challengeShape) => {
    await using bench = await createBench({ challengeShape });
    const device = bench.device();
    const online = next(device, 'online');
    device.start();
    expect(await online).toMatchObject({ echoed: true, ack: { cnonce: expect.stringMatching(/^[0-9a-f]{16}$/) } });
    const [registration] = bench.server.registrations;
    expect([...(registration?.query.keys() ?? [])]).toEqual([
      'Vendor',
      'DeviceType',
      'DeviceCode',
      'Algorithm',
      'Nonce',
      'Cnonce',
      'Sign',
    ]);
    expect(registration?.query.get('Vendor')).toBe('Uniview');
  },
);

test('the two steps use two connections, or one when asked to (H4)', async () => {
  await using bench = await createBench();
  await bench.onlineDevice();
  await bench.onlineDevice({ sameConnection: true });
  const ports = bench.server.registrations.map(({ stepPorts }) => stepPorts);
  expect(ports[0]?.[0]).not.toBe(ports[0]?.[1]);
  expect(ports[1]?.[0]).toBe(ports[1]?.[1]);
});

test('the signature stands in the URL percent-encoded, or raw when asked to (G4)', async () => {
  await using bench = await createBench();
  await bench.onlineDevice();
  await bench.onlineDevice({ signEncoding: 'raw' });
  const [clean, raw] = bench.server.registrations.map(({ rawQuery }) => rawQuery.split('&Sign=')[1]);
  expect(clean).toMatch(/^[A-Za-z0-9%]+%3D$/);
  expect(raw).toMatch(/^[A-Za-z0-9+/]+=$/);
});

test('a device whose broker sends no acknowledgement is online without one (A2)', async () => {
  await using bench = await createBench({ ack: 'none' });
  const device = bench.device({ ackWaitMs: 50 });
  const online = next(device, 'online');
  device.start();
  expect(await online).toMatchObject({ ack: undefined, echoed: false });
});

test('keepalives come at the interval the server tells, counted from its answer (K2)', async () => {
  await using bench = await createBench({ timeoutS: 0.2 });
  const device = await bench.onlineDevice();
  const keepalives = () => bench.server.requestsOf(device.code, '/UpServer/Keepalive');
  await bench.server.until(() => keepalives().length >= 5, 'five keepalives');
  const times = keepalives().map(({ atMs }) => atMs);
  const gaps = times.slice(1).map((atMs, index) => atMs - (times[index] ?? 0));
  expect(Math.min(...gaps)).toBeGreaterThanOrEqual(195);
  expect(gaps.toSorted((left, right) => left - right)[Math.floor(gaps.length / 2)]).toBeLessThan(400);
  expect(device.keepaliveMs).toBe(200);
  expect(keepalives()[0]?.message).toEqual({
    RequestURL: '/LAPI/V1.0/System/UpServer/Keepalive',
    Method: 'PUT',
    Cseq: 1,
    Data: {},
  });
});

test('a server that leaves keepalives unanswered is given up, and the device registers again', async () => {
  await using bench = await createBench({ answersKeepalives: false });
  const device = await bench.onlineDevice({ answerDeadlineMs: 50, keepaliveMisses: 3 });
  expect(await next(device, 'offline')).toMatchObject({ cause: 'silence' });
  expect(bench.server.requestsOf(device.code, '/UpServer/Keepalive')).toHaveLength(3);
  expect(await device.untilOnline()).toBe(true);
});

test('a call is answered with its own URL and Cseq, and what was set is seen by the next call', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const { code } = await bench.onlineDevice();
  const info = await server.call(code, 'GET', '/System/DeviceInfo?x=1');
  expect(Object.keys(info?.message ?? {})).toEqual(['ResponseURL', 'ResponseCode', 'ResponseString', 'Cseq', 'Data']);
  expect(info?.message).toMatchObject({
    ResponseURL: '/LAPI/V1.0/System/DeviceInfo?x=1',
    ResponseCode: 0,
    ResponseString: 'Succeed',
    Cseq: 1,
  });
  expect(info?.data.DeviceCode).toBe(code);
  expect((await server.call(code, 'PUT', '/Channels/1/PTZ/Presets/2', { Name: 'Gate' }))?.code).toBe(0);
  expect((await server.call(code, 'GET', '/Channels/1/PTZ/Presets'))?.data).toEqual({
    Nums: 1,
    PresetInfos: [{ ID: 2, Name: 'Gate' }],
  });
  expect((await server.call(code, 'GET', '/No/Such/Thing'))?.code).toBe(4);
});

test('a hook may answer, answer later, send any text, stay silent or leave it to the device', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const device = await bench.onlineDevice();
  const { code } = device;
  device.onRequest = ({ path, cseq }) => {
    if (path.endsWith('/now')) return { code: 102, data: { Seen: true } };
    if (path.endsWith('/later')) return Promise.resolve({ code: 5 });
    if (path.endsWith('/text')) return { text: `{"ResponseCode":0,"Cseq":"${cseq}","Big":9007199254740993}` };
    if (path.endsWith('/silent')) return 'silent';
    if (path.endsWith('/broken')) throw new Error('hook');
    return undefined;
  };
  expect(await server.call(code, 'GET', '/now')).toMatchObject({ code: 102, data: { Seen: true } });
  expect(await server.call(code, 'GET', '/later')).toMatchObject({ code: 5 });
  expect(await server.call(code, 'GET', '/text')).toMatchObject({ code: 0, message: { Cseq: expect.any(String) } });
  expect(await server.call(code, 'GET', '/silent', {}, 100)).toBeUndefined();
  expect(await server.call(code, 'GET', '/broken')).toMatchObject({ code: 1 });
  expect(await server.call(code, 'GET', '/System/DeviceInfo')).toMatchObject({ code: 0 });
});

test('a notification carries its Cseq and ends in exactly one outcome', async () => {
  const codes: Record<string, number | undefined> = { Alarm: 0, PassData: 1, Silent: undefined };
  await using bench = await createBench({ answerNotification: (url) => codes[url.split('/').at(-1) ?? ''] });
  const device = await bench.onlineDevice({ answerDeadlineMs: 100 });
  expect(await device.notify('Alarm', { AlarmInfo: {} })).toMatchObject({ status: 'answered', answer: { code: 0 } });
  expect(await device.notify('PassData', {})).toMatchObject({ status: 'answered', answer: { code: 1 } });
  expect(await device.notify('Silent', {})).toEqual({ status: 'unanswered' });
  const lost = device.notify('Silent', {});
  device.cut();
  expect(await lost).toEqual({ status: 'lost' });
  expect(await device.notify('Alarm', {})).toEqual({ status: 'unsent' });
  const cseqs = bench.server.requestsOf(device.code, '/Notification/').map(({ message }) => message.Cseq);
  expect(new Set(cseqs).size).toBe(cseqs.length);
  expect(bench.server.requestsOf(device.code, '/Notification/Alarm')[0]?.message.Method).toBe('POST');
});

test('events come at their rate with a growing AlarmSeq and a time stamp, structures with JPEGs (protocol 11)', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const { code } = await bench.onlineDevice({ rates: { alarm: 1200, structure: 600, people: 600, health: 600 } });
  await server.until(() => server.requestsOf(code, '/Notification/Alarm').length >= 6, 'six alarms');
  await server.until(() => server.requestsOf(code, '/Notification/Structure').length >= 1, 'a structure event');
  await server.until(() => server.requestsOf(code, '/Notification/PeopleCount/').length >= 1, 'a people count');
  const alarms = server
    .requestsOf(code, '/Notification/Alarm')
    .map(({ message }) => message.Data as { AlarmInfo: { AlarmSeq: number; TimeStamp: number } });
  const seqs = alarms.map(({ AlarmInfo }) => AlarmInfo.AlarmSeq);
  expect(seqs).toEqual([...new Set(seqs)].toSorted((left, right) => left - right));
  expect(Math.abs((alarms[0]?.AlarmInfo.TimeStamp ?? 0) - Date.now() / 1000)).toBeLessThan(10);
  const [structure] = server.requestsOf(code, '/Notification/Structure');
  const data = structure?.message.Data as { StructureInfo: { ImageInfoList: { Data: string; Size: number }[] } };
  expect(Buffer.from(data.StructureInfo.ImageInfoList[0]?.Data ?? '', 'base64')).toHaveLength(
    data.StructureInfo.ImageInfoList[0]?.Size ?? -1,
  );
  // A recorder measures no heartbeat.
  expect(server.requestsOf(code, '/Notification/HealthData')).toHaveLength(0);
});

test('a radar sends telemetry and passing vehicles to their own URLs', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const { code } = await bench.onlineDevice({ profile: 'radar', rates: { telemetry: 1200, pass: 600 } });
  await server.until(() => server.requestsOf(code, '/System/Radar/Service/RealTimeInfo').length >= 2, 'telemetry');
  await server.until(() => server.requestsOf(code, '/Notification/PassData').length >= 1, 'a passing vehicle');
});

test('with onlySubscribed events wait for a subscription and end when it expires', async () => {
  let nowMs = 1_735_689_600_000;
  await using bench = await createBench({ timeoutS: 0.05 });
  const { server } = bench;
  const { code } = await bench.onlineDevice({ rates: { alarm: 3000 }, onlySubscribed: true, nowMs: () => nowMs });
  const alarms = () => server.requestsOf(code, '/Notification/Alarm');
  // Five keepalives take about a dozen alarm intervals.
  const letTimePass = async () => {
    const wanted = server.requestsOf(code, '/Keepalive').length + 5;
    await server.until(() => server.requestsOf(code, '/Keepalive').length >= wanted, 'keepalives');
  };
  await letTimePass();
  expect(alarms()).toHaveLength(0);
  const created = await server.call(code, 'POST', '/System/Event/Subscription', { Duration: 600, Type: 0 });
  await server.until(() => alarms().length >= 3, 'alarms while subscribed');
  expect(alarms()[0]?.text).toContain(`/Subscription/Subscribers/${created?.data.ID}"`);
  nowMs += 600_000;
  // An answer behind them shows that all alarms sent before are counted.
  await server.call(code, 'GET', '/System/DeviceInfo');
  const before = alarms().length;
  await letTimePass();
  expect(alarms()).toHaveLength(before);
});

test('a reboot is answered, takes the device offline and brings it back with its presets and without its subscriptions', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const device = await bench.onlineDevice({ rebootMs: 50 });
  const { code } = device;
  await server.call(code, 'PUT', '/Channels/1/PTZ/Presets/1', { Name: 'Door' });
  await server.call(code, 'POST', '/System/Event/Subscription', { Duration: 600 });
  await server.call(code, 'POST', '/Channels/1/Media/Video/Streams/0/Sessions', { SessionID: 'a', Type: 1 });
  const offline = next(device, 'offline');
  expect((await server.call(code, 'PUT', '/System/Reboot'))?.code).toBe(0);
  expect(await offline).toMatchObject({ cause: 'reboot' });
  expect(await device.untilOnline()).toBe(true);
  expect(device.equipment.subscriptions.active(Date.now())).toEqual([]);
  expect((await server.call(code, 'GET', '/Channels/1/PTZ/Presets'))?.data).toMatchObject({ Nums: 1 });
  expect((await server.call(code, 'GET', '/Channels/1/Media/Video/Streams/Sessions'))?.data).toMatchObject({ Nums: 0 });
});

test('a lost connection and a close by the server both lead to a new registration from step 1 (D2)', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const device = await bench.onlineDevice();
  const lost = next(device, 'offline');
  server.drop(device.code);
  expect(await lost).toMatchObject({ code: 1006, cause: 'remote' });
  expect(await device.untilOnline()).toBe(true);
  const drained = next(device, 'offline');
  server.close(device.code, 1001, 'drain');
  expect(await drained).toMatchObject({ code: 1001, reason: 'drain', cause: 'remote' });
  expect(await device.untilOnline()).toBe(true);
  const nonces = server.registrations.map(({ query }) => query.get('Nonce'));
  expect(new Set(nonces).size).toBe(3);
});

test('each attempt dials the next address', async () => {
  await using first = await createBench();
  await using second = await createBench();
  const device = await first.onlineDevice({ urls: [first.server.url, second.server.url] });
  device.cut();
  await second.server.until(() => second.server.online.includes(device.code), 'the device at the second server');
});

test('Retry-After is honoured before the next attempt (F14, F16)', async () => {
  await using bench = await createBench();
  bench.server.refusing = { status: 503, retryAfterS: 7 };
  const device = bench.device();
  const failed = next(device, 'failed');
  device.start();
  const failure = await failed;
  expect(failure).toMatchObject({ step: 1, reason: 'http 503', httpStatus: 503, retryAfterMs: 7000 });
  expect(failure.nextAttemptMs).toBeGreaterThanOrEqual(7000);
  expect(device.state).toBe('waiting');
});

test('a device that nobody listens to says so and keeps trying', async () => {
  await using bench = await createBench();
  const device = bench.device({ urls: ['ws://127.0.0.1:1'] });
  const failures: string[] = [];
  const third = new Promise<void>((resolve) => {
    device.on('failed', ({ reason }) => {
      if (failures.push(reason) === 3) resolve();
    });
  });
  device.start();
  await third;
  expect(failures).toEqual(['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED']);
});

test('stopping unregisters, closes and leaves nothing running; the device can start again (D1)', async () => {
  await using bench = await createBench();
  const { server } = bench;
  const device = await bench.onlineDevice();
  const offline = next(device, 'offline');
  await Promise.all([device.stop(), device.stop()]);
  expect(await offline).toMatchObject({ cause: 'stop', code: 1000 });
  expect(server.requestsOf(device.code, '/UpServer/Unregister')).toHaveLength(1);
  expect(device.state).toBe('stopped');
  await server.until(() => server.online.length === 0, 'no socket');
  device.start();
  expect(await device.untilOnline()).toBe(true);
});

test('stopping is quick in every state', async () => {
  await using bench = await createBench();
  const registering = bench.device();
  registering.start();
  const waiting = bench.device({ urls: ['ws://127.0.0.1:1'], reconnect: { minMs: 60_000, maxMs: 60_000 } });
  const failed = next(waiting, 'failed');
  waiting.start();
  await failed;
  const frozen = await bench.onlineDevice();
  frozen.freeze();
  const startedMs = performance.now();
  await Promise.all([registering.stop(), waiting.stop(), frozen.stop(), bench.device().stop()]);
  expect(performance.now() - startedMs).toBeLessThan(1000);
});
