/** Queued commands as a platform sees them, over two edges and two command services: accept, wait, read, cancel, repeat, send again. */

import { type ApiAnswer, type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { answerTo, DEVICE_INFO, Device, type Respond } from './device.ts';
import { EventReader } from './event-reader.ts';
import { type Setting, startSetting, staysTrue, timed } from './setting.ts';

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ commands: 2, commandEnv: { LAPI_LANE_COMMANDS: '20' } });
  broker = setting.broker;
});
afterAll(() => setting.stop());

type View = Record<string, unknown>;
const QUIET = { settings: { profile: 'quiet' } };
const PTZ = '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl';
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

interface Sent {
  readonly service?: number;
  readonly key?: string;
}

function send(device: Device, body: View, { service = 0, key }: Sent = {}): Promise<ApiAnswer> {
  return broker.api(`/v1/devices/${device.code}/commands`, {
    method: 'POST',
    service,
    body: { mode: 'queue', method: 'PUT', url: PTZ, ...body },
    ...(key === undefined ? {} : { headers: { 'Idempotency-Key': key } }),
  });
}

const read = async (id: unknown, service = 1): Promise<View> =>
  (await broker.api(`/v1/commands/${String(id)}`, { service })).json();

async function until(id: unknown, state: string, deadlineMs = 10_000): Promise<View> {
  return await waitFor(
    async () => {
      const view = await read(id);
      return view.state === state ? view : undefined;
    },
    { deadlineMs, what: `command ${String(id)} to be ${state}` },
  );
}

const offline = (): Promise<Device> => Device.provisioned(broker, QUIET);

async function online(respond?: Respond, edge = 0): Promise<Device> {
  const device = await Device.online(broker, { ...QUIET, edge });
  device.answering(respond);
  return device;
}

describe.concurrent('queued commands', () => {
  test('are accepted while the device is offline, and delivered when it registers, on whichever edge, in order', async () => {
    const device = await offline();
    const ids: unknown[] = [];
    for (const n of numbers(6)) {
      const accepted = await send(device, { data: { n } }, { service: n % 2 });
      expect(accepted.status).toBe(202);
      expect(accepted.headers.get('location')).toBe(`/v1/commands/${String(accepted.json().id)}`);
      ids.push(accepted.json().id);
    }
    expect(await read(ids[0])).toMatchObject({ state: 'queued', attempts: 0 });
    await device.register(1);
    device.answering();
    for (const id of ids) expect(await until(id, 'succeeded')).toMatchObject({ executed: 'yes', attempts: 1 });
    expect(device.callsTo(PTZ).map(({ data }) => data)).toEqual(numbers(6).map((n) => ({ n })));
  });

  test('reach an online device at once, and the answer comes with the request that waits for it, digits intact', async () => {
    const device = await online(({ url, cseq }) =>
      url === PTZ ? `{"ResponseURL":"${url}","ResponseCode":0,"Cseq":${cseq},"Data":{"Big":9007199254740993}}` : {},
    );
    const { result, tookMs } = await timed(send(device, { waitMs: 20_000, data: { Para: 9_007_199_254 } }));
    expect(result.status).toBe(200);
    expect(result.text).toContain('"Big":9007199254740993');
    expect(result.json()).toMatchObject({ state: 'succeeded', executed: 'yes', responseCode: 0 });
    // Long before the time that it may wait.
    expect(tookMs).toBeLessThan(15_000);
    const second = await timed(send(device, { waitMs: 20_000 }, { service: 1 }));
    expect(second.result.status).toBe(200);
    expect(second.tookMs).toBeLessThan(15_000);
  });

  test("a device's own refusal is an end: failed, executed yes", async () => {
    const device = await online(() => ({ ResponseCode: 3, ResponseString: 'Invalid Arguments' }));
    const answer = await send(device, { waitMs: 20_000 });
    expect(answer.status).toBe(200);
    expect(answer.json()).toMatchObject({ state: 'failed', executed: 'yes', reason: 'device_error', responseCode: 3 });
  });

  test('a mute device costs one timeout, does not stop the next, and its late answer corrects the record', async () => {
    const device = await online(({ data }) => ((data as { n: number }).n === 1 ? undefined : { Data: {} }));
    const first = (await send(device, { data: { n: 1 }, timeoutMs: 1_500 })).json();
    const second = (await send(device, { data: { n: 2 } })).json();
    expect(await until(first.id, 'timed_out')).toMatchObject({ executed: 'maybe', attempts: 1 });
    await until(second.id, 'succeeded');
    const [asked] = device.callsTo(PTZ);
    if (asked === undefined) throw new Error('the device got it');
    device.wire.json(answerTo(asked, { Data: { late: true } }));
    expect(await until(first.id, 'succeeded')).toMatchObject({ executed: 'yes', late: true });
    expect(device.callsTo(PTZ)).toHaveLength(2);
  });

  test('a session that is lost after the write leaves unknown, executed maybe, and nothing is sent again', async () => {
    const device = await online(() => undefined);
    const { id } = (await send(device, {})).json();
    await device.untilCalled(PTZ);
    device.wire.destroy();
    expect(await until(id, 'unknown')).toMatchObject({ executed: 'maybe', reason: 'session_lost' });
    await device.register();
    device.answering();
    await send(device, { url: DEVICE_INFO, method: 'GET', waitMs: 10_000 });
    expect(device.callsTo(PTZ)).toHaveLength(1);
  });

  test('what is declared safe to repeat is tried again after a timeout, and no more often than allowed', async () => {
    let asked = 0;
    const device = await online(() => {
      asked += 1;
      return asked === 1 ? undefined : { Data: {} };
    });
    const { id } = (await send(device, { retrySafe: true, timeoutMs: 1_000, backoffMs: 100 })).json();
    expect(await until(id, 'succeeded')).toMatchObject({ attempts: 2, maxAttempts: 3 });
    expect(device.callsTo(PTZ)).toHaveLength(2);
    const refused = await send(device, { maxAttempts: 2 });
    expect(refused.status).toBe(422);
    expect(refused.json()).toMatchObject({ error: 'not_repeatable' });
  });

  test('what cannot be delivered in time expires, executed no, and never reaches the device', async () => {
    const device = await offline();
    const { id } = (await send(device, { ttlMs: 1_000 })).json();
    const view = await until(id, 'expired', 8_000);
    expect(view).toMatchObject({ executed: 'no', attempts: 0 });
    expect(Date.parse(String(view.endedAt))).toBeGreaterThanOrEqual(Date.parse(String(view.expiresAt)));
    await device.register();
    device.answering();
    await send(device, { url: DEVICE_INFO, method: 'GET', waitMs: 10_000 });
    expect(device.callsTo(PTZ)).toHaveLength(0);
  });

  test('notBefore holds a command back until its time, and lets others pass', async () => {
    const device = await online();
    const atMs = Date.now() + 2_500;
    const held = (await send(device, { data: { n: 1 }, notBefore: new Date(atMs).toISOString() })).json();
    const other = (await send(device, { data: { n: 2 } })).json();
    await until(other.id, 'succeeded');
    expect(await read(held.id)).toMatchObject({ state: 'queued' });
    const view = await until(held.id, 'succeeded');
    expect(Date.parse(String(view.sentAt))).toBeGreaterThanOrEqual(atMs);
  });

  test('urgent commands overtake the lane, which keeps its own order', async () => {
    const device = await online(() => undefined);
    for (const n of numbers(3)) await send(device, { data: { n }, timeoutMs: 5_000 });
    await device.untilCalled(PTZ);
    await send(device, { data: { n: 9 }, lane: 'urgent' });
    await device.untilCalled(PTZ, 2, 2_000);
    const respond = (i: number): void => {
      const asked = device.calls[i];
      if (asked !== undefined) device.wire.json(answerTo(asked, { Data: {} }));
    };
    for (const i of [0, 1, 2]) {
      await device.untilCalled(PTZ, i + 1);
      respond(i);
    }
    await device.untilCalled(PTZ, 4);
    respond(3);
    expect(device.calls.map(({ data }) => (data as { n: number }).n)).toEqual([1, 9, 2, 3]);
  });

  test('a coalesceKey keeps only the newest of what waits', async () => {
    const device = await offline();
    const ids: unknown[] = [];
    for (const n of numbers(3)) ids.push((await send(device, { data: { n }, coalesceKey: 'ptz' })).json().id);
    for (const id of ids.slice(0, 2))
      expect(await read(id)).toMatchObject({ state: 'cancelled', reason: 'superseded', executed: 'no' });
    await device.register();
    device.answering();
    await until(ids[2], 'succeeded');
    expect(device.callsTo(PTZ).map(({ data }) => data)).toEqual([{ n: 3 }]);
  });

  test('twenty concurrent requests with one Idempotency-Key are one delivery; another body is refused', async () => {
    const device = await online();
    const answers = await Promise.all(
      numbers(20).map((n) => send(device, { data: { a: 1 }, waitMs: 20_000 }, { service: n % 2, key: 'order-66' })),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    expect(new Set(answers.map((answer) => answer.json().id)).size).toBe(1);
    expect(answers.filter(({ headers }) => headers.get('idempotent-replay') === 'true')).toHaveLength(19);
    const other = await send(device, { data: { a: 2 } }, { key: 'order-66' });
    expect(other.status).toBe(409);
    expect(other.json()).toMatchObject({ error: 'key_conflict' });
    expect(device.callsTo(PTZ)).toHaveLength(1);
  });

  test('concurrent direct calls with one key are one call, and all get its answer', async () => {
    const device = await online(() => undefined);
    const call = (service: number) => send(device, { mode: 'direct', timeoutMs: 8_000 }, { service, key: 'once' });
    const calling = numbers(6).map((n) => call(n % 2));
    const asked = await device.untilCalled(PTZ);
    device.wire.json(answerTo(asked, { Data: { Big: 1 } }));
    const answers = await Promise.all(calling);
    for (const answer of answers) expect(answer.text).toBe(answers[0]?.text);
    expect(answers[0]?.json()).toMatchObject({ state: 'succeeded', executed: 'yes', source: 'device' });
    expect(device.callsTo(PTZ)).toHaveLength(1);
  });

  test('direct-then-queue: answered where the device is there, else delivered when it comes, and never sent twice', async () => {
    const device = await offline();
    const waiting = await send(device, { mode: 'direct-then-queue' });
    expect(waiting.status).toBe(202);
    expect(waiting.json()).toMatchObject({ state: 'queued', mode: 'direct-then-queue' });
    await device.register();
    device.answering();
    await until(waiting.json().id, 'succeeded');
    const now = await send(device, { mode: 'direct-then-queue' });
    expect(now.status).toBe(200);
    expect(now.json()).toMatchObject({ state: 'succeeded', executed: 'yes' });
    expect(device.callsTo(PTZ)).toHaveLength(2);
    device.answering(() => undefined);
    const silent = await send(device, { mode: 'direct-then-queue', timeoutMs: 1_000 });
    expect(silent.json()).toMatchObject({ status: 504, error: 'timeout', executed: 'maybe' });
    await staysTrue(() => device.callsTo(PTZ).length === 3, 1_000, 'three calls at the device');
  });

  test('cancel: what waits ends cancelled, what is out or over is refused with its reason', async () => {
    const device = await offline();
    const { id } = (await send(device, {})).json();
    const cancel = (each: unknown) => broker.api(`/v1/commands/${String(each)}`, { method: 'DELETE', service: 1 });
    expect((await cancel(id)).json()).toMatchObject({ state: 'cancelled', executed: 'no' });
    const again = await cancel(id);
    expect(again.status).toBe(409);
    expect(again.json()).toMatchObject({
      error: 'conflict',
      state: 'cancelled',
      detail: expect.stringMatching(/cancelled before/),
    });
    await device.register();
    device.answering(() => undefined);
    const out = (await send(device, {})).json();
    const asked = await device.untilCalled(PTZ);
    expect((await cancel(out.id)).json()).toMatchObject({ state: 'sent', detail: expect.stringMatching(/awaited/) });
    device.wire.json(answerTo(asked, { Data: {} }));
    await until(out.id, 'succeeded');
    expect((await cancel(out.id)).json()).toMatchObject({ state: 'succeeded', executed: 'yes' });
    expect(device.callsTo(PTZ)).toHaveLength(1);
  });

  test('retry sends an ended command once more, as a new one', async () => {
    const device = await online();
    const first = (await send(device, { data: { n: 1 }, waitMs: 20_000 })).json();
    const retried = await broker.api(`/v1/commands/${String(first.id)}/retry`, { method: 'POST' });
    expect(retried.status).toBe(202);
    expect(retried.json()).toMatchObject({ retryOf: first.id, state: 'queued' });
    await until(retried.json().id, 'succeeded');
    expect(device.callsTo(PTZ).map(({ data }) => data)).toEqual([{ n: 1 }, { n: 1 }]);
  });

  test('the history of a device is read newest first, page by page', async () => {
    const device = await offline();
    const ids: unknown[] = [];
    for (const n of numbers(5)) ids.unshift((await send(device, { data: { n } })).json().id);
    const found: unknown[] = [];
    let cursor = '';
    do {
      const page = (await broker.api(`/v1/devices/${device.code}/commands?limit=2${cursor}`, { service: 1 })).json();
      found.push(...(page.items as View[]).map((item) => item.id));
      cursor = page.cursor === undefined ? '' : `&cursor=${String(page.cursor)}`;
    } while (cursor !== '');
    expect(found).toEqual(ids);
  });

  test('each change of state is an event, so nobody has to ask again', async () => {
    const device = await offline();
    const reader = await EventReader.open(broker, `device=${device.code}&kind=command.*`, { service: 1 });
    const { id } = (await send(device, {})).json();
    const gone = (await send(device, { data: 2 })).json();
    await broker.api(`/v1/commands/${String(gone.id)}`, { method: 'DELETE' });
    await device.register();
    device.answering();
    await reader.until(({ kind }) => kind === 'command.succeeded');
    const told = (each: unknown) => reader.events.filter(({ data }) => data.id === each).map(({ kind }) => kind);
    expect(told(id)).toEqual(['command.queued', 'command.sent', 'command.succeeded']);
    expect(told(gone.id)).toEqual(['command.queued', 'command.cancelled']);
    expect(reader.events.at(-1)).toMatchObject({
      url: PTZ,
      data: { id, state: 'succeeded', lane: 'normal', attempt: 1, executed: 'yes', responseCode: 0 },
    });
  });

  test('a full lane is 429 with the limit named, takes nothing, and has room again after a cancel', async () => {
    const device = await offline();
    const ids: unknown[] = [];
    for (const n of numbers(20)) ids.push((await send(device, { data: { n } })).json().id);
    const refused = await send(device, {});
    expect(refused.status).toBe(429);
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(refused.json()).toMatchObject({
      error: 'lane_full',
      executed: 'no',
      detail: expect.stringContaining('20 commands'),
    });
    await broker.api(`/v1/commands/${String(ids[3])}`, { method: 'DELETE' });
    expect((await send(device, {})).status).toBe(202);
    expect((await send(device, {})).status).toBe(429);
  });
});
