/** Stores what devices send and tells when it is stored, so that the device is answered after the store and not before (I5, V2).
 *  Bounds: bytes and events per device, whatever its sessions, so that one that reconnects finds its budget as it left it; bytes per node (V4), and the time in the queue, shared out by class (pressure.ts); beyond them an event is refused at once. What
 *  was given to the store counts until the store has settled it, also when its device has been told "not stored" before: it takes memory.
 *  An event that the store has not taken within 5 s counts as not stored (V3); if it is stored later after all, consumers see a repeat with
 *  the same dedup key (V8).
 *  Order: events of one device are given to the stream in arrival order (V5). Store away: every event is refused or fails by its deadline. */

import type { DeviceCode, EventRecord } from '@lapi-broker/protocol';
import type { Session } from '../device/session.ts';
import { EVENT_OVERHEAD_BYTES, STORE_ALIVE_MS, STORE_DEADLINE_MS, UNSTORED_LIMITS } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { Picture } from './pictures.ts';
import { type Budgets, classOfKind, type EventClass, isTooFull, refusedBy } from './pressure.ts';

export type StoreResult = 'stored' | 'failed' | 'full';

/** The event store, with its way to it: pictures go elsewhere first (pictures.ts). Events of one device keep their order. */
export interface EventWay {
  append(event: EventRecord, pictures: readonly Picture[]): Promise<unknown>;
}

/** What of a session is not stored yet. Changed here only. */
export type Sender = Pick<Session, 'unstoredEvents'>;

/** The same of a device, over its sessions. */
interface Share {
  events: number;
  bytes: number;
}

const NOTHING: Readonly<Share> = Object.freeze({ events: 0, bytes: 0 });
const NO_PICTURES: readonly Picture[] = [];

interface Waiting {
  readonly sender: Sender;
  readonly code: DeviceCode;
  readonly eventClass: EventClass;
  readonly bytes: number;
  readonly dueMs: number;
  readonly done: (result: StoreResult) => void;
}

export class Outbox {
  private readonly stream: EventWay;
  private readonly metrics: Pick<EdgeMetrics, 'events'>;
  private readonly monotonicMs: () => number;
  private readonly storePercent: () => number;
  private readonly limits: Budgets;
  /** In order of arrival, so that the overdue ones are always at the front. */
  private readonly waiting = new Set<Waiting>();
  /** Of devices that have something un-stored. */
  private readonly shares = new Map<DeviceCode, Share>();
  private heldEvents = 0;
  private heldBytes = 0;
  /** When the store last took an event, and how long that one had waited. */
  private storedAtMs = Number.NEGATIVE_INFINITY;
  private storedAfterMs = 0;

  constructor(
    stream: EventWay,
    metrics: Pick<EdgeMetrics, 'events'>,
    monotonicMs: () => number,
    /** Used memory of the store, percent. */
    storePercent: () => number,
    limits: Budgets = UNSTORED_LIMITS,
  ) {
    this.stream = stream;
    this.metrics = metrics;
    this.monotonicMs = monotonicMs;
    this.storePercent = storePercent;
    this.limits = limits;
  }

  /** What the store has not settled; bytes include an overhead for each event. */
  get unstored(): { readonly events: number; readonly bytes: number } {
    return { events: this.heldEvents, bytes: this.heldBytes };
  }

  unstoredOf(code: DeviceCode): Readonly<Share> {
    return this.shares.get(code) ?? NOTHING;
  }

  /** `done` is called exactly once. `event.data` must stay unchanged until the store has settled it. `pictures`: taken out of the data. */
  store(
    sender: Sender,
    event: EventRecord,
    done: (result: StoreResult) => void,
    pictures: readonly Picture[] = NO_PICTURES,
  ): void {
    const bytes = pictures.reduce(
      (sum, picture) => sum + picture.bytes.length,
      event.data.byteLength + event.images.length + EVENT_OVERHEAD_BYTES,
    );
    const nowMs = this.monotonicMs();
    const eventClass = classOfKind(event.kind);
    if (isTooFull(eventClass, this.storePercent())) {
      this.metrics.events.inc({ class: eventClass, result: 'store_full' });
      done('full');
      return;
    }
    const share = this.unstoredOf(event.code);
    const used: Budgets = {
      sessionEvents: share.events,
      sessionBytes: share.bytes,
      nodeBytes: this.heldBytes,
      waitMs: this.waitMs(nowMs),
    };
    const budget = refusedBy(eventClass, bytes, used, this.limits);
    if (budget !== undefined) {
      this.metrics.events.inc({ class: eventClass, result: budget === 'wait' ? 'too_slow' : `${budget}_full` });
      done('full');
      return;
    }
    const entry: Waiting = { sender, code: event.code, eventClass, bytes, dueMs: nowMs + STORE_DEADLINE_MS, done };
    this.hold(entry, 1);
    this.waiting.add(entry);
    this.stream.append(event, pictures).then(
      () => this.settled(entry, 'stored'),
      () => this.settled(entry, 'failed'),
    );
  }

  /** Gives up on what the store did not take in time. */
  look(nowMs: number): void {
    for (const entry of this.waiting) {
      if (entry.dueMs > nowMs) return;
      this.tell(entry, 'failed', 'late');
    }
  }

  private waitMs(nowMs: number): number {
    const [first] = this.waiting;
    if (first === undefined || nowMs - this.storedAtMs > STORE_ALIVE_MS) return 0;
    // Both, because the first may wait for a shard that is away, and the last stored one may be the end of a queue that is gone.
    return Math.min(this.storedAfterMs, nowMs - (first.dueMs - STORE_DEADLINE_MS));
  }

  private settled(entry: Waiting, result: 'stored' | 'failed'): void {
    if (result === 'stored') {
      this.storedAtMs = this.monotonicMs();
      this.storedAfterMs = this.storedAtMs - (entry.dueMs - STORE_DEADLINE_MS);
    }
    this.hold(entry, -1);
    this.tell(entry, result, result);
  }

  private hold({ sender, code, bytes }: Waiting, sign: 1 | -1): void {
    const share = this.shares.get(code) ?? { events: 0, bytes: 0 };
    share.events += sign;
    share.bytes += sign * bytes;
    if (share.events === 0) this.shares.delete(code);
    else this.shares.set(code, share);
    sender.unstoredEvents += sign;
    this.heldEvents += sign;
    this.heldBytes += sign * bytes;
  }

  private tell(entry: Waiting, result: StoreResult, counted: 'stored' | 'failed' | 'late'): void {
    // Absent when its deadline came first.
    if (!this.waiting.delete(entry)) return;
    this.metrics.events.inc({ class: entry.eventClass, result: counted });
    entry.done(result);
  }
}
