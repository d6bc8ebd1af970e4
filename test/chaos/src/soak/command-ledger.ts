/** Judges commands through a long run, a few bytes each: what the platform was told of a command against what its device received. None of them may be
 *  repeated. Finds:
 *
 *  V1  a command was received more than once (I7)
 *  V3  succeeded, and never answered; or certainly not executed, and yet received (I4)
 *  V4  accepted, and without an end when its time is over, or not readable (I4)
 *  V5  `unknown` or `timed_out`, though its device answers at once, was not cut off meanwhile, and nothing that may blur was under way (I4, I8)
 *
 *  What nobody can know (a submit without an answer) needs no end, but may be received once at most. Pure but for what it is told. */

export type End = 'succeeded' | 'not executed' | 'maybe' | 'device error';

const OPEN = 0;
const UNSURE = 1;
const SUCCEEDED = 2;
const NOT_EXECUTED = 3;
const MAYBE = 4;
const DEVICE_ERROR = 5;
const CODE: Readonly<Record<End, number>> = {
  succeeded: SUCCEEDED,
  'not executed': NOT_EXECUTED,
  maybe: MAYBE,
  'device error': DEVICE_ERROR,
};
const SHOWN = 50;

export interface CommandCounts {
  readonly submitted: number;
  readonly succeeded: number;
  readonly notExecuted: number;
  readonly maybe: number;
  readonly unsure: number;
  readonly open: number;
  /** Uncertain ends that have a cause: a failover, or the device cut itself off. */
  readonly excused: number;
  readonly violations: number;
}

export class CommandLedger {
  #received: Uint8Array<ArrayBuffer> = new Uint8Array(1 << 16);
  #answered: Uint8Array<ArrayBuffer> = new Uint8Array(1 << 16);
  #ends: Uint8Array<ArrayBuffer> = new Uint8Array(1 << 16);
  #count = 0;
  #found = 0;
  #excused = 0;
  readonly violations: string[] = [];

  get counts(): CommandCounts {
    const by = new Array<number>(6).fill(0);
    for (let n = 0; n < this.#count; n++) {
      const end = this.#ends[n] as number;
      by[end] = (by[end] ?? 0) + 1;
    }
    const of = (end: number): number => by[end] ?? 0;
    return {
      submitted: this.#count,
      succeeded: of(SUCCEEDED),
      notExecuted: of(NOT_EXECUTED),
      maybe: of(MAYBE),
      unsure: of(UNSURE),
      open: of(OPEN),
      excused: this.#excused,
      violations: this.#found,
    };
  }

  /** Answers the number of a new command. */
  submit(): number {
    if (this.#count === this.#ends.length) {
      this.#received = doubled(this.#received);
      this.#answered = doubled(this.#answered);
      this.#ends = doubled(this.#ends);
    }
    return this.#count++;
  }

  received(n: number): void {
    if (!(n >= 0 && n < this.#count)) {
      this.#find(`V3 command ${n} received, never submitted`);
      return;
    }
    const times = Math.min(255, (this.#received[n] as number) + 1);
    this.#received[n] = times;
    if (times === 2) this.#find(`V1 command ${n} received twice`);
  }

  answered(n: number): void {
    this.#answered[n] = 1;
  }

  /** `cause`: of an uncertain end; undefined when there is none that excuses it. */
  ended(n: number, end: End, about: string, cause: string | undefined): void {
    this.#ends[n] = CODE[end];
    if (end === 'succeeded' && this.#answered[n] !== 1)
      this.#find(`V3 command ${n} succeeded, never answered: ${about}`);
    if (end === 'device error') this.#find(`V3 command ${n} refused by a device that refuses nothing: ${about}`);
    if (end !== 'maybe') return;
    if (cause === undefined) this.#find(`V5 command ${n} is uncertain without a cause: ${about}`);
    else this.#excused += 1;
  }

  /** The submit had no answer, or one after which it may exist. */
  unsure(n: number): void {
    this.#ends[n] = UNSURE;
  }

  /** Accepted, and then it was not there, or did not end. */
  missing(n: number, about: string): void {
    this.#find(`V4 command ${n}: ${about}`);
  }

  /** Once nothing is under way any more. Answers how many were certainly not executed and yet received. */
  close(): number {
    let untrue = 0;
    for (let n = 0; n < this.#count; n++) {
      if (this.#ends[n] === OPEN) this.#find(`V4 command ${n} has no end`);
      if (this.#ends[n] !== NOT_EXECUTED || this.#received[n] === 0) continue;
      untrue += 1;
      this.#find(`V3 command ${n} is said not to be executed, and was received`);
    }
    return untrue;
  }

  #find(what: string): void {
    this.#found += 1;
    if (this.violations.length < SHOWN) this.violations.push(what);
  }
}

function doubled(array: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const larger = new Uint8Array(array.length * 2);
  larger.set(array);
  return larger;
}
