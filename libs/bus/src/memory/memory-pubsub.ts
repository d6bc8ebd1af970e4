/** PubSub inside one process, for tests and for a broker in one process: the same batches, order, bounds and answers as with Redis.
 *  Every subscriber of a channel gets every frame. Never away, so `onGap` is never called and nothing is `unknown`. */

import { encodeBatch } from '../batch.ts';
import { DEFAULT_LIMITS } from '../limits.ts';
import { type Batch, Publisher, type PublisherLimits } from '../publisher.ts';
import type { PublishResult, PubSub, PubSubCounts, Subscription } from '../pubsub.ts';
import { Receiver } from '../receiver.ts';

interface Subscriber {
  readonly onFrame: (frame: Buffer) => void;
}

export class MemoryPubSub implements PubSub {
  readonly #subscribers = new Map<string, Set<Subscriber>>();
  readonly #publisher: Publisher;
  readonly #receiver: Receiver;
  #stopped: boolean = false;

  constructor(limits: Partial<PublisherLimits> = {}, onListenerFailure: (error: unknown) => void = () => undefined) {
    this.#publisher = new Publisher({ ...DEFAULT_LIMITS, ...limits }, (batch) => this.#deliver(batch));
    this.#receiver = new Receiver(onListenerFailure);
  }

  get counts(): PubSubCounts {
    return { ...this.#publisher.counts, ...this.#receiver.counts };
  }

  publish(channel: string, frame: Uint8Array): Promise<PublishResult> {
    return this.#publisher.publish(channel, frame);
  }

  subscribe(channel: string, onFrame: (frame: Buffer) => void, _onGap: () => void): Promise<Subscription> {
    const subscriber: Subscriber = { onFrame };
    const subscribers = this.#subscribers.get(channel) ?? new Set();
    this.#subscribers.set(channel, subscribers.add(subscriber));
    return Promise.resolve({
      close: () => {
        subscribers.delete(subscriber);
        if (subscribers.size === 0 && this.#subscribers.get(channel) === subscribers) this.#subscribers.delete(channel);
        return Promise.resolve();
      },
    });
  }

  trustworthy(): boolean {
    return !this.#stopped && this.#subscribers.size > 0;
  }

  stop(): Promise<void> {
    this.#publisher.stop();
    this.#stopped = true;
    this.#subscribers.clear();
    return Promise.resolve();
  }

  #deliver(batch: Batch): void {
    const subscribers = [...(this.#subscribers.get(batch.channel) ?? [])];
    this.#publisher.settle(batch, { status: 'published', receivers: subscribers.length });
    // A copy per subscriber: receivers may keep and change what they get.
    for (const { onFrame } of subscribers) this.#receiver.receive(encodeBatch(batch.frames, batch.bytes), onFrame);
  }
}
