/** Live events as a platform follows them, over several command services: resumed across a restart without loss, the same everywhere, and
 *  together with commands on one socket. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, DEVICE_INFO, Device } from './device.ts';
import { EventReader, type ReadEvent } from './event-reader.ts';
import { PlatformSocket } from './platform-socket.ts';
import { type Setting, startSetting } from './setting.ts';

let setting: Setting;
let broker: Broker;
/** Stopped and killed; the first two serve all the time. */
const STOPPED = 2;
const KILLED = 3;

beforeAll(async () => {
  setting = await startSetting({ commands: 4 });
  broker = setting.broker;
});
afterAll(() => setting.stop());

const seqOf = ({ data }: Pick<ReadEvent, 'data'>): number => (data.AlarmInfo as { AlarmSeq: number }).AlarmSeq;
const isAlarm = ({ kind }: ReadEvent): boolean => kind === 'alarm.MotionAlarmOn';

/** Devices on both edges that send numbered alarms, one after the other, until told to stop. */
function pushing(devices: readonly Device[]): { sent: Map<string, number>; stop(): Promise<void> } {
  const sent = new Map<string, number>();
  let over = false;
  const work = Promise.all(
    devices.map(async (device) => {
      for (let seq = 1; !over; seq++) {
        const { ResponseCode } = await device.notify('Alarm', alarm(seq));
        if (ResponseCode !== 0) throw new Error(`alarm ${seq} of ${device.code}: code ${ResponseCode}`);
        sent.set(device.code, seq);
        // Below the rate that a device may keep up (S11).
        await sleep(40);
      }
    }),
  );
  return {
    sent,
    async stop() {
      over = true;
      await work;
    },
  };
}

async function fleet(size: number): Promise<Device[]> {
  return await Promise.all(
    Array.from({ length: size }, (_, i) => Device.online(broker, { settings: { profile: 'quiet' }, edge: i % 2 })),
  );
}

const numbersUpTo = (last: number): number[] => Array.from({ length: last }, (_, i) => i + 1);

describe.concurrent('events', () => {
  test.each([
    ['stops', STOPPED, (index: number) => broker.commands[index]?.stop()],
    ['dies', KILLED, (index: number) => broker.commands[index]?.kill()],
  ])(
    'a reader whose command service %s goes on elsewhere from its Last-Event-ID: nothing lost, nothing twice, in order',
    async (how, index, end) => {
      const devices = await fleet(6);
      const query = `device=${devices.map(({ code }) => code).join(',')}&kind=alarm.*`;
      const first = await EventReader.open(broker, query, { service: index });
      const source = pushing(devices);
      await first.until(isAlarm, { times: 60, deadlineMs: 20_000 });
      await end(index);
      await waitFor(() => first.ended, { deadlineMs: 20_000, what: 'the end of the first stream' });
      if (how === 'stops') expect(JSON.parse(first.farewell ?? '{}')).toMatchObject({ reason: 'draining' });
      const soFar = new Map(source.sent);
      await waitFor(() => devices.every(({ code }) => (source.sent.get(code) ?? 0) > (soFar.get(code) ?? 0) + 5), {
        deadlineMs: 20_000,
        what: 'events that nobody reads',
      });
      const second = await EventReader.open(broker, query, { service: 1, lastEventId: first.cursor });
      await source.stop();
      const total = [...source.sent.values()].reduce((sum, last) => sum + last, 0);
      await second.until(isAlarm, { times: total - first.events.length, deadlineMs: 20_000 });
      const all = [...first.events, ...second.events];
      expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
      for (const { code } of devices) {
        expect(all.filter((event) => event.code === code).map(seqOf)).toEqual(
          numbersUpTo(source.sent.get(code) as number),
        );
      }
      expect([...first.gaps, ...second.gaps]).toEqual([]);
    },
  );

  test('a restarted command service takes the cursor of the one before', async () => {
    const [device] = await fleet(1);
    if (device === undefined) throw new RangeError('one device');
    const query = `device=${device.code}&kind=alarm.*`;
    const before = await broker.addCommand();
    const reader = await EventReader.open(broker, query, { service: broker.commands.indexOf(before) });
    await device.notify('Alarm', alarm(1));
    await reader.until(isAlarm);
    await before.stop();
    await device.notify('Alarm', alarm(2));
    const after = await broker.addCommand();
    const service = broker.commands.indexOf(after);
    const resumed = await EventReader.open(broker, query, { service, lastEventId: reader.cursor });
    await device.notify('Alarm', alarm(3));
    await resumed.until(isAlarm, { times: 2 });
    expect(resumed.events.map(seqOf)).toEqual([2, 3]);
  });

  test('two command services tell the same events, with the same ids, each device in its order', async () => {
    const devices = await fleet(8);
    const query = `device=${devices.map(({ code }) => code).join(',')}`;
    const readers = await Promise.all([0, 1].map((service) => EventReader.open(broker, query, { service })));
    await Promise.all(
      devices.map(async (device) => {
        for (const seq of numbersUpTo(10)) await device.notify('Alarm', alarm(seq));
        device.wire.destroy();
      }),
    );
    for (const reader of readers) {
      await reader.until(({ kind }) => kind === 'presence.offline', { times: devices.length });
      for (const { code } of devices) {
        expect(reader.of(code, 'alarm.MotionAlarmOn').map(seqOf)).toEqual(numbersUpTo(10));
        expect(reader.of(code).at(-1)?.kind).toBe('presence.offline');
      }
    }
    const textsOf = (reader: EventReader | undefined): string[][] =>
      devices.map(({ code }) => reader?.of(code).map(({ text }) => text) ?? []);
    expect(textsOf(readers[0])).toEqual(textsOf(readers[1]));
  });

  test('filters by device, kind and tag choose, alone and together', async () => {
    const tag = `gate-${Date.now()}`;
    const [tagged, plain] = await Promise.all([
      Device.online(broker, { settings: { profile: 'quiet', tags: [tag] } }),
      Device.online(broker, { settings: { profile: 'quiet' }, edge: 1 }),
    ]);
    const both = `device=${tagged.code},${plain.code}`;
    const readers = await Promise.all(
      [
        both,
        `${both}&kind=alarm.*`,
        `${both}&kind=structure&kind=presence.*`,
        `tag=${tag}`,
        `device=${plain.code}&tag=${tag}`,
      ].map((query) => EventReader.open(broker, query)),
    );
    for (const device of [tagged, plain]) {
      await device.notify('Alarm', alarm(1));
      await device.notify('Structure', {});
      device.wire.destroy();
      await (readers[0] as EventReader).presence(device.code, 'offline');
    }
    const ends = ['alarm.MotionAlarmOn', 'structure', 'presence.offline'];
    const told = (reader: EventReader | undefined): string[] =>
      reader?.events.map(({ code, kind }) => `${code} ${kind}`) ?? [];
    const of = ({ code }: Device, kinds: string[]): string[] => kinds.map((kind) => `${code} ${kind}`);
    await waitFor(() => told(readers[2]).length === 4 && told(readers[3]).length === 3, {
      deadlineMs: 5_000,
      what: 'all',
    });
    expect(told(readers[0])).toEqual([...of(tagged, ends), ...of(plain, ends)]);
    expect(told(readers[1])).toEqual([...of(tagged, ends.slice(0, 1)), ...of(plain, ends.slice(0, 1))]);
    expect(told(readers[2])).toEqual([...of(tagged, ends.slice(1)), ...of(plain, ends.slice(1))]);
    expect(told(readers[3])).toEqual(of(tagged, ends));
    expect((readers[3] as EventReader).events.every(({ tags }) => tags?.[0] === tag)).toBe(true);
    expect(told(readers[4])).toEqual([]);
  });

  test('a time of day, an event id and a cursor all say where to begin', async () => {
    const [device] = await fleet(1);
    const { code } = device as Device;
    for (const seq of numbersUpTo(3)) await device?.notify('Alarm', alarm(seq));
    const all = await EventReader.replay(broker, `device=${code}&kind=alarm.*`);
    await all.until(isAlarm, { times: 3 });
    const [, second, third] = all.events;
    for (const from of [second?.id, second?.cursor]) {
      const reader = await EventReader.open(broker, `device=${code}&kind=alarm.*&from=${from}`);
      expect((await reader.until(isAlarm)).id).toBe(third?.id);
      expect(reader.events).toHaveLength(1);
    }
    const early = new Date(Date.parse(all.events[0]?.at ?? '') - 60_000).toISOString();
    const timed = await EventReader.open(broker, `device=${code}&kind=alarm.*&from=${early}`);
    await timed.until(isAlarm, { times: 3 });
    expect(timed.events.map(({ id }) => id)).toEqual(all.events.map(({ id }) => id));
    const later = await EventReader.open(broker, `device=${code}&kind=alarm.*&from=now`);
    await device?.notify('Alarm', alarm(4));
    await later.until(isAlarm);
    expect(later.events.map(seqOf)).toEqual([4]);
  });
});

describe.concurrent('one socket', () => {
  test('carries subscriptions and commands side by side', async () => {
    const [device, other] = await fleet(2);
    if (device === undefined || other === undefined) throw new RangeError('two devices');
    device.answering(({ url }) => (url === DEVICE_INFO ? { Data: { DeviceName: 'gate' } } : { ResponseCode: 4 }));
    const socket = await PlatformSocket.open(broker, 1);
    const { cursor } = await socket.subscribe('mine', { devices: [device.code], kinds: ['alarm.*'] });
    await socket.subscribe('all', { devices: [device.code, other.code] });
    expect(cursor).toBeTruthy();
    socket.send({ type: 'command', id: 'c1', code: device.code, method: 'GET', url: DEVICE_INFO });
    socket.send({
      type: 'command',
      id: 'c2',
      code: device.code,
      method: 'PUT',
      url: '/LAPI/V1.0/Channels/1/PTZ/PTZCtrl',
      data: {},
    });
    socket.send({ type: 'command', id: 'c3', code: 'NOBODY-1', method: 'GET', url: DEVICE_INFO });
    socket.send({ type: 'ping' });
    await device.notify('Alarm', alarm(1));
    await other.notify('Structure', {});
    await socket.until(({ type }) => type === 'pong', 'the pong');
    await socket.until(({ type }) => type === 'reply', 'three replies', 3);
    const replies = Object.fromEntries(
      socket.messages.filter(({ type }) => type === 'reply').map(({ text, ...message }) => [message.id, message]),
    );
    expect(replies.c1).toMatchObject({
      status: 200,
      executed: 'yes',
      source: 'device',
      response: { Data: { DeviceName: 'gate' } },
    });
    expect(replies.c2).toMatchObject({ status: 501, executed: 'yes', source: 'device', response: { ResponseCode: 4 } });
    expect(replies.c3).toMatchObject({
      status: 404,
      executed: 'no',
      source: 'broker',
      problem: { code: 'device_unknown' },
    });
    await waitFor(() => socket.events('all').length === 2, { deadlineMs: 5_000, what: 'two events' });
    expect(socket.events('mine').map(({ event }) => event?.kind)).toEqual(['alarm.MotionAlarmOn']);
    expect(new Set(socket.events('all').map(({ event }) => event?.code))).toEqual(new Set([device.code, other.code]));

    socket.send({ type: 'unsubscribe', id: 'mine' });
    await socket.until(({ type, id }) => type === 'unsubscribed' && id === 'mine', 'unsubscribed');
    await device.notify('Alarm', alarm(2));
    await waitFor(() => socket.events('all').length === 3, { deadlineMs: 5_000, what: 'the third event' });
    expect(socket.events('mine')).toHaveLength(1);

    // Elsewhere, from the cursor of what was read last: the rest and no more.
    const next = await PlatformSocket.open(broker, 0);
    await next.subscribe('mine', { devices: [device.code], kinds: ['alarm.*'] }, socket.events('mine')[0]?.cursor);
    await waitFor(() => next.events('mine').length === 1, { deadlineMs: 5_000, what: 'the rest' });
    expect(next.events('mine')[0]?.event?.data).toMatchObject({ AlarmInfo: { AlarmSeq: 2 } });
  });

  test('refuses what it does not understand and stays open', async () => {
    const socket = await PlatformSocket.open(broker);
    for (const message of [
      '{',
      '[]',
      '{"type":"nothing"}',
      '{"type":"subscribe"}',
      '{"type":"subscribe","id":"x","colour":1}',
      '{"type":"subscribe","id":"x","from":"yesterday"}',
      '{"type":"command","id":"x","code":"a b","method":"GET","url":"/LAPI/"}',
    ]) {
      const before = socket.messages.length;
      socket.send(message);
      const refusal = await waitFor(() => socket.messages[before], {
        deadlineMs: 5_000,
        what: `an answer to ${message}`,
      });
      expect(refusal).toMatchObject({ type: 'error', problem: { code: 'invalid_request' } });
    }
    await socket.subscribe('x', {});
    socket.send({ type: 'subscribe', id: 'x' });
    expect(await socket.until(({ type, problem }) => type === 'error' && problem?.code === 'conflict')).toBeDefined();
    socket.send({ type: 'command', id: 'c', code: 'NOBODY-1', method: 'GET', url: '/LAPI/V1.0//x' });
    const reply = await socket.until(({ type }) => type === 'reply', 'the reply');
    expect(reply).toMatchObject({ status: 400, source: 'broker', problem: { code: 'invalid_request' } });
    expect(socket.closeCode).toBeUndefined();
  });

  test('a key with read alone follows events and may not call', async () => {
    const created = await broker.api('/v1/keys', { method: 'POST', body: { name: 'reader', scopes: ['read'] } });
    const { key } = created.json() as { key: string };
    const [device] = await fleet(1);
    device?.answering();
    const socket = await PlatformSocket.open(broker, 1, key);
    await socket.subscribe('s', { devices: [device?.code ?? ''] });
    socket.send({ type: 'command', id: 'c', code: device?.code, method: 'GET', url: DEVICE_INFO });
    const reply = await socket.until(({ type }) => type === 'reply', 'the reply');
    expect(reply).toMatchObject({ status: 403, executed: 'no', problem: { code: 'forbidden' } });
    await device?.notify('Alarm', alarm(1));
    await waitFor(() => socket.events('s').length === 1, { deadlineMs: 5_000, what: 'the event' });
    expect(device?.calls).toEqual([]);
  });
});
