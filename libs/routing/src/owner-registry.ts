/** Answers "which node owns this device, and at which epoch?"
 *  I1 one owner per epoch; I2 epochs only grow; I3 a lower epoch is refused. Writes are fenced inside one atomic step; a read
 *  may be one lease old. Every change of owner writes its presence events in the same step (protocol D5), and a hold-down or a quarantine
 *  its one alarm.
 *  Store away: every method throws BrokerError `broker_unavailable`. Choosing a node is not done here, nor is node liveness. */

import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';

export interface Owner {
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly session: SessionId;
  /** When the ownership began, ms of Redis time. */
  readonly sinceMs: number;
}

/** Why a device is no longer online, as `reason` of presence.offline. `superseded`, `node_lost` and `quarantined` are written by the registry
 *  itself. */
export type OfflineReason =
  | 'closed'
  | 'unregistered'
  | 'superseded'
  | 'liveness_timeout'
  | 'node_lost'
  | 'draining'
  | 'rebalanced'
  | 'disconnected'
  | 'revoked'
  | 'quarantined'
  | 'fenced'
  | 'isolated'
  | 'unconfirmed'
  | 'too_big'
  | 'bad_utf8'
  | 'bad_frame'
  | 'bad_json'
  | 'unmasked'
  | 'overflow';

/** Why a device is kept away for a while: its sessions replaced each other too often, from one address or from several that took turns
 *  (protocol D8), or ended for misbehaviour too often. */
export type HoldReason = 'flapping' | 'conflict' | 'quarantined';

export interface Hold {
  readonly reason: HoldReason;
  readonly untilMs: number;
  /** From where the device came, the earliest first, each once. */
  readonly addresses: readonly string[];
}

/** What is recorded about a session beside its ownership. */
export interface SessionFacts {
  readonly vendor: string;
  readonly deviceType: string;
  readonly algorithm: string;
  readonly address: string;
}

export interface ClaimRequest {
  readonly code: DeviceCode;
  readonly node: NodeId;
  readonly session: SessionId;
  readonly facts: SessionFacts;
  readonly nonce: string;
  /** How long a used nonce is remembered. */
  readonly nonceTtlMs: number;
  /** Revision of the provisioning that verified the Sign; an older one is refused, so a cached secret can never outlive its revocation. */
  readonly revision: number;
  /** ms of Redis time after which the claim must not happen any more. */
  readonly notAfterMs: number;
}

export type ClaimResult =
  | {
      readonly status: 'claimed';
      readonly epoch: Epoch;
      readonly previous: Owner | undefined;
      /** Does a command of the device wait, or is one out? Then its lanes want a look. */
      readonly laneBusy: boolean;
    }
  /** This DeviceCode has used this nonce before (F9). */
  | { readonly status: 'replayed' }
  /** The provisioning changed since the Sign was verified: read it again and verify again. */
  | { readonly status: 'stale_provisioning' }
  /** Too many take-overs: the current session stays (D8). Quarantined: there is none, and none begins. */
  | { readonly status: 'held_down'; readonly reason: HoldReason; readonly retryAfterMs: number }
  | { readonly status: 'late' };

export interface ReclaimRequest {
  readonly code: DeviceCode;
  /** The fenced incarnation and the epoch it held. */
  readonly from: NodeId;
  readonly epoch: Epoch;
  readonly to: NodeId;
  readonly session: SessionId;
}

/** `lost`: somebody else claimed the device meanwhile, or it was removed or disabled; close the session. */
export type ReclaimResult =
  | { readonly status: 'reclaimed'; readonly epoch: Epoch; readonly laneBusy: boolean }
  | { readonly status: 'lost' };

export interface ReleaseRequest {
  readonly code: DeviceCode;
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly reason: OfflineReason;
}

/** `quarantined`: released, and kept away for a while, because its sessions end for misbehaviour too often.
 *  `stale`: another epoch or node owns the device; nothing was changed beyond forgetting it in the caller's own index. */
export type ReleaseResult =
  | { readonly status: 'released' }
  | { readonly status: 'quarantined' }
  | { readonly status: 'stale' };

export type AnnotateResult = { readonly status: 'noted' } | { readonly status: 'stale' };

/** `lost`: its lease ended without a goodbye. */
export type NodeEnd = 'left' | 'lost';

/** `known`: it was announced before, by whomever. */
export type AnnounceResult =
  | {
      readonly status: 'announced';
      /** How many devices it held at that moment; 0 for one that left. */
      readonly devices: number;
    }
  | { readonly status: 'known' };

export interface LookUp {
  readonly provisioned: boolean;
  /** Named by the registry row; whether its node's lease lives is the NodeDirectory's to say. */
  readonly owner: Owner | undefined;
}

export interface OwnerRegistry {
  /** If it throws, the claim may have happened, up to `notAfterMs`: look up after that, and release if the row names this session. */
  claim(request: ClaimRequest): Promise<ClaimResult>;
  /** After a fence: same session, new incarnation, new epoch. Compares the old epoch, so it takes nothing from a newer owner.
   *  Safe to call again with the same session if it throws. */
  reclaim(request: ReclaimRequest): Promise<ReclaimResult>;
  release(request: ReleaseRequest): Promise<ReleaseResult>;
  /** Notes the state of the session's event subscription (protocol U6), JSON, at most 4096 characters; shown with the device until the
   *  session ends. `stale`: the session does not own the device any more, nothing was noted. */
  annotate(code: DeviceCode, node: NodeId, epoch: Epoch, subscription: string): Promise<AnnotateResult>;
  lookUp(code: DeviceCode): Promise<LookUp>;
  /** What claim and reclaim tell along with their answer, for a session that only stays. */
  laneBusy(code: DeviceCode): Promise<boolean>;
  /** Tells event subscribers once that an incarnation is over, as node.left or node.lost. The first call decides which. To be called before
   *  the lease is given back, or before its devices are turned offline: whoever only asks for nodes learns of all of them by this one event. */
  announceEnd(node: NodeId, end: NodeEnd): Promise<AnnounceResult>;
  /** Turns up to `limit` devices per shard of a dead incarnation offline (`node_lost`). Safe to run by many at once.
   *  `done` is true when no device of it is left. Only for incarnations whose lease has ended: a lapsed lease never lives again.
   *  A claim on its way may still land until its `notAfterMs`, so reap once more after that before the node is forgotten. */
  reap(node: NodeId, limit: number): Promise<{ readonly offline: number; readonly done: boolean }>;
}
