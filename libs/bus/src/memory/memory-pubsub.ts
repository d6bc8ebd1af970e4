/** PubSub inside one process, for tests and for a broker in one process: the same batches, order, bounds and answers as with Redis.
 *  Instances that share a hub hear each other, as processes that share a Redis do. Every subscriber of a channel gets every frame.
 *  Never away, so `onGap` is never called and nothing is `unknown`. */

import type { Frame } from '../batch.ts';
import { DEFAULT_LIMITS } from '../limits.ts';
import { type Batch, Publisher, type PublisherLimits } from '../publisher.ts';
import type { PublishResult, PubSub, PubSubCounts, Subscription } from '../pubsub.ts';
import { Receiver } from '../receiver.ts';

/** One listener, taking whole batches. */
type Listener = (batch: Buffer) => void;
/** Stands for the store: who listens to which channel. */
export type MemoryHub = Map<string, Set<Listener>>;

export interface MemoryPubSubOptions {
  readonly hub?: MemoryHub;
  readonly limits?: Partial<PublisherLimits>;
  readonly onListenerFailure?: (error: unknown) => void;
}

export class MemoryPubSub implements PubSub {
  readonly #hub: MemoryHub;
  readonly #publisher: Publisher;
  readonly #receiver: Receiver;
  readonly #subscriptions = new Set<Subscription>();

  constructor({ hub = new Map(), limits = {}, onListenerFailure = () => undefined }: MemoryPubSubOptions = {}) {
    this.#hub = hub;
    this.#publisher = new Publisher({ ...DEFAULT_LIMITS, ...limits }, (batches) => {
      for (const batch of batches) this.#deliver(batch);
    });
    this.#receiver = new Receiver(onListenerFailure);
  }

  get counts(): PubSubCounts {
    return { ...this.#publisher.counts, ...this.#receiver.counts };
  }

  publish(channel: string, frame: Frame): Promise<PublishResult> {
    return this.#publisher.publish(channel, frame);
  }

  subscribe(channel: string, onFrame: (frame: Buffer) => void, _onGap: () => void): Promise<Subscription> {
    const listener: Listener = (batch) => this.#receiver.receive(batch, onFrame);
    const listeners = this.#hub.get(channel) ?? new Set();
    this.#hub.set(channel, listeners.add(listener));
    const subscription: Subscription = {
      close: () => {
        this.#subscriptions.delete(subscription);
        listeners.delete(listener);
        if (listeners.size === 0 && this.#hub.get(channel) === listeners) this.#hub.delete(channel);
        return Promise.resolve();
      },
    };
    this.#subscriptions.add(subscription);
    return Promise.resolve(subscription);
  }

  trustworthy(): boolean {
    return this.#subscriptions.size > 0;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()));
    await this.#publisher.stop();
  }

  #deliver(batch: Batch): void {
    const listeners = [...(this.#hub.get(batch.channel) ?? [])];
    this.#publisher.settle(batch, { status: 'published', receivers: listeners.length });
    // A copy per listener: receivers may keep and change what they get.
    for (const listener of listeners) listener(Buffer.from(batch.content.done()));
  }
}
