/** Writes events as server-sent events (text/event-stream) to one connection.
 *  `data:` is always one line; `id:` carries the cursor, so a browser resumes by itself. `event: gap` and `event: closed` are told under names of
 *  their own; a heartbeat is a comment and a bare `id:`, which moves the reader's last id without an event.
 *  What is given within one tick leaves in one write. */

import type { StreamHandle } from '@lapi-broker/http';
import type { Caller, Refusal } from '../access/access.ts';
import type { Subscription } from '../event/event-feed.ts';
import type { CloseReason, EventSink, Gap } from '../event/event-sink.ts';
import type { OutgoingEvent } from '../event/outgoing-event.ts';

export interface EventSourceParts {
  readonly keyId: string;
  /** Asks again whether the key still opens this. */
  readonly again: () => Caller | Refusal | Promise<Caller | Refusal>;
  readonly recheckMs: number;
  readonly monotonicMs: () => number;
  /** Called once, when the stream has ended from either side. */
  readonly onClosed: (source: EventSource) => void;
}

export class EventSource implements EventSink {
  readonly #parts: EventSourceParts;
  #stream: StreamHandle | undefined;
  #subscription: Subscription | undefined;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Written since nothing waited. */
  #messages = 0;
  #lastCheckMs: number;
  #over: boolean = false;

  constructor(parts: EventSourceParts) {
    this.#parts = parts;
    this.#lastCheckMs = parts.monotonicMs();
  }

  get keyId(): string {
    return this.#parts.keyId;
  }

  /** In the tick of joining. Tells the reader where it stands before the first event, so that it can resume from the very beginning. */
  begin(stream: StreamHandle, subscription: Subscription, retryMs: number): void {
    this.#stream = stream;
    this.#subscription = subscription;
    stream.onDrain(() => {
      this.#messages = 0;
      subscription.drained();
    });
    stream.onClosed(() => {
      subscription.close();
      this.#finish();
    });
    stream.write(`retry: ${retryMs}\nid: ${subscription.cursor()}\n\n`);
  }

  event(event: OutgoingEvent, cursor: string): void {
    this.#push(event.sse(cursor));
  }

  gap(gap: Gap, cursor: string): void {
    this.#push(Buffer.from(`id: ${cursor}\nevent: gap\ndata: ${JSON.stringify(gap)}\n\n`));
  }

  heartbeat(cursor: string, storeAway: boolean): void {
    this.#push(Buffer.from(`: ${storeAway ? 'store unavailable' : 'heartbeat'}\nid: ${cursor}\n\n`));
  }

  flush(): void {
    const [first] = this.#pending;
    if (first === undefined) return;
    const bytes = this.#pending.length === 1 ? first : Buffer.concat(this.#pending, this.#pendingBytes);
    this.#pending = [];
    this.#pendingBytes = 0;
    if (this.#stream?.write(bytes) === true) this.#messages = 0;
  }

  waitingBytes(): number {
    return this.#pendingBytes + (this.#stream?.bufferedBytes() ?? 0);
  }

  waitingMessages(): number {
    return this.#messages;
  }

  closed(reason: CloseReason | 'unauthenticated', cursor: string): void {
    this.#push(Buffer.from(`id: ${cursor}\nevent: closed\ndata: ${JSON.stringify({ reason, cursor })}\n\n`));
    this.flush();
    this.#stream?.end();
    this.#finish();
  }

  end(reason: 'draining' | 'unauthenticated'): void {
    const subscription = this.#subscription;
    if (this.#over || subscription === undefined) return;
    subscription.close();
    this.closed(reason, subscription.cursor());
  }

  sweep(nowMs: number): void {
    if (nowMs - this.#lastCheckMs < this.#parts.recheckMs) return;
    this.#lastCheckMs = nowMs;
    void this.#recheck();
  }

  /** Never rejects. Only a clear no ends the stream, not a store that cannot be asked. */
  async #recheck(): Promise<void> {
    const caller = await this.#parts.again();
    if (caller.status === 'refused' && caller.error === 'unauthenticated') this.end('unauthenticated');
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#parts.onClosed(this);
  }

  #push(frame: Buffer): void {
    this.#pending.push(frame);
    this.#pendingBytes += frame.length;
    this.#messages += 1;
  }
}
