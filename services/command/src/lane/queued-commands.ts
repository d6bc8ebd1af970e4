/** Answers "take this command, deliver it when the device is there, and tell me how it ended": the one way into the lanes for HTTP routes, jobs
 *  and schedules. Makes a request complete, submits it in one script, waits for a replica where there is one, and then only hints.
 *  - I4 what was accepted is in the store before the caller hears of it; a lost hint costs seconds, never a command.
 *  - The same key with the same request is the same command, concurrent calls included; the script decides.
 *  Store away, or no replica in time: `broker_unavailable`; the command may exist then, so ask again with the same key.
 *  Store near full: `store_full`, before anything is written. Not done here: who may call what, order and delivery (libs/lane, the edge). */

import {
  type CommandRecord,
  type CommandState,
  isEnded,
  type LaneIntake,
  type LaneLimits,
  type LaneName,
  type NewCommand,
  type SubmitResult,
} from '@lapi-broker/lane';
import { BrokerError, type CommandId, type DeviceCode, type InstanceId, newCommandId } from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import type { StoreTime } from '../dispatch/dispatch.ts';
import { LIMITS } from '../limits.ts';
import type { LaneHints } from './hints.ts';
import { completeCommand, type DirectPart, type QueuedRequest, recordOf } from './new-command.ts';
import type { Waiters } from './waiters.ts';

export type SubmitError =
  | 'device_unknown'
  | 'lane_full'
  | 'rate_limited'
  | 'key_conflict'
  | 'store_full'
  /** Its deadline has passed already. */
  | 'invalid_request'
  /** Whether it exists is not known: ask again with the same key. */
  | 'broker_unavailable';

export interface Refused {
  readonly status: 'refused';
  readonly error: SubmitError;
  readonly detail: string;
  /** It may have been accepted all the same: only the same key tells. */
  readonly mayExist?: boolean;
}

export type Submitted =
  /** `record`: as it was at that moment. */
  | {
      readonly status: 'accepted';
      readonly id: CommandId;
      readonly state: CommandState;
      readonly record: CommandRecord;
    }
  /** It exists since an earlier request with the same key. */
  | { readonly status: 'repeated'; readonly id: CommandId; readonly state: CommandState }
  | Refused;

export type Cancelled =
  | { readonly status: 'cancelled' }
  | { readonly status: 'not_found' }
  | { readonly status: 'not_queued'; readonly state: CommandState };

export type Retried =
  | Submitted
  | { readonly status: 'not_found' }
  | { readonly status: 'not_ended'; readonly state: CommandState };

export interface RetryBy {
  readonly keyId: string;
  readonly ttlMs: number;
  readonly idempotencyKey?: string | undefined;
  readonly awaited: boolean;
}

/** What jobs, schedules and routes see. All but `submit`, `retry` and `whenEnded` reject with `broker_unavailable` when the store is away. */
export interface CommandQueue {
  submit(request: QueuedRequest): Promise<Submitted>;
  read(id: CommandId): Promise<CommandRecord | undefined>;
  /** In the order asked, undefined for what is gone; without the answers of the devices. */
  readStates(ids: readonly CommandId[]): Promise<readonly (CommandRecord | undefined)[]>;
  cancel(id: CommandId): Promise<Cancelled>;
  /** Sends an ended command once more, as a new one. */
  retry(id: CommandId, by: RetryBy): Promise<Retried>;
  /** Resolves with the record once it has ended; undefined when it has not within `timeoutMs` (at most 60 s), or is gone. */
  whenEnded(id: CommandId, timeoutMs: number): Promise<CommandRecord | undefined>;
  /** `listener` hears the ids of `awaited` commands that ended: a hint, perhaps twice, perhaps never; the record is the truth. It must not
   *  throw. Answers how to stop it. */
  onEnded(listener: (id: CommandId) => void): () => void;
}

export interface QueuedCommandsParts {
  readonly intake: LaneIntake;
  readonly keyspace: Pick<Keyspace, 'shardOf' | 'device'>;
  readonly time: StoreTime;
  readonly instance: InstanceId;
  /** Has a replica what was written for this key? */
  readonly confirm: (key: string) => Promise<boolean>;
  readonly hints: LaneHints;
  readonly waiters: Waiters;
  /** True while the store has too little memory for more. */
  readonly storeFull: () => boolean;
  readonly waiting: WaitingCount;
  readonly limits: { readonly lane: LaneLimits; readonly waitingCommands: number };
  /** 20 characters `[0-9a-z]`. */
  readonly random: () => string;
  /** For metrics: `accepted`, `repeated`, or the error. */
  readonly onSubmitted: (result: string) => void;
}

/** Commands that wait in all lanes, as far as this process knows. */
export interface WaitingCount {
  readonly value: number;
  /** One more, until the next count. */
  add(): void;
}

export class QueuedCommands implements CommandQueue {
  readonly #parts: QueuedCommandsParts;

  constructor(parts: QueuedCommandsParts) {
    this.#parts = parts;
  }

  submit(request: QueuedRequest): Promise<Submitted> {
    return this.submitAs(undefined, request);
  }

  /** With a direct part the command is recorded as `sent` by this process, and has to be ended by it (recorded-calls.ts). */
  async submitAs(direct: DirectPart | undefined, request: QueuedRequest): Promise<Submitted> {
    const refusal = direct?.mode === 'direct' ? undefined : this.#refusal();
    const submitted =
      refusal === undefined
        ? await this.#submit(direct, request, this.#parts.limits.lane)
        : await this.#unlessAccepted(direct, request, refusal);
    this.#parts.onSubmitted(submitted.status === 'refused' ? submitted.error : submitted.status);
    return submitted;
  }

  read(id: CommandId): Promise<CommandRecord | undefined> {
    return this.#parts.intake.read(id);
  }

  readStates(ids: readonly CommandId[]): Promise<readonly (CommandRecord | undefined)[]> {
    return this.#parts.intake.readStates(ids);
  }

  async cancel(id: CommandId): Promise<Cancelled> {
    const { intake, hints, confirm, keyspace } = this.#parts;
    const record = await this.read(id);
    if (record === undefined) return { status: 'not_found' };
    const result = await intake.cancel(record.code, id, this.#notAfterMs());
    if (result.status === 'late')
      throw new BrokerError('broker_unavailable', 'the store was slow; nothing was cancelled');
    if (result.status !== 'cancelled') return result;
    hints.tell(result.ended);
    // Else a failover could send what somebody was told is cancelled.
    if (!(await confirm(keyspace.device(record.code))))
      throw new BrokerError('broker_unavailable', 'the store did not confirm; the command may be cancelled: read it');
    return { status: 'cancelled' };
  }

  async retry(id: CommandId, { keyId, ttlMs, idempotencyKey, awaited }: RetryBy): Promise<Retried> {
    const { intake } = this.#parts;
    const record = await this.read(id);
    if (record === undefined) return { status: 'not_found' };
    if (!isEnded(record.state)) return { status: 'not_ended', state: record.state };
    const body = await intake.readBody(id);
    if (body === undefined) return { status: 'not_found' };
    const { code, method, url, lane, timeoutMs, maxAttempts, backoffMs } = record;
    return await this.submit({
      code,
      method,
      url,
      body,
      lane,
      timeoutMs,
      maxAttempts,
      backoffMs,
      expires: { afterMs: ttlMs },
      keyId,
      idempotencyKey,
      retryOf: id,
      awaited,
    });
  }

  whenEnded(id: CommandId, timeoutMs: number): Promise<CommandRecord | undefined> {
    return this.#parts.waiters.whenEnded(id, timeoutMs);
  }

  onEnded(listener: (id: CommandId) => void): () => void {
    return this.#parts.waiters.listen(listener);
  }

  #notAfterMs(): number {
    return this.#parts.time.nowMs() + LIMITS.submitMs;
  }

  #refusal(): Refused | undefined {
    const { storeFull, waiting, limits } = this.#parts;
    if (storeFull()) return refused('store_full', `the memory of the store is ${LIMITS.storeFullPercent} % used`);
    if (waiting.value >= limits.waitingCommands)
      return refused('rate_limited', `${limits.waitingCommands} commands wait for all devices together`);
    return undefined;
  }

  /** Only new commands are refused: what was accepted under the same key is answered as ever. */
  async #unlessAccepted(direct: DirectPart | undefined, request: QueuedRequest, refusal: Refused): Promise<Submitted> {
    if (request.idempotencyKey === undefined) return refusal;
    const submitted = await this.#submit(direct, request, NO_ROOM);
    return submitted.status === 'refused' && submitted.error === 'lane_full' ? refusal : submitted;
  }

  async #submit(direct: DirectPart | undefined, request: QueuedRequest, lane: LaneLimits): Promise<Submitted> {
    const { intake, keyspace, time, instance, confirm, random } = this.#parts;
    const { code } = request;
    if (!time.known) return unasked(request, 'the time of the store is not known');
    const id = request.id ?? newCommandId(keyspace.shardOf(code), random());
    const nowMs = time.nowMs();
    const command = completeCommand(request, direct, { id, nowMs, replyTo: instance });
    let result: SubmitResult;
    try {
      result = await intake.submit(command, lane, this.#notAfterMs());
    } catch (error) {
      if (error instanceof BrokerError && error.code === 'broker_unavailable')
        return unconfirmed(request.idempotencyKey === undefined ? direct : undefined);
      throw error;
    }
    if (result.status === 'late') return unasked(request, 'the store was slow');
    const submitted = this.#outcome(command, nowMs, result);
    if (submitted.status === 'refused') return submitted;
    // Before it is confirmed, because the owner has its own confirmation to wait for before it writes.
    if (result.status === 'accepted') this.noteAccepted(code, result);
    if (await confirm(keyspace.device(code))) return submitted;
    if (direct === undefined || submitted.status === 'repeated') return unconfirmed(undefined);
    await this.#withdraw(code, id);
    return unconfirmed(direct);
  }

  /** Of a direct call that will not be made: so that its key is free again. Never rejects; what the store does not hear ends `unknown`. */
  async #withdraw(code: DeviceCode, id: CommandId): Promise<void> {
    const { intake, hints } = this.#parts;
    try {
      const result = await intake.settleDirect(code, id, { kind: 'refused', reason: 'broker_unavailable' });
      if (result.status === 'settled') hints.tell([result.ended]);
    } catch {
      // Its record says so once its time is over.
    }
  }

  /** After a script let a command into a lane: tells everybody who should look. */
  noteAccepted(code: DeviceCode, result: Extract<SubmitResult, { status: 'accepted' }>, lane?: LaneName): void {
    const { hints, waiting } = this.#parts;
    if (result.state === 'queued') waiting.add();
    hints.send(code, result, result.state === 'queued', lane);
  }

  #outcome(command: NewCommand, nowMs: number, result: Exclude<SubmitResult, { status: 'late' }>): Submitted {
    const { lane } = this.#parts.limits;
    switch (result.status) {
      case 'accepted': {
        const { state } = result;
        return { status: 'accepted', id: command.id, state, record: recordOf(command, state, nowMs) };
      }
      case 'repeated':
        return { status: 'repeated', id: result.id, state: result.state };
      case 'key_conflict':
        return refused('key_conflict', `the key belongs to command ${result.id}, whose request was another one`);
      case 'lane_full':
        return refused('lane_full', laneLimit(result.limit, lane));
      case 'device_unknown':
        return refused('device_unknown', 'no device with this DeviceCode is provisioned');
      case 'expired':
        return refused('invalid_request', 'expiresAt has passed');
    }
  }
}

const NO_ROOM: LaneLimits = { commands: 0, bytes: 0 };

/** Nothing was accepted now; what the same key stands for since an earlier request, nobody could look up. */
function unasked({ idempotencyKey }: QueuedRequest, why: string): Refused {
  const refusal = refused('broker_unavailable', `${why}; nothing was accepted`);
  if (idempotencyKey === undefined) return refusal;
  const detail = `${why}, so whether the key was used before is not known; ask again with the same Idempotency-Key`;
  return { ...refusal, detail, mayExist: true };
}

/** A direct call is made only after its record was confirmed, and by nobody else but who came earlier with its key; so nothing of it was sent. */
function unconfirmed(direct: DirectPart | undefined): Refused {
  if (direct !== undefined)
    return refused('broker_unavailable', 'the store did not confirm the record of the call; nothing was sent');
  const detail = 'the store did not confirm the command; it may exist, so ask again with the same Idempotency-Key';
  return { ...refused('broker_unavailable', detail), mayExist: true };
}

export function laneLimit(limit: 'commands' | 'bytes', lane: LaneLimits): string {
  return limit === 'commands'
    ? `${lane.commands} commands wait in this lane of the device`
    : `the commands that wait for this device hold ${lane.bytes} bytes`;
}

function refused(error: SubmitError, detail: string): Refused {
  return { status: 'refused', error, detail };
}

export type { QueuedRequest } from './new-command.ts';
