import fc from 'fast-check';
import { expect, test } from 'vitest';
import { checkRequestUrl, type GuardedArea } from './request-url.ts';

function status(url: string): string {
  return checkRequestUrl(url).status;
}

function guard(url: string): GuardedArea | undefined {
  const checked = checkRequestUrl(url);
  if (checked.status !== 'ok') throw new Error(checked.reason);
  return checked.guard;
}

test('the resources of the catalogue may be called, queries included (C1, C5)', () => {
  for (const url of [
    '/LAPI/V1.0/System/DeviceInfo',
    '/LAPI/V1.0/Channels/1/Media/Video/Streams/0/LiveStreamURL',
    '/LAPI/V1.0/Channels/1/Media/Video/Streams/RecordURL?Begin=1&End=2&Types=Normal&RelationOfTypes=AND',
    '/LAPI/V1.0/PeopleLibraries/%E5%AF%86',
    '/LAPI/V1.0/X?To=rtmp://media.example/live&Path=%2Fa%2F..%5C&Note=100%25',
  ]) {
    expect(checkRequestUrl(url)).toMatchObject({ status: 'ok', guard: undefined });
  }
});

test.each([
  '/lapi/V1.0/System/DeviceInfo',
  '/System/DeviceInfo',
  'http://device/LAPI/V1.0/System/DeviceInfo',
  '/LAPI',
  '',
  '/LAPI//V1.0/System',
  '/LAPI/V1.0/./System',
  '/LAPI/V1.0/../System',
  '/LAPI/V1.0/%2e%2E/System',
  '/LAPI/V1.0/..',
  '/LAPI/V1.0/System#x',
  '/LAPI/V1.0/System?a#x',
  '/LAPI/V1.0/System%2FUsers',
  '/LAPI/V1.0/System%5cUsers',
  '/LAPI/V1.0/System\\Users',
  '/LAPI/V1.0/System/%2555sers',
  '/LAPI/V1.0/System/Reboot%3F',
  '/LAPI/V1.0/System/%zz',
  '/LAPI/V1.0/System/%C0%AFUsers',
  '/LAPI/V1.0/System/\n',
  '/LAPI/V1.0/System/%0d%0aX',
  '/LAPI/V1.0/System/%C2%85',
  '/LAPI/V1.0/System?a=\u0000',
  '/LAPI/V1.0/System?a=%00',
  '/LAPI/V1.0/\ud800',
])('%j is refused as invalid (C5)', (url) => {
  expect(status(url)).toBe('invalid_request');
});

test('2048 bytes are accepted, 2049 are not, counted in UTF-8 (C5)', () => {
  expect(status('/LAPI/'.padEnd(2048, 'a'))).toBe('ok');
  expect(status('/LAPI/'.padEnd(2049, 'a'))).toBe('invalid_request');
  expect(status(`/LAPI/${'é'.repeat(1021)}`)).toBe('ok');
  expect(status(`/LAPI/${'é'.repeat(1022)}`)).toBe('invalid_request');
});

test('what the broker does itself is refused, however it is spelled (C10)', () => {
  for (const name of ['Register', 'Keepalive', 'Unregister', 'register/', '%52egister', 'Keepalive?x=1']) {
    expect(status(`/LAPI/V1.0/System/UpServer/${name}`)).toBe('forbidden_by_policy');
  }
  for (const rest of ['Subscription', 'Subscription/249', 'subscription?a', 'Subscription/Capabilities']) {
    expect(status(`/LAPI/V1.0/System/Event/${rest}`)).toBe('forbidden_by_policy');
    expect(checkRequestUrl(`/LAPI/V1.0/System/Event/${rest}`, true).status).toBe('ok');
  }
  expect(checkRequestUrl('/LAPI/V1.0/System/UpServer/Register', true).status).toBe('forbidden_by_policy');
});

test.each<[string, GuardedArea]>([
  ['/LAPI/V1.0/System/Users', 'users'],
  ['/LAPI/V1.0/System/Users/3/Password', 'users'],
  ['/LAPI/V1.0/System/UsersOnline', 'users'],
  ['/LAPI/V1.0/System/Security/RSA', 'security'],
  ['/LAPI/V1.0/System/Upgrade/Status', 'upgrade'],
  ['/LAPI/V1.0/System/Reboot', 'reboot'],
  ['/LAPI/V1.0/System/Reboot;x?y', 'reboot'],
  ['/LAPI/V1.0/System/UpServer/Configure', 'upserver'],
  ['/LAPI/V1.0/PACS/Controller/RemoteOpened', 'pacs'],
  ['/LAPI/V1.0/system/REBOOT', 'reboot'],
  ['/LAPI/V1.0/System/%52eboot', 'reboot'],
  ['/LAPI/V1.1/%53ystem/Reboot', 'reboot'],
  ['/LAPI/System/Reboot', 'reboot'],
  ['/LAPI/v2.0/pacs', 'pacs'],
])('%s is guarded as %s (S13)', (url, area) => {
  expect(guard(url)).toBe(area);
});

test('no percent-encoding of letters opens a guarded path (S13)', () => {
  const target = '/LAPI/V1.0/System/Upgrade/Firmware';
  fc.assert(
    fc.property(fc.array(fc.boolean(), { minLength: target.length, maxLength: target.length }), (encode) => {
      const url = [...target].map((letter, i) =>
        encode[i] && i > 5 && letter !== '/' ? `%${letter.charCodeAt(0).toString(16)}` : letter,
      );
      expect(guard(url.join(''))).toBe('upgrade');
    }),
  );
});

test('bytes that were no UTF-8 never reach the device as something else', () => {
  expect(checkRequestUrl('/LAPI/V1.0/System/\uFFFDame').status).toBe('invalid_request');
  expect(checkRequestUrl('/LAPI/V1.0/System/Name?x=\uFFFD').status).toBe('invalid_request');
  expect(checkRequestUrl('/LAPI/V1.0/System/名字').status).toBe('ok');
});
