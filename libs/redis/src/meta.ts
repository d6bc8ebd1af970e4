/** Answers "was this store set up for the way we address it?" The shard count decides where every device lives, so it is written once, by
 *  whoever starts first, and compared at every start. A mismatch is an `internal` error that says what to change; nothing is written then. */

import { BrokerError } from '@lapi-broker/protocol';
import type { RedisConnection } from './connection.ts';
import { guarded } from './guard.ts';
import type { Keyspace } from './keyspace.ts';

/** Raised when keys or their content change so that old and new processes cannot share a store. */
const LAYOUT = 1;

export async function checkMeta(connection: RedisConnection, keyspace: Keyspace): Promise<void> {
  const key = keyspace.meta();
  await guarded(connection.hsetnx(key, 'shards', keyspace.shards));
  await guarded(connection.hsetnx(key, 'layout', LAYOUT));
  const [shards, layout] = await guarded(connection.hmget(key, 'shards', 'layout'));
  if (Number(shards) !== keyspace.shards) {
    throw new BrokerError(
      'internal',
      `The store was set up with ${shards} shards, this process is configured for ${keyspace.shards}. ` +
        `Configure ${shards}, or use another key prefix.`,
    );
  }
  if (Number(layout) !== LAYOUT) {
    throw new BrokerError('internal', `The store has key layout ${layout}, this version needs layout ${LAYOUT}.`);
  }
}
