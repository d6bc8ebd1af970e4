/** Guards what reaches the terminal of somebody who runs `npm start`. */

import { expect, test } from 'vitest';
import { readyPorts, worthShowing } from './service-log.mjs';

const line = (entry: object): string => JSON.stringify({ time: 1, pid: 2, hostname: 'h', service: 'edge', ...entry });

test('warnings and errors are shown with their facts, the rest is not', () => {
  expect(worthShowing(line({ level: 30, event: 'session.opened' }), 'stdout')).toBeUndefined();
  expect(worthShowing(line({ level: 40, event: 'redis.lost', role: 'state' }), 'stdout')).toBe(
    'warn redis.lost role=state',
  );
  expect(worthShowing(line({ level: 50, event: 'x.failed', err: { message: 'no luck' } }), 'stdout')).toBe(
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
  expect(readyPorts(line({ level: 30, event: 'service.ready', port: 1, probePort: 2 }))).toEqual({
    port: 1,
    probePort: 2,
  });
  expect(readyPorts(line({ level: 30, event: 'other', note: '"service.ready"' }))).toBeUndefined();
  expect(readyPorts('"service.ready"')).toBeUndefined();
});
