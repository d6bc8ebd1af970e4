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
 *      provisioning: rev profile type tags(JSON) firmware enabled created updated     session: node epoch session since addr vendor kind algo sub(JSON)
 *      last session: off offAt        removed: gone (its last rev)        kept away: hu (until, ms) hk (why) ha (addresses, comma-joined)
 *      counted towards that: fw (take-overs, <ms>@<address>, comma-joined) bad (ends for misbehaviour, ms, comma-joined)
 *  lapi:{s07}:secret:<code>           hash    with provisioning    command              edge       current next (ciphertext) rev (as in the row)
 *  lapi:{s07}:nonce:<nonce>:<code>    string  nonce TTL + 10 s     claim                claim
 *  lapi:{s07}:owned:<node>.<inc>      zset    until empty          claim, release, reap reaper, node filter (a superset of what is owned; score 0)
 *  lapi:{s07}:ended:<node>.<inc>      string  30 d                 edge, command        edge, command   the end of an incarnation was announced (one shard)
 *  lapi:{s07}:timeline:<code>         list    a day after the last   edge, reap           command        its last sessions, newest first, as short JSON (libs/timeline); bounded
 *  lapi:{s07}:refused:<code>          list    as the timeline; 1 h for codes nobody provisioned   edge   command   its refused registrations, in the same way
 *  lapi:{s07}:codes                   zset    for ever             provisioning         listing (score 0, byte order)
 *  lapi:{s07}:tag:<tag>               zset    until empty          provisioning         listing
 *  lapi:{s07}:type:<type>             zset    until empty          provisioning         listing
 *  lapi:{s07}:events                  stream  bounded by age and bytes  edge, command, lane and ownership scripts   command    entries are <ms>-<number in this shard, from 1>
 *  lapi:{s07}:events:count            hash    for ever             whoever appends      whoever appends   n entries ever added · b bytes ever added · t ms of the last · m bytes at the last mark
 *  lapi:{s07}:events:marks            zset    as the entries       whoever appends      whoever trims     entry id → bytes added up to it; coarse
 *  lapi:{s07}:group:<key>             hash    as the group         group scripts        command    see services/command/src/group/group.lua, as for those below
 *  lapi:{s07}:group:<key>:ready|out|later|parked|dead  zset, :heads|item|body  hash   as the group   group scripts   group scripts
 *  lapi:{s07}:lane:<code>             hash    while a command waits or is out   lane scripts   lane scripts; claim asks whether it exists
 *      fields: see libs/lane/src/redis/lane.lua, as for the records
 *  lapi:{s07}:normal:<code> urgent:<code>  zset  while one waits   lane scripts         lane scripts   id → place
 *  lapi:{s07}:clock:<code>            zset    while one is not ended  lane scripts      lane scripts   x<id> expires, n<id> begins, r<id> again, f<id> is overdue → ms
 *  lapi:{s07}:history:<code>          zset    as its records       lane scripts         command        id → ms of acceptance; bounded
 *  lapi:{s07}:command:<id>            hash    until some time after its end  lane scripts  edge, command   see libs/lane/src/redis/lane.lua
 *  lapi:{s07}:result:<id>             string  10 min               settle               command        an answer too large for the record
 *  lapi:{s07}:idem:<code>:<sha256>    string  24 h                 submit               submit         id and hash of the body
 *  lapi:{s07}:due                     zset    while a lane is busy lane scripts         command        code → ms when somebody must look
 *  lapi:{s07}:waiting                 string  for ever             lane scripts         command        number of waiting commands
 *  lapi:{j:<id>}:job                  hash    7 d after its end    command              command    see services/command/src/job/redis-job-store.ts
 *  lapi:{j:<id>}:codes                list    as the job           command, once        command    code[,tag…] of each target, in order
 *  lapi:{j:<id>}:targets              hash    as the job           runner of the job    command    index → what became of the target
 *  lapi:{jobs}:all                    zset    bounded by number    command              command    job → ms of creation
 *  lapi:{jobs}:active                 zset    until its end        command              command    job → ms when somebody must look
 *  lapi:{jobs}:key:<sha256>           string  24 h                 command              command    id of the job and hash of the request
 *  lapi:{groups}:group:<name>         hash    until deleted        command              command    key owner start spec (JSON) created state revision
 *  lapi:{groups}:all                  zset    bounded by number    command              command    name (score 0)
 *  lapi:{g:<key>}:permits             zset    1 h after the last   command              command    permit → ms when it lapses
 *  lapi:{webhooks}:webhook:<id>       hash    until deleted        command              command    see services/command/src/webhook/redis-webhook-store.ts
 *  lapi:{webhooks}:all                zset    bounded by number    command              command    id (score 0)
 *  lapi:{webhooks}:log:<id>           list    bounded by number    command              command    attempts of delivery, newest first
 *  lapi:{webhooks}:due                zset    while it is on       command              command    <id>:<lane> → ms when somebody must look
 *  lapi:{webhooks}:holders            hash    while seen to        command              command    <id>:<lane> → token of who sees to it
 *  lapi:node:<node>                   hash    lease (10 s)         edge                 edge, command    inc address version started sessions rate lag phase drain beat; asked (by command)
 *  lapi:nodes                         zset    until forgotten      edge                 edge, command    <node>.<inc> → last beat, ms of Redis time
 *  lapi:apikey:<sha256>               hash    until revoked        command              command    id name scopes created
 *  lapi:apikeys                       set     until revoked        command              command    hashes
 *  lapi:lock:<name>                   string  seconds              command              command
 *  lapi:{schedules}:schedule:<id>     hash    until deleted        command              command    spec (JSON), next (ms; '' = paused), last (JSON), missed
 *  lapi:{schedules}:all               zset    until deleted        command              command    id (score 0: byte order is the order of making)
 *  lapi:{schedules}:due               zset    until paused         command              command    id → ms of the next firing
 *  lapi:{queue:<name>}:<name>:*       BullMQ  until done           command              command        ids and times of work; no truth (libs/queue)
 *  <channel>:parcel:<random>          string  30 s, or until fetched  edge, command     edge, command   a message too large for its channel (libs/bus)
 *  channels (sharded pub/sub on Cluster): lapi:inbox:<node>.<inc>  to one incarnation     lapi:reply:<instance>  to one command process
 */

import { type CommandId, type DeviceCode, type InstanceId, type NodeId, shardOfCommand } from '@lapi-broker/protocol';

/** Beside the channel that says where it lies, so it begins with the prefix as everything does. */
export function parcelKey(channel: string, id: string): string {
  return `${channel}:parcel:${id}`;
}

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
  timeline(code: DeviceCode): string;
  refused(code: DeviceCode): string;
  ended(shard: number, node: NodeId): string;
  codes(shard: number): string;
  tag(shard: number, tag: string): string;
  type(shard: number, type: string): string;
  events(shard: number): string;
  /** Of a durable group: the hash of its place in the shard; its other keys begin with this and a colon. */
  group(shard: number, key: string): string;
  groupSpec(name: string): string;
  groups(): string;
  groupPermits(key: string): string;
  webhook(id: string): string;
  webhooks(): string;
  webhookLog(id: string): string;
  dueWebhooks(): string;
  webhookHolders(): string;
  lane(code: DeviceCode): string;
  waitingIn(lane: 'normal' | 'urgent', code: DeviceCode): string;
  clock(code: DeviceCode): string;
  history(code: DeviceCode): string;
  /** Of the shard that the id names; throws RangeError if there is no such shard. */
  command(id: CommandId): string;
  result(id: CommandId): string;
  idempotency(code: DeviceCode, sha256: string): string;
  due(shard: number): string;
  waiting(shard: number): string;
  /** Where keys of the shard of a device begin, for scripts that find the names of records in a lane. */
  prefixOf(code: DeviceCode): string;
  job(id: string): string;
  jobCodes(id: string): string;
  jobTargets(id: string): string;
  jobs(): string;
  activeJobs(): string;
  jobKey(sha256: string): string;
  node(name: string): string;
  nodes(): string;
  apiKey(sha256: string): string;
  apiKeys(): string;
  lock(name: string): string;
  schedule(id: string): string;
  schedules(): string;
  dueSchedules(): string;
  /** Where the keys of a queue begin; a hash tag of its own, because its scripts touch many of them. */
  queue(name: string): string;
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
    ended: (shard, node) => `${tagOf(shard)}ended:${node}`,
    timeline: (code) => `${inShard(code)}timeline:${code}`,
    refused: (code) => `${inShard(code)}refused:${code}`,
    codes: (shard) => `${tagOf(shard)}codes`,
    tag: (shard, tag) => `${tagOf(shard)}tag:${tag}`,
    type: (shard, type) => `${tagOf(shard)}type:${type}`,
    events: (shard) => `${tagOf(shard)}events`,
    group: (shard, key) => `${tagOf(shard)}group:${key}`,
    groupSpec: (name) => `${prefix}:{groups}:group:${name}`,
    groups: () => `${prefix}:{groups}:all`,
    groupPermits: (key) => `${prefix}:{g:${key}}:permits`,
    webhook: (id) => `${prefix}:{webhooks}:webhook:${id}`,
    webhooks: () => `${prefix}:{webhooks}:all`,
    webhookLog: (id) => `${prefix}:{webhooks}:log:${id}`,
    dueWebhooks: () => `${prefix}:{webhooks}:due`,
    webhookHolders: () => `${prefix}:{webhooks}:holders`,
    lane: (code) => `${inShard(code)}lane:${code}`,
    waitingIn: (lane, code) => `${inShard(code)}${lane}:${code}`,
    clock: (code) => `${inShard(code)}clock:${code}`,
    history: (code) => `${inShard(code)}history:${code}`,
    command: (id) => `${tagOf(shardOfCommand(id))}command:${id}`,
    result: (id) => `${tagOf(shardOfCommand(id))}result:${id}`,
    idempotency: (code, sha256) => `${inShard(code)}idem:${code}:${sha256}`,
    due: (shard) => `${tagOf(shard)}due`,
    waiting: (shard) => `${tagOf(shard)}waiting`,
    prefixOf: inShard,
    job: (id) => `${prefix}:{j:${id}}:job`,
    jobCodes: (id) => `${prefix}:{j:${id}}:codes`,
    jobTargets: (id) => `${prefix}:{j:${id}}:targets`,
    jobs: () => `${prefix}:{jobs}:all`,
    activeJobs: () => `${prefix}:{jobs}:active`,
    jobKey: (sha256) => `${prefix}:{jobs}:key:${sha256}`,
    node: (name) => `${prefix}:node:${name}`,
    nodes: () => `${prefix}:nodes`,
    apiKey: (sha256) => `${prefix}:apikey:${sha256}`,
    apiKeys: () => `${prefix}:apikeys`,
    lock: (name) => `${prefix}:lock:${name}`,
    schedule: (id) => `${prefix}:{schedules}:schedule:${id}`,
    schedules: () => `${prefix}:{schedules}:all`,
    dueSchedules: () => `${prefix}:{schedules}:due`,
    queue: (name) => `${prefix}:{queue:${name}}`,
    inbox: (node) => `${prefix}:inbox:${node}`,
    reply: (instance) => `${prefix}:reply:${instance}`,
  };
}
