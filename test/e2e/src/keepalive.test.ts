/** Keepalive, liveness and unregister as a device lives through them (protocol §7, D1): L15, L16, L29. */

import { createHash } from 'node:crypto';
import type { Broker } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, Device, newCode, UNREGISTER } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import { type Setting, startSetting, staysTrue, timed } from './setting.ts';

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ edgeEnv: { LAPI_LIVENESS_FLOOR_SECONDS: '1' } });
  broker = setting.broker;
});
afterAll(() => setting.stop());

/** Protocol K3. */
function timeoutOf(code: string, baseS: number): number {
  const u = createHash('sha256').update(code).digest().readUInt16BE(0) / 65_536;
  return Math.round(baseS * (0.9 + 0.2 * u));
}

/** A code of the `brief` profile that is told the shortest interval: offline after 2.5 × 9 s. */
function impatientCode(): string {
  for (;;) {
    const code = newCode();
    if (timeoutOf(code, 10) === 9) return code;
  }
}
const THRESHOLD_MS = 22_500;

describe.concurrent('L16', () => {
  test('L16: without any frame the session ends after 2.5 × Timeout, counted from the 101, with one offline event', async () => {
    const device = await Device.online(broker, { code: impatientCode(), settings: { profile: 'brief' } });
    const { wire } = device;
    const online = await broker.untilOnline(device.code);
    await wire.untilClosed(THRESHOLD_MS + 3_000);
    const silentMs = performance.now() - device.registeredMs;
    expect(silentMs).toBeGreaterThan(THRESHOLD_MS - 250);
    expect(silentMs).toBeLessThan(THRESHOLD_MS + 1_500);

    const row = await broker.untilOnline(device.code, false);
    expect(row.lastOffline).toMatchObject({ reason: 'liveness_timeout' });
    const reader = await EventReader.replay(broker, `device=${device.code}`);
    const offline = await reader.presence(device.code, 'offline');
    expect(offline.data).toMatchObject({ reason: 'liveness_timeout' });
    expect(epochsOf(reader.events, device.code)).toEqual({ online: [online.epoch], offline: [online.epoch] });
  });

  test('L16: a device that keeps alive once is dropped 2.5 × Timeout after that frame, not after the 101', async () => {
    const device = await Device.online(broker, { code: impatientCode(), settings: { profile: 'brief' } });
    await staysTrue(() => !device.wire.closed, 4_000, 'the session before its first keepalive');
    await device.keepalive();
    const lastFrameMs = performance.now();
    await device.wire.untilClosed(THRESHOLD_MS + 3_000);
    expect(performance.now() - lastFrameMs).toBeGreaterThan(THRESHOLD_MS - 250);
  });

  test.each([
    ['a ping', (device: Device) => device.wire.frame('', { opcode: 9 })],
    ['a pong', (device: Device) => device.wire.frame('', { opcode: 10 })],
    ['a binary message', (device: Device) => device.wire.frame(Buffer.from([1, 2, 3]), { opcode: 2 })],
    [
      'an answer that nobody waits for',
      (device: Device) => device.wire.json({ ResponseURL: '/x', ResponseCode: 0, Cseq: 77 }),
    ],
    ['an event', (device: Device) => void device.notify('Alarm', alarm(1)).catch(() => undefined)],
  ])('L16: %s every 5 s instead of keepalives keeps the device online', async (_what, say) => {
    const device = await Device.online(broker, { code: impatientCode(), settings: { profile: 'brief' } });
    const { epoch } = await broker.untilOnline(device.code);
    const endMs = device.registeredMs + THRESHOLD_MS + 3_500;
    while (performance.now() < endMs) {
      await staysTrue(() => !device.wire.closed, Math.min(5_000, endMs - performance.now()), 'the session');
      say(device);
    }
    expect(await device.keepalive()).toContain('"ResponseCode":0');
    expect(await broker.untilOnline(device.code)).toMatchObject({ epoch });
  });
});

describe.concurrent('keepalive', () => {
  test('L15: Cseq comes back as the token that was sent, also as a string and above 2^53', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    for (const token of ['3', '"3"', '"0042"', '9007199254740993', '-1', '"a\\u0022b"']) {
      const before = Math.floor(Date.now() / 1_000);
      const text = await device.keepalive(token);
      const after = Math.floor(Date.now() / 1_000);
      const head = `{"ResponseURL":"/LAPI/V1.0/System/UpServer/Keepalive","ResponseCode":0,"ResponseString":"Succeed","Cseq":${token},"Data":{"Timestamp":`;
      expect(text.slice(0, head.length)).toBe(head);
      const { Data } = JSON.parse(text) as { Data: { Timestamp: number; Timeout: number } };
      expect(Object.keys(Data)).toEqual(['Timestamp', 'Timeout']);
      expect(Data.Timestamp).toBeGreaterThanOrEqual(before);
      expect(Data.Timestamp).toBeLessThanOrEqual(after);
      expect(Data.Timeout).toBe(timeoutOf(device.code, 60));
    }
  });

  test('L15: no Cseq in the request, or one that is neither number nor string, and the answer carries none', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    for (const token of [null, 'null', 'true', '{}', '[1]']) {
      expect(await device.keepalive(token)).not.toContain('Cseq');
    }
  });

  test('L15: the interval told is 64, 55 and 57 s for the codes of K3', async () => {
    const told = async (code: string): Promise<unknown> => {
      const device = await Device.online(broker, { code, settings: { profile: 'quiet' } });
      return (JSON.parse(await device.keepalive()) as { Data: { Timeout: number } }).Data.Timeout;
    };
    const codes = ['210235TEST0000000001', '210235TEST0000000002', '210235TEST0000000003'];
    expect(await Promise.all(codes.map(told))).toEqual([64, 55, 57]);
  });

  test('K5: a burst of keepalives is no error: each gets its own answer', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const answers = await Promise.all(Array.from({ length: 20 }, () => device.keepalive()));
    expect(new Set(answers.map((text) => (JSON.parse(text) as { Cseq: number }).Cseq)).size).toBe(20);
    expect(device.wire.closed).toBe(false);
  });
});

describe.concurrent('unregister', () => {
  test.each(['PUT', 'POST', 'DELETE', 'GET'])(
    'L29: Unregister by %s gets code 0, is closed with 1000 within 1 s, and yields one offline event',
    async (method) => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const { epoch } = await broker.untilOnline(device.code);
      device.wire.frame(`{"RequestURL":"${UNREGISTER}","Method":"${method}","Cseq":12,"Data":{}}`);
      const closing = await timed(device.wire.untilClosed(5_000));
      expect(closing.tookMs).toBeLessThan(1_000);
      expect(device.wire.closeCode).toBe(1000);
      expect(device.wire.texts().at(-1)).toBe(
        `{"ResponseURL":"${UNREGISTER}","ResponseCode":0,"ResponseString":"Succeed","Cseq":12,"Data":{}}`,
      );
      const row = await broker.untilOnline(device.code, false);
      expect(row.lastOffline).toMatchObject({ reason: 'unregistered' });
      const reader = await EventReader.replay(broker, `device=${device.code}`);
      expect((await reader.presence(device.code, 'offline')).data).toMatchObject({ reason: 'unregistered' });
      // A later event of the same device proves that no second offline event is on its way.
      await device.register(1);
      await reader.presence(device.code, 'online', { times: 2 });
      expect(epochsOf(reader.events, device.code).offline).toEqual([epoch]);
    },
  );
});
