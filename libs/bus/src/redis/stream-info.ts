/** Reads what Redis tells about one stream. A stream that does not exist is an empty one that never had an entry. */

import type { NodeConnection, RedisConnection } from '@lapi-broker/redis';
import { entryNumber, type StreamBounds, ZERO_ID } from '../event-stream.ts';

export async function readBounds(connection: RedisConnection | NodeConnection, key: string): Promise<StreamBounds> {
  let reply: unknown;
  try {
    reply = await connection.xinfo('STREAM', key);
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('ERR no such key')) {
      return { last: ZERO_ID, first: undefined, added: 0, length: 0 };
    }
    throw error;
  }
  const found = new Map<string, unknown>();
  const pairs: readonly unknown[] = Array.isArray(reply) ? reply : [];
  for (let i = 0; i + 1 < pairs.length; i += 2) found.set(String(pairs[i]), pairs[i + 1]);
  const length = Number(found.get('length') ?? 0);
  const last = String(found.get('last-generated-id') ?? ZERO_ID);
  return {
    last,
    first: length === 0 ? undefined : String(found.get('recorded-first-entry-id')),
    added: entryNumber(last),
    length,
  };
}
