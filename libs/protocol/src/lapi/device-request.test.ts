import { expect, test } from 'vitest';
import { pathOf, readDeviceRequest } from './device-request.ts';

test('keepalive, unregister and heartbeat are known by their URL, in any letter case, with a query or a slash behind (D1, K4, 11.3)', () => {
  expect(readDeviceRequest('/LAPI/V1.0/System/UpServer/Keepalive').type).toBe('keepalive');
  expect(readDeviceRequest('/lapi/v1.0/system/upserver/KEEPALIVE/?a=1').type).toBe('keepalive');
  expect(readDeviceRequest('/LAPI/V1.0/System/UpServer/Unregister').type).toBe('unregister');
  expect(readDeviceRequest('/LAPI/V1.0/PACS/Controller/HeartReportInfo').type).toBe('heartbeat');
});

test('everything under the notification prefixes is a notification (E15, L26)', () => {
  const event = (name: string) => ({ type: 'notification', family: 'event', name });
  expect(readDeviceRequest('/LAPI/V1.0/System/Event/Notification/Alarm')).toEqual(event('Alarm'));
  expect(readDeviceRequest('/LAPI/V1.0/System/Event/Notification/PeopleCount/LineRuleData?x')).toEqual(
    event('PeopleCount/LineRuleData'),
  );
  expect(readDeviceRequest('/LAPI/V1.1/System/Event/Notification')).toEqual(event(''));
  expect(readDeviceRequest('/LAPI/V1.0/System/Event/Notification//Alarm/')).toEqual(event('Alarm'));
  expect(readDeviceRequest('/LAPI/V1.0/System/Radar/Service/RealTimeInfo')).toEqual({
    type: 'notification',
    family: 'radar',
    name: 'Service/RealTimeInfo',
  });
});

test('anything else is unhandled (E15, L26)', () => {
  for (const url of [
    '',
    '/',
    '/LAPI/V1.0/System/UpServer/Register',
    '/LAPI/V1.0/System/Event/Notifications/Alarm',
    '/LAPI/V2.0/System/Event/Notification/Alarm',
    '/LAPI/V1.0/System/UpServer/Keepalive2',
  ]) {
    expect(readDeviceRequest(url).type).toBe('unhandled');
  }
});

test('the path ends where the query begins', () => {
  expect(pathOf('/a?b?c')).toBe('/a');
  expect(pathOf('/a')).toBe('/a');
});
