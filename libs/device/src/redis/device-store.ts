/** DeviceStore on Redis. A change reads the row, decides (provisioning.ts), and writes by a script that refuses if the row changed in between;
 *  then it starts over, a bounded number of times. Reads are plain commands that the connection pipelines.
 *  Redis away: methods reject with `broker_unavailable`; a change may have happened all the same, and asking again is safe. */

import { BrokerError, type DeviceCode, type NodeId } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection } from '@lapi-broker/redis';
import type {
  Credentials,
  DeviceRow,
  DeviceStore,
  ListQuery,
  Provisioning,
  ProvisioningChange,
} from '../device-store.ts';
import { byCode, checkChange, checkLimit, isAsked, isOutdated, type Settings, settingsAfter } from '../provisioning.ts';

const PUT = new URL('./put.lua', import.meta.url);
const REMOVE = new URL('./remove.lua', import.meta.url);

/** Epochs and revisions are remembered this long after a removal. */
const KEEP_REMOVED_S = 30 * 24 * 3600;
/** Somebody else changed the same device each time: as often as this is no accident. */
const ATTEMPTS = 10;
/** While a list skips what it must not show, it walks at least this far per round. */
const WALK = 100;

const PROVISIONING = ['rev', 'profile', 'type', 'tags', 'enabled', 'created', 'updated', 'firmware'] as const;
const SESSION = ['node', 'epoch', 'session', 'since', 'addr', 'vendor', 'kind', 'off', 'offAt', 'sub'] as const;
const HOLD = ['hu', 'hk', 'ha'] as const;
type Values = readonly (string | null)[];

export class RedisDeviceStore implements DeviceStore {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace) {
    this.#connection = connection;
    this.#keyspace = keyspace;
  }

  async put(code: DeviceCode, change: ProvisioningChange): ReturnType<DeviceStore['put']> {
    checkChange(change);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = await this.#provisioning(code);
      if (isOutdated(stored, change)) return { status: 'changed', revision: 0 };
      const settings = settingsAfter(stored, change);
      if (settings === undefined) return { status: 'secret_required', revision: 0 };
      const revision = await this.#write(code, stored, settings, change);
      if (revision !== undefined) return { status: stored === undefined ? 'created' : 'updated', revision };
    }
    throw contended(code);
  }

  async remove(code: DeviceCode): Promise<boolean> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const stored = await this.#provisioning(code);
      if (stored === undefined) return false;
      const keyspace = this.#keyspace;
      const lane = [keyspace.lane(code), keyspace.due(keyspace.shardOf(code))];
      const keys = [...this.#keys(code), ...lane, ...this.#indexes(code, stored)];
      const remove = createScript(this.#connection, REMOVE, keys.length);
      if ((await remove(keys, [code, stored.revision, KEEP_REMOVED_S])) === 'REMOVED') return true;
    }
    throw contended(code);
  }

  async credentials(code: DeviceCode): Promise<Credentials | undefined> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const [stored, [current, next, revision]] = await Promise.all([
        this.#provisioning(code),
        guarded(this.#connection.hmgetBuffer(this.#keyspace.secret(code), 'current', 'next', 'rev')),
      ]);
      if (stored === undefined) return undefined;
      // A change came between the two reads: old secrets under a new revision would outlive their revocation in a cache.
      if (!current || revision?.toString() !== String(stored.revision)) continue;
      return { ...stored, secrets: { current, next: next ?? undefined } };
    }
    throw contended(code);
  }

  async get(code: DeviceCode): Promise<DeviceRow | undefined> {
    const [values, hasNextSecret] = await Promise.all([
      guarded(this.#connection.hmget(this.#keyspace.device(code), ...PROVISIONING, ...SESSION, ...HOLD)),
      guarded(this.#connection.hexists(this.#keyspace.secret(code), 'next')),
    ]);
    const provisioning = provisioningOf(code, values.slice(0, PROVISIONING.length));
    if (provisioning === undefined) return undefined;
    const [session, hold] = [values.slice(PROVISIONING.length), values.slice(-HOLD.length)];
    return { ...provisioning, ...sessionOf(session), hold: holdOf(hold), hasNextSecret: hasNextSecret === 1 };
  }

  /** With both `tag` and `type` the index of the tag is walked, as far as it takes to find `limit` of that type. */
  async list(query: ListQuery): Promise<readonly DeviceRow[]> {
    checkLimit(query.limit);
    const found: DeviceRow[] = [];
    let { after } = query;
    while (found.length < query.limit) {
      const wanted = Math.max(query.limit - found.length, WALK);
      const codes = await this.#codesAfter(after, wanted, query);
      const rows = await Promise.all(codes.map((code) => this.get(code)));
      // A row may be gone or changed since the index was read; the walk goes on so that a short answer means the end.
      for (const row of rows) if (row !== undefined && isAsked(row, query)) found.push(row);
      if (codes.length < wanted) break;
      after = codes.at(-1) ?? after;
    }
    return found.slice(0, query.limit);
  }

  async #codesAfter(after: string, count: number, { tag, type }: ListQuery): Promise<DeviceCode[]> {
    const indexOf = (shard: number): string => {
      if (tag !== undefined) return this.#keyspace.tag(shard, tag);
      return type === undefined ? this.#keyspace.codes(shard) : this.#keyspace.type(shard, type);
    };
    const start = after === '' ? '-' : `(${after}`;
    const shards = Array.from({ length: this.#keyspace.shards }, (_, shard) =>
      guarded(this.#connection.zrangebylex(indexOf(shard), start, '+', 'LIMIT', 0, count)),
    );
    const codes = (await Promise.all(shards)).flat() as DeviceCode[];
    return codes.sort(byCode).slice(0, count);
  }

  /** Undefined: somebody else changed the device first. */
  async #write(
    code: DeviceCode,
    stored: Provisioning | undefined,
    settings: Settings,
    { secret, nextSecret }: ProvisioningChange,
  ): Promise<number | undefined> {
    const entered = this.#indexes(code, settings);
    const left = stored === undefined ? [] : this.#indexes(code, stored).filter((key) => !entered.includes(key));
    const keys = [...this.#keys(code), ...left, ...entered];
    // The number of keys differs from device to device; the text of the script is read once.
    const put = createScript(this.#connection, PUT, keys.length);
    const reply = await put(keys, [
      code,
      stored?.revision ?? '',
      settings.profile,
      settings.type,
      JSON.stringify(settings.tags),
      settings.enabled ? 1 : 0,
      settings.firmware,
      secret === undefined ? 'keep' : 'set',
      Buffer.from(secret ?? []),
      nextSecret === undefined ? 'keep' : nextSecret === null ? 'clear' : 'set',
      Buffer.from(nextSecret ?? []),
      left.length,
    ]);
    const [status, revision] = Array.isArray(reply) ? reply.map(String) : [];
    return status === 'STORED' ? Number(revision) : undefined;
  }

  async #provisioning(code: DeviceCode): Promise<Provisioning | undefined> {
    return provisioningOf(code, await guarded(this.#connection.hmget(this.#keyspace.device(code), ...PROVISIONING)));
  }

  #keys(code: DeviceCode): readonly string[] {
    const { device, secret, codes, shardOf } = this.#keyspace;
    return [device(code), secret(code), codes(shardOf(code))];
  }

  #indexes(code: DeviceCode, { tags, type }: Settings): readonly string[] {
    const shard = this.#keyspace.shardOf(code);
    const keys = tags.map((tag) => this.#keyspace.tag(shard, tag));
    return type === '' ? keys : [...keys, this.#keyspace.type(shard, type)];
  }
}

function provisioningOf(code: DeviceCode, values: Values): Provisioning | undefined {
  const [revision, profile, type, tags, enabled, created, updated, firmware] = values;
  if (typeof revision !== 'string') return undefined;
  return {
    code,
    profile: profile ?? '',
    type: type ?? '',
    tags: JSON.parse(tags ?? '[]') as string[],
    firmware: firmware ?? '',
    enabled: enabled === '1',
    revision: Number(revision),
    createdAtMs: Number(created),
    updatedAtMs: Number(updated),
  };
}

function sessionOf(
  values: Values,
): Pick<DeviceRow, 'owner' | 'vendor' | 'deviceType' | 'address' | 'subscription' | 'lastOffline'> {
  const [node, epoch, session, since, address, vendor, deviceType, reason, offlineAt, subscription] = values;
  return {
    owner: node
      ? { node: node as NodeId, epoch: Number(epoch), session: session ?? '', sinceMs: Number(since) }
      : undefined,
    vendor: vendor ?? '',
    deviceType: deviceType ?? '',
    address: address ?? '',
    subscription: subscription ?? '',
    lastOffline: typeof reason === 'string' ? { reason, atMs: Number(offlineAt) } : undefined,
  };
}

function holdOf([untilMs, reason, addresses]: Values): DeviceRow['hold'] {
  if (!untilMs) return undefined;
  return { reason: reason ?? '', untilMs: Number(untilMs), addresses: (addresses ?? '').split(',') };
}

function contended(code: DeviceCode): BrokerError {
  return new BrokerError('broker_unavailable', `device ${code} is being changed by many at once`);
}
