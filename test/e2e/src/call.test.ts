/** Calls of a platform to a device, over two edges and two command services (protocol §9, 13.2, 13.3): L17–L20, L32. */

import { type ApiAnswer, type Broker, startTcpProxy, type TcpProxy, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { answerTo, DEVICE_INFO, Device, type ReceivedCall, SUBSCRIPTION } from './device.ts';
import { type Setting, startSetting, staysTrue, timed } from './setting.ts';

let setting: Setting;
let broker: Broker;
/** Between the second command service and Redis. */
let proxy: TcpProxy;
const BEHIND_PROXY = 1;

beforeAll(async () => {
  setting = await startSetting();
  broker = setting.broker;
  const redis = new URL(broker.redisUrl);
  proxy = await startTcpProxy({ target: { port: Number(redis.port) } });
  await broker.addCommand({ REDIS_URL: `redis://${proxy.host}:${proxy.port}/0` });
});
afterAll(async () => {
  await setting.stop();
  await proxy.stop();
});

interface CallOptions {
  readonly method?: string;
  readonly timeoutMs?: number;
  readonly connectTimeoutMs?: number;
  readonly body?: unknown;
  readonly service?: number;
}

async function call(device: Device, url = DEVICE_INFO, options: CallOptions = {}): Promise<ApiAnswer> {
  const { method = 'GET', timeoutMs, connectTimeoutMs, body, service = 0 } = options;
  return await broker.api(`/v1/devices/${device.code}${url}`, {
    method,
    service,
    headers: {
      ...(timeoutMs === undefined ? {} : { 'x-lapi-timeout': String(timeoutMs) }),
      ...(connectTimeoutMs === undefined ? {} : { 'x-lapi-connect-timeout': String(connectTimeoutMs) }),
    },
    ...(body === undefined ? {} : { body }),
  });
}

const numbered = (i: number): string => `/LAPI/V1.0/Channels/${i}/System`;
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

async function lateResponses(): Promise<number> {
  const counts = await Promise.all(broker.edges.map((edge) => broker.metric(edge, 'lapi_late_responses_total')));
  return counts.reduce((sum, count) => sum + count, 0);
}

// Alone, because it compares counters.
test('L17: an answer with an unknown Cseq is dropped and counted, and the session stays', async () => {
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  device.answering(() => undefined);
  const calling = call(device);
  const [asked] = [await device.untilCalled(DEVICE_INFO)];
  const before = await lateResponses();
  device.wire.json({ ...answerTo(asked, { Data: { wrong: true } }), Cseq: asked.cseq + 900 });
  device.wire.json({ ...answerTo(asked, { Data: { wrong: true } }), Cseq: undefined });
  await waitFor(async () => (await lateResponses()) === before + 2, { deadlineMs: 5_000, what: 'two counted strays' });
  device.wire.json(answerTo(asked, { Data: { right: true } }));
  expect((await calling).json()).toMatchObject({ Data: { right: true } });
  // The same Cseq once more: it is finished now.
  device.wire.json(answerTo(asked, { Data: { right: true } }));
  await waitFor(async () => (await lateResponses()) === before + 3, { deadlineMs: 5_000, what: 'a counted repeat' });
  expect(await device.keepalive()).toContain('"ResponseCode":0');
});

test('L18: the answer that comes after the timeout is counted and dropped, and the session stays', async () => {
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  const { epoch } = await broker.untilOnline(device.code);
  device.answering(() => undefined);
  const { result, tookMs } = await timed(call(device, DEVICE_INFO, { timeoutMs: 2_000 }));
  expect(tookMs).toBeGreaterThan(1_950);
  expect(tookMs).toBeLessThan(2_900);
  expect(result.status).toBe(504);
  expect(result.json()).toMatchObject({ source: 'broker', error: 'timeout', written: true, retryable: true });
  const before = await lateResponses();
  device.wire.json(answerTo(device.calls[0] as ReceivedCall, { Data: {} }));
  await waitFor(async () => (await lateResponses()) === before + 1, { deadlineMs: 5_000, what: 'the late answer' });
  expect(await broker.untilOnline(device.code)).toMatchObject({ epoch });
  // And the next call is served as if nothing had been.
  const next = call(device, '/LAPI/V1.0/System/Time');
  const asked = await device.untilCalled('/LAPI/V1.0/System/Time');
  device.wire.json(answerTo(asked, { Data: { UTC: 1 } }));
  expect((await next).status).toBe(200);
});

describe.concurrent('calls', () => {
  test('L18: without a word about time a silent device costs its caller 10 s', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering(() => undefined);
    const { result, tookMs } = await timed(call(device));
    expect(tookMs).toBeGreaterThan(9_900);
    expect(tookMs).toBeLessThan(11_000);
    expect(result.status).toBe(504);
    expect(result.json()).toMatchObject({ error: 'timeout', written: true });
    expect(await device.keepalive()).toContain('"ResponseCode":0');
  });

  test('L17: eight calls are out at once, the ninth waits for a free place, and answers find their callers in any order', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering(() => undefined);
    const callers = numbers(9).map((i) => call(device, numbered(i), { service: i % 2 }));
    await waitFor(() => device.calls.length >= 8, { deadlineMs: 10_000, what: 'eight calls' });
    await staysTrue(() => device.calls.length === 8, 500, 'eight calls at the device');
    const first = [...device.calls];
    expect(new Set(first.map(({ cseq }) => cseq))).toEqual(new Set(numbers(8)));
    const respond = (asked: ReceivedCall): void => device.wire.json(answerTo(asked, { Data: { of: asked.url } }));
    respond(first[4] as ReceivedCall);
    await waitFor(() => device.calls.length === 9, { deadlineMs: 5_000, what: 'the ninth call' });
    for (const asked of [...device.calls].reverse()) if (asked !== first[4]) respond(asked);
    const answers = await Promise.all(callers);
    for (const i of numbers(9)) {
      expect(answers[i - 1]?.status).toBe(200);
      expect(answers[i - 1]?.json()).toEqual({
        ResponseURL: numbered(i),
        ResponseCode: 0,
        ResponseString: 'Succeed',
        Data: { of: numbered(i) },
        source: 'device',
      });
    }
  });

  test('L17: answers are matched on Cseq also when the device rewrites the URL or sends the number as a string', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering(({ cseq, url }) => ({ ResponseURL: '//lapi/other', Cseq: String(cseq), Data: { url } }));
    const answers = await Promise.all(numbers(5).map((i) => call(device, numbered(i))));
    expect(answers.map((answer) => (answer.json().Data as { url: string }).url)).toEqual(numbers(5).map(numbered));
  });

  test('E11: calls of one session are numbered from 1, a new session begins again', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    for (const i of numbers(3)) expect((await call(device, numbered(i))).status).toBe(200);
    await device.register(1);
    device.answering();
    expect((await call(device, numbered(4))).status).toBe(200);
    expect(device.calls.map(({ cseq }) => cseq)).toEqual([1, 2, 3, 1]);
  });

  test('6.2: the request is compact JSON in the fixed order of members, its query inside RequestURL, its body unchanged', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    await broker.api(`/v1/devices/${device.code}/LAPI/V1.0/Channels/1/PTZ/Presets?Limit=5&Offset=%2B0`);
    await broker.api(`/v1/devices/${device.code}/LAPI/V1.0/Channels/1/PTZ/PTZCtrl`, {
      method: 'PUT',
      rawBody: '{"PTZCmd": 1026,"Big":9007199254740993,"z":1.50}',
    });
    expect(device.calls.map(({ text }) => text)).toEqual([
      '{"RequestURL":"/LAPI/V1.0/Channels/1/PTZ/Presets?Limit=5&Offset=%2B0","Method":"GET","Cseq":1,"Data":{}}',
      '{"RequestURL":"/LAPI/V1.0/Channels/1/PTZ/PTZCtrl","Method":"PUT","Cseq":2,"Data":{"PTZCmd": 1026,"Big":9007199254740993,"z":1.50}}',
    ]);
  });

  test.each([
    ['GET', true],
    ['PUT', false],
  ])(
    'L19: %s calls: written when the socket is lost → outcome_unknown, waiting → device_offline, none re-sent',
    async (method, retryable) => {
      const device = await Device.online(broker, { settings: { profile: 'single' } });
      device.answering(() => undefined);
      const body = method === 'PUT' ? { body: {} } : {};
      const written = call(device, numbered(1), { method, timeoutMs: 30_000, ...body });
      await device.untilCalled(numbered(1));
      const waiting = numbers(3).map((i) => call(device, numbered(i + 1), { method, timeoutMs: 30_000, ...body }));
      await staysTrue(() => device.calls.length === 1, 500, 'one call at the device');
      device.wire.destroy();
      const lost = await written;
      expect(lost.status).toBe(502);
      expect(lost.json()).toMatchObject({ source: 'broker', error: 'outcome_unknown', written: true, retryable });
      for (const answer of await Promise.all(waiting)) {
        expect(answer.status).toBe(503);
        expect(answer.headers.get('retry-after')).toBe('5');
        expect(answer.json()).toMatchObject({
          source: 'broker',
          error: 'device_offline',
          written: false,
          retryable: true,
        });
      }
      await device.register(1);
      device.answering();
      expect((await call(device, numbered(5), { method, connectTimeoutMs: 5_000, ...body })).status).toBe(200);
      expect(device.calls.map(({ url }) => url)).toEqual([numbered(1), numbered(5)]);
    },
  );

  test('L20: no request reaches the device within 2 s after the 101; its own requests are answered meanwhile', async () => {
    // The default profile also subscribes: neither that nor a call of the platform may come early.
    const device = await Device.online(broker);
    device.answering();
    const calling = call(device, DEVICE_INFO, { timeoutMs: 5_000 });
    while (performance.now() < device.registeredMs + 1_900) {
      const { result, tookMs } = await timed(device.keepalive());
      expect(result).toContain('"ResponseCode":0');
      expect(tookMs).toBeLessThan(1_000);
      expect(await device.notify('Alarm', {})).toMatchObject({ ResponseCode: 0 });
      expect(device.calls).toEqual([]);
      await staysTrue(() => device.calls.length === 0, 100, 'silence of the broker');
    }
    expect((await calling).status).toBe(200);
    await device.untilCalled(SUBSCRIPTION);
    for (const { receivedMs } of device.calls) {
      // Counted by the edge from the moment at which its 101 went out, a little before it was here.
      expect(receivedMs - device.registeredMs).toBeGreaterThan(1_950);
      expect(receivedMs - device.registeredMs).toBeLessThan(3_500);
    }
  });

  test('C4: the deadline runs while a call waits for the first moment at which requests may go', async () => {
    const device = await Device.online(broker);
    device.answering();
    const answer = await call(device, DEVICE_INFO, { timeoutMs: 1_000 });
    expect(answer.status).toBe(504);
    expect(answer.json()).toMatchObject({ error: 'timeout_not_sent', written: false, retryable: true });
    await device.untilCalled(SUBSCRIPTION);
    expect(device.callsTo(DEVICE_INFO)).toEqual([]);
  });

  test('a call may wait for its device to come, and reaches it once', async () => {
    const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
    const calling = call(device, DEVICE_INFO, { connectTimeoutMs: 20_000 });
    const other = call(device, DEVICE_INFO, { connectTimeoutMs: 20_000, service: 1 });
    expect((await call(device)).json()).toMatchObject({ error: 'device_offline', written: false });
    await device.register(1);
    device.answering();
    expect((await calling).status).toBe(200);
    expect((await other).status).toBe(200);
    expect(device.calls).toHaveLength(2);
  });
});

describe.concurrent('L32: the device answered (13.2)', () => {
  const rows: readonly (readonly [string, Record<string, unknown>, number])[] = [
    ['0', { ResponseCode: 0 }, 200],
    ['0, StatusCode 0', { ResponseCode: 0, StatusCode: 0 }, 200],
    ['0, StatusCode "0"', { ResponseCode: 0, StatusCode: '0' }, 200],
    ['"0" as a string', { ResponseCode: '0' }, 200],
    ['2', { ResponseCode: 2, ResponseString: 'Invalid Arguments' }, 400],
    ['3, StatusCode 401', { ResponseCode: 3, ResponseString: 'Not Authorized', StatusCode: 401 }, 403],
    ['5', { ResponseCode: 5, ResponseString: 'Abnormal User Status' }, 403],
    ['4', { ResponseCode: 4, ResponseString: 'Not Supported' }, 501],
    ['2001', { ResponseCode: 2001 }, 404],
    ['1', { ResponseCode: 1, ResponseString: 'Common Error' }, 502],
    ['102', { ResponseCode: 102, ResponseString: 'Partially Succeed' }, 502],
    ['201', { ResponseCode: 201 }, 502],
    ['202', { ResponseCode: 202 }, 502],
    ['203', { ResponseCode: 203 }, 502],
    ['500', { ResponseCode: 500 }, 502],
    ['1002', { ResponseCode: 1002 }, 502],
    ['an unknown one', { ResponseCode: 424_242 }, 502],
    ['none', { ResponseCode: undefined }, 502],
    ['0 with a StatusCode', { ResponseCode: 0, StatusCode: 7 }, 502],
  ];

  test.each(rows)('L32: ResponseCode %s, members intact and source "device"', async (_name, members, status) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const sent = { ...members, SubResponseCode: 12, Data: { Name: 'a/"b"', Nested: [1, { x: null }] } };
    device.answering(() => sent);
    const passed = await call(device);
    expect(passed.status).toBe(status);
    const body = passed.json();
    expect(body).toMatchObject({ ...JSON.parse(JSON.stringify(sent)), source: 'device', ResponseURL: DEVICE_INFO });
    expect(body).not.toHaveProperty('Cseq');
    expect(body).not.toHaveProperty('error');
    const enveloped = await broker.api(`/v1/devices/${device.code}/commands`, {
      method: 'POST',
      body: { mode: 'direct', method: 'GET', url: DEVICE_INFO },
    });
    expect(enveloped.status).toBe(status);
    expect(enveloped.json()).toMatchObject({
      state: status === 200 ? 'succeeded' : 'failed',
      executed: 'yes',
      source: 'device',
      response: JSON.parse(JSON.stringify(sent)),
    });
  });
});

describe.concurrent('L32: the broker answered (13.3)', () => {
  interface Row {
    readonly status: number;
    readonly error: string;
    readonly retryable: boolean;
    readonly written: boolean;
    readonly retryAfter?: string;
  }

  function expectRow(answer: ApiAnswer, { retryAfter, status, ...members }: Row): void {
    expect({ status: answer.status, ...answer.json() }).toMatchObject({
      status,
      ...members,
      source: 'broker',
      code: members.error,
    });
    expect(answer.headers.get('content-type')).toBe('application/problem+json');
    expect(answer.headers.get('retry-after')).toBe(retryAfter ?? null);
  }

  test.each([
    ['// in the path', '/LAPI/V1.0//System/DeviceInfo', {}],
    ['an encoded slash', '/LAPI/V1.0/System%2FDeviceInfo', {}],
    ['an encoded control character', '/LAPI/V1.0/System/%00', {}],
    ['a URL above 2048 bytes', `/LAPI/V1.0/${'x'.repeat(2_048)}`, {}],
    ['a body that is no JSON', '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl', { method: 'PUT', rawBody: '{"PTZCmd":' }],
    ['a timeout out of range', DEVICE_INFO, { headers: { 'x-lapi-timeout': '60001' } }],
  ])('L32: invalid_request for %s', async (_name, url, request) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    const answer = await broker.api(`/v1/devices/${device.code}${url}`, request);
    expectRow(answer, { status: 400, error: 'invalid_request', retryable: false, written: false });
  });

  test.each([
    ['a method that LAPI does not have', { method: 'PATCH', url: DEVICE_INFO }],
    ['a URL outside /LAPI/', { method: 'GET', url: '/etc/passwd' }],
    ['a dot segment', { method: 'GET', url: '/LAPI/V1.0/System/../DeviceInfo' }],
    ['an encoded dot segment', { method: 'GET', url: '/LAPI/V1.0/System/%2E%2e/DeviceInfo' }],
    ['a fragment', { method: 'GET', url: `${DEVICE_INFO}#x` }],
    ['a Cseq of the caller (C9)', { method: 'GET', url: DEVICE_INFO, Cseq: 3 }],
    ['a further top-level member (C9)', { method: 'GET', url: DEVICE_INFO, ResponseCode: 0 }],
    ['another mode', { method: 'GET', url: DEVICE_INFO, mode: 'later' }],
    ['an option of queued commands', { method: 'GET', url: DEVICE_INFO, mode: 'direct', lane: 'urgent' }],
    ['no URL', { method: 'GET' }],
  ])('L32: invalid_request for an envelope with %s', async (_name, body) => {
    const device = await Device.provisioned(broker);
    const answer = await broker.api(`/v1/devices/${device.code}/commands`, { method: 'POST', body });
    expectRow(answer, { status: 400, error: 'invalid_request', retryable: false, written: false });
  });

  test.each([
    '/LAPI/V1.0/System/UpServer/Register',
    '/LAPI/V1.0/System/UpServer/Keepalive',
    '/LAPI/V1.0/system/upserver/unregister',
    SUBSCRIPTION,
    `${SUBSCRIPTION}/249`,
  ])('L32: forbidden_by_policy for %s, also with the admin key (C10)', async (url) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    const answer = await call(device, url, { method: 'POST', body: {} });
    expectRow(answer, { status: 403, error: 'forbidden_by_policy', retryable: false, written: false });
    expect(device.calls).toEqual([]);
  });

  test('L32: device_unknown for a code that nobody provisioned', async () => {
    const answer = await broker.api(`/v1/devices/NOBODY-0000000001${DEVICE_INFO}`);
    expectRow(answer, { status: 404, error: 'device_unknown', retryable: false, written: false });
  });

  test('L32: device_offline without a session', async () => {
    const device = await Device.provisioned(broker);
    const answer = await call(device);
    expectRow(answer, { status: 503, error: 'device_offline', retryable: true, written: false, retryAfter: '5' });
  });

  test('L32: request_too_large above 16 MiB, and the device never hears of it', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    const answer = await broker.api(`/v1/devices/${device.code}/LAPI/V1.0/PeopleLibraries/1`, {
      method: 'POST',
      rawBody: `{"Image":"${'A'.repeat(16 * 1024 * 1024)}"}`,
    });
    expectRow(answer, { status: 413, error: 'request_too_large', retryable: false, written: false });
    expect((await call(device)).status).toBe(200);
    expect(device.calls).toHaveLength(1);
  });

  test('L32: device_busy when the queue is full, timeout_not_sent in the queue, timeout at the device', async () => {
    const device = await Device.online(broker, { settings: { profile: 'narrow' } });
    device.answering(() => undefined);
    const out = call(device, numbered(1), { timeoutMs: 4_000, method: 'PUT', body: {} });
    await device.untilCalled(numbered(1));
    const queued = call(device, numbered(2), { timeoutMs: 2_000, method: 'PUT', body: {} });
    // Asked until the queue is known to be full, which is when the queued call is at the edge.
    const busy = await waitFor(
      async () => {
        const answer = await call(device, numbered(3), { timeoutMs: 1_000, method: 'PUT', body: {} });
        return answer.status === 429 ? answer : undefined;
      },
      { deadlineMs: 1_800, what: 'a full queue' },
    );
    expectRow(busy, { status: 429, error: 'device_busy', retryable: true, written: false, retryAfter: '1' });
    expectRow(await queued, { status: 504, error: 'timeout_not_sent', retryable: true, written: false });
    expectRow(await out, { status: 504, error: 'timeout', retryable: false, written: true });
    expect(device.calls.map(({ url }) => url)).toEqual([numbered(1)]);
  });

  test('L32: outcome_unknown when the session is lost after the write', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering(() => undefined);
    const written = call(device, DEVICE_INFO, { method: 'POST', body: {} });
    await device.untilCalled(DEVICE_INFO);
    device.wire.destroy();
    expectRow(await written, { status: 502, error: 'outcome_unknown', retryable: false, written: true });
  });

  test('L32: broker_unavailable while the command service is cut off from the store, nothing written; then it works again', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    expect((await call(device, numbered(1), { service: BEHIND_PROXY })).status).toBe(200);
    proxy.refuse();
    proxy.cut();
    const answer = await call(device, numbered(2), { service: BEHIND_PROXY, method: 'PUT', body: {} });
    expectRow(answer, { status: 503, error: 'broker_unavailable', retryable: true, written: false, retryAfter: '2' });
    expect((await call(device, numbered(3))).status).toBe(200);
    proxy.heal();
    await waitFor(async () => (await call(device, numbered(4), { service: BEHIND_PROXY })).status === 200, {
      deadlineMs: 10_000,
      what: 'calls through the healed service',
    });
    expect(device.callsTo(numbered(2))).toEqual([]);
  });
});
