/** Puts together what a command process needs for durable groups: which part needs which, and in what order they start. Nothing is decided here. */

import type { EventStream } from '@lapi-broker/bus';
import { guarded, type Keyspace, parseRedisUrl, type RedisConnection, ReplicaBarrier } from '@lapi-broker/redis';
import type { Part } from '@lapi-broker/runtime';
import type { Log, Metrics } from '@lapi-broker/telemetry';
import { customAlphabet } from 'nanoid';
import type { CommandConfig } from '../config.ts';
import type { EventFeed } from '../event/event-feed.ts';
import type { EventSink } from '../event/event-sink.ts';
import type { EventFilter } from '../event/filter.ts';
import type { Groups } from './group.ts';
import { showGroups } from './group-metrics.ts';
import { GroupWatch } from './group-watch.ts';
import { RedisGroups } from './redis-groups.ts';

export interface GroupWiring {
  readonly config: CommandConfig;
  /** Carries the scripts of groups; a new group waits here for a replica. */
  readonly state: RedisConnection;
  readonly keyspace: Keyspace;
  readonly stream: Pick<EventStream, 'read'>;
  readonly feed: EventFeed;
  /** Of this process, for the lock of the watch. */
  readonly instance: string;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly monotonicMs: () => number;
}

export interface GroupParts {
  readonly groups: Groups;
  /** To start after the feed. */
  readonly parts: readonly Part[];
}

const WATCH_MS = 10_000;
/** The turn of a process that died ends after this. */
const TURN_MS = 30_000;
const ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyz';

export function createGroups(wiring: GroupWiring): GroupParts {
  const { config, state, keyspace, stream, feed, instance, metrics, log, monotonicMs } = wiring;
  const replicated = parseRedisUrl(config.REDIS_URL).kind !== 'standalone';
  const groups = new RedisGroups({
    state,
    keyspace,
    barrier: new ReplicaBarrier(state, replicated),
    stream,
    listen: (filter, onEvent) => listenTo(feed, filter, onEvent),
    groupsAllowed: config.LAPI_SUBSCRIPTIONS,
    monotonicMs,
    randomText: customAlphabet(ALPHABET),
  });
  const failures = metrics.counter('lapi_subscription_watch_failures_total', 'Looks at all subscriptions that failed.');
  const watch = new GroupWatch({
    tend: () => groups.tend(),
    progress: (name) => groups.progress(name),
    holdsTurn: async () => {
      const lock = keyspace.lock('groups');
      try {
        if ((await guarded(state.set(lock, instance, 'PX', TURN_MS, 'NX'))) === 'OK') return true;
        if ((await guarded(state.get(lock))) !== instance) return false;
        await guarded(state.pexpire(lock, TURN_MS));
        return true;
      } catch {
        return false;
      }
    },
    onFailure: (error) => {
      failures.inc();
      log.warn({ err: error }, 'group.watch_failed');
    },
    intervalMs: WATCH_MS,
  });
  showGroups(metrics, () => watch.seen, Date.now);
  const { counts } = groups;
  metrics.observed(
    'lapi_subscription_delivered',
    'Events handed out for the first time since the start.',
    () => counts.delivered,
  );
  metrics.observed(
    'lapi_subscription_redelivered',
    'Events handed out again since the start.',
    () => counts.redelivered,
  );
  metrics.observed('lapi_subscription_acknowledged', 'Events acknowledged since the start.', () => counts.acknowledged);
  metrics.observed('lapi_subscription_gaps', 'Gaps handed out since the start.', () => counts.gaps);
  const consumers: Part = {
    name: 'groups',
    start: async () => undefined,
    drain: async () => groups.stop(),
    stop: async () => groups.stop(),
  };
  return { groups, parts: [consumers, watch] };
}

/** Only wakes up: what there is, the group reads itself. Never rejects, because without it a look every half a second does. */
async function listenTo(feed: EventFeed, filter: EventFilter, onEvent: () => void): Promise<(() => void) | undefined> {
  const sink: EventSink = {
    event: onEvent,
    gap: onEvent,
    heartbeat: () => undefined,
    flush: () => undefined,
    waitingBytes: () => 0,
    waitingMessages: () => 0,
    closed: onEvent,
  };
  try {
    await feed.open();
    const subscription = feed.join(filter, { from: 'now' }, sink);
    return () => subscription.close();
  } catch {
    return undefined;
  }
}
