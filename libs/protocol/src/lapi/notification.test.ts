import { expect, test } from 'vitest';
import type { DeviceCode } from '../id.ts';
import { readDeviceRequest } from './device-request.ts';
import { readEnvelope } from './envelope.ts';
import { dedupKeyOf, happenedAt, type Notification, notificationAnswer, readNotification } from './notification.ts';

const EVENT = '/LAPI/V1.0/System/Event/Notification/';
const CODE = '210235TEST0000000001' as DeviceCode;

function read(url: string, data = '{}'): Notification {
  return readNotification(readDeviceRequest(url), Buffer.from(data));
}

function kind(url: string, data = '{}'): string {
  return read(url, data).kind;
}

function answer(url: string, data: string, timeZone?: string): string {
  const request = readDeviceRequest(url);
  return notificationAnswer(request, readNotification(request, Buffer.from(data)).fields, 1735689600_000, timeZone)
    .data;
}

function dedup(url: string, data: string): string {
  return dedupKeyOf(CODE, url, read(url, data).fields);
}

test('kinds follow the table of the file header (11.1)', () => {
  expect(kind(`${EVENT}Alarm`, '{"AlarmInfo":{"AlarmType":"MotionAlarmOn"}}')).toBe('alarm.MotionAlarmOn');
  expect(kind(`${EVENT}Alarm`, '{"AlarmType":"IPCOffline"}')).toBe('alarm.IPCOffline');
  expect(kind(`${EVENT}Alarm`, '{"AlarmInfo":[{"AlarmType":"x"}]}')).toBe('alarm');
  expect(kind(`${EVENT}Structure`)).toBe('structure');
  expect(kind(`${EVENT}structure/`)).toBe('structure');
  expect(kind(`${EVENT}HealthData`)).toBe('healthdata');
  expect(kind(`${EVENT}PeopleCount/LineRuleData`)).toBe('peoplecount.line');
  expect(kind(`${EVENT}PeopleCount/AreaRuleData`)).toBe('peoplecount.area');
  expect(kind('/LAPI/V1.0/System/Radar/Service/RealTimeInfo')).toBe('radar.realtimeinfo');
  expect(kind('/LAPI/V1.0/System/Radar/A/B')).toBe('radar.A.B');
  expect(kind(`${EVENT}Foo/Bar`)).toBe('notification.Foo.Bar');
  expect(kind('/LAPI/V1.1/System/Event/Notification')).toBe('notification');
  expect(kind('/LAPI/V1.0/Whatever')).toBe('unhandled');
});

test('a device cannot smuggle separators, endless words or code into a kind (S14)', () => {
  const alarm = (type: string): string => kind(`${EVENT}Alarm`, JSON.stringify({ AlarmInfo: { AlarmType: type } }));
  expect(alarm('a.b,*\n<x>')).toBe('alarm.a_b____x_');
  expect(alarm('x'.repeat(500))).toBe(`alarm.${'x'.repeat(64)}`);
  expect(alarm('')).toBe('alarm');
  expect(kind(`${EVENT}${'a/'.repeat(500)}`).length).toBeLessThanOrEqual(128);
  const cutAfterDot = kind(`${EVENT}${'a'.repeat(64)}/${'b'.repeat(49)}/c`);
  expect(cutAfterDot).toBe(`notification.${'a'.repeat(64)}.${'b'.repeat(49)}`);
});

test('high-rate kinds are lossy, all others are stored (11.1, V2)', () => {
  expect(read(`${EVENT}ObjectRealTimeData`).delivery).toBe('lossy');
  expect(read('/LAPI/V1.0/System/Radar/Service/RealTimeInfo').delivery).toBe('lossy');
  for (const name of ['Alarm', 'Structure', 'Foo']) expect(read(EVENT + name).delivery).toBe('stored');
});

test('Structure echoes NotificationType and RelatedID as received, only if present (V7, 11.3, L22)', () => {
  expect(answer(`${EVENT}Structure`, '{"NotificationType":0,"RelatedID":"a\\"b","Seq":1}')).toBe(
    '{"NotificationType":0,"RelatedID":"a\\"b"}',
  );
  expect(answer(`${EVENT}Structure`, '{"RelatedID":9007199254740993}')).toBe('{"RelatedID":9007199254740993}');
  expect(answer(`${EVENT}Structure`, '{"RelatedID":{"a":1},"StructureInfo":{"NotificationType":4}}')).toBe('{}');
  expect(answer(`${EVENT}Structure`, JSON.stringify({ RelatedID: 'x'.repeat(1000) }))).toBe('{}');
});

test('PersonVerification is answered with RecordID and Time (11.3, L22)', () => {
  expect(answer(`${EVENT}PersonVerification`, '{"Seq":12}')).toBe('{"RecordID":12,"Time":"2025-01-01 00:00:00"}');
  expect(answer(`${EVENT}PersonVerification`, '{"Seq":12}', 'Asia/Shanghai')).toBe(
    '{"RecordID":12,"Time":"2025-01-01 08:00:00"}',
  );
  expect(answer(`${EVENT}PersonVerification`, '{}')).toBe('{"Time":"2025-01-01 00:00:00"}');
});

test('HeartReportInfo is answered with Time and a plain Code, everything else with {} (11.3)', () => {
  const heartbeat = readDeviceRequest('/LAPI/V1.0/PACS/Controller/HeartReportInfo');
  const { fields } = readNotification(heartbeat, undefined);
  expect(notificationAnswer(heartbeat, fields, 1735689600_000)).toEqual({
    data: '{"Time":"2025-01-01 00:00:00"}',
    pacsCode: true,
  });
  expect(answer(`${EVENT}Alarm`, '{"RelatedID":1}')).toBe('{}');
  expect(answer('/LAPI/V1.0/System/Radar/Structure', '{"RelatedID":1}')).toBe('{}');
});

test('the dedup key is DeviceCode|path|seq|time|type with every digit kept (11.5, E18, L35)', () => {
  const alarm =
    '{"Reference":"x","AlarmInfo":{"AlarmType":"MotionAlarmOn","TimeStamp":1735689600,"AlarmSeq":9007199254740993}}';
  expect(dedup(`${EVENT}Alarm?x=1`, alarm)).toBe(`${CODE}|${EVENT}Alarm|9007199254740993|1735689600|MotionAlarmOn`);
});

test('seq and time are the first present of their lists; no seq, no key (11.5)', () => {
  const seqAndTime = (data: string): string => dedup(`${EVENT}X`, data).replace(`${CODE}|${EVENT}X|`, '');
  expect(seqAndTime('{"Seq":1,"RelatedID":"r","AlarmInfo":{"AlarmSeq":2,"RelatedID":"q"}}')).toBe('1||');
  expect(seqAndTime('{"Seq":null,"RelatedID":"r","AlarmInfo":{"AlarmSeq":2,"RelatedID":"q"}}')).toBe('2||');
  expect(seqAndTime('{"RelatedID":"r","AlarmInfo":{"RelatedID":"q"}}')).toBe('r||');
  expect(seqAndTime('{"AlarmInfo":{"RelatedID":"q"}}')).toBe('q||');
  expect(seqAndTime('{"Seq":1,"CurrentTime":4,"AlarmInfo":{"TimeStamp":3},"Timestamp":2,"TimeStamp":1}')).toBe('1|1|');
  expect(seqAndTime('{"Seq":1,"CurrentTime":4,"AlarmInfo":{"TimeStamp":3},"Timestamp":2}')).toBe('1|2|');
  expect(seqAndTime('{"Seq":1,"CurrentTime":4,"AlarmInfo":{"TimeStamp":3}}')).toBe('1|3|');
  expect(seqAndTime('{"Seq":1,"CurrentTime":4,"AlarmType":"b","AlarmInfo":{"AlarmType":"a"}}')).toBe('1|4|a');
  expect(seqAndTime('{"seq":1}')).toBe('');
  expect(seqAndTime('[1]')).toBe('');
  expect(dedupKeyOf(CODE, '/x', readNotification({ type: 'unhandled' }, undefined).fields)).toBe('');
});

test('a long dedup key is replaced by its hash, equal for equal events', () => {
  const data = (tail: string): string => JSON.stringify({ Seq: 'x'.repeat(400) + tail });
  expect(dedup(`${EVENT}X`, data('a'))).toMatch(/^210235TEST0000000001\|[0-9a-f]{64}$/);
  expect(dedup(`${EVENT}X`, data('a'))).toBe(dedup(`${EVENT}X`, data('a')));
  expect(dedup(`${EVENT}X`, data('a'))).not.toBe(dedup(`${EVENT}X`, data('b')));
});

test('fields behind megabytes of pictures are found, and those inside the pictures’ objects are not', () => {
  const pictures = [{ Index: 1, Data: 'QUJD'.repeat(300_000), RelatedID: 'wrong', Seq: 5 }];
  const message = JSON.stringify({
    RequestURL: `${EVENT}Structure`,
    Cseq: 1,
    Data: { StructureInfo: { ImageInfoList: pictures, Note: '}{"RelatedID":"wrong"' }, RelatedID: 'right' },
  });
  const envelope = readEnvelope(Buffer.from(message));
  if (envelope.type !== 'request') throw new Error(envelope.type);
  const { fields } = readNotification(readDeviceRequest(envelope.url), envelope.data);
  expect(fields).toMatchObject({ relatedId: '"right"', seq: '"right"', ownSeq: undefined });
});

test('an event happened when its first time of 11.5 says, and at its receipt when there is none', () => {
  const at = (data: string, timeZone?: string): number =>
    happenedAt(read(`${EVENT}X`, data).fields, 1735776000_000, timeZone);
  expect(at('{"TimeStamp":1735689600,"CurrentTime":1}')).toBe(1735689600_000);
  expect(at('{"AlarmInfo":{"TimeStamp":"1735689600"}}')).toBe(1735689600_000);
  expect(at('{"Timestamp":"20250101080000"}', 'Asia/Shanghai')).toBe(1735689600_000);
  expect(at('{"TimeStamp":"2025\\/01\\/01 00:00:00"}')).toBe(1735689600_000);
  for (const data of ['{}', '{"TimeStamp":null}', '{"TimeStamp":{}}', '{"TimeStamp":true}', '{"TimeStamp":0}'])
    expect(at(data)).toBe(1735776000_000);
});
