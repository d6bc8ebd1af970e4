import { expect, test } from 'vitest';
import { addressesOf, parseRedisUrl } from './url.ts';

test('one server, with and without port, database and credentials', () => {
  expect(parseRedisUrl('redis://localhost')).toMatchObject({
    kind: 'standalone',
    addresses: [{ host: 'localhost', port: 6379 }],
    db: 0,
    tls: false,
    username: undefined,
    password: undefined,
  });
  expect(parseRedisUrl('rediss://us%40er:p%3Ass%2F@r.example:7000/3')).toMatchObject({
    kind: 'standalone',
    addresses: [{ host: 'r.example', port: 7000 }],
    db: 3,
    tls: true,
    username: 'us@er',
    password: 'p:ss/',
  });
  expect(parseRedisUrl('redis://:only@[::1]:6380')).toMatchObject({
    addresses: [{ host: '::1', port: 6380 }],
    username: undefined,
    password: 'only',
  });
});

test('Sentinel names its hosts and its master', () => {
  expect(parseRedisUrl('redis+sentinel://:pw@s1,s2:26380/mymaster?db=2&sentinel-password=sp')).toMatchObject({
    kind: 'sentinel',
    addresses: [
      { host: 's1', port: 26379 },
      { host: 's2', port: 26380 },
    ],
    master: 'mymaster',
    db: 2,
    password: 'pw',
    sentinelPassword: 'sp',
    sentinelUsername: undefined,
  });
});

test('a Cluster names some of its servers', () => {
  expect(parseRedisUrl('rediss+cluster://a:1,b:2,c')).toMatchObject({
    kind: 'cluster',
    addresses: [
      { host: 'a', port: 1 },
      { host: 'b', port: 2 },
      { host: 'c', port: 6379 },
    ],
    tls: true,
  });
});

test.each([
  'http://localhost',
  'redis:/x',
  'redis://',
  'redis://h:99999',
  'redis://h/x',
  'redis://a,b',
  'redis://user@h',
  'redis+sentinel://s1:26379',
  'redis+cluster://a:1/2',
  'redis+else://a',
  'redis://:%zz@h',
  'redis://:topsecret@h:x',
])('%s is refused with a reason that repeats no part of it', (url) => {
  let message = '';
  try {
    parseRedisUrl(url);
  } catch (error) {
    message = error instanceof TypeError ? error.message : '';
  }
  expect(message).toMatch(/^Redis URL: /);
  expect(message).not.toContain('topsecret');
});

test('what may be logged holds no credentials', () => {
  expect(addressesOf(parseRedisUrl('redis+cluster://user:topsecret@a:1,b:2'))).toBe('a:1,b:2');
});
