/** Puts together what a command process needs for jobs: which part needs which, and in what order they start. Nothing is decided here. */

import type { EventStream } from '@lapi-broker/bus';
import type { DeviceStore } from '@lapi-broker/device';
import { openWorkQueue } from '@lapi-broker/queue';
import {
  type ConnectionEvent,
  type Keyspace,
  parseRedisUrl,
  type RedisClock,
  type RedisConnection,
  ReplicaBarrier,
} from '@lapi-broker/redis';
import type { OwnerRegistry } from '@lapi-broker/routing';
import type { Part } from '@lapi-broker/runtime';
import type { Log, Metrics } from '@lapi-broker/telemetry';
import { customAlphabet } from 'nanoid';
import type { CommandConfig } from '../config.ts';
import { createAnnouncer } from '../event/announcer.ts';
import type { Lanes } from '../lane/parts.ts';
import type { NodeWatch } from '../node/node-watch.ts';
import { JobEvents } from './job-events.ts';
import { JobRunner } from './job-runner.ts';
import { Jobs } from './jobs.ts';
import { RedisJobStore } from './redis-job-store.ts';

export interface JobWiring {
  readonly config: CommandConfig;
  readonly state: RedisConnection;
  /** Carries what is accepted and may have to be confirmed by a replica, because waiting for one holds up everything behind it. */
  readonly submits: RedisConnection;
  readonly keyspace: Keyspace;
  readonly stream: Pick<EventStream, 'append'>;
  readonly registry: Pick<OwnerRegistry, 'lookUp'>;
  readonly nodes: Pick<NodeWatch, 'liveness' | 'refresh'>;
  readonly devices: Pick<DeviceStore, 'get' | 'list'>;
  readonly lanes: Pick<Lanes, 'commands'>;
  /** True while the store has too little memory for new work. */
  readonly storeFull: () => boolean;
  readonly time: RedisClock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly onEvent: ConnectionEvent;
}

export interface JobParts {
  readonly jobs: Jobs;
  /** To start after the lanes, in this order. */
  readonly parts: readonly Part[];
}

const QUEUE = 'job';
const COMMAND_TIMEOUT_MS = 2_000;

export function createJobs(wiring: JobWiring): JobParts {
  const { config, state, submits, keyspace, stream, registry, nodes, devices, lanes, storeFull, time } = wiring;
  const { metrics, log, onEvent } = wiring;
  const activeJobs = config.LAPI_JOBS_ACTIVE;
  const redis = { url: config.REDIS_URL, commandTimeoutMs: COMMAND_TIMEOUT_MS };
  const options = { activeJobs, keptJobs: config.LAPI_JOBS_KEPT };
  const store = new RedisJobStore(state, keyspace, options);
  const replicated = config.LAPI_CONFIRM_COMMANDS === 'auto' && parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const barrier = new ReplicaBarrier(submits, replicated);
  const nowMs = (): number => time.nowMs();
  const events = new JobEvents(
    createAnnouncer({ stream, nowMs, onFailure: (error) => log.warn({ err: error }, 'job.event_lost') }),
  );
  const failures = metrics.counter('lapi_job_turns_failed_total', 'Turns of jobs that failed; each comes again.');
  const turns = openWorkQueue({
    redis,
    name: QUEUE,
    prefix: keyspace.queue(QUEUE),
    // A job that is carried out keeps its place for seconds, and each active one should find one somewhere.
    concurrency: Math.min(activeJobs, 200),
    handler: (turn, signal) => runner.take(turn, signal),
    onEvent,
  });
  const tell: JobEvents['tell'] = (event, job) => events.tell(event, job);
  const runner = new JobRunner({
    bench: store,
    catalogue: store,
    commands: lanes.commands,
    registry,
    nodes,
    keyspace,
    time,
    recordsKeptMs: config.LAPI_COMMAND_KEEP_SECONDS * 1_000,
    tell,
    addTurn: (turn, delayMs) => turns.add(turn, { delayMs }),
    onFailure: (job, error) => {
      failures.inc();
      log.warn({ job, err: error }, 'job.turn_failed');
    },
  });
  metrics.observed('lapi_jobs_running', 'Jobs that this process carries out now.', () => runner.running);
  const jobs = new Jobs({
    catalogue: new RedisJobStore(submits, keyspace, options),
    devices,
    registry,
    nodes,
    confirm: (job) => barrier.confirm(keyspace.job(job)),
    storeFull,
    nowMs,
    random: customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 20),
    nudge: (job) => runner.nudge(job),
    tell,
    activeJobs,
  });
  return {
    jobs,
    parts: [{ name: 'job turns', start: () => turns.start(), stop: () => turns.stop() }, runner],
  };
}
