/** Answers "what happened to this device lately?": its last sessions, each with its end and the last messages before it, and the registrations
 *  that were refused. For people who look for a fault, never for decisions: entries are written with the best effort and may be missing.
 *  Bounded: LIST_ENTRIES of each kind, ENTRY_BYTES each, and gone some time after the last. The two kinds are bounded apart, because anybody
 *  can make refusals of a code and nobody may push its sessions out with them.
 *  Who is online is not said here; the registry knows it. */

import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';

/** One message of a session, without what may be secret. */
export interface FrameEntry {
  readonly atMs: number;
  /** in: from the device. */
  readonly direction: 'in' | 'out';
  readonly type: 'request' | 'response' | 'stray' | 'malformed' | 'binary';
  /** Of the message, or of its `Data` where it came from us. */
  readonly bytes: number;
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly responseCode: number | undefined;
  /** Begin of `Data`, masked. */
  readonly excerpt: string | undefined;
}

/** A session that ended, or one that is still open: then it has no `endedAtMs` and no `reason`. Times are ms of Redis time. */
export interface SessionEntry {
  readonly type: 'session';
  readonly code: DeviceCode;
  readonly session: SessionId;
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly address: string;
  readonly openedAtMs: number;
  readonly endedAtMs: number | undefined;
  /** As in presence.offline. */
  readonly reason: string | undefined;
  /** Which of the two active secrets verified it. */
  readonly secret: 'current' | 'next' | undefined;
  /** The node from which it took the device over. */
  readonly previous: NodeId | undefined;
  /** Last sign of life. */
  readonly heardAtMs: number | undefined;
  readonly keepalives: number | undefined;
  /** Oldest first; as many of the last as fit. */
  readonly frames: readonly FrameEntry[];
}

/** Registrations refused for one reason, one shortly after the other. */
export interface RefusalEntry {
  readonly type: 'refused';
  readonly code: DeviceCode;
  readonly reason: string;
  /** Of the last. */
  readonly address: string;
  /** Name of the node that refused the last. */
  readonly node: string;
  readonly firstAtMs: number;
  readonly lastAtMs: number;
  readonly count: number;
}

export type TimelineEntry = SessionEntry | RefusalEntry;

export interface DeviceTimeline {
  /** Newest end first. */
  readonly sessions: readonly SessionEntry[];
  /** Newest first. */
  readonly refusals: readonly RefusalEntry[];
}

export interface Timeline {
  /** Adds them in this order; a refusal that follows one for the same reason within REFUSAL_WINDOW_MS is counted there. Never rejects: resolves
   *  with those that the store did not take, or perhaps took without saying so; a session that is written twice is read once. */
  append(entries: readonly TimelineEntry[]): Promise<readonly TimelineEntry[]>;
  /** Throws BrokerError `broker_unavailable` while the store is away. */
  read(code: DeviceCode): Promise<DeviceTimeline>;
}
