/** Answers "which nodes live, since when, with how much load?"
 *  One lease per node: renewing costs O(nodes) of the store, never O(devices). A lapsed lease is never renewed: the node must come
 *  back as a new incarnation (I3). Store away: methods throw BrokerError `broker_unavailable`; the caller's fence does the rest. */

import type { NodeId } from '@lapi-broker/protocol';

export interface NodeLoad {
  readonly sessions: number;
  /** Registrations per second over the last beat. */
  readonly registrations: number;
  /** p99 of event loop delay over the last beat, ms. */
  readonly loopLagMs: number;
}

export type NodePhase = 'serving' | 'draining';

export interface NodeRecord {
  readonly node: NodeId;
  /** Where devices connect, for people to read. */
  readonly address: string;
  readonly version: string;
  readonly startedAtMs: number;
}

export interface NodeView extends NodeRecord, NodeLoad {
  readonly phase: NodePhase;
  /** Does its lease live? A dead one is listed until the reaper has taken all its devices offline. */
  readonly alive: boolean;
  readonly lastBeatMs: number;
}

export type RenewResult =
  /** `redisTimeMs` lets the caller keep its offset to Redis time. */
  | { readonly status: 'renewed'; readonly redisTimeMs: number }
  | { readonly status: 'lapsed' }
  | { readonly status: 'late' };

export interface NodeDirectory {
  /** Takes the lease. A living lease of the same name with another incarnation is replaced: its process is gone or will find itself lapsed. */
  join(record: NodeRecord, leaseMs: number): Promise<{ readonly redisTimeMs: number }>;
  /** `notAfterMs`: Redis time after which the renewal must not count, because its sender may have given up on it. */
  renew(node: NodeId, load: NodeLoad, phase: NodePhase, leaseMs: number, notAfterMs: number): Promise<RenewResult>;
  /** Ends the lease. The incarnation stays listed as dead while it owns devices. */
  leave(node: NodeId): Promise<void>;
  list(): Promise<readonly NodeView[]>;
  /** Drops a dead incarnation from the list; refuses (false) while its lease lives. */
  forget(node: NodeId): Promise<boolean>;
}
