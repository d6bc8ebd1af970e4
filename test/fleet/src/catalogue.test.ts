/** What a user sees of a device's resources, without any network. */

import { expect, test } from 'vitest';
import { answerFromCatalogue, type CatalogueAnswer } from './catalogue.ts';
import { type Json, readMessage } from './envelope.ts';
import { Equipment } from './equipment.ts';
import { createPictures } from './picture.ts';
import { type ProfileName, profileOf } from './profile.ts';

const pictures = createPictures(0);

function createDevice(profile: ProfileName = 'nvr', channels = 8) {
  const equipment = new Equipment('210235SIMN0000000001', profileOf(profile, channels));
  const ask = (method: string, path: string, data: Json = {}, nowMs = 1_735_689_600_000): CatalogueAnswer => {
    const text = JSON.stringify({ RequestURL: `/LAPI/V1.0${path}`, Method: method, Cseq: 1, Data: data });
    const message = readMessage(text);
    if (message.kind !== 'request') throw new Error('not a request');
    return answerFromCatalogue(message.request, { equipment, pictures, nowMs });
  };
  return { equipment, ask };
}

test('DeviceInfo carries the members of protocol 12 and the code as serial number', () => {
  const { data } = createDevice().ask('GET', '/System/DeviceInfo');
  expect(Object.keys(data ?? {})).toEqual([
    'DeviceName',
    'DeviceType',
    'DeviceCode',
    'DeviceModel',
    'SerialNumber',
    'FirmwareVersion',
    'HardwareID',
  ]);
  expect(data).toMatchObject({ DeviceType: 'NVR', DeviceCode: '210235SIMN0000000001' });
});

test.each([
  ['nvr', 16, [1, 16]],
  ['ipc', 16, [0, 0]],
  ['radar', 16, [0, 0]],
] as const)('%s numbers its channels as protocol 12 says', (profile, channels, [first, last]) => {
  const { data } = createDevice(profile, channels).ask('GET', '/Channels/System/ChannelDetailInfos');
  const ids = ((data?.DetailInfos ?? []) as { ID: number }[]).map(({ ID }) => ID);
  expect([ids[0], ids.at(-1)]).toEqual([first, last]);
  expect(data?.Nums).toBe(ids.length);
});

test.each([
  ['/System/DeviceBasicInfo'],
  ['/System/Capabilities'],
  ['/System/Time'],
  ['/System/DeviceWorkMode'],
  ['/Storage/Containers/DetailInfos'],
  ['/Channels/1/Media/Video/Streams/0/LiveStreamURL'],
  ['/Channel/1/Media/Video/Streams/0/LiveStreamURL'],
  ['/Channels/1/Media/Video/Streams/RecordURL?Begin=1735600000&End=1735603600&SessionID=7'],
  ['/Channels/1/Media/Video/Streams/0/Records?Begin=1735600000&End=1735689600'],
  ['/Channels/1/Media/Video/Streams/0/Records/DailyDistribution?Year=2024&Month=12'],
  ['/Channels/1/Media/Video/Streams/Sessions'],
  ['/Channels/1/PTZ/Presets?Limit=10&Offset=0'],
  ['/System/Event/Subscription/Capabilities'],
])('GET %s is answered with code 0', (path) => {
  expect(createDevice().ask('GET', path)).toMatchObject({ code: 0, data: expect.any(Object) });
});

test.each([
  ['GET', '/System/Nonsense', 4],
  ['DELETE', '/System/DeviceInfo', 4],
  ['GET', '/Channels/9/Media/Video/Streams/0/LiveStreamURL', 2],
  ['GET', '/Channels/0/Media/Video/Streams/0/LiveStreamURL', 2],
  ['GET', '/Channels/1/Media/Video/Streams/3/LiveStreamURL', 2],
  ['GET', '/Channels/1/Media/Video/Streams/0/Records', 2],
  ['PUT', '/Channels/1/PTZ/PTZCtrl', 2],
  ['PUT', '/Channels/1/PTZ/Presets/3/Goto', 2],
])('%s %s is answered with code %i', (method, path, code) => {
  expect(createDevice().ask(method, path).code).toBe(code);
});

test('a URL outside /LAPI/V1.0 is not supported', () => {
  const message = readMessage('{"RequestURL":"/LAPI/V9.0/System/DeviceInfo","Method":"GET","Cseq":1}');
  if (message.kind !== 'request') throw new Error('not a request');
  const { equipment } = createDevice();
  expect(answerFromCatalogue(message.request, { equipment, pictures, nowMs: 0 }).code).toBe(4);
});

test('a preset that was set is listed, and going to it restores where the camera looked', () => {
  const { ask } = createDevice();
  ask('PUT', '/Channels/1/PTZ/PTZCtrl', { PTZCmd: 1282, Para1: 5 }, 0);
  ask('PUT', '/Channels/1/PTZ/PTZCtrl', { PTZCmd: 1281 }, 2000);
  expect(ask('PUT', '/Channels/1/PTZ/Presets/3', { Name: 'Gate' }, 3000).code).toBe(0);
  expect(ask('GET', '/Channels/1/PTZ/Presets').data).toEqual({ Nums: 1, PresetInfos: [{ ID: 3, Name: 'Gate' }] });
  expect(ask('GET', '/Channels/2/PTZ/Presets').data).toEqual({ Nums: 0, PresetInfos: [] });

  ask('PUT', '/Channels/1/PTZ/PTZCtrl', { PTZCmd: 1026, Para1: 8 }, 4000);
  expect(ask('GET', '/Channels/1/PTZ/Status', {}, 5000).data).toMatchObject({ Pan: 10, Tilt: 8, Moving: 1 });
  expect(ask('PUT', '/Channels/1/PTZ/Presets/3/Goto', {}, 5000).code).toBe(0);
  expect(ask('GET', '/Channels/1/PTZ/Status', {}, 9000).data).toMatchObject({ Pan: 10, Tilt: 0, Moving: 0 });

  expect(ask('POST', '/Channels/1/PTZ/Presets', { Name: 'Yard' })).toMatchObject({
    code: 0,
    members: { CreatedID: 1 },
  });
  expect(ask('DELETE', '/Channels/1/PTZ/Presets/3').code).toBe(0);
  expect(ask('GET', '/Channels/1/PTZ/Presets').data).toEqual({ Nums: 1, PresetInfos: [{ ID: 1, Name: 'Yard' }] });
});

test('a radar has no camera to turn', () => {
  expect(createDevice('radar').ask('PUT', '/Channels/0/PTZ/PTZCtrl', { PTZCmd: 1026 }).code).toBe(4);
});

test('stream sessions are kept, refused twice (202) and limited (203), and missing ones are 201', () => {
  const { ask } = createDevice();
  const start = (id: string) => ask('POST', '/Channels/1/Media/Video/Streams/0/Sessions', { SessionID: id, Type: 1 });
  expect(start('a').code).toBe(0);
  expect(start('a').code).toBe(202);
  expect(ask('GET', '/Channels/1/Media/Video/Streams/Sessions').data).toEqual({
    Nums: 1,
    SessionInfoList: [{ SessionID: 'a', Type: 1 }],
  });
  expect(ask('DELETE', '/Channels/1/Media/Video/Streams/0/Sessions/b').code).toBe(201);
  expect(ask('DELETE', '/Channels/1/Media/Video/Streams/0/Sessions/a').code).toBe(0);
  for (let index = 0; index < 8; index += 1) expect(start(`s${index}`).code).toBe(0);
  expect(start('one too many').code).toBe(203);
});

test('a clock that was set goes on from there', () => {
  const { ask } = createDevice();
  expect(ask('PUT', '/System/Time', { DeviceTime: 1000 }, 5_000_000).code).toBe(0);
  expect(ask('GET', '/System/Time', {}, 5_030_000).data).toMatchObject({ DeviceTime: 1030 });
});

test('a snapshot is a JPEG in base64 of the stated size', () => {
  const { data } = createDevice().ask('GET', '/Channels/1/Media/Video/Streams/0/Snapshot');
  const jpeg = Buffer.from(String(data?.Data), 'base64');
  expect(jpeg.length).toBe(data?.Size);
  expect(jpeg.subarray(0, 2).toString('hex')).toBe('ffd8');
});

test('a subscription is created, renewed, deleted, and expires when not renewed (protocol 10)', () => {
  const { ask, equipment } = createDevice();
  const created = ask('POST', '/System/Event/Subscription', { Duration: 600, Type: 0 }, 0);
  expect(created).toMatchObject({ code: 0, data: { CurrentTime: 0, TerminationTime: 600, SupportType: 16_417 } });
  const path = `/System/Event/Subscription/${created.data?.ID}`;
  expect(ask('PUT', path, { Duration: 600 }, 500_000)).toMatchObject({ code: 0, data: { TerminationTime: 1100 } });
  expect(equipment.subscriptions.active(1_099_999)).toHaveLength(1);
  expect(equipment.subscriptions.active(1_100_000)).toHaveLength(0);
  expect(ask('PUT', path, { Duration: 600 }, 1_100_000).code).toBe(2);

  const second = ask('POST', '/System/Event/Subscription', { Duration: 60 }, 0);
  expect(second.data?.ID).not.toBe(created.data?.ID);
  expect(ask('DELETE', `/System/Event/Subscription/${second.data?.ID}`, {}, 1000).code).toBe(0);
  expect(ask('DELETE', `/System/Event/Subscription/${second.data?.ID}`, {}, 1000).code).toBe(2);
  expect(ask('POST', '/System/Event/Subscription', { Duration: 3601 }, 0).code).toBe(2);
});

test('a subscription covers the event types of its mask only, and 0 and 65535 cover all (protocol 10.2)', () => {
  const { ask, equipment } = createDevice();
  ask('POST', '/System/Event/Subscription', { Duration: 60, Type: 32 }, 0);
  expect([equipment.subscriptions.covers(5, 0), equipment.subscriptions.covers(14, 0)]).toEqual([true, false]);
  expect(equipment.subscriptions.covers(undefined, 0)).toBe(true);
  ask('POST', '/System/Event/Subscription', { Duration: 30, Type: 65_535 }, 0);
  expect(equipment.subscriptions.covers(17, 0)).toBe(true);
  expect(equipment.subscriptions.covers(17, 30_000)).toBe(false);
});
