/** Puts an edge node together: which part needs which, and in what order they start. Nothing is decided here.
 *  Start: probes → stores → device listener → lease and inbox. Stop runs backwards; a drain closes the devices first. */

import { randomBytes } from 'node:crypto';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { RedisEventStream, RedisPubSub } from '@lapi-broker/bus';
import { createProfiles, createSecretVault, RedisDeviceStore } from '@lapi-broker/device';
import { openImageStore } from '@lapi-broker/image';
import { type ControlMessage, createNonceIssuer, encodeControlFrame, encodeShownFrame } from '@lapi-broker/protocol';
import {
  checkMeta,
  closeConnection,
  createKeyspace,
  openConnection,
  parseRedisUrl,
  RedisClock,
  type RedisConnection,
  ReplicaBarrier,
  ready,
  StoreMemory,
} from '@lapi-broker/redis';
import { type NodeLoad, type OfflineReason, RedisNodeDirectory, RedisOwnerRegistry } from '@lapi-broker/routing';
import { Lifecycle, type Part, systemClock } from '@lapi-broker/runtime';
import { createMetrics, createProbes, type Log } from '@lapi-broker/telemetry';
import { encodeSession, RedisTimeline, type SessionEntry } from '@lapi-broker/timeline';
import { Inbox } from './command/inbox.ts';
import { Lanes } from './command/lanes.ts';
import type { EdgeConfig } from './config.ts';
import { AdmissionBucket } from './device/admission.ts';
import { Conversation } from './device/conversation.ts';
import { CredentialCache, fingerprint } from './device/credentials.ts';
import { Departures } from './device/departures.ts';
import { FailureLog } from './device/failures.ts';
import { Handshake } from './device/handshake.ts';
import { DeviceListener } from './device/listener.ts';
import type { Session, SessionHost } from './device/session.ts';
import { SessionTable } from './device/session-table.ts';
import { Wheel } from './device/wheel.ts';
import { Drain } from './drain.ts';
import { Outbox } from './event/outbox.ts';
import { Pictures } from './event/pictures.ts';
import { FRAME_LOG_BYTES, LEASE_BEAT_MS, MAX_REMEMBERED_FAILURES, STORE_MEMORY_LOOK_MS } from './limits.ts';
import { createEdgeMetrics } from './metrics.ts';
import { Rebalance } from './rebalance.ts';
import { Crossings } from './route/crossing.ts';
import { Isolation } from './route/isolation.ts';
import { Ownership } from './route/ownership.ts';
import { FrameLog } from './timeline/frame-log.ts';
import { sessionEntryOf } from './timeline/session-entry.ts';
import { TimelineWriter } from './timeline/writer.ts';

/** Registry calls and lease renewals: two of them fit into the deadline of a registration (H12). */
const STATE_TIMEOUT_MS = 2_000;
/** Events: the store has until the deadline of V3. */
const EVENT_TIMEOUT_MS = 5_000;
const CONNECT_DEADLINE_MS = 15_000;
const TICK_MS = 50;
const LOOP_RESOLUTION_MS = 20;
const RANDOM_POOL_BYTES = 4_096;
const VERSION = '0.1.0';

export function createEdge(config: EdgeConfig, log: Log): Lifecycle {
  const clock = systemClock;
  const monotonicMs = (): number => clock.monotonicMs();
  const onEvent = (event: string, facts: Record<string, unknown>): void => {
    if (event === 'redis.error' || event === 'redis.closed' || event === 'redis.evicts') log.warn(facts, event);
    else log.info(facts, event);
  };

  const url = config.REDIS_URL;
  const state = openConnection({ url, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  // Apart from the leases, because WAIT holds up what is behind it (I2).
  const claims = openConnection({ url, commandTimeoutMs: STATE_TIMEOUT_MS }, 'state', onEvent);
  const replicated = parseRedisUrl(url).kind !== 'standalone';
  const barrier = new ReplicaBarrier(claims, config.LAPI_CONFIRM_CLAIMS === 'auto' && replicated);
  // Apart from the leases, so that neither megabytes of pictures nor WAIT ever delay a renewal. Carries only appends.
  const eventState = openConnection({ url, commandTimeoutMs: EVENT_TIMEOUT_MS }, 'state', onEvent);
  const keyspace = createKeyspace(config.LAPI_KEY_PREFIX, config.LAPI_SHARDS);
  const redisClock = new RedisClock(monotonicMs);
  const registry = new RedisOwnerRegistry(claims, keyspace);
  const directory = new RedisNodeDirectory(state, keyspace);
  const pubsub = new RedisPubSub({ state, onEvent });
  const stream = new RedisEventStream({
    state: eventState,
    keyspace,
    confirmed: config.LAPI_CONFIRM_EVENTS === 'auto' && replicated,
    retention: {
      maxAgeMs: config.LAPI_EVENT_RETENTION_SECONDS * 1_000,
      maxBytes: config.LAPI_EVENT_RETENTION_BYTES,
    },
    redisClock,
  });

  const metrics = createMetrics('edge');
  const counts = createEdgeMetrics(metrics);
  const sessions = new SessionTable();
  const wheel = new Wheel<Session>(TICK_MS, clock.monotonicMs());
  const pictures = new Pictures({
    store: openImageStore(config),
    stream,
    thresholdBytes: config.LAPI_IMAGE_THRESHOLD_BYTES,
    monotonicMs,
    metrics: counts,
    changed: (works, facts) => (works ? log.info(facts, 'images.stored_again') : log.warn(facts, 'images.dropped')),
  });
  const storeMemory = new StoreMemory(state, STORE_MEMORY_LOOK_MS);
  const outbox = new Outbox(pictures, counts, monotonicMs, () => storeMemory.usedPercent);
  const credentials = new CredentialCache(
    new RedisDeviceStore(state, keyspace),
    createSecretVault({
      current: Buffer.from(config.LAPI_SECRET_KEY, 'base64'),
      ...(config.LAPI_SECRET_KEY_PREVIOUS === undefined
        ? {}
        : { previous: Buffer.from(config.LAPI_SECRET_KEY_PREVIOUS, 'base64') }),
    }),
  );
  const load = loadMeter(sessions);
  const departures = new Departures((session, reason) => ownership.release(session, reason));
  const drain = new Drain({
    sessions,
    departures,
    registering: () => handshake.registering,
    announce: () => void ownership.announce(),
    delayMs: config.LAPI_DRAIN_DELAY_SECONDS * 1_000,
    spanMs: config.LAPI_DRAIN_SECONDS * 1_000,
    monotonicMs,
    redisMs: () => redisClock.nowMs(),
    random: Math.random,
    log,
  });

  const keepsTimeline = config.LAPI_TIMELINE_SECONDS > 0;
  const frames = new FrameLog(keepsTimeline ? FRAME_LOG_BYTES : 0);
  const timeline = new TimelineWriter({
    timeline: new RedisTimeline(state, keyspace, { keepMs: config.LAPI_TIMELINE_SECONDS * 1_000 }),
    monotonicMs,
    count: (result, entries) => counts.timeline.inc({ result }, entries),
  });
  /** The time of the store; before it is known, ours. */
  const storeMs = (): number => (redisClock.known ? redisClock.nowMs() : clock.nowMs());
  /** As of now, also if it is read later. */
  const entryOf = (session: Session, reason?: OfflineReason): (() => SessionEntry) => {
    const clocks = { monotonicMs: clock.monotonicMs(), redisMs: storeMs() };
    return () => sessionEntryOf(session, frames, clocks, reason);
  };

  const host: SessionHost = {
    wheel,
    metrics: counts,
    frames,
    livenessFloorMs: config.LAPI_LIVENESS_FLOOR_SECONDS * 1_000,
    monotonicMs,
    mayWrite: (session) => ownership.mayWrite(session),
    sessionEnded: (session, reason) => {
      sessions.leave(session);
      counts.sessionClosed.inc({ reason });
      if (keepsTimeline) timeline.ended(entryOf(session, reason));
      log.info({ code: session.code, session: session.id, epoch: session.epoch, reason }, 'session.closed');
      // What somebody else owns is not ours to release; the registry would refuse it (D4).
      if (reason !== 'superseded' && reason !== 'fenced') void ownership.release(session, reason);
    },
  };

  const crossings = new Crossings();
  const onControl = (message: ControlMessage): void => {
    const session = sessions.get(message.code);
    if (message.type === 'show_session') {
      const text = session === undefined ? '' : encodeSession(entryOf(session)());
      void pubsub.publish(keyspace.reply(message.replyTo), encodeShownFrame({ ask: message.ask, text }));
      return;
    }
    crossings.told(message.code);
    if (message.type === 'provisioning_changed') {
      credentials.forget(message.code);
      if (session !== undefined) ownership.checkSession(session);
      return;
    }
    if (session === undefined) return;
    if (message.type === 'lane_ready') lanes.wake(session, message.lane);
    else if (message.type === 'disconnect') session.close(1000, 'disconnected', 'disconnected');
    else if (message.epoch > session.epoch) session.close(1000, 'superseded', 'superseded');
  };

  /** After a change of provisioning: tags follow, a revoked, disabled or removed device goes (G7). */
  const recheck = async (session: Session): Promise<void> => {
    const fresh = await credentials.read(session.code, clock.monotonicMs());
    if (!session.isOpen) return;
    const active =
      fresh?.enabled === true && fresh.secrets.some((secret) => fingerprint(secret) === session.secretFingerprint);
    if (!active) session.close(1008, 'revoked', 'revoked');
    else session.tags = fresh.tags;
  };

  const lanes = new Lanes({
    config,
    keyspace,
    pubsub,
    redisClock,
    monotonicMs,
    mayWrite: (session) => ownership.mayWrite(session),
    check: (code) => {
      const session = sessions.get(code);
      if (session !== undefined) ownership.checkSession(session);
    },
    metrics: counts,
    onEvent,
    log,
  });
  const inbox = new Inbox({
    pubsub,
    keyspace,
    sessions,
    redisClock,
    monotonicMs,
    onControl,
    onGap: () => void ownership.checkSessions(),
    metrics: counts,
    log,
  });
  const ownership: Ownership = new Ownership({
    nodeName: config.LAPI_NODE_NAME,
    address: () => config.LAPI_PUBLIC_ADDRESS || `${config.LAPI_DEVICE_HOST}:${listener.port}`,
    version: VERSION,
    registry,
    directory,
    redisClock,
    clock,
    sessions,
    metrics: counts,
    log,
    status: () => {
      const { phase, progress } = drain;
      return { ...load.read(), phase, ...(progress === undefined ? {} : { drain: progress }) };
    },
    asked: (ask) => drain.hear(ask),
    checkProvisioning: recheck,
    lookAtLanes: (session) => lanes.wake(session),
    tellSuperseded: async (node, code, epoch) => {
      const frame = encodeControlFrame({ type: 'superseded', code, epoch });
      return (await pubsub.publish(keyspace.inbox(node), frame)).status !== 'not_sent';
    },
    listenAs: (node) => inbox.listenAs(node),
  });
  const handshake = new Handshake({
    nonces: createNonceIssuer({
      currentKey: Buffer.from(config.LAPI_NONCE_KEY, 'base64'),
      ...(config.LAPI_NONCE_KEY_PREVIOUS === undefined
        ? {}
        : { previousKey: Buffer.from(config.LAPI_NONCE_KEY_PREVIOUS, 'base64') }),
      ttlS: config.LAPI_NONCE_TTL_SECONDS,
    }),
    nonceTtlMs: config.LAPI_NONCE_TTL_SECONDS * 1_000,
    randomBytes: randomPool(),
    random: Math.random,
    challengeShape: config.LAPI_CHALLENGE_SHAPE,
    profiles: createProfiles(config.profileOverrides),
    credentials,
    admission: new AdmissionBucket(config.LAPI_REGISTRATIONS_PER_SECOND, clock.monotonicMs()),
    failures: new FailureLog({
      beforeDelay: config.LAPI_FAILURES_BEFORE_DELAY,
      beforeRefusal: config.LAPI_FAILURES_BEFORE_REFUSAL,
      capacity: MAX_REMEMBERED_FAILURES,
    }),
    registry,
    claimConfirmed: (code) => barrier.confirm(keyspace.device(code)),
    ownership,
    lookAtLanes: (session) => lanes.wake(session),
    crossings,
    sessions,
    maxSessions: config.LAPI_MAX_SESSIONS,
    host,
    redisClock,
    clock,
    draining: () => drain.refuses,
    refused: (code, reason, address) => {
      if (!keepsTimeline) return;
      const known = credentials.remembered(code, clock.monotonicMs()) !== undefined;
      timeline.refused({ code, reason, address, node: config.LAPI_NODE_NAME, atMs: storeMs(), known });
    },
    metrics: counts,
    log,
  });
  const conversation = new Conversation({
    host,
    outbox,
    pictures,
    clock,
    random: Math.random,
    subscriptionChanged: (session, view) => {
      registry
        .annotate(session.code, session.node, session.epoch, JSON.stringify(view))
        .catch((error: unknown) => log.debug({ err: error }, 'subscription.not_recorded'));
    },
    metrics: counts,
    log,
  });
  const { LAPI_DEVICE_TLS_CERT: certFile, LAPI_DEVICE_TLS_KEY: keyFile } = config;
  const listener = new DeviceListener({
    server: {
      host: config.LAPI_DEVICE_HOST,
      port: config.LAPI_DEVICE_PORT,
      maxPlainConnectionsPerAddress: config.LAPI_CONNECTIONS_PER_ADDRESS,
      proxies: config.LAPI_TRUSTED_PROXIES,
      maxPlainConnections: config.LAPI_UNAUTHENTICATED_CONNECTIONS,
      ...(certFile !== undefined && keyFile !== undefined ? { tls: { certFile, keyFile } } : {}),
    },
    handshake,
    conversation,
    sessions,
    monotonicMs,
    metrics: counts,
    log,
  });
  const probes = createProbes({
    host: config.LAPI_PROBE_HOST,
    port: config.LAPI_PROBE_PORT,
    nodeName: config.LAPI_NODE_NAME,
    live: () => true,
    ready: () => (drain.phase === 'draining' ? 'draining' : listener.port === 0 ? 'starting' : ownership.readiness()),
    metrics,
  });

  const isolation = new Isolation({
    nodeName: config.LAPI_NODE_NAME,
    peers: config.LAPI_PEER_PROBES,
    leaseAgeMs: () => ownership.leaseAgeMs,
    sessions,
    clock,
    random: Math.random,
    onShed: (devices) => counts.isolationShed.inc(devices),
    log,
  });

  const rebalance = new Rebalance({
    directory,
    sessions,
    departures,
    node: () => ownership.node,
    mayShed: () => config.LAPI_REBALANCE === 'auto' && ownership.mayClaim && drain.phase === 'serving',
    monotonicMs,
    random: Math.random,
    metrics: counts,
    log,
  });

  const parts: readonly Part[] = [
    probes,
    connectionPart('store', [state, claims, eventState], async () => {
      await Promise.all([state, claims, eventState].map((connection) => ready(connection, CONNECT_DEADLINE_MS)));
      await checkMeta(state, keyspace);
    }),
    storeMemory,
    // Stops after everything that ends sessions.
    timeline,
    { name: 'stream', stop: () => stream.stop() },
    pictures,
    { name: 'bus', stop: () => pubsub.stop() },
    lanes,
    { name: 'inbox', stop: () => inbox.stop() },
    // Before the lease, which announces its port; registrations get 503 until the lease is held.
    listener,
    ownership,
    isolation,
    ticker(() => {
      const nowMs = clock.monotonicMs();
      wheel.advance(nowMs, (session, now) => session.look(now));
      outbox.look(nowMs);
      timeline.look(nowMs);
      lanes.look(nowMs);
      departures.look(nowMs, drain.endsMs);
      drain.look(nowMs);
      rebalance.look(nowMs);
      counts.sessions.set(sessions.size);
      counts.unstoredBytes.set(outbox.unstored.bytes);
    }),
    load,
    {
      name: 'sessions',
      drain: (deadlineMs) => drain.leave(deadlineMs),
      stop: async () => {
        drain.stop();
        listener.stopListening();
        for (const session of [...sessions.values()]) session.close(1001, 'node stopping', 'draining');
        await ownership.settled();
      },
    },
    {
      name: 'service',
      start: () => log.info({ node: ownership.node, port: listener.port, probePort: probes.port }, 'service.ready'),
    },
  ];
  return new Lifecycle(parts, log);
}

/** Random bytes for nonces, fetched from the system in larger pieces: asking it for six bytes at a time costs ten times as much. Each byte is
 *  given out once. */
function randomPool(): (count: number) => Buffer {
  let pool = Buffer.alloc(0);
  let used = 0;
  return (count) => {
    if (count > RANDOM_POOL_BYTES) return randomBytes(count);
    if (used + count > pool.length) {
      pool = randomBytes(RANDOM_POOL_BYTES);
      used = 0;
    }
    used += count;
    return pool.subarray(used - count, used);
  };
}

function connectionPart(name: string, connections: readonly RedisConnection[], start: () => Promise<void>): Part {
  return {
    name,
    start,
    stop: async () => {
      await Promise.all(connections.map((connection) => closeConnection(connection)));
    },
  };
}

/** Ticks after the poll phase, so that what devices sent while the process was paused is read before anybody is taken for silent. */
function ticker(tick: () => void): Part {
  let timer: NodeJS.Timeout | undefined;
  let due: NodeJS.Immediate | undefined;
  const run = (): void => {
    due = undefined;
    tick();
  };
  return {
    name: 'wheel',
    start: () => {
      timer = setInterval(() => {
        due ??= setImmediate(run);
      }, TICK_MS);
    },
    stop: () => {
      clearInterval(timer);
      clearImmediate(due);
    },
  };
}

/** Event loop delay and session count since the last beat. */
function loadMeter(sessions: SessionTable): Part & { read(): NodeLoad } {
  const delay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  let last = 0;
  return {
    name: 'load',
    start: () => {
      delay.enable();
    },
    stop: () => {
      delay.disable();
    },
    read: () => {
      // The histogram holds the length of its own timer too.
      const loopLagMs = Math.max(0, Math.round(delay.percentile(99) / 1e6 - LOOP_RESOLUTION_MS));
      delay.reset();
      const opened = sessions.opened;
      const registrations = Math.round(((opened - last) * 1_000) / LEASE_BEAT_MS);
      last = opened;
      return { sessions: sessions.size, registrations, loopLagMs };
    },
  };
}
