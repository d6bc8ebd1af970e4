/** Guards what reaches the terminal of somebody who runs `npm start`. */

import { expect, test } from 'vitest';
import { Digest, readyPorts, worthShowing } from './service-log.mjs';

const line = (entry: object): string =>
  JSON.stringify({ at: '2025-01-01T00:00:00.000Z', service: 'edge', name: 'edge-1', ...entry });

test('warnings and errors are shown with their facts, the rest is not', () => {
  expect(worthShowing(line({ level: 'info', event: 'session.opened' }), 'stdout')).toBeUndefined();
  expect(worthShowing(line({ level: 'warn', event: 'redis.lost', role: 'state' }), 'stdout')).toBe(
    'warn redis.lost role=state',
  );
  expect(worthShowing(line({ level: 'error', event: 'x.failed', err: { message: 'no luck' } }), 'stdout')).toBe(
    'error x.failed no luck',
  );
});

test('what is not a log entry is shown from stderr only', () => {
  expect(worthShowing('TypeError: boom', 'stderr')).toBe('TypeError: boom');
  expect(worthShowing('hello', 'stdout')).toBeUndefined();
  expect(worthShowing('', 'stderr')).toBeUndefined();
  expect(worthShowing('{ broken', 'stderr')).toBe('{ broken');
});

test('only the agreed line means ready', () => {
  expect(readyPorts(line({ level: 'info', event: 'service.ready', port: 1, probePort: 2 }))).toEqual({
    port: 1,
    probePort: 2,
  });
  expect(readyPorts(line({ level: 'info', event: 'other', note: '"service.ready"' }))).toBeUndefined();
  expect(readyPorts('"service.ready"')).toBeUndefined();
});

test('a kind of line is shown once in half a minute, with the number of those left out', () => {
  const digest = new Digest();
  const lost = line({ level: 'warn', event: 'redis.closed', role: 'state' });
  expect(digest.take(lost, 'stdout', 0)).toBe('warn redis.closed role=state');
  expect(digest.take(lost, 'stdout', 10)).toBeUndefined();
  expect(digest.take(line({ level: 'warn', event: 'lease.not_renewed' }), 'stdout', 20)).toBe('warn lease.not_renewed');
  expect(digest.take(lost, 'stdout', 29_999)).toBeUndefined();
  expect(digest.take(lost, 'stdout', 30_000)).toBe('warn redis.closed role=state (and 2 more)');
});

test('a stack trace is never shortened', () => {
  const digest = new Digest();
  expect([digest.take('    at x', 'stderr', 0), digest.take('    at x', 'stderr', 1)]).toEqual([
    '    at x',
    '    at x',
  ]);
});
