/** What devices push, on its way to platforms (protocol §11): L22, L25, L26, L35. */

import { createHash } from 'node:crypto';
import { type Broker, type RedisServer, startRedis, startTcpProxy, type TcpProxy } from '@lapi-broker/fixture';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, DEVICE_INFO, Device, picture, takeText } from './device.ts';
import { EventReader, type ReadEvent } from './event-reader.ts';
import { PlatformSocket } from './platform-socket.ts';
import { type Setting, startSetting, staysTrue, timed } from './setting.ts';

const MiB = 1024 * 1024;
const digest = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('with the store at hand', () => {
  let setting: Setting;
  let broker: Broker;

  beforeAll(async () => {
    setting = await startSetting({ commands: 2 });
    broker = setting.broker;
  });
  afterAll(() => setting.stop());

  const structure = (relatedId: string, pictureBytes: number): string =>
    JSON.stringify({
      TimeStamp: 1_735_689_600,
      SrcID: 1,
      NotificationType: 0,
      RelatedID: relatedId,
      StructureInfo: {
        ImageNum: 1,
        ImageInfoList: [{ Index: 1, Format: 1, Size: pictureBytes, Data: picture(pictureBytes) }],
      },
    });

  describe.concurrent('answers', () => {
    test('L22: a 9 MiB Structure, in one frame and fragmented around a ping, is stored once each, whole, and answered with its own fields', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const { wire } = device;
      const [whole, cut] = [structure('4711', 9 * MiB), structure('4712', 9 * MiB)];
      expect(await device.notify('Structure', whole, 20_000)).toEqual({
        ResponseURL: '/LAPI/V1.0/System/Event/Notification/Structure',
        ResponseCode: 0,
        ResponseString: 'Succeed',
        Cseq: expect.any(Number),
        Data: { NotificationType: 0, RelatedID: '4711' },
      });
      const text = `{"RequestURL":"/LAPI/V1.0/System/Event/Notification/Structure","Method":"POST","Cseq":"c-1","Data":${cut}}`;
      const third = Math.ceil(text.length / 3);
      wire.frame(text.slice(0, third), { final: false });
      wire.frame('still here', { opcode: 9 });
      wire.frame(text.slice(third, 2 * third), { opcode: 0, final: false });
      wire.frame('', { opcode: 10 });
      wire.frame(text.slice(2 * third), { opcode: 0 });
      expect(await wire.response('c-1', 20_000)).toMatchObject({
        ResponseCode: 0,
        Data: { NotificationType: 0, RelatedID: '4712' },
      });
      expect(wire.frames.some(({ opcode, payload }) => opcode === 10 && payload.toString() === 'still here')).toBe(
        true,
      );

      const reader = await EventReader.replay(broker, `device=${device.code}&kind=structure`);
      await device.notify('Alarm', alarm(1));
      await reader.until(() => true, { times: 2, deadlineMs: 20_000, what: 'both structures' });
      const end = await EventReader.replay(broker, `device=${device.code}`, 1);
      await end.until(({ kind }) => kind === 'alarm.MotionAlarmOn', { deadlineMs: 20_000 });
      // Up to the alarm that came after them there are these two and no third.
      expect(end.of(device.code, 'structure').map(({ id }) => id)).toEqual(reader.events.map(({ id }) => id));
      const dataOf = (read: string): string => read.slice(read.indexOf('"data":') + 7, -1);
      for (const [i, sent] of [whole, cut].entries()) {
        const { text: read, images } = reader.events[i] as ReadEvent;
        // The picture went elsewhere; every other byte is the device's.
        const from = sent.indexOf('"Data":"') + 8;
        const to = sent.indexOf('"', from);
        expect(dataOf(read)).toBe(sent.slice(0, from) + String(images[0]?.url) + sent.slice(to));
        expect(images[0]?.sha256).toBe(digest(Buffer.from(sent.slice(from, to), 'base64')));
      }
    });

    test('L22: the fields come back as the tokens that were sent, and only those that were sent', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const answers = async (data: string): Promise<unknown> => (await device.notify('Structure', data)).Data;
      expect(await answers('{"NotificationType":1,"RelatedID":99}')).toEqual({ NotificationType: 1, RelatedID: 99 });
      expect(await answers('{"RelatedID":"a"}')).toEqual({ RelatedID: 'a' });
      expect(await answers('{}')).toEqual({});
      device.wire.frame(
        '{"RequestURL":"/LAPI/V1.0/System/Event/Notification/Structure","Method":"POST","Cseq":9007199254740993,"Data":{"RelatedID":9007199254740995}}',
      );
      const text = await takeText(device.wire, (each) => each.includes('9007199254740993'));
      expect(text).toContain('"Cseq":9007199254740993,"Data":{"RelatedID":9007199254740995}');
    });

    test('L22: a PersonVerification is answered with RecordID and Time', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const before = Date.now();
      const { ResponseCode, Data } = await device.notify('PersonVerification', {
        Seq: 12,
        DeviceCode: 'somebody else',
        Timestamp: 1_735_689_600,
        NotificationType: 0,
        FaceInfoList: [],
      });
      expect(ResponseCode).toBe(0);
      const { RecordID, Time } = Data as { RecordID: unknown; Time: string };
      expect(RecordID).toBe(12);
      expect(Time).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
      const told = Date.parse(`${Time.replace(' ', 'T')}Z`);
      expect(told).toBeGreaterThan(before - 1_000);
      expect(told).toBeLessThan(Date.now() + 1_000);
      // V6: what the payload calls itself is no identity.
      const reader = await EventReader.replay(broker, `device=${device.code}&kind=personverification`);
      expect((await reader.until(() => true)).data).toMatchObject({ DeviceCode: 'somebody else', Seq: 12 });
    });

    test('11.3: an access controller heartbeat gets Time and Code 0, and nobody hears of it', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const answer = await device.request('/LAPI/V1.0/PACS/Controller/HeartReportInfo', '{"RefId":"1"}');
      expect(answer).toMatchObject({ ResponseCode: 0, Code: 0, Data: { Time: expect.stringMatching(/^\d{4}-/) } });
      await device.notify('Alarm', alarm(1));
      const reader = await EventReader.replay(broker, `device=${device.code}`);
      await reader.until(({ kind }) => kind === 'alarm.MotionAlarmOn');
      expect(reader.events.map(({ kind }) => kind)).toEqual(['presence.online', 'alarm.MotionAlarmOn']);
    });

    test.each([
      ['an unknown kind', '/LAPI/V1.0/System/Event/Notification/BrandNew/Thing', 0, 'notification.BrandNew.Thing'],
      ['an unknown radar kind', '/LAPI/V1.0/System/Radar/Service/Other', 0, 'radar.Service.Other'],
      ['the unified format of V1.1', '/LAPI/V1.1/System/Event/Notification', 0, undefined],
      ['any other URL', '/LAPI/V1.0/System/Unheard/Of', 4, 'unhandled'],
      ['a URL outside LAPI', '/elsewhere', 4, 'unhandled'],
    ])('L26: %s is answered with its code and published raw', async (_what, url, code, kind) => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}`);
      const data = '{"A": [1, 2.50, "é\\u00e9"],"B":{"Big":9007199254740993}}';
      const answer = await device.request(url, data);
      expect(answer).toEqual({
        ResponseURL: url,
        ResponseCode: code,
        ResponseString: code === 0 ? 'Succeed' : 'Not Supported',
        Cseq: expect.any(Number),
        Data: {},
      });
      const event = await reader.until(({ kind: each }) => !each.startsWith('presence.'));
      expect(event.url).toBe(url);
      expect(event.text.endsWith(`"data":${data}}`)).toBe(true);
      if (kind !== undefined) expect(event.kind).toBe(kind);
    });

    test('L26: every kind of the catalogue gets exactly one answer with code 0 and arrives in the order of the device (V5)', async () => {
      const kinds = [
        ...[
          'Alarm',
          'Structure',
          'MotionDetection',
          'PersonInfo',
          'PersonVerification',
          'VehicleEventInfo',
          'HealthData',
        ],
        ...[
          'PeopleCount/LineRuleData',
          'PeopleCount/AreaRuleData',
          'PassData',
          'RoadFlow',
          'TrafficFlow',
          'VehicleQueueLen',
        ],
        ...['RadarDetection', 'OverFlow', 'Pedestrian', 'ParkingList', 'OccupancyEmergenctList', 'RestrictedAreaList'],
      ];
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}`);
      const answers = await Promise.all(kinds.map((kind, i) => device.notify(kind, { Seq: i })));
      expect(answers.map(({ ResponseCode }) => ResponseCode)).toEqual(kinds.map(() => 0));
      await reader.until(({ data }) => data.Seq === kinds.length - 1);
      const order = reader.events.filter(({ kind }) => !kind.startsWith('presence.')).map(({ data }) => data.Seq);
      expect(order).toEqual(kinds.map((_kind, i) => i));
      expect(device.wire.texts().filter((text) => text.includes('ResponseURL'))).toEqual([]);
    });
  });

  describe.concurrent('the event model', () => {
    test('every event of a device, notification, presence and command, is one by the schema that the broker serves', async () => {
      const served = await broker.api('/v1/event.schema.json');
      expect(served.status).toBe(200);
      expect((await broker.api('/v1/asyncapi.json')).json()).toMatchObject({ asyncapi: '3.0.0' });
      const ajv = new Ajv2020({ strict: false, allErrors: true });
      formats.default(ajv);
      const isEvent = ajv.compile(served.json() as object);
      const device = await Device.online(broker, { settings: { profile: 'quiet', tags: ['gate', 'north'] } });
      await device.notify('Alarm', alarm(1));
      await device.notify('Structure', structure('1', 8_192));
      await device.notify('PeopleCount/LineRuleData', { LineNum: 0, LineRuleDataList: [] });
      await device.request('/elsewhere', '{"Big":18446744073709551615}');
      await device.request('/LAPI/V1.0/System/Radar/A/B', '{}');
      const queued = { mode: 'queue', method: 'GET', url: DEVICE_INFO };
      await broker.api(`/v1/devices/${device.code}/commands`, { method: 'POST', body: queued });
      const reader = await EventReader.replay(broker, `device=${device.code}`);
      await reader.until(({ kind }) => kind === 'command.sent', { deadlineMs: 30_000 });
      const kinds = new Set(reader.events.map(({ kind }) => kind));
      for (const kind of ['presence.online', 'structure', 'peoplecount.line', 'unhandled', 'radar.A.B', 'command.sent'])
        expect(kinds).toContain(kind);
      for (const { cursor: _, text, ...event } of reader.events) {
        isEvent(event);
        expect(isEvent.errors ?? [], text).toEqual([]);
      }
    });

    test('`at` is when the device says that it happened, `receivedAt` when the broker heard of it', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const before = Date.now();
      const times = [{ TimeStamp: 1_735_689_600 }, { TimeStamp: '20250101000000' }, { TimeStamp: 12 }, {}];
      for (const [i, time] of times.entries()) await device.notify('HealthData', { Seq: i, ...time });
      const reader = await EventReader.replay(broker, `device=${device.code}&kind=healthdata`);
      await reader.until(() => true, { times: times.length });
      const [seconds, digits, implausible, absent] = reader.events;
      expect([seconds?.at, digits?.at]).toEqual(Array(2).fill('2025-01-01T00:00:00.000Z'));
      expect(implausible?.at).toBe(implausible?.receivedAt);
      expect(absent?.at).toBe(absent?.receivedAt);
      for (const { receivedAt } of reader.events) {
        expect(Date.parse(receivedAt)).toBeGreaterThan(before - 1_000);
        expect(Date.parse(receivedAt)).toBeLessThan(Date.now() + 1_000);
      }
    });
  });

  describe.concurrent('L35', () => {
    test('L35: an alarm sent twice yields two deliveries with equal dedup keys, another alarm another key', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}&kind=alarm.*`);
      await device.notify('Alarm', alarm(7));
      await device.notify('Alarm', alarm(7));
      await device.notify('Alarm', alarm(8));
      await device.notify('Alarm', alarm(7, { TimeStamp: 1_735_689_601 }));
      await device.notify('Alarm', alarm(7, { AlarmType: 'MotionAlarmOff' }));
      await reader.until(() => true, { times: 5 });
      const keys = reader.events.map(({ dedupKey }) => dedupKey);
      expect(keys[0]).toBe(`${device.code}|/LAPI/V1.0/System/Event/Notification/Alarm|7|1735689600|MotionAlarmOn`);
      expect(keys[1]).toBe(keys[0]);
      expect(new Set(keys).size).toBe(4);
      expect(new Set(reader.events.map(({ id }) => id)).size).toBe(5);
      await device.notify('Alarm', {});
      expect((await reader.until(() => true, { times: 6 })).dedupKey).toBeNull();
    });

    const exact =
      '{"Big":9007199254740993,"Huge":123456789012345678901234567890,"Neg":-9007199254740995,"One":1.0,"Exp":1E400,"Text":"\\u00fc/"}';

    test('L35: integers above 2^53 − 1 and every other digit arrive unchanged over SSE and WebSocket', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}`);
      const socket = await PlatformSocket.open(broker, 1);
      await socket.subscribe('s', { devices: [device.code] });
      await device.notify('Alarm', exact);
      const event = await reader.until(({ kind }) => kind === 'alarm');
      expect(event.text.endsWith(`"data":${exact}}`)).toBe(true);
      const message = await socket.until(({ event: read }) => read?.kind === 'alarm', 'the alarm');
      expect(message.text.endsWith(`"data":${exact}}}`)).toBe(true);
      const replayed = await EventReader.replay(broker, `device=${device.code}&kind=alarm`, 1);
      expect((await replayed.until(() => true)).text).toBe(event.text);
    });

    test('L35: they arrive unchanged in both directions of a call, in all three forms of it', async () => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      device.answering(({ cseq }) => `{"ResponseURL":"/x","ResponseCode":0,"Cseq":${cseq},"Data":${exact}}`);
      const path = `/v1/devices/${device.code}`;
      const passed = await broker.api(`${path}${DEVICE_INFO}`, { method: 'PUT', rawBody: exact });
      expect(passed.text).toBe(`{"ResponseURL":"/x","ResponseCode":0,"Data":${exact},"source":"device"}`);
      const envelope = `{"mode":"direct","method":"PUT","url":"${DEVICE_INFO}","data":${exact}}`;
      const enveloped = await broker.api(`${path}/commands`, { method: 'POST', rawBody: envelope });
      expect(enveloped.text).toContain(`"response":{"ResponseURL":"/x","ResponseCode":0,"Data":${exact}}`);
      const socket = await PlatformSocket.open(broker, 1);
      socket.send(
        `{"type":"command","id":"c","code":"${device.code}","method":"PUT","url":"${DEVICE_INFO}","data":${exact}}`,
      );
      const reply = await socket.until(({ type }) => type === 'reply', 'the reply');
      expect(reply.text).toContain(`"Data":${exact}`);
      expect(device.calls.map(({ text }) => text.slice(text.indexOf('"Data":')))).toEqual(
        Array.from({ length: 3 }, () => `"Data":${exact}}`),
      );
    });
  });

  test('V3: a flood of events of one device is answered in full: code 0 for what was stored, code 1 for what was not', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const answers = await Promise.all(Array.from({ length: 150 }, (_, i) => device.notify('Alarm', alarm(i), 20_000)));
    const stored = answers.filter(({ ResponseCode }) => ResponseCode === 0).length;
    const refused = answers.filter(({ ResponseCode }) => ResponseCode === 1).length;
    expect(stored + refused).toBe(150);
    expect(stored).toBeGreaterThanOrEqual(100);
    const reader = await EventReader.replay(broker, `device=${device.code}&kind=alarm.*`);
    await reader.until(() => true, { times: stored });
    expect(await device.keepalive()).toContain('"ResponseCode":0');
    expect(reader.events).toHaveLength(stored);
  });
});

describe('with a store that fails', () => {
  let setting: Setting;
  let broker: Broker;
  /** Between the edges and Redis. */
  let proxy: TcpProxy;
  let redis: RedisServer;

  beforeAll(async () => {
    redis = await startRedis();
    proxy = await startTcpProxy({ target: { port: redis.port } });
    setting = await startSetting({
      redis: { url: redis.url },
      edgeEnv: { REDIS_URL: `redis://${proxy.host}:${proxy.port}/0` },
    });
    broker = setting.broker;
  });
  afterAll(async () => {
    proxy.heal();
    await setting.stop();
    await proxy.stop();
    await redis.stop();
  });

  const online = (profile: string): Promise<Device> => Device.online(broker, { settings: { profile } });

  test('L25: no answer before the store has accepted the event, then code 0', async () => {
    const device = await online('quiet');
    const reader = await EventReader.open(broker, `device=${device.code}`);
    proxy.pause();
    let answered = false;
    const answer = device.notify('Alarm', alarm(1)).finally(() => {
      answered = true;
    });
    await staysTrue(() => !answered, 1_500, 'no answer while the store is silent');
    expect(reader.of(device.code, 'alarm.MotionAlarmOn')).toEqual([]);
    proxy.heal();
    expect(await answer).toMatchObject({ ResponseCode: 0 });
    await reader.until(({ kind }) => kind === 'alarm.MotionAlarmOn');
  });

  test.each<[string, () => void]>([
    ['is silent', () => proxy.pause()],
    [
      'refuses connections',
      () => {
        proxy.refuse();
        proxy.cut();
      },
    ],
  ])(
    'L25: while the store %s, code 1 comes within 6 s, keepalives within 1 s, `immediate` and class L at once',
    async (_how, fail) => {
      const [patient, hasty, radar] = await Promise.all([online('quiet'), online('immediate'), online('quiet')]);
      const { epoch } = await broker.untilOnline(patient.code);
      await broker.untilOnline(hasty.code);
      fail();
      let over = false;
      const keepingAlive = (async () => {
        let slowest = 0;
        while (!over) {
          for (const device of [patient, hasty, radar])
            slowest = Math.max(slowest, (await timed(device.keepalive())).tookMs);
          await staysTrue(() => true, 100, 'a pause');
        }
        return slowest;
      })();
      const [stored, immediate, lossy] = await Promise.all([
        timed(patient.notify('Alarm', alarm(1))),
        timed(hasty.notify('Structure', { RelatedID: 'x', NotificationType: 1 })),
        timed(radar.notify('ObjectRealTimeData', { ObjectNum: 3 })),
      ]);
      over = true;
      expect(await keepingAlive).toBeLessThan(1_000);
      expect(stored.result).toMatchObject({ ResponseCode: 1, ResponseString: 'Common Error', Data: {} });
      expect(stored.tookMs).toBeLessThan(6_000);
      expect(immediate.result).toMatchObject({ ResponseCode: 0, Data: { RelatedID: 'x', NotificationType: 1 } });
      expect(immediate.tookMs).toBeLessThan(1_000);
      expect(lossy.result).toMatchObject({ ResponseCode: 0 });
      expect(lossy.tookMs).toBeLessThan(1_000);
      proxy.heal();
      // The session outlives it, and the next event is stored.
      const reader = await EventReader.replay(broker, `device=${patient.code}`);
      for (let seq = 2; ; seq++) {
        const { ResponseCode } = await patient.notify('Alarm', alarm(seq));
        if (ResponseCode !== 0 && seq < 100) continue;
        expect(ResponseCode).toBe(0);
        await reader.until(({ data }) => (data.AlarmInfo as { AlarmSeq?: number } | undefined)?.AlarmSeq === seq);
        break;
      }
      expect(patient.wire.closed).toBe(false);
      expect(await broker.untilOnline(patient.code)).toMatchObject({ epoch });
    },
  );
});
