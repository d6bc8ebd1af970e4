/** Guards what `npm start` makes of its environment. */

import { expect, test } from 'vitest';
import { help, readSettings, SETTINGS } from './settings.mjs';

test('without settings the defaults hold: API on 8080, two edges from 8090 on, 20 devices, loopback only', () => {
  expect(readSettings({})).toEqual({
    apiPort: 8080,
    apiHost: '127.0.0.1',
    devicePorts: [8090, 8091],
    deviceHost: '127.0.0.1',
    devices: 20,
    apiKey: undefined,
    dataDir: '.lapi',
    redisUrl: undefined,
  });
});

test('an empty value counts as absent', () => {
  expect(readSettings({ LAPI_API_PORT: '', LAPI_API_KEY: ' ', REDIS_URL: '' })).toEqual(readSettings({}));
});

test('all problems are told at once, each with its setting', () => {
  const read = (): unknown =>
    readSettings({
      LAPI_API_PORT: '0',
      LAPI_EDGES: '9',
      LAPI_DEVICES: 'many',
      REDIS_URL: 'http://x',
      LAPI_API_KEY: 'short',
    });
  for (const name of ['LAPI_API_PORT', 'LAPI_EDGES', 'LAPI_DEVICES', 'REDIS_URL', 'LAPI_API_KEY'])
    expect(read).toThrow(`${name}: must`);
});

test('ports that would collide or do not exist are refused', () => {
  expect(() => readSettings({ LAPI_API_PORT: '8091' })).toThrow('8091 is one of the device ports 8090–8091');
  expect(() => readSettings({ LAPI_DEVICE_PORT: '65535' })).toThrow('ports up to 65536');
});

test('every form of Redis address is accepted', () => {
  for (const url of ['redis://h', 'rediss://u:p@h:1', 'redis+sentinel://a:1,b:2/name', 'redis+cluster://a:1,b:2']) {
    expect(readSettings({ REDIS_URL: url }).redisUrl).toBe(url);
  }
});

test('a Redis address with a broken percent-encoding is told as a setting that cannot be used', () => {
  expect(() => readSettings({ REDIS_URL: 'redis://u:p%ZZ@h:1' })).toThrow('REDIS_URL: must have its user and password');
});

test('the help names every setting with its default', () => {
  const text = help();
  for (const { name, fallback } of SETTINGS) {
    expect(text).toContain(name);
    expect(text).toContain(fallback);
  }
});
