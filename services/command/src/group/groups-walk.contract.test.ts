/** Random walks over groups on one Redis server; see testing/group-walk.ts. */

import { type RedisServer, startRedis } from '@lapi-broker/fixture';
import { closeConnection, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { afterAll, beforeAll, it } from 'vitest';
import { walkGroups } from '../testing/group-walk.ts';

let redis: RedisServer;
let state: RedisConnection;

beforeAll(async () => {
  redis = await startRedis();
  state = openConnection({ url: redis.url, commandTimeoutMs: 5_000 }, 'state');
  await ready(state, 5_000);
});

afterAll(async () => {
  await closeConnection(state);
  await redis.stop();
});

for (const ordered of [true, false]) {
  it(`${ordered ? 'an ordered' : 'an unordered'} group acknowledges, buries or tells as missing every event, whatever consumers and retention do`, async () => {
    await walkGroups(state, ordered, Number(process.env.GROUP_WALKS ?? 25));
  }, 600_000);
}
