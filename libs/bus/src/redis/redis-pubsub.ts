/** PubSub over Redis: PUBLISH on standalone and Sentinel, SPUBLISH on Cluster, where each channel belongs to the master of its slot.
 *
 *  Publishing uses the state connection straight to that master, so nothing is redirected, resent or reordered. Each subscription has a
 *  connection of its own that asks ROLE every two seconds: a hung server and a replica (which delivers, but is not counted by PUBLISH) are
 *  left, and after every re-subscription the owner is told of the gap.
 *  A large frame does not travel in the channel, whose reader Redis cuts when too much waits for it: it is kept under a key, and what is published
 *  says where. The reader fetches it at its own pace.
 *  Redis away: publish answers `not_sent`, or `unknown` when bytes had left; subscriptions come back by themselves. */

import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { BrokerError } from '@lapi-broker/protocol';
import {
  type ConnectionEvent,
  hasMoved,
  isCluster,
  masterOf,
  type NodeConnection,
  nodeFor,
  notDone,
  parcelKey,
  publish,
  type RedisConnection,
  refreshTopology,
  withDeadline,
} from '@lapi-broker/redis';
import { batchedBytes, type Frame } from '../batch.ts';
import { deferred } from '../deferred.ts';
import { DEFAULT_LIMITS } from '../limits.ts';
import { type Batch, NOT_SENT, Publisher, type PublisherLimits } from '../publisher.ts';
import type { PublishResult, PubSub, PubSubCounts, Subscription } from '../pubsub.ts';
import { Receiver } from '../receiver.ts';
import { assertMaster, attach } from './attachment.ts';
import { ParcelDesk, parcelIn, parcelSlip } from './parcel.ts';

export interface RedisPubSubOptions {
  /** Opened by openConnection; stays its owner's to close. Connections for subscribers are opened and closed here. */
  readonly state: RedisConnection;
  /** `bus.detached {role, master, error}`, `bus.listener_failed {error}`, and the events of the subscriber connections. */
  readonly onEvent?: ConnectionEvent;
  readonly limits?: Partial<PublisherLimits>;
  readonly pingIntervalMs?: number;
  readonly pingTimeoutMs?: number;
  readonly subscribeTimeoutMs?: number;
  readonly monotonicMs?: () => number;
}

/** A process listens on one inbox or one reply channel; each channel costs a connection. */
const MAX_SUBSCRIPTIONS = 64;
/** What a healthy ping may be late because this process was busy. */
const PING_SLACK_MS = 500;
const NO_BATCH = Buffer.alloc(0);

interface Link {
  /** When the last answered ROLE was sent; undefined while not subscribed. */
  checkedMs: number | undefined;
  /** Large frames that are being fetched. */
  readonly fetching: Set<Promise<void>>;
  /** Resolves when the server has confirmed, and so all that it sent before has been heard. Undefined while not subscribed. */
  unsubscribe: (() => Promise<unknown>) | undefined;
}

export class RedisPubSub implements PubSub {
  readonly #state: RedisConnection;
  readonly #onEvent: ConnectionEvent | undefined;
  readonly #pingIntervalMs: number;
  readonly #pingTimeoutMs: number;
  readonly #subscribeTimeoutMs: number;
  readonly #monotonicMs: () => number;
  readonly #publisher: Publisher;
  readonly #receiver: Receiver;
  readonly #limits: PublisherLimits;
  readonly #parcels: ParcelDesk;
  /** How each is closed. */
  readonly #links = new Map<Link, () => Promise<void>>();
  #stopped: boolean = false;

  constructor(options: RedisPubSubOptions) {
    this.#state = options.state;
    this.#onEvent = options.onEvent;
    this.#pingIntervalMs = options.pingIntervalMs ?? 2000;
    this.#pingTimeoutMs = options.pingTimeoutMs ?? 1500;
    this.#subscribeTimeoutMs = options.subscribeTimeoutMs ?? 10_000;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#parcels = new ParcelDesk(options.state);
    this.#publisher = new Publisher(this.#limits, (batches) => this.#sendAll(batches));
    this.#receiver = new Receiver((error) => this.#onEvent?.('bus.listener_failed', { error: String(error) }));
  }

  get counts(): PubSubCounts {
    return { ...this.#publisher.counts, ...this.#receiver.counts };
  }

  publish(channel: string, frame: Frame): Promise<PublishResult> {
    return this.#publisher.publish(channel, frame);
  }

  async subscribe(channel: string, onFrame: (frame: Buffer) => void, onGap: () => void): Promise<Subscription> {
    if (this.#stopped) throw new BrokerError('broker_unavailable', 'The bus is stopped.');
    if (this.#links.size >= MAX_SUBSCRIPTIONS)
      throw new BrokerError('internal', 'Too many subscriptions in one process.');
    const link: Link = { checkedMs: undefined, fetching: new Set(), unsubscribe: undefined };
    const confirmed = deferred<void>();
    let first = true;
    const onSubscribed = (): void => {
      confirmed.resolve();
      if (!first) onGap();
      first = false;
    };
    const attachment = attach({
      state: this.#state,
      role: 'subscriber',
      master: () => masterOf(this.#state, channel),
      onEvent: this.#onEvent,
      serve: async (node, lost, steady) => {
        try {
          await this.#listen(node, lost, channel, link, onFrame, () => {
            steady();
            onSubscribed();
          });
        } finally {
          link.checkedMs = undefined;
          link.unsubscribe = undefined;
        }
      },
    });
    const close = async (): Promise<void> => {
      // What is on its way was counted as received. Without the confirmation in time the connection is as good as lost.
      await link.unsubscribe?.().catch(() => undefined);
      await withDeadline(Promise.all(link.fetching), this.#subscribeTimeoutMs).catch(() => undefined);
      this.#links.delete(link);
      await attachment.close();
    };
    this.#links.set(link, close);
    try {
      await withDeadline(confirmed.promise, this.#subscribeTimeoutMs);
    } catch (cause) {
      await close();
      throw new BrokerError('broker_unavailable', 'Redis did not confirm a subscription in time.', { cause });
    }
    return { close };
  }

  trustworthy(): boolean {
    const oldest = this.#monotonicMs() - this.#pingIntervalMs - this.#pingTimeoutMs - PING_SLACK_MS;
    for (const { checkedMs } of this.#links.keys()) {
      if (checkedMs === undefined || checkedMs < oldest) return false;
    }
    return this.#links.size > 0;
  }

  /** Closes all subscriptions, whose last frames may still be replied to; frames that wait still go out. Idempotent. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all([...this.#links.values()].map((close) => close()));
    await this.#publisher.stop();
  }

  #sendAll(batches: readonly Batch[]): void {
    const corked = new Set<NodeConnection>();
    const inChannelBytes = batchedBytes({ length: this.#limits.parcelBytes });
    for (const batch of batches) {
      if (batch.content.used > inChannelBytes && batch.content.frames === 1) {
        void this.#sendParcel(batch);
        continue;
      }
      const node = nodeFor(this.#state, batch.channel);
      if (node === undefined) {
        this.#publisher.settle(batch, NOT_SENT);
        continue;
      }
      // One system call for all channels of a tick: it is the largest part of what a small batch costs.
      if (batches.length > 1 && !corked.has(node)) {
        node.stream.cork();
        corked.add(node);
      }
      this.#send(node, batch);
    }
    for (const { stream } of corked) stream.uncork();
  }

  /** Until the slip has been published nobody has been told of anything. Never rejects. */
  async #sendParcel(batch: Batch): Promise<void> {
    const { channel, content } = batch;
    const id = randomBytes(12).toString('base64url');
    const key = parcelKey(channel, id);
    const place = nodeFor(this.#state, key);
    const node = nodeFor(this.#state, channel);
    let result: PublishResult = NOT_SENT;
    let announced = false;
    try {
      if (place !== undefined && node !== undefined) {
        await this.#parcels.leave(place, key, content.done());
        content.release();
        announced = true;
        const receivers = Number(await publish(node, channel, parcelSlip(id), isCluster(this.#state)));
        result = { status: 'published', receivers };
        // Else it goes with its time.
        if (receivers === 0) void place.unlink(key).catch(() => undefined);
      }
    } catch (cause) {
      if (hasMoved(cause)) refreshTopology(this.#state);
      if (announced && !notDone(cause)) result = { status: 'unknown', cause };
    }
    this.#publisher.settle(batch, result);
  }

  /** Never rejects. */
  async #fetch(key: string, onFrame: (frame: Buffer) => void): Promise<void> {
    const bytes = await this.#parcels.fetch(key);
    // What is not a batch is counted as one that was dropped.
    this.#receiver.receive(bytes ?? NO_BATCH, onFrame);
  }

  #send(node: NodeConnection, batch: Batch): void {
    const { channel } = batch;
    const bytes = batch.content.done();
    publish(node, channel, bytes, isCluster(this.#state)).then(
      (receivers) => {
        this.#publisher.settle(batch, { status: 'published', receivers: Number(receivers) });
        // Redis has all of it. After an error the client may still hold it.
        batch.content.release();
      },
      (cause: unknown) => {
        if (hasMoved(cause)) refreshTopology(this.#state);
        this.#publisher.settle(batch, notDone(cause) ? NOT_SENT : { status: 'unknown', cause });
      },
    );
  }

  async #listen(
    node: NodeConnection,
    lost: AbortSignal,
    channel: string,
    link: Link,
    onFrame: (frame: Buffer) => void,
    onSubscribed: () => void,
  ): Promise<void> {
    const master = masterOf(this.#state, channel);
    const sharded = isCluster(this.#state);
    let checkedMs = this.#monotonicMs();
    node.on(sharded ? 'smessageBuffer' : 'messageBuffer', (_channel: Buffer, bytes: Buffer) => {
      if (lost.aborted) return;
      const id = parcelIn(bytes);
      if (id === undefined) {
        this.#receiver.receive(bytes, onFrame);
        return;
      }
      const fetching = this.#fetch(parcelKey(channel, id), onFrame).finally(() => link.fetching.delete(fetching));
      link.fetching.add(fetching);
    });
    await withDeadline(sharded ? node.ssubscribe(channel) : node.subscribe(channel), this.#pingTimeoutMs);
    // ROLE again, now that the subscription stands: a demotion in between would have gone unnoticed until the next ping.
    await assertMaster(node, this.#pingTimeoutMs);
    link.checkedMs = checkedMs;
    link.unsubscribe = () =>
      withDeadline(sharded ? node.sunsubscribe(channel) : node.unsubscribe(channel), this.#pingTimeoutMs);
    onSubscribed();
    while (!lost.aborted) {
      await delay(this.#pingIntervalMs, undefined, { signal: lost });
      if (masterOf(this.#state, channel) !== master) throw new Error('the channel has moved to another master');
      checkedMs = this.#monotonicMs();
      await assertMaster(node, this.#pingTimeoutMs);
      link.checkedMs = checkedMs;
    }
  }
}
