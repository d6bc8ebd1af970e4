/** Keeps API keys: who may call, with which scopes. Only SHA-256 hashes are stored; a plain key is seen once, when it is made.
 *  A key is 256 random bits, so a plain hash is enough: there is nothing to guess (reliability T8).
 *  Store away: methods throw BrokerError `broker_unavailable`. Caching and the decision per request are in access.ts. */

import { createHash, randomBytes } from 'node:crypto';
import { BrokerError } from '@lapi-broker/protocol';
import { guarded, type Keyspace, type RedisConnection } from '@lapi-broker/redis';

/** read: fleet, nodes and events. call: LAPI calls on open paths. admin: everything, guarded paths and keys included. */
export const SCOPES = ['read', 'call', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly createdAtMs: number;
}

export interface ApiKeyStore {
  byHash(sha256: string): Promise<ApiKey | undefined>;
  /** At most `limits.apiKeys`; oldest first. */
  list(): Promise<readonly ApiKey[]>;
  /** False when the bound on the number of keys is reached. */
  put(sha256: string, key: ApiKey): Promise<boolean>;
  /** False if there is no such key. */
  remove(id: string): Promise<boolean>;
}

/** A new plain key: `lapi_` and 43 characters of base64url (256 bits). */
export function newPlainKey(): string {
  return `lapi_${randomBytes(32).toString('base64url')}`;
}

export function hashKey(plain: string): string {
  return createHash('sha256').update(plain).digest('hex');
}

export function isScope(text: string): text is Scope {
  return (SCOPES as readonly string[]).includes(text);
}

export class RedisApiKeyStore implements ApiKeyStore {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #maxKeys: number;

  constructor(connection: RedisConnection, keyspace: Keyspace, maxKeys: number) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#maxKeys = maxKeys;
  }

  async byHash(sha256: string): Promise<ApiKey | undefined> {
    return fromHash(await guarded(this.#connection.hgetall(this.#keyspace.apiKey(sha256))));
  }

  async list(): Promise<readonly ApiKey[]> {
    const found = await this.#all();
    return found.map(([, key]) => key).sort((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  async put(sha256: string, key: ApiKey): Promise<boolean> {
    const index = this.#keyspace.apiKeys();
    const [known, count] = await Promise.all([
      guarded(this.#connection.sismember(index, sha256)),
      guarded(this.#connection.scard(index)),
    ]);
    if (known === 0 && count >= this.#maxKeys) return false;
    // The index first: a key that works is always listed, so it can always be revoked. (Two slots on Cluster: no transaction.)
    await guarded(this.#connection.sadd(index, sha256));
    await guarded(
      this.#connection.hset(this.#keyspace.apiKey(sha256), {
        id: key.id,
        name: key.name,
        scopes: key.scopes.join(','),
        created: String(key.createdAtMs),
      }),
    );
    return true;
  }

  async remove(id: string): Promise<boolean> {
    const found = (await this.#all()).find(([, key]) => key.id === id);
    if (found === undefined) return false;
    // The key itself first: from here on it opens nothing.
    await guarded(this.#connection.del(this.#keyspace.apiKey(found[0])));
    await guarded(this.#connection.srem(this.#keyspace.apiKeys(), found[0]));
    return true;
  }

  async #all(): Promise<[sha256: string, key: ApiKey][]> {
    const hashes = await guarded(this.#connection.smembers(this.#keyspace.apiKeys()));
    const keys = await Promise.all(hashes.map((sha256) => this.byHash(sha256)));
    return hashes.flatMap((sha256, i) => {
      const key = keys[i];
      return key === undefined ? [] : [[sha256, key]];
    });
  }
}

function fromHash(fields: Partial<Record<string, string>>): ApiKey | undefined {
  const { id, name, scopes, created } = fields;
  if (id === undefined) return undefined;
  return {
    id,
    name: name ?? '',
    scopes: (scopes ?? '').split(',').filter(isScope),
    createdAtMs: Number(created ?? 0),
  };
}

/** Stores the key that the environment brings, so that a new installation has a first admin. Its id is derived from the hash: the same
 *  key started twice is one key, and one that was replaced in the environment stays listed until somebody deletes it. */
export async function storeBootstrapKey(store: ApiKeyStore, plain: string, nowMs: number): Promise<void> {
  const sha256 = hashKey(plain);
  if ((await store.byHash(sha256)) !== undefined) return;
  const id = `bootstrap-${sha256.slice(0, 8)}`;
  const stored = await store.put(sha256, { id, name: 'from LAPI_API_KEY', scopes: ['admin'], createdAtMs: nowMs });
  if (!stored) throw new BrokerError('internal', 'the bootstrap key could not be stored: too many API keys');
}
