/** The ordered queue of commands of each device (its lanes), and the record of every command: the truth about both (design: the lane carries
 *  order and truth). Two ports on one store: the intake, for processes that accept commands, and the line, for the node that holds the socket.
 *
 *  - Each method is one atomic change in the shard of the device, guarded by state, epoch, attempt and `notAfterMs` in Redis time.
 *  - I4 every accepted command ends exactly once, by its deadline. I6 commands of one lane start in the order in which they were accepted,
 *    retries included, at most `window` unanswered. I7 `begin` is the point of no return: what it hands out is written at most once per attempt,
 *    and only the owner of the highest epoch gets anything. I3 what carries an older epoch or attempt changes nothing.
 *  - Every change of state appends a `command.*` event to the shard's stream in the same step.
 *  - Any method may run twice, or run although its caller saw an error; nothing is then sent twice or lost.
 *  Store away: every method rejects with `broker_unavailable`. Not done here: sending (edge), waking and timers (command service), limits over
 *  several lanes, replication (callers confirm what must survive a failover). */

import type { CommandId, DeviceCode, Epoch, LapiMethod, NodeId } from '@lapi-broker/protocol';
import type { CommandRecord, CommandState, EndedCommand, LaneName, NewCommand } from './command-record.ts';

export interface LaneLimits {
  /** Waiting commands per device and lane. 0: takes none in any mode, and only tells what was accepted before. */
  readonly commands: number;
  /** Bytes of their bodies and URLs, per device. */
  readonly bytes: number;
}

/** Who holds the session, for the wake-up; undefined while the device is offline. */
export interface LaneOwner {
  readonly node: NodeId;
  readonly epoch: Epoch;
}

export type SubmitResult =
  | {
      readonly status: 'accepted';
      readonly state: 'queued' | 'sent';
      readonly owner: LaneOwner | undefined;
      /** Somebody should look at the lane then (`tend`); undefined when a timer for it, or for earlier, was asked for before. Redis time. */
      readonly timerAtMs: number | undefined;
      /** The command that this one replaced (coalesceKey). */
      readonly ended: readonly EndedCommand[];
    }
  /** The same Idempotency-Key came before with the same request; `id` is that command. Also the answer when `id` itself exists already. */
  | { readonly status: 'repeated'; readonly id: CommandId; readonly state: CommandState }
  | { readonly status: 'key_conflict'; readonly id: CommandId }
  | { readonly status: 'lane_full'; readonly limit: 'commands' | 'bytes' }
  | { readonly status: 'device_unknown' }
  /** `expiresAtMs` has passed. */
  | { readonly status: 'expired' }
  | { readonly status: 'late' };

export type CancelResult =
  | { readonly status: 'cancelled'; readonly ended: readonly EndedCommand[] }
  /** Not waiting any more: `state` says why. */
  | { readonly status: 'not_queued'; readonly state: CommandState }
  | { readonly status: 'not_found' }
  | { readonly status: 'late' };

export interface TendResult {
  readonly owner: LaneOwner | undefined;
  /** Could a command start now? Then the owner should be woken. */
  readonly startable: boolean;
  readonly timerAtMs: number | undefined;
  readonly ended: readonly EndedCommand[];
}

export interface HistoryPage {
  /** Newest first. */
  readonly items: readonly CommandRecord[];
  readonly cursor: string | undefined;
}

export interface LaneIntake {
  /** Accepts a command: into its lane, or, with mode `direct` and `direct-then-queue`, as `sent` by the calling process itself, so that its
   *  Idempotency-Key holds; `settleDirect` or `queueDirect` must follow, else it ends `unknown` after `directUntilMs`. */
  submit(command: NewCommand, limits: LaneLimits, notAfterMs: number): Promise<SubmitResult>;
  /** A direct call that was submitted has ended. `refused`: certainly not written; its Idempotency-Key is free again. */
  settleDirect(code: DeviceCode, id: CommandId, end: DirectEnd): Promise<SettleResult>;
  /** A `direct-then-queue` command that was not written takes its place at the end of its lane. The answers are those of `submit`;
   *  `repeated` when it is not out any more. Refused by a full lane it ends as `failed`. */
  queueDirect(code: DeviceCode, id: CommandId, limits: LaneLimits): Promise<SubmitResult>;
  cancel(code: DeviceCode, id: CommandId, notAfterMs: number): Promise<CancelResult>;
  read(id: CommandId): Promise<CommandRecord | undefined>;
  /** The body of the request, to send it again; undefined when the record is gone. */
  readBody(id: CommandId): Promise<Uint8Array | undefined>;
  /** Of several commands their states only, in the order asked; undefined for what is gone. */
  readStates(ids: readonly CommandId[]): Promise<readonly (CommandRecord | undefined)[]>;
  history(code: DeviceCode, cursor: string | undefined, limit: number): Promise<HistoryPage>;
  /** Does what is due in the lanes of a device: ends what expired, lets in what may begin, gives up what was not answered or belongs to an
   *  older epoch. Harmless at any time, by anybody. */
  tend(code: DeviceCode): Promise<TendResult>;
  /** Devices whose lanes somebody should tend now, most overdue first. */
  due(shard: number, limit: number): Promise<readonly DeviceCode[]>;
  /** Commands that wait, in all shards. */
  waiting(): Promise<number>;
}

/** Everything the node needs to write one command. */
export interface BegunCommand {
  readonly id: CommandId;
  /** Names this attempt, for `settle` and `giveBack`; grows with each, also with those that do not count. */
  readonly attempt: number;
  /** How many attempts may have been written, as far as the store knows, this one included. */
  readonly writes: number;
  readonly lane: LaneName;
  readonly method: LapiMethod;
  readonly url: string;
  readonly body: Uint8Array;
  /** Until the answer is given up, ms from now by Redis time: the timeout of the attempt, or less if its deadline comes first. */
  readonly leftMs: number;
}

export type BeginResult =
  | {
      readonly status: 'begun';
      readonly command: BegunCommand;
      /** Nothing else waits in this lane, now or for later. What comes is told, or found by whoever tends the lane. */
      readonly isLast: boolean;
      readonly ended: readonly EndedCommand[];
    }
  /** Nothing may start now; `nextMs`: until the first of the lane may be tried again. What waits for its `notBeforeMs` is woken by a timer. */
  | { readonly status: 'idle'; readonly nextMs: number | undefined; readonly ended: readonly EndedCommand[] }
  /** The window of the lane is full. */
  | { readonly status: 'busy'; readonly ended: readonly EndedCommand[] }
  /** The device is owned by somebody else, or by nobody. */
  | { readonly status: 'fenced' }
  | { readonly status: 'late' };

/** How one attempt ended, as the node that wrote it saw it. */
export type AttemptEnd =
  | {
      readonly kind: 'answered';
      readonly success: boolean;
      readonly responseCode: number | undefined;
      readonly body: Uint8Array;
    }
  /** Written, and no answer came in time. */
  | { readonly kind: 'timed_out' }
  /** Written, and the session ended without an answer. */
  | { readonly kind: 'lost'; readonly reason: CommandLossReason }
  /** Not written, and never to be: an error code. */
  | { readonly kind: 'refused'; readonly reason: string };

export type CommandLossReason = 'session_lost' | 'service_lost' | 'store_rewound';
/** `timed_out` and `lost` of a direct call: it may have been written. */
export type DirectEnd = AttemptEnd;

export type SettleResult =
  | { readonly status: 'settled'; readonly ended: EndedCommand; readonly late: boolean }
  /** Repeatable, with attempts left: it waits at its place, at least for `nextMs`. */
  | { readonly status: 'requeued'; readonly nextMs: number }
  /** Another epoch or attempt, or settled before: nothing changed. */
  | { readonly status: 'stale' };

export interface LaneLine {
  /** Hands out the next command of a lane to the owner of the device, right before it writes it. First lapses what is out under older
   *  epochs, and does what is due. Where Redis has replicas the caller waits for one before it writes; without one it gives back. */
  begin(request: BeginRequest): Promise<BeginResult>;
  /** The attempt was certainly not written: the command is queued again, at its place, the attempt not counted. */
  giveBack(code: DeviceCode, id: CommandId, epoch: Epoch, attempt: number): Promise<SettleResult>;
  /** An answer is taken until 10 minutes after the command ended `timed_out` or `unknown` in this epoch and attempt (`late`). */
  settle(code: DeviceCode, id: CommandId, epoch: Epoch, attempt: number, end: AttemptEnd): Promise<SettleResult>;
}

export interface BeginRequest {
  readonly code: DeviceCode;
  readonly lane: LaneName;
  readonly node: NodeId;
  readonly epoch: Epoch;
  /** Commands of this lane that may be out at a time. */
  readonly window: number;
  readonly notAfterMs: number;
}
