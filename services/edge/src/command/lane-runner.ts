/** Sends the commands of the lanes of one session: begin → confirmation by a replica → write → end, and at once the next (D3, D9).
 *  - Nothing is begun that could not be written at once: session open and not leaving, first-request delay over (C2), fence and subscription
 *    good (D8, D9), send buffer below its mark. What was begun and not written is given back; it was never sent.
 *  - Each lane has at most one command between `begin` and the write, so nothing overtakes, whatever is given back (I6); at most `window` of
 *    its commands are unanswered. The two lanes know nothing of each other.
 *  - A command is written under the epoch under which it was begun, or not at all (C6, I3), and by this process once per attempt (I7).
 *  - A mute device costs its lane one timeout per command; an answer after it is still told to the store.
 *  Store away: the lanes rest and look again; what ended meanwhile waits in the journal. Exists only while there is work.
 *  Not done here: order, deadlines and retries, which are the store's; waking (lanes.ts). */

import { type AttemptEnd, type BeginResult, type BegunCommand, LANES, type LaneName } from '@lapi-broker/lane';
import {
  type CommandId,
  type DeviceAnswer,
  type DeviceCode,
  type Epoch,
  type LapiMethod,
  type NodeId,
  writeAnswerObject,
} from '@lapi-broker/protocol';
import { BEGIN_FRESH_MS, ENVELOPE_BYTES, LANE_PAUSE_MS, MAX_MESSAGE_BYTES } from '../limits.ts';
import type { Call, CallOutcome } from './inflight.ts';
import type { Attempt, AttemptReport } from './lane-journal.ts';

/** What the lanes need of their session. */
export interface LaneSession {
  readonly code: DeviceCode;
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly isOpen: boolean;
  readonly leaving: boolean;
  /** Monotonic ms. */
  readonly readyAtMs: number;
  readonly congested: boolean;
  lanes: LaneRunner | undefined;
  submit(call: Call): void;
  /** Asks for a look at this time, monotonic ms. */
  lookAt(dueMs: number): void;
}

/** What the lanes need of their node. */
export interface LaneHost {
  readonly window: number;
  monotonicMs(): number;
  /** May this node write to the device, and would it hear of a take-over (D8, D9)? */
  mayBegin(session: LaneSession): boolean;
  /** `unavailable`: the store did not answer; it may have handed a command out, which nobody will write. */
  begin(session: LaneSession, lane: LaneName): Promise<BeginResult | { readonly status: 'unavailable' }>;
  /** Would what was just begun be known after the loss of the store's master (D4)? */
  confirmed(code: DeviceCode): Promise<boolean>;
  /** Did this process write something of it that the store does not know of? */
  hasWritten(command: BegunCommand): boolean;
  wrote(id: CommandId, attempt: number): void;
  report(report: AttemptReport): void;
  /** A step that must not be cut off by a stop: what it has begun would be neither written nor given back. Never rejects. */
  waitFor(step: Promise<void>): void;
  /** The store says that somebody else owns the device, or nobody. */
  fenced(session: LaneSession): void;
  count(event: 'end' | 'give_back', name: string): void;
}

interface Lane {
  readonly name: LaneName;
  /** Written and neither answered nor given up. */
  out: number;
  /** From the question for a command until it is written or given back. */
  isStarting: boolean;
  /** Woken while starting. */
  isWoken: boolean;
  /** The store said that nothing waits behind what is out, and nobody has said otherwise since. */
  isEmpty: boolean;
  /** Monotonic ms of the next look; Infinity = none. */
  dueMs: number;
}

const NOTHING = new Uint8Array(0);

class LaneCall implements Call {
  readonly priority = true;
  readonly method: LapiMethod;
  readonly url: string;
  readonly deadlineMs: number;
  readonly epoch: Epoch;
  readonly attempt: Attempt;
  readonly lane: Lane;
  body: Uint8Array;
  isWritten = false;
  private readonly runner: LaneRunner;

  constructor(runner: LaneRunner, lane: Lane, attempt: Attempt, command: BegunCommand, deadlineMs: number) {
    this.runner = runner;
    this.lane = lane;
    this.attempt = attempt;
    this.epoch = attempt.epoch;
    this.method = command.method;
    this.url = command.url;
    this.body = command.body;
    this.deadlineMs = deadlineMs;
  }

  written(): void {
    // A late answer may be waited for much longer than the body is needed.
    this.body = NOTHING;
    this.isWritten = true;
    this.runner.written(this);
  }

  settle(outcome: CallOutcome): void {
    this.runner.settled(this, outcome);
  }

  answeredLate(response: DeviceAnswer): void {
    this.runner.answeredLate(this, response);
  }
}

export class LaneRunner {
  private readonly host: LaneHost;
  private readonly session: LaneSession;
  private readonly lanes: readonly Lane[] = LANES.map((name) => ({
    name,
    out: 0,
    isStarting: false,
    isWoken: false,
    isEmpty: false,
    dueMs: Number.POSITIVE_INFINITY,
  }));
  /** Ends that the store has not taken yet. */
  private unheard = 0;
  private restsUntilMs = 0;

  constructor(host: LaneHost, session: LaneSession) {
    this.host = host;
    this.session = session;
  }

  /** Steps under way, beside the calls that are out. */
  get unfinished(): number {
    return this.unheard + this.lanes.filter(({ isStarting }) => isStarting).length;
  }

  /** Something may be there to send, in this lane or in any. */
  wake(name?: LaneName): void {
    for (const lane of this.lanes) {
      if (name !== undefined && name !== lane.name) continue;
      lane.isEmpty = false;
      this.start(lane);
    }
    this.retire();
  }

  /** Does what is due; answers when the next look is needed (monotonic ms). */
  look(nowMs: number): number {
    for (const lane of this.lanes) if (lane.dueMs <= nowMs) this.start(lane);
    this.retire();
    return Math.min(...this.lanes.map(({ dueMs }) => dueMs));
  }

  written({ lane, attempt }: LaneCall): void {
    this.host.wrote(attempt.id, attempt.attempt);
    lane.out++;
    lane.isStarting = false;
    if (!lane.isEmpty) this.start(lane);
  }

  settled(call: LaneCall, outcome: CallOutcome): void {
    const { lane } = call;
    if (outcome.outcome !== 'answered' && !outcome.written) {
      this.giveBack(lane, call.attempt, outcome.outcome);
      return;
    }
    if (call.isWritten) lane.out--;
    else lane.isStarting = false;
    this.end(lane, call.attempt, endOf(outcome));
  }

  answeredLate({ attempt }: LaneCall, response: DeviceAnswer): void {
    this.host.count('end', 'late');
    this.report(attempt, endOf({ outcome: 'answered', response }), () => undefined);
  }

  private start(lane: Lane): void {
    const { host, session } = this;
    if (lane.isStarting) {
      lane.isWoken = true;
      return;
    }
    lane.dueMs = Number.POSITIVE_INFINITY;
    if (lane.out >= host.window || !session.isOpen || session.leaving) return;
    const nowMs = host.monotonicMs();
    const fromMs = Math.max(session.readyAtMs, this.restsUntilMs);
    if (nowMs < fromMs) this.lookLater(lane, fromMs);
    else if (!this.mayBegin()) this.lookLater(lane, nowMs + LANE_PAUSE_MS);
    else {
      lane.isStarting = true;
      lane.isWoken = false;
      host.waitFor(this.begin(lane));
    }
  }

  private mayBegin(): boolean {
    const { session } = this;
    return session.isOpen && !session.leaving && !session.congested && this.host.mayBegin(session);
  }

  private async begin(lane: Lane): Promise<void> {
    const { host, session } = this;
    const { code, epoch } = session;
    const askedMs = host.monotonicMs();
    const result = await host.begin(session, lane.name);
    switch (result.status) {
      case 'begun':
        lane.isEmpty = result.isLast && !lane.isWoken;
        await this.write(
          lane,
          { code, id: result.command.id, epoch, attempt: result.command.attempt },
          result.command,
          askedMs + BEGIN_FRESH_MS,
        );
        return;
      case 'idle':
        this.rest(lane, result.nextMs);
        return;
      case 'fenced':
        if (session.isOpen && session.epoch === epoch) host.fenced(session);
        this.restsUntilMs = host.monotonicMs() + LANE_PAUSE_MS;
        this.rest(lane, LANE_PAUSE_MS);
        return;
      case 'busy':
      case 'late':
      case 'unavailable':
        this.rest(lane, LANE_PAUSE_MS);
    }
  }

  private async write(lane: Lane, attempt: Attempt, command: BegunCommand, freshUntilMs: number): Promise<void> {
    const { host, session } = this;
    const deadlineMs = host.monotonicMs() + command.leftMs;
    if (host.hasWritten(command)) {
      lane.isStarting = false;
      this.end(lane, attempt, { kind: 'lost', reason: 'store_rewound' });
    } else if (command.body.byteLength + command.url.length + ENVELOPE_BYTES > MAX_MESSAGE_BYTES) {
      lane.isStarting = false;
      this.end(lane, attempt, { kind: 'refused', reason: 'request_too_large' });
    } else if (!(await host.confirmed(session.code))) this.giveBack(lane, attempt, 'unconfirmed');
    else if (host.monotonicMs() > freshUntilMs) this.giveBack(lane, attempt, 'overdue');
    else if (!this.mayBegin() || session.epoch !== attempt.epoch) this.giveBack(lane, attempt, 'not_ready');
    else session.submit(new LaneCall(this, lane, attempt, command, deadlineMs));
  }

  /** The next, if there may be one, is asked for behind the end, on the same connection. */
  private end(lane: Lane, attempt: Attempt, end: AttemptEnd): void {
    this.host.count('end', nameOf(end));
    this.report(attempt, end, () => {
      // The store counted this one as out when it was asked for the next.
      if (lane.dueMs !== Number.POSITIVE_INFINITY) this.start(lane);
    });
    // An answered command does not come back; one without an answer may.
    if (!lane.isEmpty || end.kind !== 'answered') this.start(lane);
  }

  /** The lane goes on when the store has taken it: until then it counts as out. */
  private giveBack(lane: Lane, attempt: Attempt, reason: string): void {
    this.host.count('give_back', reason);
    this.restsUntilMs = this.host.monotonicMs() + LANE_PAUSE_MS;
    this.report(attempt, undefined, () => this.rest(lane, LANE_PAUSE_MS));
  }

  private report(attempt: Attempt, end: AttemptEnd | undefined, heard: () => void): void {
    this.unheard++;
    this.host.report({
      attempt,
      end,
      heard: () => {
        this.unheard--;
        heard();
        this.retire();
      },
    });
  }

  /** Nothing is under way any more in this lane. */
  private rest(lane: Lane, inMs: number | undefined): void {
    lane.isStarting = false;
    const isWoken = lane.isWoken;
    lane.isWoken = false;
    if (isWoken) this.start(lane);
    else if (inMs !== undefined) this.lookLater(lane, this.host.monotonicMs() + inMs);
    this.retire();
  }

  private lookLater(lane: Lane, dueMs: number): void {
    lane.dueMs = dueMs;
    this.session.lookAt(dueMs);
  }

  private retire(): void {
    const { session } = this;
    if (session.lanes !== this || this.unheard > 0) return;
    const isIdle = this.lanes.every(
      ({ out, isStarting, dueMs }) => out === 0 && !isStarting && !Number.isFinite(dueMs),
    );
    if (isIdle) session.lanes = undefined;
  }
}

function endOf(outcome: CallOutcome): AttemptEnd {
  if (outcome.outcome === 'timeout') return { kind: 'timed_out' };
  if (outcome.outcome !== 'answered') return { kind: 'lost', reason: 'session_lost' };
  const { text, cutStart, cutEnd, success, responseCode } = outcome.response;
  const body = Buffer.allocUnsafe(text.length - (cutEnd - cutStart));
  writeAnswerObject(outcome.response, body, 0);
  return { kind: 'answered', success, responseCode, body };
}

function nameOf(end: AttemptEnd): string {
  switch (end.kind) {
    case 'answered':
      return end.success ? 'succeeded' : 'failed';
    case 'timed_out':
      return 'timed_out';
    case 'lost':
    case 'refused':
      return end.reason;
  }
}
