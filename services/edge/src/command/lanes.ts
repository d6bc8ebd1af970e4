/** The lanes of all devices of this node, and what they share: one connection, one barrier, the journal of ends, the memory of what was written.
 *  Woken by a hint from a command service, by a claim or re-claim that finds the lanes busy, and after every gap of the inbox; each session
 *  with work has a LaneRunner, all others cost nothing.
 *  A connection of their own, because WAIT holds up what is behind it, and because what is asked on it in order runs in order.
 *  Stop: what ended is told to the store before the connection closes. Store away: lane-runner.ts, lane-journal.ts. */

import type { PubSub } from '@lapi-broker/bus';
import {
  type BeginResult,
  type BegunCommand,
  type EndedCommand,
  type LaneName,
  RedisLaneStore,
} from '@lapi-broker/lane';
import { type CommandId, type DeviceCode, encodeEndedFrame } from '@lapi-broker/protocol';
import {
  type ConnectionEvent,
  closeConnection,
  type Keyspace,
  masterOf,
  openConnection,
  parseRedisUrl,
  type RedisClock,
  type RedisConnection,
  ReplicaBarrier,
  ready,
} from '@lapi-broker/redis';
import type { Part } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import type { EdgeConfig } from '../config.ts';
import type { Session } from '../device/session.ts';
import {
  BEGIN_NOT_AFTER_MS,
  HEARD_END_MS,
  MASTERS_LOOK_MS,
  MAX_HEARD_BYTES,
  MAX_HEARD_ENDS,
  MAX_UNHEARD_BYTES,
  MAX_UNHEARD_ENDS,
  UNHEARD_END_MS,
} from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import { AttemptMemory } from './attempt-memory.ts';
import { type AttemptReport, LaneJournal } from './lane-journal.ts';
import { type LaneHost, LaneRunner, type LaneSession } from './lane-runner.ts';

const COMMAND_TIMEOUT_MS = 2_000;
const CONNECT_DEADLINE_MS = 15_000;

export interface LanesOptions {
  readonly config: EdgeConfig;
  readonly keyspace: Keyspace;
  readonly pubsub: PubSub;
  readonly redisClock: RedisClock;
  readonly monotonicMs: () => number;
  /** The fence (D8). */
  readonly mayWrite: (session: LaneSession) => boolean;
  /** Compares the session with the registry. */
  readonly check: (code: DeviceCode) => void;
  readonly metrics: EdgeMetrics;
  readonly onEvent: ConnectionEvent;
  readonly log: Log;
}

export class Lanes implements LaneHost, Part {
  readonly name = 'lanes';
  readonly window: number;
  private readonly options: LanesOptions;
  private readonly connection: RedisConnection;
  private readonly store: RedisLaneStore;
  private readonly barrier: ReplicaBarrier;
  private readonly journal: LaneJournal;
  private readonly written = new AttemptMemory();
  private readonly steps = new Set<Promise<void>>();
  private masters = '';
  private mastersLookMs = 0;

  constructor(options: LanesOptions) {
    this.options = options;
    const { config, keyspace, monotonicMs, metrics, onEvent, log } = options;
    const url = config.REDIS_URL;
    const isReplicated = parseRedisUrl(url).kind !== 'standalone';
    this.window = config.LAPI_LANE_WINDOW;
    this.connection = openConnection({ url, commandTimeoutMs: COMMAND_TIMEOUT_MS }, 'state', (event, facts) => {
      onEvent(event, facts);
      if (event === 'redis.ready') this.journal.tellAgain();
    });
    this.store = new RedisLaneStore(this.connection, keyspace, {
      keepMs: config.LAPI_COMMAND_KEEP_SECONDS * 1_000,
    });
    this.barrier = new ReplicaBarrier(this.connection, config.LAPI_CONFIRM_COMMANDS === 'auto' && isReplicated);
    const ended = (command: EndedCommand): void => this.tell(command);
    const unheard = { ends: MAX_UNHEARD_ENDS, bytes: MAX_UNHEARD_BYTES, ageMs: UNHEARD_END_MS };
    const heard = { ends: MAX_HEARD_ENDS, bytes: MAX_HEARD_BYTES, ageMs: HEARD_END_MS };
    this.journal = new LaneJournal({ line: this.store, unheard, heard, monotonicMs, ended, metrics, log });
  }

  async start(): Promise<void> {
    await ready(this.connection, CONNECT_DEADLINE_MS);
  }

  async stop(): Promise<void> {
    await Promise.all(this.steps);
    await this.journal.stop();
    await closeConnection(this.connection);
  }

  /** A command may wait for this device, in this lane or in any. */
  wake(session: Session, lane?: LaneName): void {
    session.lanes ??= new LaneRunner(this, session);
    session.lanes.wake(lane);
  }

  look(nowMs: number): void {
    if (nowMs >= this.mastersLookMs) {
      this.mastersLookMs = nowMs + MASTERS_LOOK_MS;
      const masters = this.masterNames();
      // A Cluster replaces one master without a word to its connections.
      if (masters !== this.masters && this.masters !== '') this.journal.tellAgain();
      this.masters = masters;
    }
    this.journal.look(nowMs);
    this.options.metrics.laneUnheard.set(this.journal.size);
  }

  monotonicMs(): number {
    return this.options.monotonicMs();
  }

  mayBegin(session: LaneSession): boolean {
    return this.options.mayWrite(session) && this.options.pubsub.trustworthy();
  }

  async begin({ code, node, epoch }: LaneSession, lane: LaneName): Promise<BeginResult | { status: 'unavailable' }> {
    const { redisClock, metrics, log } = this.options;
    try {
      const notAfterMs = redisClock.nowMs() + BEGIN_NOT_AFTER_MS;
      const result = await this.store.begin({ code, lane, node, epoch, window: this.window, notAfterMs });
      metrics.laneBegins.inc({ result: result.status });
      if ('ended' in result) for (const command of result.ended) this.tell(command);
      return result;
    } catch (error) {
      metrics.laneBegins.inc({ result: 'unavailable' });
      log.debug({ err: error, code }, 'lane.begin_failed');
      return { status: 'unavailable' };
    }
  }

  confirmed(code: DeviceCode): Promise<boolean> {
    return this.barrier.confirm(this.options.keyspace.lane(code));
  }

  hasWritten({ id, attempt, writes }: BegunCommand): boolean {
    return this.written.has(id, attempt, writes);
  }

  wrote(id: CommandId, attempt: number): void {
    this.written.wrote(id, attempt);
  }

  report(report: AttemptReport): void {
    this.journal.report(report);
  }

  waitFor(step: Promise<void>): void {
    this.steps.add(step);
    void step.finally(() => this.steps.delete(step));
  }

  fenced(session: LaneSession): void {
    this.options.check(session.code);
  }

  count(event: 'end' | 'give_back', name: string): void {
    const { metrics } = this.options;
    if (event === 'end') metrics.laneEnds.inc({ outcome: name });
    else metrics.laneGiveBacks.inc({ reason: name });
  }

  private masterNames(): string {
    const { keyspace } = this.options;
    const names = Array.from({ length: keyspace.shards }, (_, shard) => masterOf(this.connection, keyspace.due(shard)));
    return [...new Set(names)].sort().join();
  }

  /** A hint to the process that waits for the end: at most once. */
  private tell({ id, replyTo }: EndedCommand): void {
    const { pubsub, keyspace } = this.options;
    if (replyTo !== undefined) void pubsub.publish(keyspace.reply(replyTo), encodeEndedFrame(id));
  }
}
