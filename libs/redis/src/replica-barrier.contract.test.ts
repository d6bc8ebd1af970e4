import { type RedisSentinels, startRedis, startRedisSentinel, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { closeConnection, openConnection, type RedisConnection, ready } from './connection.ts';
import { ReplicaBarrier } from './replica-barrier.ts';

describe('confirmation by a replica (I2)', () => {
  let redis: RedisSentinels;
  let connection: RedisConnection;
  beforeAll(async () => {
    redis = await startRedisSentinel();
    connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
    await ready(connection, 10_000);
  });
  afterAll(async () => {
    await closeConnection(connection);
    await redis.stop();
  });

  test('what a replica has is confirmed; what no replica takes is not, and it is again once one is back', async () => {
    const barrier = new ReplicaBarrier(connection, true);
    await connection.set('barrier', '1');
    expect(await barrier.confirm('barrier')).toBe(true);
    const pids = redis.replicas.map((replica) => replica.pid() as number);
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    await connection.set('barrier', '2');
    expect(await barrier.confirm('barrier')).toBe(false);
    for (const pid of pids) process.kill(pid, 'SIGCONT');
    await connection.set('barrier', '3');
    await waitFor(() => barrier.confirm('barrier'), { deadlineMs: 10_000, what: 'a confirmed write' });
  });

  test('a burst shares its round trips: each write that came before a call is covered by the answer', async () => {
    const barrier = new ReplicaBarrier(connection, true);
    const calls = async (): Promise<number> => {
      const text = await redis.master.command('info', 'commandstats');
      return Number(/cmdstat_wait:calls=(\d+)/.exec(String(text))?.[1] ?? 0);
    };
    const before = await calls();
    const confirmed = await Promise.all(
      Array.from({ length: 500 }, async (_, i) => {
        await connection.set(`burst-${i}`, String(i));
        return await barrier.confirm(`burst-${i}`);
      }),
    );
    expect(confirmed.every(Boolean)).toBe(true);
    expect((await calls()) - before).toBeLessThan(100);
  });

  test('without replicas nothing is asked', async () => {
    const alone = await startRedis();
    const single = openConnection({ url: alone.url, commandTimeoutMs: 2_000 }, 'state');
    await ready(single, 10_000);
    expect(await new ReplicaBarrier(single, false).confirm('any')).toBe(true);
    expect(String(await alone.command('info', 'commandstats'))).not.toContain('cmdstat_wait');
    await closeConnection(single);
    await alone.stop();
  });
});
