/** Puts a command process together: which part needs which, and in what order they start. Nothing is decided here.
 *  Start: probes → store → time, directory, lanes, reply channel → event feed → API listener. Stop runs backwards; a drain stops listening, then
 *  waits for the calls in progress.
 *  Redis has to be there at the start (the shard count is checked before anything else); when it goes away later the process stays, is
 *  not ready, and answers `broker_unavailable`. */

import { RedisEventStream, RedisPubSub } from '@lapi-broker/bus';
import { createProfiles, createSecretVault, RedisDeviceStore } from '@lapi-broker/device';
import { createServer, type Server } from '@lapi-broker/http';
import { openImageStore } from '@lapi-broker/image';
import type { InstanceId } from '@lapi-broker/protocol';
import {
  checkMeta,
  closeConnection,
  createKeyspace,
  openConnection,
  parseRedisUrl,
  RedisClock,
  ready,
  StoreMemory,
} from '@lapi-broker/redis';
import { RedisNodeDirectory, RedisOwnerRegistry } from '@lapi-broker/routing';
import { Lifecycle, type Part, systemClock } from '@lapi-broker/runtime';
import { createMetrics, createProbes, type Log } from '@lapi-broker/telemetry';
import { RedisTimeline } from '@lapi-broker/timeline';
import { customAlphabet } from 'nanoid';
import { Access } from './access/access.ts';
import { RedisApiKeyStore, storeBootstrapKey } from './access/api-key.ts';
import { PathPolicy } from './access/policy.ts';
import { RateLimit } from './access/rate-limit.ts';
import type { CommandConfig } from './config.ts';
import { Dispatch } from './dispatch/dispatch.ts';
import { OwnerCache } from './dispatch/owner-cache.ts';
import { StoreTimeKeeper } from './dispatch/store-time.ts';
import { EventFeed } from './event/event-feed.ts';
import { EventRetention } from './event/retention.ts';
import { createGroups } from './group/parts.ts';
import { API_HEADERS, DOCUMENTED, registerApi } from './http/api.ts';
import { createAsyncApi } from './http/asyncapi.ts';
import { BodyBudget } from './http/body-budget.ts';
import type { Broker } from './http/broker.ts';
import { renderDocsPage } from './http/docs-page.ts';
import { eventJsonSchema } from './http/event-schema.ts';
import type { ApiObserver } from './http/observer.ts';
import { createOpenApi } from './http/openapi.ts';
import type { EventConnections } from './http/stream.ts';
import { createSweepLock, ImageRetention } from './image/retention.ts';
import { createJobs } from './job/parts.ts';
import { createLanes } from './lane/parts.ts';
import { LIMITS } from './limits.ts';
import { createCommandMetrics } from './metrics.ts';
import { NodeWatch } from './node/node-watch.ts';
import { createReapLock, Reaper } from './node/reaper.ts';
import { createSchedules } from './schedule/parts.ts';
import { createSinks } from './sink/parts.ts';
import { LiveSessions } from './timeline/live-sessions.ts';
import { createWebhooks } from './webhook/parts.ts';

export const VERSION = '0.1.0';

/** Look-ups and listings. */
const STATE_TIMEOUT_MS = 2_000;
const CONNECT_DEADLINE_MS = 15_000;

export interface CommandService {
  readonly lifecycle: Lifecycle;
  /** Both are known once the lifecycle has started. */
  ports(): { readonly api: number; readonly probe: number };
}

export function createCommandService(config: CommandConfig, log: Log): CommandService {
  const clock = systemClock;
  const monotonicMs = (): number => clock.monotonicMs();
  const onEvent = (event: string, facts: Record<string, unknown>): void => {
    if (event === 'redis.ready') log.info(facts, event);
    else log.warn(facts, event);
  };

  const instance = `c${customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 15)()}` as InstanceId;
  const state = openConnection({ url: config.REDIS_URL, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  const submits = openConnection({ url: config.REDIS_URL, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  // Events of the broker itself, apart because WAIT holds up what is behind it.
  const appends = openConnection({ url: config.REDIS_URL, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  const consumers = openConnection({ url: config.REDIS_URL, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  const keyspace = createKeyspace(config.LAPI_KEY_PREFIX, config.LAPI_SHARDS);
  const timelineMs = config.LAPI_TIMELINE_SECONDS * 1_000;
  const replicated = parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const pubsub = new RedisPubSub({ state, onEvent });
  const stream = new RedisEventStream({
    state,
    appends,
    keyspace,
    confirmed: config.LAPI_CONFIRM_EVENTS === 'auto' && replicated,
    retention: {
      maxAgeMs: config.LAPI_EVENT_RETENTION_SECONDS * 1_000,
      maxBytes: config.LAPI_EVENT_RETENTION_BYTES,
    },
    onEvent,
  });
  let storeFull = false;
  const storeMemory = new StoreMemory(state, LIMITS.storeMemoryMs, (usedPercent) => {
    retention.tighten(usedPercent >= LIMITS.storeTightPercent);
    if (storeFull === usedPercent >= LIMITS.storeFullPercent) return;
    storeFull = !storeFull;
    const facts = { usedPercent: Math.round(usedPercent) };
    if (storeFull) log.error(facts, 'store.full');
    else log.info(facts, 'store.has_room');
  });
  const retention = new EventRetention({
    stream,
    maxAgeMs: config.LAPI_EVENT_RETENTION_SECONDS * 1_000,
    intervalMs: LIMITS.eventTrimMs,
    onFailure: () => counts.trimFailures.inc(),
  });
  const registry = new RedisOwnerRegistry(state, keyspace, { timelineMs });
  const directory = new RedisNodeDirectory(state, keyspace);
  const devices = new RedisDeviceStore(state, keyspace);
  const keys = new RedisApiKeyStore(state, keyspace, LIMITS.apiKeys);

  const metrics = createMetrics('command');
  const counts = createCommandMetrics(metrics);
  const redisClock = new RedisClock(monotonicMs);
  const time = new StoreTimeKeeper(state, redisClock, monotonicMs);
  const reaper = new Reaper({
    registry,
    directory,
    ...createReapLock(submits, keyspace, instance, config.LAPI_CONFIRM_COMMANDS === 'auto' && replicated),
    batch: LIMITS.reapBatch,
    monotonicMs,
    onLost: (node, devices) => log.warn({ node, devices }, 'node.lost'),
    onReaped: (node, offline, forgotten) => {
      counts.reaped.inc(offline);
      log.info({ node, offline, forgotten }, 'node.reaped');
    },
    onFailure: (node, error) => log.warn({ node, err: error }, 'node.reap_failed'),
  });
  const nodes = new NodeWatch({
    directory,
    intervalMs: LIMITS.directoryMs,
    staleMs: LIMITS.directoryStaleMs,
    monotonicMs,
    random: Math.random,
    onView: (views) => reaper.look(views),
    onFailure: () => counts.directoryFailures.inc(),
  });
  const liveSessions = new LiveSessions({ instance, pubsub, keyspace });
  const dispatch = new Dispatch(
    {
      instance,
      keyspace,
      pubsub,
      registry,
      nodes,
      time: redisClock,
      owners: new OwnerCache(config.LAPI_OWNER_CACHE_ENTRIES, config.LAPI_OWNER_CACHE_MS),
      meter: counts.meter,
      onEnded: (id) => lanes.onEnded(id),
      onShown: (shown) => liveSessions.told(shown),
      monotonicMs,
      random: Math.random,
    },
    { pendingCommands: config.LAPI_PENDING_COMMANDS, sweepMs: LIMITS.sweepMs, replyGraceMs: LIMITS.replyGraceMs },
  );
  metrics.observed('lapi_commands_pending', 'Direct commands in progress.', () => dispatch.pendingCount);
  const lanes = createLanes({
    config,
    state,
    submits,
    keyspace,
    pubsub,
    time: redisClock,
    instance,
    dispatch,
    metrics,
    storeFull: () => storeFull,
    onEvent,
    monotonicMs,
  });
  const jobs = createJobs({
    config,
    state,
    submits,
    keyspace,
    stream,
    registry,
    nodes,
    devices,
    lanes,
    storeFull: () => storeFull,
    time: redisClock,
    metrics,
    log,
    onEvent,
  });
  const schedules = createSchedules({
    config,
    state,
    submits,
    keyspace,
    stream,
    commands: lanes.commands,
    jobs: jobs.jobs,
    time: redisClock,
    metrics,
    log,
    onEvent,
  });
  const perSecond = config.LAPI_KEY_REQUESTS_PER_SECOND;
  const access = new Access(keys, new RateLimit(perSecond, 2 * perSecond, LIMITS.apiKeys), LIMITS, monotonicMs);
  const feed = new EventFeed({ stream, shardOf: (code) => keyspace.shardOf(code), clock, log });
  const groups = createGroups({
    config,
    state: consumers,
    keyspace,
    stream,
    feed,
    instance,
    metrics,
    log,
    monotonicMs,
  });
  const vault = createSecretVault({
    current: Buffer.from(config.LAPI_SECRET_KEY, 'base64'),
    ...(config.LAPI_SECRET_KEY_PREVIOUS === undefined
      ? {}
      : { previous: Buffer.from(config.LAPI_SECRET_KEY_PREVIOUS, 'base64') }),
  });
  const webhooks = createWebhooks({
    config,
    version: VERSION,
    state,
    submits,
    keyspace,
    stream,
    groups: groups.groups,
    vault,
    time: redisClock,
    metrics,
    log,
    onEvent,
    monotonicMs,
  });
  const sinks = createSinks({
    sinks: config.sinks,
    groups: groups.groups,
    metrics,
    log,
    random: Math.random,
    monotonicMs,
  });
  metrics.observed(
    'lapi_store_memory_used_ratio',
    'Used share of the memory that Redis may use, of the fullest master; 0 without a limit.',
    () => storeMemory.usedPercent / 100,
  );
  metrics.observed(
    'lapi_event_stream_entries',
    'Events kept for replay, of the whole installation.',
    () => retention.entries,
  );
  metrics.observed(
    'lapi_event_stream_bytes',
    'Their bytes, about, as LAPI_EVENT_RETENTION_BYTES counts them.',
    () => retention.bytes,
  );
  metrics.observed('lapi_event_subscribers', 'Live subscriptions.', () => feed.counts.subscribers);
  metrics.observed(
    'lapi_event_subscribers_behind',
    'Live subscriptions that read from the store.',
    () => feed.counts.behind,
  );
  metrics.observed(
    'lapi_events_delivered',
    'Events given to live subscriptions since the start.',
    () => feed.counts.delivered,
  );
  metrics.observed('lapi_event_gaps', 'Gaps told to live subscriptions since the start.', () => feed.counts.gaps);
  metrics.observed(
    'lapi_event_slow_closed',
    'Live subscriptions closed as too slow since the start.',
    () => feed.counts.slowClosed,
  );
  metrics.observed('lapi_event_connections', 'Live event connections.', () => connections?.count ?? 0);

  const images = openImageStore(config);
  const imageRetention = new ImageRetention({
    store: images,
    hours: config.LAPI_IMAGE_RETENTION_HOURS,
    intervalMs: LIMITS.imageSweepMs,
    lock: createSweepLock(state, keyspace, instance),
    nowMs: () => clock.nowMs(),
    random: Math.random,
    onSwept: (hours) => counts.imageHoursSwept.inc(hours),
    onFailure: () => counts.imageSweepFailures.inc(),
    log,
  });

  let leaving = false;
  let connections: EventConnections | undefined;
  let listening: Server | undefined;
  const readiness = (): true | string => {
    if (leaving) return 'draining';
    if (listening === undefined) return 'starting';
    if (!time.fresh) return 'the store does not answer';
    return dispatch.unready() ?? true;
  };

  const bodies = new BodyBudget(config.LAPI_BODIES_BYTES);
  metrics.observed(
    'lapi_request_body_bytes',
    'Bytes reserved for bodies of requests in progress.',
    () => bodies.usedBytes,
  );
  metrics.observed(
    'lapi_unread_answer_bytes',
    'Large answers that their readers have not taken yet.',
    () => listening?.unread().bytes ?? 0,
  );
  metrics.observed(
    'lapi_unread_answers_dropped',
    'Large answers dropped with their connections since the start, because all together held too much.',
    () => listening?.unread().dropped ?? 0,
  );
  const document = createOpenApi(DOCUMENTED, VERSION);
  const broker: Broker = {
    access,
    policy: new PathPolicy(),
    keys,
    dispatch,
    lanes,
    jobs: jobs.jobs,
    schedules: schedules.schedules,
    groups: groups.groups,
    webhooks: { all: webhooks.webhooks, rules: webhooks.rules },
    images,
    devices,
    vault,
    timeline: new RedisTimeline(state, keyspace, { keepMs: timelineMs }),
    keepsTimeline: timelineMs > 0,
    liveSessions,
    registry,
    directory,
    nodes,
    pubsub,
    keyspace,
    profiles: [...createProfiles(config.profileOverrides).keys()],
    allowWeakSecrets: config.LAPI_ALLOW_WEAK_SECRETS,
    directBodyBytes: config.LAPI_DIRECT_BODY_BYTES,
    apiBodyBytes: config.LAPI_API_BODY_BYTES,
    bodies,
    documents: {
      openapi: JSON.stringify(document),
      asyncapi: JSON.stringify(createAsyncApi(VERSION)),
      eventSchema: JSON.stringify(eventJsonSchema()),
      html: renderDocsPage(document),
    },
    nowMs: () => clock.nowMs(),
    ready: readiness,
  };

  let requests = 0;
  const listen = async (): Promise<void> => {
    const server = createServer({
      host: config.LAPI_API_HOST,
      port: config.LAPI_API_PORT,
      headers: API_HEADERS,
      maxPlainConnections: LIMITS.connections,
      onError: (error) => log.error({ err: error }, 'http.handler_failed'),
    });
    const observer: ApiObserver = {
      answered: counts.answered,
      newRequestId: () => {
        requests += 1;
        return `${instance}-${requests.toString(36)}`;
      },
      leaving: () => leaving,
      defect: (error, requestId, route) => {
        counts.defects.inc();
        log.error({ err: error, requestId, route }, 'request.failed');
      },
    };
    connections = registerApi(server, broker, observer, { feed, clock });
    listening = await server.listen();
  };

  const probes = createProbes({
    host: config.LAPI_PROBE_HOST,
    port: config.LAPI_PROBE_PORT,
    live: () => true,
    ready: readiness,
    metrics,
  });

  const parts: readonly Part[] = [
    probes,
    {
      name: 'store',
      start: async () => {
        await Promise.all([state, submits, appends, consumers].map((each) => ready(each, CONNECT_DEADLINE_MS)));
        await checkMeta(state, keyspace);
        if (config.LAPI_API_KEY !== undefined) await storeBootstrapKey(keys, config.LAPI_API_KEY, clock.nowMs());
      },
      stop: async () => {
        await Promise.all([state, submits, appends, consumers].map((each) => closeConnection(each)));
      },
    },
    { name: 'stream', stop: () => stream.stop() },
    { name: 'bus', stop: () => pubsub.stop() },
    time,
    storeMemory,
    retention,
    imageRetention,
    reaper,
    nodes,
    ...lanes.parts,
    ...jobs.parts,
    ...schedules.parts,
    dispatch,
    liveSessions,
    lanes.waits,
    feed,
    ...groups.parts,
    ...webhooks.parts,
    ...sinks,
    {
      name: 'api',
      start: listen,
      drain: () => listening?.stopListening(),
      stop: () => listening?.close(),
    },
    // Before the feed, which it makes close its subscribers, and before the server, which would cut them.
    {
      name: 'event connections',
      drain: (deadlineMs) => connections?.drain(deadlineMs),
      stop: () => connections?.stop(),
    },
    {
      name: 'service',
      start: () => log.info({ instance, port: listening?.port, probePort: probes.port }, 'service.ready'),
      drain: () => {
        leaving = true;
      },
    },
  ];
  return {
    lifecycle: new Lifecycle(parts, log),
    ports: () => ({ api: listening?.port ?? 0, probe: probes.port }),
  };
}
