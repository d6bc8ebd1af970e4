/** Collects the frames of one tick into one batch per channel and hands each batch to a transport; the half of PubSub that all
 *  implementations share. Order per channel is the order of calls. Waiting bytes (collected or with the transport) are bounded: beyond the
 *  bound a frame is `not_sent` at once. This is the hot path of direct commands: no promise, closure or timer per frame. */

import { BatchMemory, BatchWriter, batchedBytes, type Frame } from './batch.ts';
import { deferred } from './deferred.ts';
import type { PublishResult } from './pubsub.ts';

export interface Batch {
  readonly channel: string;
  readonly content: BatchWriter;
  readonly promise: Promise<PublishResult>;
  readonly resolve: (result: PublishResult) => void;
}

export interface PublisherLimits {
  readonly maxWaitingBytes: number;
  /** A batch is closed when the next frame would make it larger; a larger frame travels alone. */
  readonly maxBatchBytes: number;
  /** A larger frame travels alone as well, and need not travel in the channel. */
  readonly parcelBytes: number;
  /** Of `maxWaitingBytes`, what large frames leave to the others. */
  readonly keptForSmallBytes: number;
}

export interface PublisherCounts {
  publishedFrames: number;
  publishedBatches: number;
  notSentFrames: number;
  unknownFrames: number;
  waitingBytes: number;
}

export const NOT_SENT: PublishResult = { status: 'not_sent' };

export class Publisher {
  readonly counts: PublisherCounts = {
    publishedFrames: 0,
    publishedBatches: 0,
    notSentFrames: 0,
    unknownFrames: 0,
    waitingBytes: 0,
  };
  readonly #limits: PublisherLimits;
  readonly #send: (batches: readonly Batch[]) => void;
  readonly #memory = new BatchMemory();
  /** The batch of each channel that still takes frames. */
  readonly #open = new Map<string, Batch>();
  #due: Batch[] = [];
  #flush: NodeJS.Immediate | undefined;
  #stopped: boolean = false;
  readonly #settled = deferred<void>();
  readonly #notSent = Promise.resolve(NOT_SENT);

  /** `send` gets all batches of a tick, in order, and must call `settle` once for each, at once or later. */
  constructor(limits: PublisherLimits, send: (batches: readonly Batch[]) => void) {
    this.#limits = limits;
    this.#send = send;
  }

  publish(channel: string, frame: Frame): Promise<PublishResult> {
    const { maxWaitingBytes, parcelBytes, keptForSmallBytes } = this.#limits;
    const bytes = batchedBytes(frame);
    const isLarge = frame.length > parcelBytes;
    const room = isLarge ? maxWaitingBytes - keptForSmallBytes : maxWaitingBytes;
    if (this.#stopped || this.counts.waitingBytes + bytes > room) {
      this.counts.notSentFrames++;
      return this.#notSent;
    }
    let batch = this.#open.get(channel);
    if (isLarge) batch = this.#begin(channel, 'alone');
    else if (batch === undefined || batch.content.used + bytes > this.#limits.maxBatchBytes)
      batch = this.#begin(channel);
    batch.content.append(frame);
    this.counts.waitingBytes += bytes;
    return batch.promise;
  }

  settle(batch: Batch, result: PublishResult): void {
    const { frames, used } = batch.content;
    this.counts.waitingBytes -= used;
    if (result.status === 'published') {
      this.counts.publishedFrames += frames;
      this.counts.publishedBatches++;
    } else if (result.status === 'unknown') {
      this.counts.unknownFrames += frames;
    } else {
      this.counts.notSentFrames += frames;
    }
    batch.resolve(result);
    if (this.#stopped && this.counts.waitingBytes === 0) this.#settled.resolve();
  }

  /** What was collected in this tick still goes to the transport. Resolves when all of it is settled. Idempotent. */
  stop(): Promise<void> {
    if (!this.#stopped) {
      this.#stopped = true;
      this.#sendAll();
      if (this.counts.waitingBytes === 0) this.#settled.resolve();
    }
    return this.#settled.promise;
  }

  #begin(channel: string, alone?: 'alone'): Batch {
    const { promise, resolve } = deferred<PublishResult>();
    const batch: Batch = { channel, content: new BatchWriter(this.#memory), promise, resolve };
    if (alone === undefined) this.#open.set(channel, batch);
    else this.#open.delete(channel);
    this.#due.push(batch);
    // After the poll phase: what all sockets of this turn of the loop had to say goes together.
    this.#flush ??= setImmediate(() => this.#sendAll());
    return batch;
  }

  #sendAll(): void {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    const due = this.#due;
    this.#due = [];
    this.#open.clear();
    if (due.length > 0) this.#send(due);
  }
}
