/** What a durable group is and what its consumers see of it: the words that the API, webhooks and sinks share.
 *
 *  A group is a named, durable reader of the event streams. Every event that its filter matches is handed out to one of its consumers at a
 *  time, again after the ack deadline if nobody said that it is done, until it is acknowledged or has been tried `maxAttempts` times: then it
 *  becomes a dead letter. What retention took before the group got to it comes as a gap, which is acknowledged like an event (I5.1). */

import type { StartPoint } from '../event/cursor.ts';
import type { FilterTerms } from '../event/filter.ts';
import type { OutgoingEvent } from '../event/outgoing-event.ts';

export const GROUP_LIMITS = {
  ackDeadlineMs: { min: 1_000, max: 600_000, default: 30_000 },
  maxInFlight: { min: 1, max: 10_000, default: 1_000 },
  maxAttempts: { min: 1, max: 100, default: 5 },
  /** Of one pull, and ids of one settling. */
  batch: { max: 1_000, default: 100 },
  waitMs: { max: 30_000, default: 0 },
  nackDelayMs: { max: 86_400_000 },
} as const;

/** 1–64 of letters, digits, `.`, `_`, `-`. Groups of webhooks and sinks have a `:` in theirs, so that they never meet. */
export const GROUP_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export interface GroupSpec {
  readonly name: string;
  readonly filter: FilterTerms;
  /** How long a consumer may take over an event before it is handed out again. */
  readonly ackDeadlineMs: number;
  /** Events handed out and not settled, over all consumers. */
  readonly maxInFlight: number;
  /** Hand-outs before an event becomes a dead letter. */
  readonly maxAttempts: number;
  /** One event of a device at a time, in the device's order: the next one is handed out when the one before is acknowledged or dead. */
  readonly ordered: boolean;
}

/** Whom it serves. The API lists only those of platforms. */
export type GroupOwner = 'platform' | 'webhook' | 'sink';

export interface Group extends GroupSpec {
  /** Names its keys; a group that is deleted and made again has another. */
  readonly key: string;
  readonly owner: GroupOwner;
  readonly createdAtMs: number;
}

/** What the group still has to do. `lag`: entries of the streams that it has not looked at yet, whatever its filter says of them. */
export interface GroupProgress {
  readonly lag: number;
  /** Matched and not handed out: waiting for a consumer, for an earlier event of their device, or for their next attempt. */
  readonly waiting: number;
  readonly inFlight: number;
  readonly deadLetters: number;
  /** Events acknowledged, and dead letters that had to make room for newer ones, since the group was made. */
  readonly acknowledged: number;
  readonly deadLettersDropped: number;
  /** Receipt of the oldest event that is not settled, ms since the epoch; undefined when nothing is behind. */
  readonly oldestAtMs: number | undefined;
}

/** Events that retention took before the group got them. */
export interface GroupGap {
  readonly shard: number;
  /** In the form of event ids: events after `from` and before `to` are missing. */
  readonly from: string;
  readonly to: string;
  /** All events of the shard in between, whatever the filter; null only where the group began at a time that was past retention already. */
  readonly count: number | null;
}

export type GroupMessage =
  | { readonly type: 'event'; readonly event: OutgoingEvent }
  | { readonly type: 'gap'; readonly gap: GroupGap };

/** One hand-out. */
export interface Delivery {
  /** Opaque; names the event and this attempt. At most 200 characters of A–Z a–z 0–9 - _ . */
  readonly ackId: string;
  /** 1 for the first. */
  readonly attempt: number;
  readonly message: GroupMessage;
}

export type Verdict =
  | { readonly type: 'ack' }
  /** Again, not before `delayMs`. */
  | { readonly type: 'nack'; readonly delayMs: number }
  /** The consumer needs until `deadlineMs` from now. */
  | { readonly type: 'extend'; readonly deadlineMs: number }
  /** Never looked at: again at once, and this attempt does not count. */
  | { readonly type: 'release' };

/** stale: it was handed out again or settled meanwhile, so this consumer has no say any more (an ack is taken as long as the event is open).
 *  invalid: no id of this group. */
export type Settled = 'done' | 'stale' | 'invalid';

export interface DeadLetter {
  /** The event's own id. */
  readonly id: string;
  readonly event: OutgoingEvent;
  readonly attempts: number;
  readonly diedAtMs: number;
}

export interface PullOptions {
  /** At most so many; fewer are answered as soon as there is one. */
  readonly max: number;
  /** How long to wait for the first; 0 = not at all. */
  readonly waitMs: number;
  readonly signal?: AbortSignal;
  /** Of the data of all events together, about; the first is given whatever its size. 8 MiB when absent. */
  readonly maxBytes?: number;
}

export type NewGroup =
  | { readonly status: 'created' | 'existing'; readonly group: Group }
  /** There is one of this name that is not the same. */
  | { readonly status: 'conflict' }
  | { readonly status: 'full'; readonly limit: number };

/** Store away: every method rejects with BrokerError `broker_unavailable`; what it was to change may have been changed. A name that no group
 *  has: `not_found`. */
export interface Groups {
  /** Idempotent: the same name and spec answer `existing`, and keep their place. */
  create(spec: GroupSpec, owner: GroupOwner, start: StartPoint): Promise<NewGroup>;
  get(name: string): Promise<Group>;
  /** In order of names. */
  list(owner: GroupOwner): Promise<readonly Group[]>;
  /** Keeps the place; the filter counts for what is looked at from then on. */
  change(name: string, change: Partial<Omit<GroupSpec, 'name' | 'ordered'>>): Promise<Group>;
  /** Idempotent. Its consumers get `not_found` from then on. */
  remove(name: string): Promise<void>;
  progress(name: string): Promise<GroupProgress>;
  pull(name: string, options: PullOptions): Promise<readonly Delivery[]>;
  /** One answer per id, in their order. */
  settle(name: string, ackIds: readonly string[], verdict: Verdict): Promise<readonly Settled[]>;
  /** Oldest first; `after` is the id of the last one seen. Fewer than `limit` when they are large, none only at the end. */
  deadLetters(
    name: string,
    page: { readonly after: string | undefined; readonly limit: number },
  ): Promise<readonly DeadLetter[]>;
  /** Hands them out again as if for the first time; answers how many there were. All when no ids are given. */
  replay(name: string, ids: readonly string[] | undefined): Promise<number>;
  discard(name: string, ids: readonly string[] | undefined): Promise<number>;
}
