/** Opens connections to Redis, one per role, on every topology. The only home of ioredis and of its settings.
 *
 *  No command is ever sent twice by the client: unanswered ones fail with the connection, nothing is queued while it is down, and only our
 *  own idempotent layers repeat (D11). So a command issued before `ready` fails at once. The role `worker` alone is the other way round.
 *  Redis away: commands reject within `commandTimeoutMs` (twice that when they waited behind others); the connection comes back by itself,
 *  with jittered backoff of at most a second. A server that accepts bytes but does not answer (SIGSTOP, half-open) counts as away.
 *  Errors never throw from here; they are reported, rate-limited, through `onEvent`, and hold no credentials. */

import { BrokerError } from '@lapi-broker/protocol';
import { Cluster, Redis, type RedisOptions, type SentinelConnectionOptions, SentinelConnector } from 'ioredis';
import { addressesOf, parseRedisUrl, type RedisTopology } from './url.ts';
import { versionProblem } from './version.ts';

/** state: fast commands and scripts, fail fast, never resend. subscriber: pub/sub with a ping of its own. reader: blocking reads.
 *  worker: for the book-keeping of a job queue, whose steps may happen twice but must not be forgotten: commands wait for the store and are
 *  sent again after it was away, without a deadline. Its owner bounds how many there are. */
export type ConnectionRole = 'state' | 'subscriber' | 'reader' | 'worker';

export interface RedisSettings {
  /** See url.ts for all forms. */
  readonly url: string;
  readonly commandTimeoutMs: number;
}

export type RedisConnection = Redis | Cluster;
/** A connection to exactly one server. */
export type NodeConnection = Redis;

/** `redis.ready`, `redis.closed`, `redis.error {error, suppressed}`, each with `role` and `address`;
 *  `redis.evicts {policy, address}` from `ready`. */
export type ConnectionEvent = (event: string, facts: Record<string, unknown>) => void;

const MAX_RETRY_DELAY_MS = 1000;
/** Before a command of a worker is tried at another server of a Cluster, whose own view has to change first. */
const WORKER_FAILOVER_DELAY_MS = 200;
const CONNECT_TIMEOUT_MS = 2000;
/** A peer that does not close its side is cut after this. */
const DISCONNECT_TIMEOUT_MS = 200;
/** How soon a Cluster's new map of slots is noticed when no error told us. */
const SLOTS_REFRESH_MS = 2000;
const SLOTS_REFRESH_TIMEOUT_MS = 1000;
const ERROR_REPORT_INTERVAL_MS = 5000;
const MAX_ERROR_KINDS = 64;
const ONE_MASTER = 'master';
const QUIT_DEADLINE_MS = 500;
const CLOSE_DEADLINE_MS = 1000;

interface Origin {
  readonly topology: RedisTopology;
  readonly commandTimeoutMs: number;
  readonly onEvent: ConnectionEvent | undefined;
}

/** Where a connection came from, so that openNode can reach the same store. */
const origins = new WeakMap<RedisConnection, Origin>();

export function openConnection(
  settings: RedisSettings,
  role: ConnectionRole,
  onEvent?: ConnectionEvent,
): RedisConnection {
  const origin: Origin = {
    topology: parseRedisUrl(settings.url),
    commandTimeoutMs: settings.commandTimeoutMs,
    onEvent,
  };
  const report = reporter(role, addressesOf(origin.topology), onEvent);
  const connection =
    origin.topology.kind === 'cluster'
      ? openCluster(origin.topology, role, origin.commandTimeoutMs, report)
      : openServer(serverOptions(origin.topology), role, origin.commandTimeoutMs, report, retryDelayMs);
  origins.set(connection, origin);
  return connection;
}

/** Names the server that answers for `key` or a channel: on a Cluster the `host:port` of the master of its slot, as far as known; else a
 *  constant, for the one master. Compare it to notice that a key has moved. */
export function masterOf(connection: RedisConnection, key: string): string | undefined {
  return isCluster(connection) ? connection.slots[slotOf(key)]?.[0] : ONE_MASTER;
}

/** Opens a plain connection to one master as named by `masterOf`, for subscribers and blocking reads, which on a Cluster belong to one server.
 *  It does not come back by itself: its owner opens another, perhaps elsewhere.
 *  ioredis has sharded subscribers of its own; they have no ping, no role check and no bounded wait, so a hung server would keep them. */
export function openNode(
  from: RedisConnection,
  role: ConnectionRole,
  master: string,
  onEvent?: ConnectionEvent,
): NodeConnection {
  const origin = origins.get(from);
  if (origin === undefined) throw new TypeError('openNode needs a connection made by openConnection');
  const { topology, commandTimeoutMs } = origin;
  if (topology.kind !== 'cluster') {
    const report = reporter(role, addressesOf(topology), onEvent);
    return openServer(serverOptions(topology), role, commandTimeoutMs, report, null);
  }
  const colon = master.lastIndexOf(':');
  const place = { host: master.slice(0, colon), port: Number(master.slice(colon + 1)), ...accessOptions(topology) };
  return openServer(place, role, commandTimeoutMs, reporter(role, master, onEvent), null);
}

/** The state connection to the one server that answers for `key`, if commands can be sent on it now. What is sent on it is never redirected,
 *  so it reaches that server in order or fails. */
export function nodeFor(connection: RedisConnection, key: string): NodeConnection | undefined {
  if (!isCluster(connection)) return connection.status === 'ready' ? connection : undefined;
  if (connection.status !== 'ready') return undefined;
  const master = masterOf(connection, key);
  const node = connection.nodes('master').find(({ options }) => `${options.host}:${options.port}` === master);
  return node?.status === 'ready' ? node : undefined;
}

/** Asks a Cluster for its map of slots again, because something showed that ours is old. Else does nothing. */
export function refreshTopology(connection: RedisConnection): void {
  if (isCluster(connection) && connection.status === 'ready') connection.refreshSlotsCache();
}

export function isCluster(connection: RedisConnection): connection is Cluster {
  return connection instanceof Cluster;
}

/** Resolves when commands can be sent, on a Cluster to every master; rejects with `broker_unavailable` after `deadlineMs`, and with `internal`
 *  when the server is too old. Call it once after opening; later reconnects need nothing. */
export async function ready(connection: RedisConnection, deadlineMs: number): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  await untilReady(connection, deadline);
  const servers = isCluster(connection) ? connection.nodes('master') : [connection];
  await Promise.all(
    servers.map(async (server) => {
      await untilReady(server, deadline);
      await checkServer(server, deadline, origins.get(connection)?.onEvent);
    }),
  );
}

/** As `ready`, without looking at the server's version. */
export async function connected(connection: RedisConnection, deadlineMs: number): Promise<void> {
  await untilReady(connection, performance.now() + deadlineMs);
}

/** Ended by their owner: their end is no news. */
const leaving = new WeakSet<RedisConnection>();
const dropped = new WeakSet<RedisConnection>();
/** The timer of each Cluster; ends when the connection is dropped. */
const refreshers = new WeakMap<RedisConnection, NodeJS.Timeout>();

/** Waits a moment for answers under way, then cuts. Idempotent; never rejects. */
export async function closeConnection(connection: RedisConnection): Promise<void> {
  leaving.add(connection);
  if (connection.status === 'ready') await settled(connection.quit(), QUIT_DEADLINE_MS);
  await dropConnection(connection);
}

/** Cuts at once: what is under way fails. Resolves when the socket is gone. Idempotent; never rejects. */
export async function dropConnection(connection: RedisConnection): Promise<void> {
  clearInterval(refreshers.get(connection));
  // A Cluster that has not dialled its first server yet would never say that it has ended.
  if (isCluster(connection) && connection.nodes().length === 0) await new Promise(setImmediate);
  if (connection.status === 'end' || dropped.has(connection)) return;
  leaving.add(connection);
  // The status cannot tell: a Cluster goes back from `end` to `close` when its servers end after it.
  dropped.add(connection);
  const ended = new Promise<void>((resolve) => connection.once('end', () => resolve()));
  // One that waits for its next attempt would never say that it has ended, nor fail what was queued on it. One that waits for its first does.
  if (connection.status === 'reconnecting') connection.status = 'wait';
  if (connection.status !== 'close') connection.disconnect();
  await settled(ended, CLOSE_DEADLINE_MS);
}

/** Resolves when the promise has settled, or after the time. */
async function settled(promise: Promise<unknown>, timeMs: number): Promise<void> {
  await withDeadline(promise, timeMs).catch(() => undefined);
}

/** Delay before the n-th attempt to reconnect, n from 1: 50 ms doubling up to one second, each drawn from its upper half so that a fleet of
 *  processes does not come back in step. */
export function retryDelayMs(attempt: number): number {
  const ceiling = Math.min(50 * 2 ** Math.min(attempt - 1, 10), MAX_RETRY_DELAY_MS);
  return Math.round(ceiling * (0.5 + Math.random() / 2));
}

/** ioredis' own type, less the one option that its constructors type more narrowly. */
type ServerOptions = Omit<RedisOptions, 'replyMapping'>;
type Reporter = (event: string, facts?: Record<string, unknown>) => void;

/** The same for every topology; written out wherever a default could lose data or hang. */
function roleOptions(role: ConnectionRole, commandTimeoutMs: number) {
  const waits = role === 'worker';
  // A blocking read has a deadline of its own, longer than any command's.
  const blocks = role === 'reader';
  return {
    connectionName: `lapi-${role}`,
    protocol: 3,
    noDelay: true,
    keepAlive: 10_000,
    connectTimeout: CONNECT_TIMEOUT_MS,
    disconnectTimeout: DISCONNECT_TIMEOUT_MS,
    enableReadyCheck: true,
    maxLoadingRetryTime: MAX_RETRY_DELAY_MS,
    // ioredis forgets unanswered commands on reconnect without failing them when it may neither resend nor has used up its retries;
    // with 0 retries they fail at the moment the connection is lost.
    autoResendUnfulfilledCommands: waits,
    maxRetriesPerRequest: waits ? null : 0,
    enableOfflineQueue: waits,
    // Subscriptions are renewed by their owner, who waits for the confirmation and tells of the gap.
    autoResubscribe: false,
    ...(blocks ? {} : { socketTimeout: commandTimeoutMs + 500 }),
    ...(blocks || waits ? {} : { commandTimeout: commandTimeoutMs }),
    enableAutoPipelining: role === 'state',
    // In an automatic pipeline a command waits for the answers of the pipeline before: these are batched by their callers, or answer at length.
    autoPipeliningIgnoredCommands: ['publish', 'spublish', 'xadd', 'xrange', 'evalsha', 'getdel'],
  } satisfies ServerOptions;
}

function accessOptions({ username, password, tls }: RedisTopology): ServerOptions {
  return {
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(tls ? { tls: {} } : {}),
  };
}

function serverOptions(topology: Exclude<RedisTopology, { kind: 'cluster' }>): ServerOptions {
  const common = { db: topology.db, ...accessOptions(topology) };
  if (topology.kind === 'standalone') return { ...topology.addresses[0], ...common };
  const { sentinelUsername, sentinelPassword } = topology;
  return {
    ...common,
    sentinels: [...topology.addresses],
    name: topology.master,
    ...(sentinelUsername === undefined ? {} : { sentinelUsername }),
    ...(sentinelPassword === undefined ? {} : { sentinelPassword }),
    ...(topology.tls ? { sentinelTLS: {}, enableTLSForSentinelMode: true } : {}),
    // Without it a client stays on a hung master after a failover: 12 s and 198,725 lost writes measured.
    failoverDetector: true,
    sentinelRetryStrategy: retryDelayMs,
    sentinelReconnectStrategy: retryDelayMs,
    sentinelCommandTimeout: CONNECT_TIMEOUT_MS,
    Connector: Sentinels,
  };
}

/** Private in ioredis: makes a client of a sentinel. */
const DIAL = 'connectToSentinel';

/** Repairs two faults of ioredis 6.0. */
class Sentinels extends SentinelConnector {
  constructor(options: unknown) {
    super(options as SentinelConnectionOptions);
    // A client without a listener writes to stderr each time that its sentinel does not answer.
    const dial: (...args: readonly unknown[]) => Redis = this[DIAL].bind(this);
    this[DIAL] = (...args: readonly unknown[]) => dial(...args).on('error', () => undefined);
  }

  /** Whoever still listens for a failover on behalf of the connection before would end the next one when it hears of it while that is being made:
   *  for good, as if its owner had closed it. */
  override connect(...args: Parameters<SentinelConnector['connect']>): ReturnType<SentinelConnector['connect']> {
    this.disconnect();
    return super.connect(...args);
  }
}

function openServer(
  place: ServerOptions,
  role: ConnectionRole,
  commandTimeoutMs: number,
  report: Reporter,
  retryStrategy: ((attempt: number) => number) | null,
): Redis {
  const redis = new Redis({
    ...roleOptions(role, commandTimeoutMs),
    ...place,
    retryStrategy,
  });
  redis.on('error', (error: unknown) => report('redis.error', { error }));
  redis.on('ready', () => report('redis.ready'));
  redis.on('close', () => {
    if (!leaving.has(redis)) report('redis.closed');
  });
  // One that ended by itself would keep listening to its sentinels for failovers, over a connection to each.
  redis.on('end', () => redis.disconnect());
  return redis;
}

function openCluster(
  topology: Extract<RedisTopology, { kind: 'cluster' }>,
  role: ConnectionRole,
  commandTimeoutMs: number,
  report: Reporter,
): Cluster {
  const { enableOfflineQueue, ...options } = roleOptions(role, commandTimeoutMs);
  const cluster = new Cluster(
    topology.addresses.map(({ host, port }) => ({ host, port })),
    {
      enableOfflineQueue,
      enableReadyCheck: true,
      clusterRetryStrategy: (attempt) => retryDelayMs(attempt),
      // Its own timer would start again when the connection is closed while a refresh is under way, and run for ever.
      slotsRefreshInterval: 0,
      slotsRefreshTimeout: SLOTS_REFRESH_TIMEOUT_MS,
      // 0 = a command whose connection broke is not sent again: it may have run.
      retryDelayOnFailover: role === 'worker' ? WORKER_FAILOVER_DELAY_MS : 0,
      // MOVED, TRYAGAIN and CLUSTERDOWN say that nothing ran, so following them is safe; bounded by the command's own time limit.
      maxRedirections: 8,
      enableAutoPipelining: options.enableAutoPipelining,
      autoPipeliningIgnoredCommands: options.autoPipeliningIgnoredCommands,
      // One extra connection per master, which our own subscribers do not need (see openNode).
      shardedSubscribers: false,
      // Certificates are checked against the name, so names must survive.
      ...(topology.tls ? { dnsLookup: (host, callback) => callback(null, host) } : {}),
      redisOptions: { ...options, ...accessOptions(topology) },
    },
  );
  cluster.on('error', (error: unknown) => report('redis.error', { error }));
  cluster.on('node error', (error: unknown, node: unknown) => report('redis.error', { error, node }));
  cluster.on('ready', () => report('redis.ready'));
  cluster.on('close', () => {
    if (!leaving.has(cluster)) report('redis.closed');
  });
  // Servers are dialled lazily, and while one is being dialled commands to it fail; so dial as soon as it is known.
  cluster.on('+node', (node: Redis) => {
    if (node.status === 'wait') node.connect().catch(() => undefined);
  });
  cluster.on('-node', () => refreshTopology(cluster));
  refreshers.set(
    cluster,
    setInterval(() => refreshTopology(cluster), SLOTS_REFRESH_MS),
  );
  return cluster;
}

/** Errors come in storms while a server is away: one report per kind and interval, with the number of those left out. */
function reporter(role: ConnectionRole, address: string, onEvent: ConnectionEvent | undefined): Reporter {
  const seen = new Map<string, { atMs: number; suppressed: number }>();
  return (event, facts = {}) => {
    if (onEvent === undefined) return;
    const { error, ...rest } = facts;
    if (error === undefined) return onEvent(event, { role, address, ...rest });
    const text = error instanceof Error ? error.message : String(error);
    const kind = `${String(rest.node ?? '')} ${text}`;
    const now = performance.now();
    const last = seen.get(kind);
    if (last !== undefined && now - last.atMs < ERROR_REPORT_INTERVAL_MS) {
      last.suppressed++;
      return undefined;
    }
    if (last === undefined && seen.size >= MAX_ERROR_KINDS) seen.clear();
    seen.set(kind, { atMs: now, suppressed: 0 });
    return onEvent(event, { role, address, ...rest, error: text, suppressed: last?.suppressed ?? 0 });
  };
}

async function untilReady(connection: RedisConnection, deadline: number): Promise<void> {
  if (connection.status === 'ready') return;
  if (connection.status === 'wait') connection.connect().catch(() => undefined);
  let onReady: () => void = () => undefined;
  let onEnd: () => void = () => undefined;
  let timer: NodeJS.Timeout | undefined;
  let cause: unknown;
  const onError = (error: unknown): void => {
    cause = error;
  };
  connection.on('error', onError);
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = (detail: string): void => reject(new BrokerError('broker_unavailable', detail, { cause }));
      onReady = resolve;
      onEnd = () => fail('The connection to Redis was closed before it was ready.');
      connection.once('ready', onReady);
      connection.once('end', onEnd);
      timer = setTimeout(() => fail('Redis could not be reached in time.'), Math.max(0, deadline - performance.now()));
    });
  } finally {
    clearTimeout(timer);
    connection.off('error', onError);
    connection.off('ready', onReady);
    connection.off('end', onEnd);
  }
}

/** Too old is an error; a server that may evict keys of ours is reported, because owners would vanish without a trace (D12). */
async function checkServer(server: Redis, deadline: number, onEvent: ConnectionEvent | undefined): Promise<void> {
  let facts: string;
  try {
    facts = await withDeadline(server.info('server', 'memory'), deadline - performance.now());
  } catch (cause) {
    throw new BrokerError('broker_unavailable', 'Redis did not tell its version.', { cause });
  }
  const problem = versionProblem(facts);
  if (problem !== undefined) throw new BrokerError('internal', problem);
  const policy = /maxmemory_policy:(\S+)/.exec(facts)?.[1];
  if (policy !== undefined && policy !== 'noeviction') {
    onEvent?.('redis.evicts', { policy, address: `${server.options.host}:${server.options.port}` });
  }
}

/** Rejects with an Error after `timeMs` if the promise has not settled; its late end is ignored. */
export async function withDeadline<T>(promise: Promise<T>, timeMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${Math.round(timeMs)} ms`)), Math.max(0, timeMs));
  });
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}

/** CRC16/XMODEM of the hash tag, or of the whole key, modulo 16,384: the slot by the Redis Cluster specification. */
export function slotOf(key: string): number {
  const open = key.indexOf('{');
  const close = open < 0 ? -1 : key.indexOf('}', open + 1);
  const hashed = Buffer.from(close > open + 1 ? key.slice(open + 1, close) : key);
  let crc = 0;
  for (const byte of hashed) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000) === 0 ? crc << 1 : (crc << 1) ^ 0x1021;
    crc &= 0xffff;
  }
  return crc % 16_384;
}
