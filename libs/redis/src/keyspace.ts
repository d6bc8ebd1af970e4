/** THE schema: every key and channel of the broker, with type, hash tag, life time, writer and reader. No other file builds a key.
 *
 *  A DeviceCode hashes to one of S shards; all keys of a shard share its hash tag, so one Lua script may change a device, its index and
 *  its stream entry in one step, also on Redis Cluster. S is fixed at first start (`meta`) and checked at every start.
 *  The prefix (default `lapi`) separates installations and test runs that share a Redis.
 *
 *  key                                type    life                 written by           read by
 *  lapi:meta                          hash    for ever             first start          every start
 *  lapi:{s07}:device:<code>           hash    for ever; 30 d after claim, release,      edge, command
 *                                             removal (epoch only) reap, provisioning
 *      provisioning: rev profile type tags(JSON) enabled created updated     session: node epoch session since addr vendor kind algo sub(JSON)
 *      last session: off offAt        take-over guard: fw (times, ms, comma-joined) hu (held until, ms)        removed: gone (its last rev)
 *  lapi:{s07}:secret:<code>           hash    with provisioning    command              edge       current next (ciphertext) rev (as in the row)
 *  lapi:{s07}:nonce:<nonce>:<code>    string  nonce TTL + 10 s     claim                claim
 *  lapi:{s07}:owned:<node>.<inc>      zset    until empty          claim, release, reap reaper, node filter (a superset of what is owned; score 0)
 *  lapi:{s07}:codes                   zset    for ever             provisioning         listing (score 0, byte order)
 *  lapi:{s07}:tag:<tag>               zset    until empty          provisioning         listing
 *  lapi:{s07}:type:<type>             zset    until empty          provisioning         listing
 *  lapi:{s07}:events                  stream  bounded by length    edge, claim, release, reap   command
 *  lapi:node:<node>                   hash    lease (10 s)         edge                 edge, command    inc address version started sessions rate lag phase beat
 *  lapi:nodes                         zset    until forgotten      edge                 command    <node>.<inc> → last beat, ms of Redis time
 *  lapi:apikey:<sha256>               hash    until revoked        command              command    id name scopes created
 *  lapi:apikeys                       set     until revoked        command              command    hashes
 *  lapi:lock:<name>                   string  seconds              command              command
 *  channels (sharded pub/sub on Cluster): lapi:inbox:<node>.<inc>  to one incarnation     lapi:reply:<instance>  to one command process
 */

import type { DeviceCode, InstanceId, NodeId } from '@lapi-broker/protocol';

export const DEFAULT_SHARDS = 16;
export const DEFAULT_PREFIX = 'lapi';

export interface Keyspace {
  readonly prefix: string;
  readonly shards: number;
  shardOf(code: DeviceCode): number;
  meta(): string;
  device(code: DeviceCode): string;
  secret(code: DeviceCode): string;
  nonce(nonce: string, code: DeviceCode): string;
  owned(shard: number, node: NodeId): string;
  codes(shard: number): string;
  tag(shard: number, tag: string): string;
  type(shard: number, type: string): string;
  events(shard: number): string;
  node(name: string): string;
  nodes(): string;
  apiKey(sha256: string): string;
  apiKeys(): string;
  lock(name: string): string;
  inbox(node: NodeId): string;
  reply(instance: InstanceId): string;
}

/** FNV-1a, 32 bit, over the bytes of the code: fixed for ever, because it decides where a device lives. */
function hash(code: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < code.length; i++) {
    value ^= code.charCodeAt(i);
    value = Math.imul(value, 0x01000193);
  }
  // The low bits of FNV-1a vary little for codes that differ in the last digits only; fold the high ones in.
  return (value ^ (value >>> 15)) >>> 0;
}

export function createKeyspace(prefix: string = DEFAULT_PREFIX, shards: number = DEFAULT_SHARDS): Keyspace {
  const tags = Array.from({ length: shards }, (_, i) => `${prefix}:{s${String(i).padStart(2, '0')}}:`);
  const shardOf = (code: DeviceCode): number => hash(code) % shards;
  const inShard = (code: DeviceCode): string => tags[shardOf(code)] as string;
  const tagOf = (shard: number): string => {
    const tag = tags[shard];
    if (tag === undefined) throw new RangeError(`shard ${shard} does not exist; there are ${shards}`);
    return tag;
  };
  return {
    prefix,
    shards,
    shardOf,
    meta: () => `${prefix}:meta`,
    device: (code) => `${inShard(code)}device:${code}`,
    secret: (code) => `${inShard(code)}secret:${code}`,
    nonce: (nonce, code) => `${inShard(code)}nonce:${nonce}:${code}`,
    owned: (shard, node) => `${tagOf(shard)}owned:${node}`,
    codes: (shard) => `${tagOf(shard)}codes`,
    tag: (shard, tag) => `${tagOf(shard)}tag:${tag}`,
    type: (shard, type) => `${tagOf(shard)}type:${type}`,
    events: (shard) => `${tagOf(shard)}events`,
    node: (name) => `${prefix}:node:${name}`,
    nodes: () => `${prefix}:nodes`,
    apiKey: (sha256) => `${prefix}:apikey:${sha256}`,
    apiKeys: () => `${prefix}:apikeys`,
    lock: (name) => `${prefix}:lock:${name}`,
    inbox: (node) => `${prefix}:inbox:${node}`,
    reply: (instance) => `${prefix}:reply:${instance}`,
  };
}
