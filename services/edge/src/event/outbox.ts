/** Stores what devices send and tells when it is stored, so that the device is answered after the store and not before (I5, V2).
 *  Bounds: bytes and events per session and bytes per node (V4); beyond them an event is refused at once. An event that the store has not
 *  taken within 5 s counts as not stored (V3); if it is stored later after all, consumers see a repeat with the same dedup key (V8).
 *  Order: events of one device are given to the stream in arrival order (V5). Store away: every event is refused or fails by its deadline. */

import type { EventStream } from '@lapi-broker/bus';
import type { EventRecord } from '@lapi-broker/protocol';
import type { Session } from '../device/session.ts';
import {
  MAX_UNSTORED_BYTES_PER_NODE,
  MAX_UNSTORED_BYTES_PER_SESSION,
  MAX_UNSTORED_EVENTS_PER_SESSION,
  STORE_DEADLINE_MS,
} from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';

export type StoreResult = 'stored' | 'failed' | 'full';

interface Waiting {
  readonly session: Session;
  readonly bytes: number;
  readonly dueMs: number;
  readonly done: (result: StoreResult) => void;
}

export class Outbox {
  private readonly stream: EventStream;
  private readonly metrics: EdgeMetrics;
  private readonly monotonicMs: () => number;
  /** In order of arrival, so that the overdue ones are always at the front. */
  private readonly waiting = new Set<Waiting>();
  private unstoredBytes = 0;

  constructor(stream: EventStream, metrics: EdgeMetrics, monotonicMs: () => number) {
    this.stream = stream;
    this.metrics = metrics;
    this.monotonicMs = monotonicMs;
  }

  get unstored(): { readonly events: number; readonly bytes: number } {
    return { events: this.waiting.size, bytes: this.unstoredBytes };
  }

  /** `done` is called exactly once. `event.data` must stay unchanged until then. */
  store(session: Session, event: EventRecord, done: (result: StoreResult) => void): void {
    const bytes = event.data.byteLength;
    const full =
      session.unstoredEvents >= MAX_UNSTORED_EVENTS_PER_SESSION ||
      session.unstoredBytes + bytes > MAX_UNSTORED_BYTES_PER_SESSION ||
      this.unstoredBytes + bytes > MAX_UNSTORED_BYTES_PER_NODE;
    if (full) {
      this.metrics.events.inc({ result: 'full' });
      done('full');
      return;
    }
    const entry: Waiting = { session, bytes, dueMs: this.monotonicMs() + STORE_DEADLINE_MS, done };
    session.unstoredEvents++;
    session.unstoredBytes += bytes;
    this.unstoredBytes += bytes;
    this.waiting.add(entry);
    this.stream.append(event).then(
      () => this.settle(entry, 'stored'),
      () => this.settle(entry, 'failed'),
    );
  }

  /** Gives up on what the store did not take in time. */
  look(nowMs: number): void {
    for (const entry of this.waiting) {
      if (entry.dueMs > nowMs) return;
      this.settle(entry, 'failed');
    }
  }

  private settle(entry: Waiting, result: 'stored' | 'failed'): void {
    // Absent when its deadline came first.
    if (!this.waiting.delete(entry)) return;
    entry.session.unstoredEvents--;
    entry.session.unstoredBytes -= entry.bytes;
    this.unstoredBytes -= entry.bytes;
    this.metrics.events.inc({ result });
    entry.done(result);
  }
}
