import { startRedis } from '@lapi-broker/fixture';
import { type DeviceCode, newNodeId, type SessionId } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { RedisOwnerRegistry } from '@lapi-broker/routing';
import { RedisTimeline } from '@lapi-broker/timeline';
import { afterAll, beforeAll, expect, test } from 'vitest';

const CODE = '210235TEST0000000001' as DeviceCode;
const NODE = newNodeId('edge-1', 1_795_205_447_418, 'abcdef');

let server: { readonly url: string; stop(): Promise<void> };
let connection: RedisConnection;
beforeAll(async () => {
  server = await startRedis();
  connection = openConnection({ url: server.url, commandTimeoutMs: 5_000 }, 'state');
  await ready(connection, 10_000);
});
afterAll(async () => {
  await closeConnection(connection);
  await server.stop();
});

/** A device whose node died, and what its timeline says once that was found. */
async function afterReap(prefix: string, timelineMs: number) {
  const keyspace = createKeyspace(prefix);
  const registry = new RedisOwnerRegistry(connection, keyspace, { timelineMs });
  await connection.hset(keyspace.device(CODE), { rev: 1, enabled: '1' });
  const claim = await registry.claim({
    code: CODE,
    node: NODE,
    session: 'session-1' as SessionId,
    facts: { vendor: 'Uniview', deviceType: 'NVR', algorithm: '', address: '192.0.2.17' },
    nonce: 'n',
    nonceTtlMs: 1_000,
    revision: 1,
    notAfterMs: Date.now() + 60_000,
  });
  if (claim.status !== 'claimed') throw new Error(claim.status);
  const { owner } = await registry.lookUp(CODE);
  await registry.reap(NODE, 100);
  const keptMs = await connection.pttl(keyspace.timeline(CODE));
  const { sessions } = await new RedisTimeline(connection, keyspace, { keepMs: 60_000 }).read(CODE);
  return { owner, sessions, keptMs };
}

test('a session whose node died is in the timeline as far as the registry knows it', async () => {
  const { owner, sessions, keptMs } = await afterReap('lost', 60_000);
  expect(sessions).toMatchObject([
    {
      session: 'session-1',
      node: NODE,
      epoch: owner?.epoch,
      address: '192.0.2.17',
      openedAtMs: owner?.sinceMs,
      reason: 'node_lost',
      frames: [],
    },
  ]);
  expect(sessions[0]?.endedAtMs).toBeGreaterThanOrEqual(owner?.sinceMs ?? Number.NaN);
  expect(keptMs).toBeGreaterThan(0);
  expect(keptMs).toBeLessThanOrEqual(60_000);
});

test('where no timelines are kept, none is written for it', async () => {
  expect((await afterReap('off', 0)).sessions).toEqual([]);
});
