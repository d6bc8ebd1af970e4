/** Puts together what a command process needs for schedules: which part needs which, and in what order they start. Nothing is decided here. */

import type { EventStream } from '@lapi-broker/bus';
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
import type { Log, Metrics } from '@lapi-broker/telemetry';
import { customAlphabet } from 'nanoid';
import type { CommandConfig } from '../config.ts';
import { createAnnouncer } from '../event/announcer.ts';
import { type CarryOutParts, carryOut } from './carry-out.ts';
import { RedisScheduleStore } from './redis-schedule-store.ts';
import { ScheduleEvents } from './schedule-events.ts';
import { ScheduleRunner } from './schedule-runner.ts';
import { Schedules } from './schedules.ts';

export interface ScheduleWiring extends CarryOutParts {
  readonly config: Pick<CommandConfig, 'REDIS_URL' | 'LAPI_SCHEDULES' | 'LAPI_CONFIRM_COMMANDS'>;
  readonly state: RedisConnection;
  /** Carries what a replica may have to confirm, because waiting for one holds up everything behind it. */
  readonly submits: RedisConnection;
  readonly keyspace: Keyspace;
  readonly stream: Pick<EventStream, 'append'>;
  readonly time: Pick<RedisClock, 'nowMs'>;
  readonly metrics: Metrics;
  readonly log: Pick<Log, 'warn'>;
  readonly onEvent: ConnectionEvent;
  /** As of ScheduleRunner. */
  readonly sweepMs?: number;
}

export interface ScheduleParts {
  readonly schedules: Schedules;
  /** To start after the lanes and the jobs, in this order. */
  readonly parts: readonly Part[];
}

const QUEUE = 'schedule';
const COMMAND_TIMEOUT_MS = 2_000;
const CONCURRENCY = 16;

export function createSchedules(wiring: ScheduleWiring): ScheduleParts {
  const { config, state, submits, keyspace, stream, time, metrics, log, onEvent, sweepMs } = wiring;
  const store = new RedisScheduleStore(state, keyspace, config.LAPI_SCHEDULES);
  const firings = metrics.counter('lapi_schedule_firings_total', 'Moments of schedules, by what became of them.', [
    'status',
  ]);
  const failures = metrics.counter(
    'lapi_schedule_failures_total',
    'Looks at a schedule, or timers for it, that failed; the next look tries again.',
  );
  const nowMs = (): number => time.nowMs();
  const events = new ScheduleEvents(
    createAnnouncer({ stream, nowMs, onFailure: (error) => log.warn({ err: error }, 'schedule.event_lost') }),
  );
  const timers = openWorkQueue({
    redis: { url: config.REDIS_URL, commandTimeoutMs: COMMAND_TIMEOUT_MS },
    name: QUEUE,
    prefix: keyspace.queue(QUEUE),
    concurrency: CONCURRENCY,
    handler: (timer, signal) => runner.onTimer(timer, signal),
    onEvent,
  });
  const runner = new ScheduleRunner({
    store,
    time,
    sweepMs,
    carryOut: (schedule, atMs) => carryOut(wiring, schedule, atMs),
    addTimer: (timer, delayMs) => timers.add(timer, { delayMs }),
    onFiring: (schedule, firing, missed) => {
      firings.inc({ status: firing.status });
      if (firing.status !== 'fired') log.warn({ schedule: schedule.id, ...firing, missed }, 'schedule.failed');
      events.tell(schedule, firing, missed);
    },
    onFailure: (schedule, error) => {
      failures.inc();
      log.warn({ schedule, err: error }, 'schedule.look_failed');
    },
  });
  const replicated = config.LAPI_CONFIRM_COMMANDS === 'auto' && parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const barrier = new ReplicaBarrier(submits, replicated);
  const schedules = new Schedules({
    store: new RedisScheduleStore(submits, keyspace, config.LAPI_SCHEDULES),
    confirm: () => barrier.confirm(keyspace.schedules()),
    nowMs: () => time.nowMs(),
    random: customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 11),
    arm: (id, atMs) => runner.arm(id, atMs),
  });
  return {
    schedules,
    parts: [{ name: 'schedule timers', start: () => timers.start(), stop: () => timers.stop() }, runner],
  };
}
