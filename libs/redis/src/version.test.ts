import { expect, test } from 'vitest';
import { versionProblem } from './version.ts';

test('Redis 7.0 and newer, and any Valkey, can carry the broker', () => {
  expect(versionProblem('# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n')).toBeUndefined();
  expect(versionProblem('# Server\r\nredis_version:8.2.0\r\n')).toBeUndefined();
  expect(versionProblem('redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n')).toBeUndefined();
});

test('an older Redis is named with its version', () => {
  expect(versionProblem('# Server\r\nredis_version:6.2.14\r\n')).toContain('found Redis 6.2.14');
  expect(versionProblem('hello')).toContain('names no version');
});
