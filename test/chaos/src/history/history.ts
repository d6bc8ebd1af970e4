/** What every actor of a run saw, on one clock: the platform that asked, the devices that received, and the hand that broke things.
 *  One process writes all of it, so the order of the entries is the order of what happened there. Times are ms of that process's monotonic
 *  clock. Bounded by the plan of the run: a few dozen entries per command. Judging is not done here. */

export type Lane = 'normal' | 'urgent';
export type Mode = 'direct' | 'queue' | 'direct-then-queue';

/** What the device does with one request. */
export type Reaction =
  | { readonly kind: 'answer'; readonly success: boolean; readonly afterMs: number }
  | { readonly kind: 'silence' };

/** One command as it was asked for. The marker travels in its Data and identifies it independently of any id of the broker. */
export interface PlannedCommand {
  readonly marker: string;
  readonly device: string;
  readonly lane: Lane;
  readonly mode: Mode;
  readonly method: 'GET' | 'PUT';
  readonly retrySafe: boolean;
  /** 1 for what must not be repeated. */
  readonly maxAttempts: number;
  readonly timeoutMs: number;
  readonly ttlMs: number;
  readonly waitMs: number;
  readonly key: string | undefined;
  /** 2: submitted twice at the same time under one key, to two services. */
  readonly copies: 1 | 2;
  readonly cancelled: boolean;
  readonly reaction: Reaction;
  /** From the begin of the load. */
  readonly atMs: number;
}

/** What the API said about a command. */
export interface CommandView {
  readonly state: string;
  readonly executed: string | undefined;
  readonly late: boolean;
  readonly attempts: number | undefined;
  /** Wall clock. */
  readonly expiresAtMs: number | undefined;
  readonly sentAtMs: number | undefined;
  readonly endedAtMs: number | undefined;
}

type At = { readonly atMs: number };
type OfCommand = At & { readonly marker: string };
type OfSocket = At & { readonly device: string; readonly socket: number };

/** Submits and cancels: invoke, then exactly one of ok (it happened), fail (it certainly did not) and info (nobody knows). */
export type Entry =
  | (OfCommand & { readonly kind: 'submit.invoke'; readonly call: number })
  | (OfCommand & {
      readonly kind: 'submit.ok';
      readonly call: number;
      readonly id: string;
      /** What the answer itself said about the end, if it had ended. */
      readonly view: CommandView | undefined;
    })
  | (OfCommand & { readonly kind: 'submit.fail'; readonly call: number; readonly why: string })
  | (OfCommand & { readonly kind: 'submit.info'; readonly call: number; readonly why: string })
  | (OfCommand & { readonly kind: 'cancel.invoke' })
  | (OfCommand & { readonly kind: 'cancel.ok' })
  | (OfCommand & { readonly kind: 'cancel.fail'; readonly why: string })
  | (OfCommand & { readonly kind: 'cancel.info'; readonly why: string })
  /** `view` undefined: 404. */
  | (OfCommand & { readonly kind: 'view'; readonly id: string; readonly view: CommandView | undefined })
  | (OfSocket & { readonly kind: 'socket.open'; readonly edge: number })
  | (OfSocket & { readonly kind: 'socket.close'; readonly code: number })
  | (OfSocket & OfCommand & { readonly kind: 'receive' })
  /** Handed to the socket; whether it arrived is not known here. */
  | (OfSocket & OfCommand & { readonly kind: 'answer'; readonly success: boolean })
  | (At & { readonly kind: 'disturb.end'; readonly disturbance: number })
  | (At & {
      readonly kind: 'disturb.begin';
      readonly disturbance: number;
      readonly what: string;
      /** May a queued command end `unknown` or `timed_out` because of it? */
      readonly blurs: boolean;
      /** Undefined: all. */
      readonly devices: readonly string[] | undefined;
    });

export type EntryOf<K extends Entry['kind']> = Extract<Entry, { readonly kind: K }>;

export interface History {
  readonly commands: ReadonlyMap<string, PlannedCommand>;
  readonly entries: readonly Entry[];
  /** Wall clock minus monotonic clock: the broker tells wall times. */
  readonly wallOffsetMs: number;
}

/** An entry without its time. */
export type Fact = Entry extends infer E ? (E extends Entry ? Omit<E, 'atMs'> : never) : never;

export class Recorder implements History {
  readonly commands: ReadonlyMap<string, PlannedCommand>;
  readonly entries: Entry[] = [];
  readonly wallOffsetMs = Date.now() - performance.now();

  constructor(commands: readonly PlannedCommand[]) {
    this.commands = new Map(commands.map((command) => [command.marker, command]));
  }

  log(fact: Fact): void {
    this.entries.push({ ...fact, atMs: performance.now() } as Entry);
  }
}

export function isEnded(state: string): boolean {
  return state !== 'queued' && state !== 'sent';
}

export function isUncertain(state: string): boolean {
  return state === 'timed_out' || state === 'unknown';
}
