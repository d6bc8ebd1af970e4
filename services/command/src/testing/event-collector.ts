/** A subscriber's connection for tests: keeps what it is given, and takes it at once or not at all. */

import type { CloseReason, EventSink, Gap } from '../event/event-sink.ts';
import type { OutgoingEvent } from '../event/outgoing-event.ts';
import { eventId } from '../event/position.ts';

export class Collector implements EventSink {
  readonly ids: string[] = [];
  readonly records: OutgoingEvent['record'][] = [];
  readonly gaps: Gap[] = [];
  readonly gapCursors: string[] = [];
  readonly heartbeats: { readonly cursor: string; readonly storeAway: boolean }[] = [];
  /** Everything in the order in which it came. */
  readonly log: string[] = [];
  /** Told with the last event, gap, heartbeat or end. */
  cursor = '';
  end: CloseReason | undefined;
  mostWaitingBytes = 0;
  flushes = 0;
  #blocked: boolean = false;
  #waitingBytes = 0;
  #waitingMessages = 0;

  /** From here on everything waits, as with a peer that does not read. */
  block(): void {
    this.#blocked = true;
  }

  /** The peer reads again; the caller then calls `drained()` of the subscription. */
  release(): void {
    this.#blocked = false;
    this.#waitingBytes = 0;
    this.#waitingMessages = 0;
  }

  event(event: OutgoingEvent, cursor: string): void {
    const id = eventId(event.shard, event.position);
    this.ids.push(id);
    this.records.push(event.record);
    this.log.push(id);
    this.cursor = cursor;
    this.#waitingBytes += event.json().length;
    this.#waitingMessages += 1;
    this.mostWaitingBytes = Math.max(this.mostWaitingBytes, this.#waitingBytes);
  }

  gap(gap: Gap, cursor: string): void {
    this.gaps.push(gap);
    this.gapCursors.push(cursor);
    this.log.push(`gap ${gap.reason}`);
    this.cursor = cursor;
  }

  heartbeat(cursor: string, storeAway: boolean): void {
    this.heartbeats.push({ cursor, storeAway });
    this.cursor = cursor;
  }

  flush(): void {
    this.flushes += 1;
    if (!this.#blocked) this.release();
  }

  waitingBytes(): number {
    return this.#waitingBytes;
  }

  waitingMessages(): number {
    return this.#waitingMessages;
  }

  closed(reason: CloseReason, cursor: string): void {
    this.end = reason;
    this.cursor = cursor;
  }
}
