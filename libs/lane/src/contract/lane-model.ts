/** What the lanes of one device must do, as a pure state machine: each operation is a function of the state, the request and the time, and says
 *  what the store must answer, record and announce. Written from the ports. It knows no keys, no scripts and no clock, keeps no bound, and is
 *  slow where that is simpler: a test compares the store with it after each step. */

import { isDeepStrictEqual } from 'node:util';
import type { CommandId, DeviceCode, Epoch, NodeId } from '@lapi-broker/protocol';
import type { CommandState, EndedCommand, Executed, LaneName, NewCommand } from '../command-record.ts';
import type {
  AttemptEnd,
  BeginRequest,
  BeginResult,
  CancelResult,
  LaneLimits,
  LaneOwner,
  SettleResult,
  SubmitResult,
  TendResult,
} from '../lane-store.ts';

/** Who wrote a command has the first word about its time-out. */
const OVERDUE_GRACE_MS = 1_000;
const LONGEST_BACKOFF_MS = 60_000;
const LATE_MS = 600_000;
const DIRECT_EPOCH = 0 as Epoch;

export interface ModelCommand {
  readonly asked: NewCommand;
  readonly acceptedAtMs: number;
  state: CommandState;
  executed: Executed | undefined;
  reason: string;
  late: boolean;
  /** Begun and not given back. */
  attempts: number;
  /** Begun, and neither given back nor refused: may have been written. */
  written: number;
  /** Out as a direct call, in no lane. */
  isDirect: boolean;
  /** Order in the lane; undefined before its notBefore. */
  place: number | undefined;
  retryAtMs: number;
  overdueAtMs: number;
  /** Of the last attempt; the number is the store's own choice. */
  epoch: Epoch | undefined;
  attempt: number | undefined;
  /** Order of begins in the device. */
  begun: number;
  sentAtMs: number | undefined;
  endedAtMs: number;
}

export interface ModelEvent {
  readonly id: CommandId;
  readonly state: CommandState;
  readonly executed: Executed | undefined;
  readonly reason: string;
  readonly late: boolean;
}

type Accepted = Extract<SubmitResult, { status: 'accepted' }>;
/** Timers are hints, judged apart. */
export type ExpectedSubmit = Exclude<SubmitResult, Accepted> | Omit<Accepted, 'timerAtMs'>;
type Begun = Extract<BeginResult, { status: 'begun' }>;
export type ExpectedBegin =
  | Exclude<BeginResult, Begun>
  | {
      readonly status: 'begun';
      readonly command: ModelCommand;
      readonly leftMs: number;
      readonly ended: readonly EndedCommand[];
    };

export class DeviceModel {
  readonly code: DeviceCode;
  readonly commands = new Map<CommandId, ModelCommand>();
  /** Not ended. */
  readonly open = new Set<ModelCommand>();
  node: NodeId | undefined;
  epoch = DIRECT_EPOCH;
  /** Since the last `take`. */
  private events: ModelEvent[] = [];
  private ended: EndedCommand[] = [];
  private readonly keys = new Map<string, { readonly id: CommandId; readonly request: string }>();
  private lastPlace = 0;
  private begins = 0;

  constructor(code: DeviceCode) {
    this.code = code;
  }

  /** What the last operation must have announced. */
  take(): readonly ModelEvent[] {
    const events = this.events;
    this.events = [];
    this.ended = [];
    return events;
  }

  get owner(): LaneOwner | undefined {
    return this.node === undefined ? undefined : { node: this.node, epoch: this.epoch };
  }

  waiting(): ModelCommand[] {
    return [...this.open].filter(({ state }) => state === 'queued');
  }

  out(lane: LaneName | 'direct'): ModelCommand[] {
    return [...this.open].filter(
      ({ state, isDirect, asked }) => state === 'sent' && (isDirect ? 'direct' : asked.lane) === lane,
    );
  }

  head(lane: LaneName): ModelCommand | undefined {
    const placed = this.waiting().filter(({ asked, place }) => asked.lane === lane && place !== undefined);
    return placed.sort((a, b) => (a.place ?? 0) - (b.place ?? 0))[0];
  }

  /** Times at which something happens by itself. */
  times(): number[] {
    return [...this.open].flatMap((command) => {
      if (command.state === 'sent') return [command.overdueAtMs];
      const { expiresAtMs, notBeforeMs } = command.asked;
      if (command.place === undefined) return [expiresAtMs, notBeforeMs ?? 0];
      return command.retryAtMs > 0 ? [expiresAtMs, command.retryAtMs] : [expiresAtMs];
    });
  }

  submit(asked: NewCommand, limits: LaneLimits, notAfterMs: number, nowMs: number): ExpectedSubmit {
    if (nowMs > notAfterMs) return { status: 'late' };
    const known = this.commands.get(asked.id);
    if (known !== undefined) return { status: 'repeated', id: asked.id, state: known.state };
    const earlier = asked.idempotency && this.keys.get(asked.idempotency.key);
    if (earlier !== undefined) {
      if (earlier.request !== asked.idempotency?.request) return { status: 'key_conflict', id: earlier.id };
      return { status: 'repeated', id: earlier.id, state: (this.commands.get(earlier.id) as ModelCommand).state };
    }
    if (asked.expiresAtMs <= nowMs) return { status: 'expired' };
    const command: ModelCommand = {
      asked,
      acceptedAtMs: nowMs,
      state: 'queued',
      executed: undefined,
      reason: '',
      late: false,
      attempts: 0,
      written: 0,
      isDirect: false,
      place: undefined,
      retryAtMs: 0,
      overdueAtMs: 0,
      epoch: undefined,
      attempt: undefined,
      begun: 0,
      sentAtMs: undefined,
      endedAtMs: 0,
    };
    this.tidy(nowMs);
    if (asked.mode !== 'queue') {
      const untilMs = asked.directUntilMs ?? asked.expiresAtMs;
      Object.assign(command, {
        state: 'sent',
        isDirect: true,
        attempts: 1,
        written: 1,
        attempt: 1,
        epoch: DIRECT_EPOCH,
      });
      Object.assign(command, { overdueAtMs: untilMs + OVERDUE_GRACE_MS, sentAtMs: nowMs });
      this.accept(command);
    } else {
      const limit = this.limitOf(command, limits);
      if (limit !== undefined) return { status: 'lane_full', limit };
      this.supersede(command, nowMs);
      this.accept(command);
      if ((asked.notBeforeMs ?? 0) <= nowMs) command.place = ++this.lastPlace;
    }
    this.announce(command);
    return {
      status: 'accepted',
      state: command.state === 'sent' ? 'sent' : 'queued',
      owner: this.owner,
      ended: this.ended,
    };
  }

  queueDirect(id: CommandId, limits: LaneLimits, nowMs: number): ExpectedSubmit {
    const command = this.commands.get(id) as ModelCommand;
    if (command.state !== 'sent' || !command.isDirect || command.asked.mode !== 'direct-then-queue')
      return { status: 'repeated', id, state: command.state };
    Object.assign(command, {
      isDirect: false,
      attempts: 0,
      written: 0,
      attempt: undefined,
      epoch: undefined,
      sentAtMs: undefined,
    });
    this.tidy(nowMs, command);
    let refusal: ExpectedSubmit | undefined;
    if (command.asked.expiresAtMs <= nowMs) {
      this.finish(command, 'expired', 'no', 'expired', nowMs);
      refusal = { status: 'expired' };
    } else if ((this.rival(command)?.acceptedAtMs ?? 0) > command.acceptedAtMs) {
      this.finish(command, 'cancelled', 'no', 'superseded', nowMs);
      refusal = { status: 'repeated', id, state: 'cancelled' };
    } else {
      const limit = this.limitOf(command, limits);
      if (limit !== undefined) {
        this.finish(command, 'failed', 'no', 'lane_full', nowMs);
        this.freeKey(command);
        refusal = { status: 'lane_full', limit };
      }
    }
    if (refusal === undefined) {
      this.supersede(command, nowMs);
      command.state = 'queued';
      command.place = ++this.lastPlace;
      this.announce(command);
    }
    return refusal ?? { status: 'accepted', state: 'queued', owner: this.owner, ended: this.ended };
  }

  cancel(id: CommandId, notAfterMs: number, nowMs: number): CancelResult {
    if (nowMs > notAfterMs) return { status: 'late' };
    const command = this.commands.get(id);
    if (command === undefined) return { status: 'not_found' };
    if (command.state !== 'queued') return { status: 'not_queued', state: command.state };
    this.endWaiting(command, 'cancelled', 'cancelled', nowMs);
    this.lapse(nowMs);
    return { status: 'cancelled', ended: this.ended };
  }

  begin({ lane, node, epoch, window, notAfterMs }: BeginRequest, nowMs: number): ExpectedBegin {
    if (nowMs > notAfterMs) return { status: 'late' };
    if (node !== this.node || epoch !== this.epoch) return { status: 'fenced' };
    this.tidy(nowMs);
    if (this.out(lane).length >= window) return { status: 'busy', ended: this.ended };
    const command = this.head(lane);
    if (command === undefined) return { status: 'idle', nextMs: undefined, ended: this.ended };
    if (command.retryAtMs > nowMs) return { status: 'idle', nextMs: command.retryAtMs - nowMs, ended: this.ended };
    const untilMs = Math.min(nowMs + command.asked.timeoutMs, command.asked.expiresAtMs);
    command.state = 'sent';
    command.reason = '';
    command.attempts++;
    command.written++;
    command.epoch = epoch;
    command.begun = ++this.begins;
    command.sentAtMs = nowMs;
    command.overdueAtMs = untilMs + OVERDUE_GRACE_MS;
    this.announce(command);
    return { status: 'begun', command, leftMs: untilMs - nowMs, ended: this.ended };
  }

  settle(id: CommandId, epoch: Epoch, attempt: number, end: AttemptEnd, nowMs: number): SettleResult {
    const command = this.commands.get(id);
    if (command === undefined || command.epoch !== epoch || command.attempt !== attempt) return { status: 'stale' };
    const isOut = command.state === 'sent';
    const isGuess = command.state === 'timed_out' || command.state === 'unknown';
    if (!isOut && !(end.kind === 'answered' && isGuess && nowMs <= command.endedAtMs + LATE_MS))
      return { status: 'stale' };
    switch (end.kind) {
      case 'answered':
        command.late = !isOut;
        if (end.success) this.finish(command, 'succeeded', 'yes', '', nowMs);
        else this.finish(command, 'failed', 'yes', 'device_error', nowMs);
        break;
      case 'refused':
        command.written--;
        this.finish(command, 'failed', executedUnsent(command), end.reason, nowMs);
        if (command.isDirect) this.freeKey(command);
        break;
      case 'timed_out':
        this.giveUp(command, 'timed_out', 'timeout', nowMs);
        break;
      case 'lost':
        this.giveUp(command, 'unknown', end.reason, nowMs);
    }
    this.lapse(nowMs);
    return this.settled(command, nowMs);
  }

  giveBack(id: CommandId, epoch: Epoch, attempt: number, nowMs: number): SettleResult {
    const command = this.commands.get(id);
    if (command?.state !== 'sent' || command.epoch !== epoch || command.attempt !== attempt) return { status: 'stale' };
    command.attempts--;
    command.written--;
    if (command.asked.expiresAtMs <= nowMs) this.finish(command, 'expired', executedUnsent(command), 'expired', nowMs);
    else this.requeue(command, nowMs, 'not_written', nowMs);
    this.lapse(nowMs);
    return this.settled(command, nowMs);
  }

  tend(nowMs: number): Omit<TendResult, 'timerAtMs'> {
    this.tidy(nowMs);
    return { owner: this.owner, startable: this.isStartable(nowMs), ended: this.ended };
  }

  /** In a lane in which nothing is out: the store does not know the window. */
  isStartable(nowMs: number): boolean {
    return (['normal', 'urgent'] as const).some((lane) => {
      const head = this.head(lane);
      return head !== undefined && head.retryAtMs <= nowMs && this.out(lane).length === 0;
    });
  }

  private settled(command: ModelCommand, nowMs: number): SettleResult {
    if (command.state === 'queued') return { status: 'requeued', nextMs: Math.max(0, command.retryAtMs - nowMs) };
    return { status: 'settled', ended: endedOf(command), late: command.late };
  }

  private accept(command: ModelCommand): void {
    const { id, idempotency } = command.asked;
    this.commands.set(id, command);
    this.open.add(command);
    if (idempotency !== undefined) this.keys.set(idempotency.key, { id, request: idempotency.request });
  }

  private freeKey({ asked: { id, idempotency } }: ModelCommand): void {
    if (idempotency !== undefined && this.keys.get(idempotency.key)?.id === id) this.keys.delete(idempotency.key);
  }

  /** The command that waits in the same lane under the same coalesceKey. */
  private rival({ asked }: ModelCommand): ModelCommand | undefined {
    if (asked.coalesceKey === undefined) return undefined;
    return this.waiting().find(
      (other) =>
        other.asked.id !== asked.id && other.asked.lane === asked.lane && other.asked.coalesceKey === asked.coalesceKey,
    );
  }

  private supersede(command: ModelCommand, nowMs: number): void {
    const rival = this.rival(command);
    if (rival !== undefined) this.endWaiting(rival, 'cancelled', 'superseded', nowMs);
  }

  /** What it replaces makes room for it. */
  private limitOf(command: ModelCommand, limits: LaneLimits): 'commands' | 'bytes' | undefined {
    const rival = this.rival(command);
    const others = this.waiting().filter((other) => other !== rival && other !== command);
    const inLane = others.filter(({ asked }) => asked.lane === command.asked.lane);
    if (inLane.length >= limits.commands) return 'commands';
    const bytes = [...others, command].reduce(
      (sum, { asked }) => sum + asked.body.length + Buffer.byteLength(asked.url),
      0,
    );
    return bytes > limits.bytes ? 'bytes' : undefined;
  }

  private giveUp(command: ModelCommand, state: 'timed_out' | 'unknown', reason: string, nowMs: number): void {
    const { maxAttempts, backoffMs, expiresAtMs } = command.asked;
    if (command.isDirect || command.attempts >= maxAttempts || nowMs >= expiresAtMs) {
      this.finish(command, state, 'maybe', reason, nowMs);
      return;
    }
    const waitMs = Math.min(backoffMs * 2 ** (command.attempts - 1), LONGEST_BACKOFF_MS);
    this.requeue(command, nowMs + waitMs, 'retry', nowMs);
  }

  /** Of two with one coalesceKey the newer stays. */
  private requeue(command: ModelCommand, retryAtMs: number, reason: string, nowMs: number): void {
    const rival = this.rival(command);
    if (rival !== undefined && isNewer(rival, command)) {
      this.finish(command, 'cancelled', executedUnsent(command), 'superseded', nowMs);
      return;
    }
    if (rival !== undefined) this.endWaiting(rival, 'cancelled', 'superseded', nowMs);
    command.state = 'queued';
    command.reason = reason;
    command.retryAtMs = retryAtMs > nowMs ? retryAtMs : 0;
    this.announce(command);
  }

  private endWaiting(command: ModelCommand, state: 'expired' | 'cancelled', reason: string, nowMs: number): void {
    this.finish(command, state, executedUnsent(command), reason, nowMs);
  }

  private finish(command: ModelCommand, state: CommandState, executed: Executed, reason: string, nowMs: number): void {
    Object.assign(command, { state, executed, reason, endedAtMs: nowMs });
    this.open.delete(command);
    this.announce(command);
    this.ended.push(endedOf(command));
  }

  private announce({ asked, state, executed, reason, late }: ModelCommand): void {
    this.events.push({ id: asked.id, state, executed, reason, late });
  }

  private lapse(nowMs: number, except?: ModelCommand): void {
    const out = [...this.out('normal'), ...this.out('urgent')].sort((a, b) => b.begun - a.begun);
    for (const command of out)
      if (command !== except && (command.epoch ?? DIRECT_EPOCH) < this.epoch)
        this.giveUp(command, 'unknown', 'session_lost', nowMs);
  }

  /** `except`: a command that is between two states. */
  private tidy(nowMs: number, except?: ModelCommand): void {
    this.lapse(nowMs, except);
    for (const command of [...this.open]) {
      if (command === except) continue;
      if (command.state === 'sent' && command.overdueAtMs <= nowMs) {
        if (command.isDirect) this.giveUp(command, 'unknown', 'service_lost', nowMs);
        else if (this.node !== undefined && command.epoch === this.epoch)
          this.giveUp(command, 'timed_out', 'timeout', nowMs);
        else this.giveUp(command, 'unknown', 'session_lost', nowMs);
      } else if (command.state === 'queued' && command.asked.expiresAtMs <= nowMs)
        this.endWaiting(command, 'expired', 'expired', nowMs);
    }
    // Places are given in the order of their times, then of acceptance, which is the order of `open`.
    const entering = this.waiting().filter(
      ({ place, asked }) => place === undefined && (asked.notBeforeMs ?? 0) <= nowMs,
    );
    entering.sort((a, b) => (a.asked.notBeforeMs ?? 0) - (b.asked.notBeforeMs ?? 0));
    for (const command of entering) command.place = ++this.lastPlace;
    for (const command of this.waiting()) if (command.retryAtMs <= nowMs) command.retryAtMs = 0;
  }
}

export function endedOf({ asked: { id, replyTo }, state }: ModelCommand): EndedCommand {
  return { id, state, replyTo };
}

/** In any order. */
export function sameEnded(a: readonly EndedCommand[], b: readonly EndedCommand[]): boolean {
  const sorted = (list: readonly EndedCommand[]) =>
    list.map(({ id, state, replyTo }) => `${id} ${state} ${replyTo}`).sort();
  return isDeepStrictEqual(sorted(a), sorted(b));
}

function executedUnsent({ written }: ModelCommand): Executed {
  return written > 0 ? 'maybe' : 'no';
}

function isNewer(a: ModelCommand, b: ModelCommand): boolean {
  return (a.place ?? Number.POSITIVE_INFINITY) > (b.place ?? Number.POSITIVE_INFINITY);
}
