/** Puts together what a command process needs for lanes: which part needs which, and in what order they start. Nothing is decided here. */

import type { PubSub } from '@lapi-broker/bus';
import { type LaneIntake, RedisLaneStore } from '@lapi-broker/lane';
import type { CommandId, DeviceCode, InstanceId } from '@lapi-broker/protocol';
import { openWorkQueue } from '@lapi-broker/queue';
import {
  type ConnectionEvent,
  type Keyspace,
  parseRedisUrl,
  type RedisClock,
  type RedisConnection,
  ReplicaBarrier,
} from '@lapi-broker/redis';
import type { Part } from '@lapi-broker/runtime';
import type { Metrics } from '@lapi-broker/telemetry';
import { customAlphabet } from 'nanoid';
import type { CommandConfig } from '../config.ts';
import type { Dispatch } from '../dispatch/dispatch.ts';
import { LIMITS } from '../limits.ts';
import { LaneHints } from './hints.ts';
import { createLaneMetrics } from './metrics.ts';
import { QueuedCommands } from './queued-commands.ts';
import { RecordedCalls } from './recorded-calls.ts';
import { Tender } from './tender.ts';
import { Waiters } from './waiters.ts';
import { StoreWaitingCount } from './waiting-count.ts';

export interface LaneWiring {
  readonly config: CommandConfig;
  readonly state: RedisConnection;
  /** Of its own for what a replica has to confirm, because waiting for it holds up what is behind. */
  readonly submits: RedisConnection;
  readonly keyspace: Keyspace;
  readonly pubsub: PubSub;
  readonly time: RedisClock;
  readonly instance: InstanceId;
  readonly dispatch: Pick<Dispatch, 'call'>;
  readonly metrics: Metrics;
  /** True while the store has too little memory for new work. */
  readonly storeFull: () => boolean;
  readonly onEvent: ConnectionEvent;
  readonly monotonicMs: () => number;
}

export interface Lanes {
  /** For jobs, schedules and routes. */
  readonly commands: QueuedCommands;
  readonly calls: RecordedCalls;
  readonly history: LaneIntake['history'];
  /** Does now what is due in the lanes of a device. */
  tend(code: DeviceCode): Promise<void>;
  /** For the reply channel: an ENDED frame came. */
  onEnded(id: CommandId): void;
  /** To start after the store and its time, in this order. */
  readonly parts: readonly Part[];
  /** Requests that wait for an end; to be drained before the calls in progress, which they would outlive. */
  readonly waits: Part;
}

const TIMER_TIMEOUT_MS = 2_000;
const TIMER_CONCURRENCY = 32;
const PENDING_TIMERS = 1_000;
const QUEUE = 'lane';

export function createLanes(wiring: LaneWiring): Lanes {
  const {
    config,
    state,
    submits,
    keyspace,
    pubsub,
    time,
    instance,
    dispatch,
    metrics,
    storeFull,
    onEvent,
    monotonicMs,
  } = wiring;
  const redis = { url: config.REDIS_URL, commandTimeoutMs: TIMER_TIMEOUT_MS };
  const options = {
    keepMs: config.LAPI_COMMAND_KEEP_SECONDS * 1_000,
  };
  const store = new RedisLaneStore(state, keyspace, options);
  const submitting = new RedisLaneStore(submits, keyspace, options);
  const replicated = config.LAPI_CONFIRM_COMMANDS === 'auto' && parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const barrier = new ReplicaBarrier(submits, replicated);
  const intake: LaneIntake = {
    submit: (...args) => submitting.submit(...args),
    queueDirect: (...args) => submitting.queueDirect(...args),
    settleDirect: (...args) => submitting.settleDirect(...args),
    cancel: (...args) => submitting.cancel(...args),
    read: (id) => store.read(id),
    readBody: (id) => store.readBody(id),
    readStates: (ids) => store.readStates(ids),
    history: (...args) => store.history(...args),
    tend: (code) => store.tend(code),
    due: (...args) => store.due(...args),
    waiting: () => store.waiting(),
  };

  const counts = createLaneMetrics(metrics);
  const waiters = new Waiters({
    read: (id) => store.read(id),
    readStates: (ids) => store.readStates(ids),
    monotonicMs,
    limit: LIMITS.waiters,
  });
  const waiting = new StoreWaitingCount(() => store.waiting(), LIMITS.waitingMs);
  const timers = openWorkQueue({
    redis,
    name: QUEUE,
    prefix: keyspace.queue(QUEUE),
    concurrency: TIMER_CONCURRENCY,
    handler: (id) => tender.onTimer(id),
    onEvent,
  });
  const hints = new LaneHints({
    instance,
    keyspace,
    pubsub,
    timers: { ask: (code, atMs) => tender.ask(code, atMs) },
    onEnded: (id) => waiters.ended(id),
  });
  const tender = new Tender({
    intake: store,
    shards: keyspace.shards,
    hints,
    addTimer: (id, after) => timers.add(id, after),
    time,
    random: Math.random,
    limits: {
      sweepMs: LIMITS.tendMs,
      batch: LIMITS.tendBatch,
      concurrency: LIMITS.tendConcurrency,
      pendingTimers: PENDING_TIMERS,
    },
    onTended: (by, { ended }) => {
      counts.tended.inc({ by });
      for (const { state: to } of ended) counts.endedByTime.inc({ state: to });
    },
    onFailure: () => counts.failedSweeps.inc(),
  });
  const lane = { commands: config.LAPI_LANE_COMMANDS, bytes: config.LAPI_LANE_BYTES };
  const confirm = (key: string): Promise<boolean> => barrier.confirm(key);
  const commands = new QueuedCommands({
    intake,
    keyspace,
    time,
    instance,
    confirm,
    hints,
    waiters,
    storeFull,
    waiting,
    limits: { lane, waitingCommands: config.LAPI_WAITING_COMMANDS },
    random: customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 20),
    onSubmitted: (result) => counts.submitted.inc({ result }),
  });
  const calls = new RecordedCalls({
    commands,
    intake,
    dispatch,
    hints,
    waiters,
    lane,
    time,
    confirm: (code) => confirm(keyspace.device(code)),
  });
  metrics.observed(
    'lapi_commands_waiting',
    'Commands that wait in lanes, of the whole installation.',
    () => waiting.value,
  );
  metrics.observed('lapi_command_waiters', 'Requests that wait for the end of a recorded command.', () => waiters.size);

  return {
    commands,
    calls,
    history: (...args) => store.history(...args),
    tend: (code) => tender.tend(code),
    onEnded: (id) => waiters.ended(id),
    parts: [waiting, { name: 'lane timers', start: () => timers.start(), stop: () => timers.stop() }, tender, calls],
    waits: waiters,
  };
}
