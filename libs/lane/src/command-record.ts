/** What is kept of one recorded command, and the words for its states. A state machine with one home: the scripts beside redis-lane-store.ts.
 *
 *    queued ──▶ sent ──▶ succeeded | failed | timed_out | unknown            queued ──▶ expired | cancelled | failed (refused unsent)
 *      ▲         │ not written, or repeatable with attempts left             timed_out | unknown ──late answer──▶ succeeded | failed
 *      └─────────┘ same place in its lane
 *
 *  `executed` is said with every end and never guessed (I4): no = no byte of it was ever written to a device socket; yes = the device
 *  answered it; maybe = nobody can know. */

import type { CommandId, DeviceCode, Epoch, InstanceId, LapiMethod } from '@lapi-broker/protocol';

export const LANES = ['normal', 'urgent'] as const;
export type LaneName = (typeof LANES)[number];

export const COMMAND_MODES = ['direct', 'queue', 'direct-then-queue'] as const;
export type CommandMode = (typeof COMMAND_MODES)[number];

export const COMMAND_STATES = [
  'queued',
  'sent',
  'succeeded',
  'failed',
  'timed_out',
  'unknown',
  'expired',
  'cancelled',
] as const;
export type CommandState = (typeof COMMAND_STATES)[number];

export function isEnded(state: CommandState): boolean {
  return state !== 'queued' && state !== 'sent';
}

export type Executed = 'yes' | 'no' | 'maybe';

/** Why a command is in its state; '' where the state says it all.
 *  device_error: the device answered something else than success · timeout: no answer in time, its session lived ·
 *  session_lost: the session ended after the write · superseded: replaced by a newer one with the same coalesceKey · cancelled: by the
 *  platform · device_removed · expired · request_too_large and other error codes: refused before anything was written · service_lost: the process that made
 *  a direct call did not say how it ended · store_rewound: the store forgot that it was sent · retry: waits for its next attempt. */
export type CommandReason = string;

/** What a platform asks for, made complete: every default is filled in, every duration is a time of the store (ms since the epoch). */
export interface NewCommand {
  readonly id: CommandId;
  readonly code: DeviceCode;
  readonly mode: CommandMode;
  readonly lane: LaneName;
  readonly method: LapiMethod;
  readonly url: string;
  /** JSON text of `Data`; empty = `{}`. At most 256 KiB for what waits in a lane. */
  readonly body: Uint8Array;
  /** How long the device may take to answer one attempt, ms. */
  readonly timeoutMs: number;
  /** Not sent after it, and no answer is awaited beyond it (I4). Redis time. */
  readonly expiresAtMs: number;
  /** Direct modes: until when the calling process may be at it; then nobody waits for its word any more. Redis time. */
  readonly directUntilMs: number | undefined;
  /** Takes its place in the lane then; undefined = at once. Redis time. */
  readonly notBeforeMs: number | undefined;
  /** Attempts altogether. Above 1 only for what may be repeated: GET, or `retrySafe` (I7). */
  readonly maxAttempts: number;
  /** Before the second attempt, ms; doubled for each further one, at most 60 s. */
  readonly backoffMs: number;
  readonly coalesceKey: string | undefined;
  /** Hashes (hex SHA-256) of the Idempotency-Key and of the request that came with it. */
  readonly idempotency: { readonly key: string; readonly request: string } | undefined;
  /** Id of the API key that asked. */
  readonly keyId: string;
  readonly job: string | undefined;
  readonly retryOf: CommandId | undefined;
  /** The process that wants to hear of the end. */
  readonly replyTo: InstanceId | undefined;
}

/** `body` is left out: a command is read far more often than its request. */
export interface CommandRecord {
  readonly id: CommandId;
  readonly code: DeviceCode;
  readonly mode: CommandMode;
  readonly lane: LaneName;
  readonly method: LapiMethod;
  readonly url: string;
  readonly state: CommandState;
  /** Of an ended command. */
  readonly executed: Executed | undefined;
  readonly reason: CommandReason;
  /** The end came after another end had been recorded. */
  readonly late: boolean;
  readonly attempts: number;
  readonly maxAttempts: number;
  readonly timeoutMs: number;
  readonly backoffMs: number;
  readonly acceptedAtMs: number;
  readonly expiresAtMs: number;
  readonly notBeforeMs: number | undefined;
  /** Of the last attempt. */
  readonly sentAtMs: number | undefined;
  readonly epoch: Epoch | undefined;
  readonly endedAtMs: number | undefined;
  readonly responseCode: number | undefined;
  /** The device's answer, one JSON object. An answer above 64 KiB is kept for 10 minutes only. */
  readonly response: Uint8Array | undefined;
  /** How long the answer is, also when it is not kept any more. */
  readonly responseBytes: number;
  readonly coalesceKey: string | undefined;
  readonly keyId: string;
  readonly job: string | undefined;
  readonly retryOf: CommandId | undefined;
}

/** An end that a script recorded, and who waits for it. */
export interface EndedCommand {
  readonly id: CommandId;
  readonly state: CommandState;
  readonly replyTo: InstanceId | undefined;
}
