/** Keepalive, liveness and unregister as a device lives through them (protocol §7, D1): L15, L16, L29; and what its timeline says afterwards. */

import { createHash } from 'node:crypto';
import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, DEVICE_INFO, Device, newCode, SUBSCRIPTION, UNREGISTER } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import { type Setting, startSetting, staysTrue, timed } from './setting.ts';
import { nonceOf, REGISTER, registerQuery, Wire } from './wire.ts';

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

interface Timeline {
  readonly status: string;
  readonly reason?: string;
  readonly explanation: string;
  readonly entries: readonly Record<string, unknown>[];
  readonly commands: readonly Record<string, unknown>[];
}

/** The timeline once it tells of this and has so many entries; they are written a moment after what they tell of. */
async function timelineOf(
  code: string,
  word: string,
  wanted: (entry: Record<string, unknown>) => boolean,
  count = 1,
): Promise<Timeline> {
  return await waitFor(
    async () => {
      const answer = await broker.api(`/v1/devices/${code}/timeline`);
      if (answer.status !== 200) return undefined;
      const timeline = answer.json() as unknown as Timeline;
      const told = timeline.explanation.includes(`(${word})`);
      return told && timeline.entries.filter(wanted).length === count ? timeline : undefined;
    },
    { deadlineMs: 10_000, what: `the timeline of ${code} to say ${word}` },
  );
}

/** Registers with a secret that may be wrong; answers the status of the second answer. */
async function attempt(identity: Device['identity'], edge = 0): Promise<number> {
  const wire = await Wire.connect(broker.edgeUrl(edge));
  const nonce = nonceOf(await wire.get(REGISTER));
  const { status } = await wire.get(`${REGISTER}?${registerQuery(identity, nonce)}`);
  wire.destroy();
  return status;
}

describe.concurrent('the timeline says why a camera is offline', () => {
  const SECRET = 'cAnArY-of-the-installer';

  test('one that fell silent: when it was heard last, what was said before, and no secret of it', async () => {
    const device = await Device.online(broker, { code: impatientCode(), settings: { profile: 'brief' } });
    device.answering(() => ({ Data: { DeviceName: 'Gate 7', LoginPassword: SECRET } }));
    await device.keepalive();
    await device.notify('Alarm', { ...alarm(1), Password: SECRET });
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    const open = await waitFor(
      async () => {
        const { entries } = (await broker.api(`/v1/devices/${device.code}/timeline`)).json() as unknown as Timeline;
        return (entries[0]?.frames as unknown[] | undefined)?.length === 3 ? entries[0] : undefined;
      },
      { deadlineMs: 10_000, what: 'the messages of the open session' },
    );
    expect(open).toMatchObject({ type: 'session', secret: 'current', keepalives: 1 });
    expect(open).not.toHaveProperty('endedAt');
    await device.wire.untilClosed(THRESHOLD_MS + 10_000);
    const timeline = await timelineOf(device.code, 'liveness_timeout', ({ endedAt }) => endedAt !== undefined);
    expect(timeline).toMatchObject({ status: 'offline', reason: 'liveness_timeout' });
    expect(timeline.explanation).toContain('does not reach the broker');
    expect(timeline.entries).toMatchObject([
      {
        type: 'session',
        session: open.session,
        reason: 'liveness_timeout',
        frames: [
          { direction: 'in', type: 'request', url: '/LAPI/V1.0/System/Event/Notification/Alarm' },
          { direction: 'out', type: 'request', method: 'GET', url: DEVICE_INFO },
          { direction: 'in', type: 'response', responseCode: 0 },
        ],
      },
    ]);
    const text = JSON.stringify(timeline);
    expect(text).toContain('Gate 7');
    expect(text).not.toContain(SECRET);
    expect(text).not.toContain(device.identity.secret);
  });

  test('one with a wrong secret: that it tries, from where, and that its secret is wrong', async () => {
    const device = await Device.provisioned(broker);
    for (let i = 0; i < 3; i++) expect(await attempt({ ...device.identity, secret: SECRET }, i % 2)).toBe(401);
    const timeline = await timelineOf(device.code, 'bad_sign', ({ count }) => count === 3);
    expect(timeline).toMatchObject({ status: 'offline', reason: 'bad_sign' });
    expect(timeline.explanation).toMatch(
      /^It has never registered\. .* from 127\.0\.0\.1, 3 times since .* another secret/,
    );
    expect(timeline.entries).toMatchObject([{ type: 'refused', reason: 'bad_sign', count: 3, address: '127.0.0.1' }]);
    expect(JSON.stringify(timeline)).not.toContain(SECRET);
  });

  test('one that was superseded: the session that counts, and how the one before ended', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const old = device.wire;
    await device.register(1);
    await old.untilClosed();
    const timeline = await timelineOf(device.code, 'superseded', ({ type }) => type === 'session', 2);
    expect(timeline.status).toBe('online');
    expect(timeline.explanation).toMatch(/^Online since .* on edge-2\./);
    expect(timeline.entries).toMatchObject([
      { type: 'session', previousNode: expect.stringMatching(/^edge-1\./) },
      { type: 'session', reason: 'superseded' },
    ]);
    expect(timeline.entries[0]).not.toHaveProperty('endedAt');
  });

  test('two with one code: who is held down, and that they take turns', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    for (let i = 1; i <= 5; i++) await device.register(i % 2);
    expect(await attempt(device.identity)).toBe(429);
    const timeline = await timelineOf(device.code, 'hold_down', ({ reason }) => reason === 'superseded', 5);
    expect(timeline.status).toBe('online');
    expect(timeline.explanation).toContain('replaced each other more than five times');
  });

  test('one that only stays connected: its session, and no messages of our own upkeep', async () => {
    const device = await Device.online(broker, { settings: { profile: 'subscribed' } });
    device.answering(() => ({ Data: { ID: 1, CurrentTime: 1_000, TerminationTime: 1_030, SupportType: 1 } }));
    await device.untilCalled(SUBSCRIPTION);
    await device.keepalive();
    const { explanation, entries } = (
      await broker.api(`/v1/devices/${device.code}/timeline`)
    ).json() as unknown as Timeline;
    expect(explanation).toMatch(/^Online since [^.]+\.\d+Z on edge-1\.[^ ]+, from 127\.0\.0\.1\.$/);
    expect(entries).toMatchObject([{ type: 'session', secret: 'current', keepalives: 1, frames: [] }]);
  });

  test('one that nobody knows: that it knocks; of one that never did there is nothing', async () => {
    const code = newCode();
    expect((await broker.api(`/v1/devices/${code}/timeline`)).status).toBe(404);
    expect(await attempt({ code, secret: SECRET })).toBe(401);
    expect(await timelineOf(code, 'unknown_device', ({ type }) => type === 'refused')).toMatchObject({
      status: 'not_provisioned',
    });
  });
});
