/** Brings stored events to the live subscribers of this process, each from where it left off, in the device's order, at most once (I5.2).
 *
 *  One tail over all shards, opened with the first subscriber and closed some time after the last. Each event is looked up in an index of
 *  subscribers and written as JSON once; what remains per subscriber is one filter and one buffer. Subscribers that read slower than the flow
 *  leave it, read on from the store at their own pace, and are closed with their cursor if they stay behind (subscriber.ts).
 *  Store away: subscribers stay and their heartbeats say so; everything goes on from its own place afterwards. Joining while the tail cannot be
 *  opened fails with `broker_unavailable`.
 *  Not done here: the protocols of the connections (http/stream.ts), who may listen, durable groups. */

import type { EventStream } from '@lapi-broker/bus';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import type { Clock, Part } from '@lapi-broker/runtime';
import type { StartPoint } from './cursor.ts';
import { type EventPage, type PageRequest, readEventPage } from './event-page.ts';
import type { CloseReason, EventSink } from './event-sink.ts';
import { EventTail } from './event-tail.ts';
import { FEED_LIMITS, type FeedLimits, type FeedLog } from './feed-limits.ts';
import type { EventFilter } from './filter.ts';
import { PageReader } from './page-reader.ts';
import { type FeedCommons, type FeedCounts, type ShardSet, Subscriber } from './subscriber.ts';
import { SubscriberIndex } from './subscriber-index.ts';

export interface EventFeedOptions {
  readonly stream: EventStream;
  readonly shardOf: (code: DeviceCode) => number;
  readonly clock: Clock;
  readonly log: FeedLog;
  readonly limits?: Partial<FeedLimits>;
}

export interface Subscription {
  /** Where to resume: everything up to it was given to the sink. Stays readable after the end. */
  cursor(): string;
  /** The connection took bytes that had to wait. */
  drained(): void;
  /** The peer is gone, or does not want more. Idempotent. */
  close(): void;
}

/** Drain closes subscribers in this many steps, so that they do not all arrive elsewhere at once. */
const DRAIN_STEPS = 20;
const DRAIN_MS = 5_000;

export class EventFeed implements Part {
  readonly name = 'event feed';
  /** Read by the owner's metrics. */
  readonly counts: FeedCounts = { subscribers: 0, behind: 0, delivered: 0, gaps: 0, slowClosed: 0 };
  readonly #shardOf: (code: DeviceCode) => number;
  readonly #tail: EventTail;
  readonly #commons: FeedCommons;
  readonly #subscribers = new Set<Subscriber>();
  readonly #index = new SubscriberIndex<Subscriber>();
  /** By their shards; entries leave with their last subscriber. */
  readonly #sets = new Map<string, ShardSet>();
  readonly #touched: Subscriber[] = [];
  #flushing: boolean = false;
  #state: 'serving' | 'draining' | 'stopped' = 'serving';
  #sweepTimer: NodeJS.Timeout | undefined;
  #emptySinceMs: number | undefined;

  constructor({ stream, shardOf, clock, log, limits: changed }: EventFeedOptions) {
    const limits: FeedLimits = { ...FEED_LIMITS, ...changed };
    this.#shardOf = shardOf;
    this.#tail = new EventTail(stream, clock, log, limits, {
      onEvent: (event, previous) => {
        this.#index.visit(event.record, (subscriber) => {
          if (subscriber.offer(event, previous)) this.#touched.push(subscriber);
        });
      },
      onBatchEnd: () => this.#flushSoon(),
      onMissed: (shard, from, to) => this.#forShard(shard, (each) => each.missed(shard, from, to)),
      onRewound: (shard, from, to) => this.#forShard(shard, (each) => each.rewound(shard, from, to)),
    });
    const pages = new PageReader(stream, limits);
    this.#commons = { tail: this.#tail, pages, clock, log, limits, counts: this.counts, tight: false };
  }

  get shards(): number {
    return this.#tail.shards;
  }

  get storeAway(): boolean {
    return this.#tail.storeAway;
  }

  /** Resolves once the tail is open; needed before `join`. Throws `broker_unavailable` (store away) or `node_draining`. */
  async open(): Promise<void> {
    this.#refuseUnlessServing();
    await this.#tail.open();
    this.#refuseUnlessServing();
    this.#sweepTimer ??= setInterval(() => this.#sweep(), this.#commons.limits.sweepMs);
  }

  /** Adds a subscriber in this tick: everything after `start` that passes the filter goes to the sink until either side closes. The sink is
   *  first called after this tick. Throws `broker_unavailable` when the feed is not open (any more). */
  join(filter: EventFilter, start: StartPoint, sink: EventSink): Subscription {
    this.#refuseUnlessServing();
    if (!this.#tail.isOpen) throw new BrokerError('broker_unavailable', 'the event feed is not open');
    const subscriber = new Subscriber(this.#commons, filter, this.#useSet(filter), sink, start);
    this.#subscribers.add(subscriber);
    this.#index.add(subscriber);
    this.counts.subscribers += 1;
    return {
      cursor: () => subscriber.cursor(),
      drained: () => subscriber.drained(),
      close: () => this.#end(subscriber, undefined),
    };
  }

  /** One page of what is stored, for who does not listen. Throws `broker_unavailable`. */
  page(request: PageRequest, isWanted: () => boolean): Promise<EventPage> {
    const { pages, limits } = this.#commons;
    return readEventPage(pages, this.shards, this.#shardsOf(request.filter), request, limits, isWanted);
  }

  /** Closes all subscribers with their cursors, within half the time given. */
  async drain(deadlineMs: number): Promise<void> {
    if (this.#state !== 'serving') return;
    this.#state = 'draining';
    const all = [...this.#subscribers];
    const perStep = Math.max(1, Math.ceil(all.length / DRAIN_STEPS));
    const stepMs = Math.min(deadlineMs / 2, DRAIN_MS) / DRAIN_STEPS;
    for (let at = 0; at < all.length; at += perStep) {
      for (const subscriber of all.slice(at, at + perStep)) this.#end(subscriber, 'draining');
      if (at + perStep < all.length) await new Promise((resolve) => setTimeout(resolve, stepMs));
    }
  }

  async stop(): Promise<void> {
    this.#state = 'stopped';
    clearInterval(this.#sweepTimer);
    this.#sweepTimer = undefined;
    for (const subscriber of [...this.#subscribers]) this.#end(subscriber, 'draining');
    await this.#tail.close();
  }

  #refuseUnlessServing(): void {
    if (this.#state !== 'serving') throw new BrokerError('node_draining', 'this process is leaving');
  }

  #end(subscriber: Subscriber, reason: CloseReason | undefined): void {
    if (!this.#subscribers.delete(subscriber)) return;
    this.#index.remove(subscriber);
    this.counts.subscribers -= 1;
    if (reason === 'slow_consumer') this.counts.slowClosed += 1;
    subscriber.close(reason);
    const { set } = subscriber;
    set.users -= 1;
    if (set.users === 0) this.#sets.delete(set.key);
  }

  /** Not at once: one reply of the store brings batches of several shards in one tick, and they leave in one write per subscriber. */
  #flushSoon(): void {
    if (this.#flushing || this.#touched.length === 0) return;
    this.#flushing = true;
    queueMicrotask(() => this.#flushTouched());
  }

  #flushTouched(): void {
    this.#flushing = false;
    const nowMs = this.#commons.clock.monotonicMs();
    // Nobody is touched by a flush, so the list does not grow meanwhile.
    for (const subscriber of this.#touched) if (!subscriber.closed) subscriber.flush(nowMs);
    this.#touched.length = 0;
  }

  #forShard(shard: number, visit: (subscriber: Subscriber) => void): void {
    for (const subscriber of this.#subscribers) if (subscriber.set.has(shard)) visit(subscriber);
  }

  #sweep(): void {
    const { clock, limits } = this.#commons;
    const nowMs = clock.monotonicMs();
    let waitingBytes = 0;
    for (const subscriber of this.#subscribers) {
      const state = subscriber.sweep(nowMs);
      waitingBytes += state.waitingBytes;
      if (state.slow) this.#end(subscriber, 'slow_consumer');
    }
    this.#commons.tight = waitingBytes > limits.totalWaitingBytes;
    if (this.#subscribers.size > 0) {
      this.#emptySinceMs = undefined;
      return;
    }
    this.#emptySinceMs ??= nowMs;
    if (nowMs - this.#emptySinceMs < limits.lingerMs) return;
    clearInterval(this.#sweepTimer);
    this.#sweepTimer = undefined;
    void this.#tail.close();
  }

  /** Filters with the same shards share one set, and so one cursor while they are live. */
  #useSet(filter: EventFilter): ShardSet {
    const sorted = this.#shardsOf(filter);
    const key = sorted.join();
    const shards = new Set(sorted);
    const known = this.#sets.get(key);
    const set = known ?? { key, shards: sorted, has: (shard) => shards.has(shard), users: 0, cursor: '', cursorAt: -1 };
    set.users += 1;
    this.#sets.set(key, set);
    return set;
  }

  /** The shards that a filter can meet, ascending. */
  #shardsOf({ exactDevices }: EventFilter): number[] {
    if (exactDevices === undefined) return Array.from({ length: this.shards }, (_, shard) => shard);
    const shards = new Set<number>();
    for (const code of exactDevices) shards.add(this.#shardOf(code as DeviceCode));
    return [...shards].sort((a, b) => a - b);
  }
}
