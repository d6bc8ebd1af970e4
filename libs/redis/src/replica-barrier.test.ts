import { expect, test } from 'vitest';
import type { RedisConnection } from './connection.ts';
import { ReplicaBarrier } from './replica-barrier.ts';

test('what was written over a connection that is lost before its WAIT is not confirmed by the next one (I7)', async () => {
  const waits: ((replicas: number) => void)[] = [];
  const server = {
    status: 'ready',
    stream: {},
    wait: () => new Promise<number>((resolve) => void waits.push(resolve)),
  };
  // The few members that the barrier touches; a real connection cannot be made to come back between two ticks.
  const barrier = new ReplicaBarrier(server as unknown as RedisConnection, true);
  const first = barrier.confirm('a');
  await Promise.resolve();
  const behind = barrier.confirm('b');
  server.stream = {};
  const after = barrier.confirm('c');
  waits[0]?.(1);
  expect([await first, await behind]).toEqual([true, false]);
  await expect.poll(() => waits.length).toBe(2);
  waits[1]?.(1);
  expect(await after).toBe(true);
});
