/** One consumer of a durable group on a socket of `WS /v1/stream`: it pulls as many events as its client may still hold unsettled, and writes
 *  them. It rests while that is none, while the socket is full, and after the store did not answer, until `wake` or the next sweep.
 *  Acks that come while others are being settled go together, so a client that acknowledges one by one costs few round trips; answers keep
 *  the order of the messages.
 *  Ends by `release` (the client or the process leaves: all that is not settled is given back) or `leave` (the socket is gone: only what was
 *  never written is given back; of the rest nobody knows whether it arrived, so the ack deadline decides). Acks taken before are settled in
 *  both cases. What cannot be given back because the store is away comes again after the ack deadline (I5.1).
 *  Bounded: unsettled events, ids that wait to be settled, bytes that wait in the socket; consumers of the process (`ConsumerTable`). */

import { BrokerError } from '@lapi-broker/protocol';
import { type Delivery, GROUP_LIMITS, type Group, type Groups, type Settled, type Verdict } from '../group/group.ts';
import { deliveryJson } from './subscription-view.ts';

export interface ConsumerSocket {
  give(message: string | Buffer): void;
  flush(): void;
  waitingBytes(): number;
}

export interface StreamConsumerParts {
  /** The client's own name for it. */
  readonly id: string;
  readonly group: Group;
  /** Deliveries that the client holds unsettled at most. */
  readonly maxInFlight: number;
  readonly groups: Pick<Groups, 'pull' | 'settle'>;
  readonly socket: ConsumerSocket;
  /** Nothing is written while more waits. */
  readonly waitingBytes: () => number;
  readonly monotonicMs: () => number;
}

export type ConsumerEnd = 'release' | 'leave';

/** `error`: it ended by itself, because the group is gone or for a reason that nobody planned. */
export interface ConsumerEnded {
  readonly error: unknown;
}

/** What a client asked to be settled with one message, and where the answer goes. */
export interface Settling {
  readonly ackIds: readonly string[];
  readonly verdict: Verdict;
  readonly onSettled: (results: readonly Settled[]) => void;
  readonly onRefused: (error: unknown) => void;
}

/** Pulled and not written; nothing is pulled again before the socket has room. */
const HELD_MS = 5_000;
/** Ids of one consumer that wait to be settled. */
const SETTLING_IDS = 10_000;

export class StreamConsumer {
  readonly #parts: StreamConsumerParts;
  readonly #opening: string;
  /** Written and not settled → when it is handed out again. */
  readonly #unsettled = new Map<string, number>();
  readonly #stop = new AbortController();
  #end: ConsumerEnd | undefined;
  #error: unknown;
  #wake: (() => void) | undefined;
  #waiting: Settling[] = [];
  #waitingIds = 0;
  #settling: Promise<void> | undefined;

  constructor(parts: StreamConsumerParts) {
    this.#parts = parts;
    this.#opening = `{"type":"delivery","consumer":${JSON.stringify(parts.id)},`;
  }

  /** Resolves when it has ended and given back what it had to. Never rejects. */
  async run(): Promise<ConsumerEnded> {
    try {
      while (!this.#isOver()) await this.#step();
      await this.#settling;
      if (this.#end === 'release') await this.#release([...this.#unsettled.keys()]);
    } catch (error) {
      this.#fail(error);
    }
    await this.#settling;
    this.#unsettled.clear();
    return { error: this.#error };
  }

  /** Idempotent; the first end counts. */
  end(how: ConsumerEnd): void {
    if (this.#isOver()) return;
    this.#end = how;
    this.#stop.abort();
    this.wake();
  }

  /** The socket has room again, or something was settled. */
  wake(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  sweep(nowMs: number): void {
    // What its client forgot to settle has been handed out again by now and no longer counts against it.
    if (this.#credit() === 0) {
      for (const [ackId, untilMs] of this.#unsettled) if (untilMs <= nowMs) this.#unsettled.delete(ackId);
    }
    this.wake();
  }

  /** False when too much waits already: nothing will be done about it. */
  settle(settling: Settling): boolean {
    if (this.#waitingIds + settling.ackIds.length > SETTLING_IDS) return false;
    this.#waiting.push(settling);
    this.#waitingIds += settling.ackIds.length;
    this.#settling ??= this.#settleAll();
    return true;
  }

  // A method, so that the check after an await is not taken for the one before it.
  #isOver(): boolean {
    return this.#end !== undefined;
  }

  #credit(): number {
    return Math.max(0, this.#parts.maxInFlight - this.#unsettled.size);
  }

  #isFull(): boolean {
    const { socket, waitingBytes } = this.#parts;
    if (socket.waitingBytes() <= waitingBytes()) return false;
    socket.flush();
    return socket.waitingBytes() > waitingBytes();
  }

  #rest(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  async #step(): Promise<void> {
    const { groups, group } = this.#parts;
    const max = Math.min(this.#credit(), GROUP_LIMITS.batch.max);
    if (max === 0 || this.#isFull()) return this.#rest();
    try {
      const options = { max, waitMs: GROUP_LIMITS.waitMs.max, signal: this.#stop.signal };
      await this.#write(await groups.pull(group.name, options));
    } catch (error) {
      if (!passes(error)) throw error;
      if (!this.#isOver()) await this.#rest();
    }
    return undefined;
  }

  async #write(deliveries: readonly Delivery[]): Promise<void> {
    const { socket, group, monotonicMs } = this.#parts;
    const pulledAtMs = monotonicMs();
    // A client that hears of an event late has too little time for it; and nothing is held for long for one that does not read.
    const isLate = (): boolean => monotonicMs() - pulledAtMs > Math.min(group.ackDeadlineMs / 2, HELD_MS);
    for (const [index, delivery] of deliveries.entries()) {
      while (!this.#isOver() && !isLate() && this.#isFull()) await this.#rest();
      if (this.#isOver() || isLate()) {
        await this.#release(deliveries.slice(index).map(({ ackId }) => ackId));
        return;
      }
      this.#unsettled.set(delivery.ackId, pulledAtMs + group.ackDeadlineMs);
      socket.give(deliveryJson(this.#opening, delivery));
    }
    socket.flush();
  }

  async #release(ackIds: readonly string[]): Promise<void> {
    const { groups, group } = this.#parts;
    try {
      for (let i = 0; i < ackIds.length; i += GROUP_LIMITS.batch.max) {
        await groups.settle(group.name, ackIds.slice(i, i + GROUP_LIMITS.batch.max), { type: 'release' });
      }
    } catch (error) {
      // The ack deadline does it, later; and a group that is gone has nothing to give back to.
      if (!(error instanceof BrokerError)) throw error;
    }
  }

  async #settleAll(): Promise<void> {
    const { groups, group, socket, monotonicMs } = this.#parts;
    for (let batch = this.#nextBatch(); batch !== undefined; batch = this.#nextBatch()) {
      const { verdict, settlings, ackIds } = batch;
      try {
        const results = await groups.settle(group.name, ackIds, verdict);
        const untilMs = monotonicMs() + (verdict.type === 'extend' ? verdict.deadlineMs : 0);
        for (const [index, ackId] of ackIds.entries()) {
          // An id may be of another consumer.
          if (!this.#unsettled.has(ackId)) continue;
          if (verdict.type === 'extend' && results[index] === 'done') this.#unsettled.set(ackId, untilMs);
          else this.#unsettled.delete(ackId);
        }
        let from = 0;
        for (const settling of settlings) {
          settling.onSettled(results.slice(from, from + settling.ackIds.length));
          from += settling.ackIds.length;
        }
      } catch (error) {
        for (const settling of settlings) settling.onRefused(error);
        if (!passes(error)) this.#fail(error);
      }
      socket.flush();
      this.wake();
    }
    this.#settling = undefined;
  }

  /** As many messages as ask for the same and fit one call. */
  #nextBatch():
    | { readonly verdict: Verdict; readonly settlings: readonly Settling[]; readonly ackIds: readonly string[] }
    | undefined {
    const [first] = this.#waiting;
    if (first === undefined) return undefined;
    const ackIds: string[] = [];
    let taken = 0;
    for (const { ackIds: more, verdict } of this.#waiting) {
      if (ackIds.length + more.length > GROUP_LIMITS.batch.max || !isSame(verdict, first.verdict)) break;
      ackIds.push(...more);
      taken += 1;
    }
    this.#waitingIds -= ackIds.length;
    return { verdict: first.verdict, settlings: this.#waiting.splice(0, taken), ackIds };
  }

  #fail(error: unknown): void {
    this.#error ??= error;
    this.end('leave');
  }
}

/** The store is away, this process leaves, or too many wait: the next sweep tries again, or somebody ends it. */
function passes(error: unknown): boolean {
  return error instanceof BrokerError && error.code !== 'not_found' && error.code !== 'internal';
}

function isSame(a: Verdict, b: Verdict): boolean {
  if (a.type === 'nack' && b.type === 'nack') return a.delayMs === b.delayMs;
  if (a.type === 'extend' && b.type === 'extend') return a.deadlineMs === b.deadlineMs;
  return a.type === b.type;
}

/** The consumers of all sockets of a process. */
export class ConsumerTable {
  readonly limit: number;
  readonly #running = new Set<Promise<ConsumerEnded>>();

  constructor(limit: number) {
    this.limit = limit;
  }

  get count(): number {
    return this.#running.size;
  }

  get isFull(): boolean {
    return this.#running.size >= this.limit;
  }

  /** Resolves when the consumer has ended. */
  run(consumer: StreamConsumer): Promise<ConsumerEnded> {
    const running: Promise<ConsumerEnded> = consumer.run().finally(() => this.#running.delete(running));
    this.#running.add(running);
    return running;
  }

  /** Resolves when those that run now have ended, which somebody else must have asked of them. */
  async ended(): Promise<void> {
    await Promise.all(this.#running);
  }
}
