/** The calls of one session: written and unanswered, or waiting for a free place. Pure: sockets, clocks and ids are given.
 *  - At most `limit` calls are outstanding, others wait first in first out, at most `waitingLimit`; beyond it `device_busy` (C3).
 *  - Nothing is written before `readyAtMs` (C2); a call that was handed to the socket is never written again (C7).
 *  - Answers are matched on Cseq alone, never on the URL (E10); numbers wrap at 2^31 - 1 and skip pending ones (E11).
 *  - Each call is settled exactly once, by its deadline or at the end of the session at the latest (I4).
 *  - Whoever wants it still gets the answer that came after the timeout, for 10 minutes; bounded per session, the oldest is given up first.
 *  Not done here: who may write (fence, epoch) is asked through `Line`. */

import type { DeviceAnswer, Epoch, LapiMethod, ReplyOutcome } from '@lapi-broker/protocol';
import { LATE_ANSWER_MS, MAX_LATE_ANSWERS } from '../limits.ts';

const MAX_CSEQ = 2_147_483_647;

export type CallOutcome =
  /** Views into the message: valid only during `settle`. */
  | { readonly outcome: 'answered'; readonly response: DeviceAnswer }
  | { readonly outcome: Exclude<ReplyOutcome, 'answered'>; readonly written: boolean };

export interface Call {
  readonly method: LapiMethod;
  readonly url: string;
  /** JSON text of `Data`; empty = `{}`. */
  readonly body: Uint8Array;
  /** Monotonic ms. */
  readonly deadlineMs: number;
  /** Calls of the subscription keeper and of the lanes go before waiting ones (C3). */
  readonly priority: boolean;
  /** Made by the broker itself, which does not make a device a busy one. */
  readonly isUpkeep?: true;
  /** Not written under any other epoch (I3); undefined = whoever handed it in has compared. */
  readonly epoch?: Epoch;
  settle(outcome: CallOutcome): void;
  /** In the tick of the write. Not called if the session ended inside it; `settle` says `written` then. */
  written?(): void;
  /** After it was settled as timed out. A view, as in `settle`. */
  answeredLate?(response: DeviceAnswer): void;
}

/** `busy`, `fenced`, `closed`: nothing was written. */
export type WriteResult = 'written' | 'busy' | 'fenced' | 'closed';

/** The way to the device. */
export interface Line {
  write(call: Call, cseq: number): WriteResult;
}

export class Inflight {
  private readonly line: Line;
  private readonly limit: number;
  private readonly waitingLimit: number;
  private readonly readyAtMs: number;
  private readonly pending = new Map<number, Call>();
  private readonly waiting: Call[] = [];
  /** Timed-out calls by Cseq, oldest first. */
  private late: Map<number, { readonly call: Call; readonly untilMs: number }> | undefined;
  private lastCseq = 0;
  private ended = false;

  constructor(line: Line, limit: number, waitingLimit: number, readyAtMs: number) {
    this.line = line;
    this.limit = limit;
    this.waitingLimit = waitingLimit;
    this.readyAtMs = readyAtMs;
  }

  get pendingCount(): number {
    return this.pending.size;
  }

  get waitingCount(): number {
    return this.waiting.length;
  }

  submit(call: Call, nowMs: number): void {
    if (this.ended) {
      call.settle({ outcome: 'device_offline', written: false });
      return;
    }
    if (call.deadlineMs <= nowMs) {
      call.settle({ outcome: 'timeout_not_sent', written: false });
      return;
    }
    const free = nowMs >= this.readyAtMs && this.pending.size < this.limit;
    if (free && (this.waiting.length === 0 || call.priority)) {
      this.write(call);
      return;
    }
    if (call.priority) {
      const behind = this.waiting.findIndex((other) => !other.priority);
      this.waiting.splice(behind < 0 ? this.waiting.length : behind, 0, call);
    } else if (this.waiting.length < this.waitingLimit) {
      this.waiting.push(call);
    } else {
      call.settle({ outcome: 'device_busy', written: false });
    }
  }

  /** False for an unknown or finished Cseq (E13). */
  answer(cseq: number, response: DeviceAnswer, nowMs: number): boolean {
    const call = this.pending.get(cseq);
    if (call === undefined) return this.answerLate(cseq, response);
    this.pending.delete(cseq);
    call.settle({ outcome: 'answered', response });
    if (this.waiting.length > 0) this.writeWaiting(nowMs);
    return true;
  }

  /** Settles what is overdue, writes what may go; answers when the next look is due (monotonic ms). */
  look(nowMs: number): number {
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [cseq, call] of this.pending) {
      if (call.deadlineMs <= nowMs) {
        this.pending.delete(cseq);
        this.awaitLate(cseq, call, nowMs);
        call.settle({ outcome: 'timeout', written: true });
      } else if (call.deadlineMs < nextMs) nextMs = call.deadlineMs;
    }
    for (let i = 0; i < this.waiting.length; ) {
      const call = this.waiting[i] as Call;
      if (call.deadlineMs <= nowMs) {
        this.waiting.splice(i, 1);
        call.settle({ outcome: 'timeout_not_sent', written: false });
      } else {
        if (call.deadlineMs < nextMs) nextMs = call.deadlineMs;
        i++;
      }
    }
    for (const [cseq, { untilMs }] of this.late ?? []) {
      if (untilMs > nowMs) break;
      this.late?.delete(cseq);
    }
    this.writeWaiting(nowMs);
    if (this.waiting.length > 0 && nowMs < this.readyAtMs) nextMs = Math.min(nextMs, this.readyAtMs);
    return nextMs;
  }

  /** The session is over: written calls have an unknown outcome, waiting ones were never sent (D9). */
  end(): void {
    this.ended = true;
    this.late = undefined;
    const written = [...this.pending.values()];
    const unsent = this.waiting.splice(0);
    this.pending.clear();
    for (const call of written) call.settle({ outcome: 'outcome_unknown', written: true });
    for (const call of unsent) call.settle({ outcome: 'device_offline', written: false });
  }

  /** Refuses what waits, so that a drain only has to wait for what is out. */
  refuseWaiting(outcome: 'node_draining' | 'broker_unavailable'): void {
    for (const call of this.waiting.splice(0)) call.settle({ outcome, written: false });
  }

  private awaitLate(cseq: number, call: Call, nowMs: number): void {
    if (call.answeredLate === undefined) return;
    this.late ??= new Map();
    if (this.late.size >= MAX_LATE_ANSWERS) {
      const oldest = this.late.keys().next();
      if (!oldest.done) this.late.delete(oldest.value);
    }
    this.late.set(cseq, { call, untilMs: nowMs + LATE_ANSWER_MS });
  }

  private answerLate(cseq: number, response: DeviceAnswer): boolean {
    const late = this.late?.get(cseq);
    if (late === undefined) return false;
    this.late?.delete(cseq);
    late.call.answeredLate?.(response);
    return true;
  }

  private writeWaiting(nowMs: number): void {
    if (nowMs < this.readyAtMs) return;
    while (this.waiting.length > 0 && this.pending.size < this.limit && !this.ended) {
      const call = this.waiting.shift() as Call;
      if (call.deadlineMs <= nowMs) call.settle({ outcome: 'timeout_not_sent', written: false });
      else this.write(call);
    }
  }

  private write(call: Call): void {
    const cseq = this.nextCseq();
    // Registered before the write: the close callback may run inside it and must find the call.
    this.pending.set(cseq, call);
    const result = this.line.write(call, cseq);
    if (result === 'written') {
      if (call.written !== undefined && this.pending.has(cseq)) call.written();
      return;
    }
    // Absent when the session ended inside the write: then `end` has settled it.
    if (!this.pending.delete(cseq)) return;
    const outcome = result === 'busy' ? 'device_busy' : result === 'fenced' ? 'broker_unavailable' : 'device_offline';
    call.settle({ outcome, written: false });
  }

  private nextCseq(): number {
    do {
      this.lastCseq = this.lastCseq === MAX_CSEQ ? 1 : this.lastCseq + 1;
    } while (this.pending.has(this.lastCseq) || this.late?.has(this.lastCseq));
    return this.lastCseq;
  }
}
