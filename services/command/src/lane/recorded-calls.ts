/** Direct calls that are recorded: those with an Idempotency-Key, and those that wait in a lane when nobody can take them now
 *  (`direct-then-queue`). The record comes first, then the call, then its end is written into the record.
 *  - The same key with the same request reaches the device once: who comes second waits for the end of the first (I4.3, I7).
 *  - What was written, or may have been, never enters a lane; it ends as the call ended (I4).
 *  - An end that the store does not take, or no replica has, is told to the caller all the same, and tried again until nobody waits for it;
 *    should this process die with it, the record ends `unknown`, which is never wrong.
 *  A call without a key is not recorded and does not come here. */

import type {
  CommandRecord,
  CommandState,
  DirectEnd,
  LaneIntake,
  LaneLimits,
  SettleResult,
  SubmitResult,
} from '@lapi-broker/lane';
import { BrokerError, type CommandId, type DeviceCode } from '@lapi-broker/protocol';
import type { CommandEnd, CommandError, Dispatch, StoreTime } from '../dispatch/dispatch.ts';
import type { LaneHints } from './hints.ts';
import type { DirectPart, QueuedRequest } from './new-command.ts';
import { laneLimit, type QueuedCommands, type Refused } from './queued-commands.ts';
import type { Waiters } from './waiters.ts';

export interface RecordedCall extends QueuedRequest {
  readonly mode: DirectPart['mode'];
  /** For an offline device to come; 0 = do not wait. */
  readonly connectTimeoutMs: number;
  /** True once nobody waits for the answer any more. */
  withdrawn(): boolean;
}

export type CallOutcome =
  /** `state`: as recorded, or as it would have been. */
  | { readonly status: 'ended'; readonly id: CommandId; readonly state: CommandState; readonly end: CommandEnd }
  /** Nothing was written; it waits in its lane, or has ended there. `record`: as it was at that moment. */
  | { readonly status: 'queued'; readonly id: CommandId; readonly record: CommandRecord }
  /** Made by an earlier request with the same key. */
  | { readonly status: 'repeated'; readonly id: CommandId; readonly record: CommandRecord | undefined }
  | Refused;

export interface RecordedCallsParts {
  readonly commands: Pick<QueuedCommands, 'submitAs' | 'noteAccepted' | 'read'>;
  readonly intake: Pick<LaneIntake, 'settleDirect' | 'queueDirect'>;
  readonly dispatch: Pick<Dispatch, 'call'>;
  readonly hints: LaneHints;
  readonly waiters: Pick<Waiters, 'whenEnded'>;
  readonly lane: LaneLimits;
  readonly time: StoreTime;
  /** Has a replica what was written for this device? */
  readonly confirm: (code: DeviceCode) => Promise<boolean>;
}

/** After the call's own deadline: for its end to reach the store. */
const SETTLE_MS = 3_000;
const RETRY_MS = 250;
const RETRIES = 40;

const TOO_LATE: CommandEnd = {
  status: 'refused',
  error: 'timeout_not_sent',
  written: false,
  detail: 'the deadline passed before the call could be made',
};

/** Not written, and no waiting would help. */
const HOPELESS: readonly CommandError[] = ['device_unknown', 'request_too_large'];

export class RecordedCalls {
  readonly name = 'recorded calls';
  readonly #parts: RecordedCallsParts;
  /** Ends that the store has not taken yet: how to give up waiting for the next try. */
  readonly #unsettled = new Set<() => void>();
  #stopped: boolean = false;

  constructor(parts: RecordedCallsParts) {
    this.#parts = parts;
  }

  /** Rejects only on a defect of the broker itself. */
  async call(call: RecordedCall): Promise<CallOutcome> {
    const { mode, connectTimeoutMs, withdrawn, ...request } = call;
    const { commands, dispatch } = this.#parts;
    const untilMs = connectTimeoutMs + call.timeoutMs;
    const submitted = await commands.submitAs({ mode, withinMs: untilMs + SETTLE_MS }, request);
    if (submitted.status === 'refused') return submitted;
    const { id } = submitted;
    if (submitted.status === 'repeated') return await this.#repeated(id, untilMs);
    const { code, method, url, body } = call;
    const times = this.#timesOf(call, submitted.record);
    const end = times === undefined ? TOO_LATE : await dispatch.call({ code, method, url, body, ...times, withdrawn });
    const mayWait = end.status === 'refused' && !end.written && !HOPELESS.includes(end.error);
    return mode === 'direct-then-queue' && mayWait
      ? await this.#queue(submitted.record, end)
      : await this.#settle(code, id, end);
  }

  /** Gives up what the store did not take: those records end `unknown`. */
  stop(): void {
    this.#stopped = true;
    for (const giveUp of [...this.#unsettled]) giveUp();
  }

  /** What has a deadline of its own is not tried beyond it (I4): the time for the answer goes before the wait for the device, which the lane
   *  can do as well. Undefined when it has passed. */
  #timesOf(
    { mode, timeoutMs, connectTimeoutMs }: RecordedCall,
    { expiresAtMs }: CommandRecord,
  ): Pick<RecordedCall, 'timeoutMs' | 'connectTimeoutMs'> | undefined {
    if (mode === 'direct') return { timeoutMs, connectTimeoutMs };
    const leftMs = expiresAtMs - this.#parts.time.nowMs();
    if (leftMs <= 0) return undefined;
    const answerMs = Math.min(timeoutMs, leftMs);
    return { timeoutMs: answerMs, connectTimeoutMs: Math.min(connectTimeoutMs, leftMs - answerMs) };
  }

  /** Waits as long as the first call may take, then answers with what is known. */
  async #repeated(id: CommandId, withinMs: number): Promise<CallOutcome> {
    const { waiters, commands } = this.#parts;
    try {
      const record = (await waiters.whenEnded(id, withinMs)) ?? (await commands.read(id));
      return { status: 'repeated', id, record };
    } catch (error) {
      if (error instanceof BrokerError && error.code === 'broker_unavailable') return UNREADABLE;
      throw error;
    }
  }

  async #settle(code: DeviceCode, id: CommandId, end: CommandEnd): Promise<CallOutcome> {
    const { intake, hints, confirm } = this.#parts;
    const directEnd = directEndOf(end);
    const tell = async (): Promise<SettleResult> => {
      const result = await intake.settleDirect(code, id, directEnd);
      if (result.status === 'settled') hints.tell([result.ended]);
      return result;
    };
    const tellForGood = async (): Promise<void> => {
      await tell();
      if (!(await confirm(code))) throw new BrokerError('broker_unavailable', 'no replica has the end of a call');
    };
    const settled = await this.#untilTaken(tell, tellForGood);
    // What no replica has, a failover forgets. The caller does not wait for it.
    if (settled !== undefined && !this.#stopped) void this.#untilConfirmed(code, tellForGood);
    const state = settled?.status === 'settled' ? settled.ended.state : stateOf(directEnd);
    return { status: 'ended', id, state, end };
  }

  async #queue(sent: CommandRecord, end: CommandEnd): Promise<CallOutcome> {
    const { intake, commands, lane, confirm } = this.#parts;
    const { code, id } = sent;
    const result = await this.#untilTaken(async () => {
      const queued = await intake.queueDirect(code, id, lane);
      if (queued.status === 'accepted') commands.noteAccepted(code, queued);
      return queued;
    });
    if (result === undefined || (isIn(result) && !(await confirm(code)))) {
      return { status: 'refused', error: 'broker_unavailable', detail: NOT_CONFIRMED, mayExist: true };
    }
    if (result.status === 'accepted')
      return { status: 'queued', id, record: { ...sent, state: 'queued', attempts: 0, sentAtMs: undefined } };
    // Superseded meanwhile, or given up because this process was too slow.
    if (result.status === 'repeated') return await this.#asRecorded(id);
    if (result.status === 'lane_full')
      return { status: 'refused', error: 'lane_full', detail: laneLimit(result.limit, lane) };
    return { status: 'ended', id, state: 'expired', end };
  }

  async #asRecorded(id: CommandId): Promise<CallOutcome> {
    try {
      const record = await this.#parts.commands.read(id);
      return record === undefined ? { status: 'repeated', id, record } : { status: 'queued', id, record };
    } catch (error) {
      if (error instanceof BrokerError && error.code === 'broker_unavailable') return UNREADABLE;
      throw error;
    }
  }

  /** The first try decides what the caller hears: undefined when the store did not take it. Further ones go on behind. */
  async #untilTaken<T>(attempt: () => Promise<T>, again: () => Promise<unknown> = attempt): Promise<T | undefined> {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof BrokerError) || error.code !== 'broker_unavailable') throw error;
      void this.#insist(again);
      return undefined;
    }
  }

  /** Never rejects. */
  async #untilConfirmed(code: DeviceCode, again: () => Promise<void>): Promise<void> {
    if (!(await this.#parts.confirm(code))) await this.#insist(again);
  }

  /** Never rejects. */
  async #insist(attempt: () => Promise<unknown>): Promise<void> {
    for (let tries = 0; tries < RETRIES && !this.#stopped; tries++) {
      await this.#pause(RETRY_MS);
      try {
        await attempt();
        return;
      } catch {
        // The record ends `unknown` when its time is over; until then it can be made true.
      }
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#unsettled.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#unsettled.add(done);
    });
  }
}

const NOT_CONFIRMED =
  'the store did not confirm that the command waits; it may, so ask again with the same Idempotency-Key';

/** The command exists; whether it was sent, nobody can say now. */
export const UNREADABLE: Refused = {
  status: 'refused',
  error: 'broker_unavailable',
  detail:
    'the command exists, but the store cannot be asked what became of it; ask again with the same Idempotency-Key',
  mayExist: true,
};

function isIn(result: SubmitResult): boolean {
  return result.status === 'accepted' || result.status === 'repeated';
}

function directEndOf(end: CommandEnd): DirectEnd {
  if (end.status === 'answered')
    return { kind: 'answered', success: end.success, responseCode: end.responseCode, body: end.body };
  if (!end.written) return { kind: 'refused', reason: end.error };
  return end.error === 'timeout' ? { kind: 'timed_out' } : { kind: 'lost', reason: 'session_lost' };
}

function stateOf(end: DirectEnd): CommandState {
  switch (end.kind) {
    case 'answered':
      return end.success ? 'succeeded' : 'failed';
    case 'timed_out':
      return 'timed_out';
    case 'lost':
      return 'unknown';
    case 'refused':
      return 'failed';
  }
}
