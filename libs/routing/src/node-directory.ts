/** Answers "which nodes live, since when, with how much load, and which of them are leaving?"
 *  One lease per node: renewing costs O(nodes) of the store, never O(devices). A lapsed lease is never renewed: the node must come
 *  back as a new incarnation (I3). What an operator asks of a node is kept beside its lease and told with the answer of each renewal, so it
 *  needs no message that may be lost; it ends with the incarnation of which it was asked. Store away: methods throw BrokerError `broker_unavailable`; the caller's fence does the rest. */

import type { NodeId } from '@lapi-broker/protocol';

export interface NodeLoad {
  readonly sessions: number;
  /** Registrations per second over the last beat. */
  readonly registrations: number;
  /** p99 of event loop delay over the last beat, ms. */
  readonly loopLagMs: number;
}

export type NodePhase = 'serving' | 'draining';

/** Times are ms of Redis time. */
export interface DrainProgress {
  readonly startedAtMs: number;
  /** By when the last device is told to go. */
  readonly endsAtMs: number;
  /** Devices that the drain is about: those that went and those that are left. */
  readonly devices: number;
  readonly left: number;
}

/** What a node says of itself with every beat. */
export interface NodeStatus extends NodeLoad {
  readonly phase: NodePhase;
  /** While it drains, and for as long as it stays empty afterwards. */
  readonly drain?: DrainProgress;
}

/** What an operator asks of a node. */
export type NodeAsk =
  /** Give the devices to other nodes within `seconds`; undefined = as long as the node is set to take. */
  { readonly ask: 'drain'; readonly seconds: number | undefined } | { readonly ask: 'resume' };

/** `number` is another for each word, and grows unless the clock of the store goes back: a node does what it has not heard yet, and nothing
 *  because something is absent, which a failover may have lost. */
export type HeardAsk = NodeAsk & { readonly number: number };

export interface NodeRecord {
  readonly node: NodeId;
  /** Where devices connect, for people to read. */
  readonly address: string;
  readonly version: string;
  readonly startedAtMs: number;
}

export interface NodeView extends NodeRecord, NodeStatus {
  /** Does its lease live? A dead one is listed until the reaper has taken all its devices offline. */
  readonly alive: boolean;
  readonly lastBeatMs: number;
}

export type RenewResult =
  /** `redisTimeMs` lets the caller keep its offset to Redis time. `asked` is the last thing asked of this incarnation, heard before or not. */
  | { readonly status: 'renewed'; readonly redisTimeMs: number; readonly asked?: HeardAsk }
  | { readonly status: 'lapsed' }
  | { readonly status: 'late' };

export interface NodeDirectory {
  /** Takes the lease. A living lease of the same name with another incarnation is replaced: its process is gone or will find itself lapsed.
   *  `status` is for a process that comes back with devices, and perhaps while it drains; default: serving, and idle. */
  join(record: NodeRecord, leaseMs: number, status?: NodeStatus): Promise<{ readonly redisTimeMs: number }>;
  /** `notAfterMs`: Redis time after which the renewal must not count, because its sender may have given up on it. */
  renew(node: NodeId, status: NodeStatus, leaseMs: number, notAfterMs: number): Promise<RenewResult>;
  /** Leaves word for an incarnation, which hears it with its next renewal. `gone`: its lease has ended, nothing was asked. A later word
   *  replaces an earlier one. */
  ask(node: NodeId, ask: NodeAsk): Promise<'asked' | 'gone'>;
  /** Ends the lease. The incarnation stays listed as dead while it owns devices. */
  leave(node: NodeId): Promise<void>;
  list(): Promise<readonly NodeView[]>;
  /** Drops a dead incarnation from the list; refuses (false) while its lease lives. */
  forget(node: NodeId): Promise<boolean>;
}
