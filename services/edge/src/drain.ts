/** Leaving on purpose (design §9), asked by a signal or over the API: said in the directory and by the probe first; then, when balancers
 *  have had the time to hear it, registrations are refused and the devices go in random order, paced over what is left of the time, so
 *  that they arrive at the other nodes as a stream and not as a storm. Whoever has not had its turn is served as before.
 *  serving → announced → refusing → (no device left) empty → serving again if the API says so, or the end of the process.
 *  A signal is for good. Store away: the drain goes on, the directory hears of it later. Driven by `look`, without timers.
 *  How one session ends is in departures.ts. */

import type { DrainProgress, HeardAsk, NodeAsk, NodePhase } from '@lapi-broker/routing';
import type { Log } from '@lapi-broker/telemetry';
import type { Departures } from './device/departures.ts';
import type { Session } from './device/session.ts';
import type { SessionTable } from './device/session-table.ts';
import { FINISH_MS } from './limits.ts';

/** Slowest pace, so that a small node does not linger. */
const LEAST_PER_SECOND = 50;
/** What the last device may need from its turn to its close: what is out, its subscription, and the step of this node. */
const LAST_TURN_MS = FINISH_MS + 2_000;
const LEAST_SPREAD_MS = 50;
/** After a pause of the process the rest of the time is shared out anew; what was missed must not go at once. */
const LONGEST_STEP_MS = 1_000;
/** Words of operators that are remembered, to know one that comes again. */
const REMEMBERED_WORDS = 64;

/** Monotonic ms. */
export interface DrainPlan {
  /** Registrations are accepted until then. */
  readonly listensUntilMs: number;
  /** By then every device has had its turn. */
  readonly lastTurnMs: number;
  /** Nobody is waited for after it. */
  readonly endsMs: number;
}

/** At most half of the time goes to the balancer, and at least half of the rest to the devices. */
export function planDrain(nowMs: number, spanMs: number, delayMs: number): DrainPlan {
  const listensUntilMs = nowMs + Math.min(delayMs, spanMs / 2);
  const endsMs = nowMs + spanMs;
  return {
    listensUntilMs,
    lastTurnMs: Math.max(endsMs - LAST_TURN_MS, (listensUntilMs + endsMs) / 2),
    endsMs,
  };
}

/** Turns per second, so that the rest has had its turn in time. */
export function drainPace(rest: number, plan: DrainPlan, nowMs: number): number {
  return Math.max(LEAST_PER_SECOND, rest / (Math.max(LEAST_SPREAD_MS, plan.lastTurnMs - nowMs) / 1_000));
}

export interface DrainOptions {
  readonly sessions: SessionTable;
  readonly departures: Departures;
  /** Registrations that may still become sessions although new ones are refused. */
  readonly registering: () => number;
  /** Tells the directory at once instead of with the next beat. */
  readonly announce: () => void;
  readonly delayMs: number;
  /** Where the API does not say how long. */
  readonly spanMs: number;
  readonly monotonicMs: () => number;
  /** Redis time. */
  readonly redisMs: () => number;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Log;
}

export class Drain {
  /** Are registrations refused (F16)? */
  refuses = false;
  private readonly options: DrainOptions;
  private plan: DrainPlan | undefined;
  private startedAtMs = 0;
  private startedMs = 0;
  private goneBefore = 0;
  /** Numbers of the last words, the oldest first. Not only the highest: after a failover the clock they come from may be behind. */
  private readonly heard: number[] = [];
  /** Those that have not had their turn, in the order in which they will. */
  private turns: Session[] = [];
  private credit = 0;
  private lookedMs = 0;
  private isEmpty = false;
  /** Resolves the drain that a signal asked for. */
  private left: (() => void) | undefined;
  private forGood = false;

  constructor(options: DrainOptions) {
    this.options = options;
  }

  get phase(): NodePhase {
    return this.plan === undefined ? 'serving' : 'draining';
  }

  get progress(): DrainProgress | undefined {
    const { plan, startedAtMs } = this;
    if (plan === undefined) return undefined;
    const left = this.options.sessions.size;
    return {
      startedAtMs,
      endsAtMs: startedAtMs + (plan.endsMs - this.startedMs),
      devices: left + this.options.departures.gone - this.goneBefore,
      left,
    };
  }

  /** Monotonic ms after which departing sessions are closed whatever is out. */
  get endsMs(): number {
    return this.plan?.endsMs ?? Number.POSITIVE_INFINITY;
  }

  /** What the directory says was asked of this node; each word is done once. */
  hear(asked: HeardAsk): void {
    if (this.heard.includes(asked.number)) return;
    this.heard.push(asked.number);
    if (this.heard.length > REMEMBERED_WORDS) this.heard.shift();
    if (this.forGood) this.options.log.info({ ask: asked.ask }, 'drain.ask_ignored');
    else this.obey(asked);
  }

  /** For good: resolves when no device is left, or it was stopped. */
  leave(spanMs: number): Promise<void> {
    this.forGood = true;
    this.begin(spanMs, 'signal');
    return new Promise((resolve) => {
      this.left = resolve;
    });
  }

  /** Gives up what is under way; registrations stay refused. */
  stop(): void {
    this.refuses = true;
    this.left?.();
  }

  look(nowMs: number): void {
    const { plan } = this;
    const spentMs = Math.min(nowMs - this.lookedMs, LONGEST_STEP_MS);
    this.lookedMs = nowMs;
    if (plan === undefined || nowMs < plan.listensUntilMs) return;
    this.refuses = true;
    this.giveTurns(plan, nowMs, spentMs);
    if (this.options.sessions.size === 0 && this.options.registering() === 0) this.becomeEmpty(nowMs);
  }

  private obey(ask: NodeAsk): void {
    if (ask.ask === 'drain') {
      this.begin(ask.seconds === undefined ? this.options.spanMs : ask.seconds * 1_000, 'api');
      return;
    }
    if (this.plan === undefined) return;
    this.plan = undefined;
    this.refuses = false;
    this.turns = [];
    this.options.log.info({ sessions: this.options.sessions.size }, 'drain.resumed');
    this.options.announce();
  }

  private begin(spanMs: number, by: 'signal' | 'api'): void {
    const { sessions, departures, delayMs, monotonicMs, redisMs, announce, log } = this.options;
    const nowMs = monotonicMs();
    const before = this.plan;
    if (before === undefined) {
      this.startedMs = nowMs;
      this.startedAtMs = redisMs();
      this.goneBefore = departures.gone;
      this.credit = 0;
    }
    // What was said before has been heard since then.
    const restOfDelayMs = Math.max(0, Math.min(delayMs, (before?.listensUntilMs ?? nowMs + delayMs) - nowMs));
    this.plan = planDrain(nowMs, spanMs, restOfDelayMs);
    this.refuses ||= restOfDelayMs === 0;
    this.isEmpty = false;
    this.lookedMs = nowMs;
    log.info({ sessions: sessions.size, seconds: spanMs / 1_000, by }, 'drain.started');
    announce();
  }

  private giveTurns(plan: DrainPlan, nowMs: number, spentMs: number): void {
    const { sessions, departures, random } = this.options;
    if (this.turns.length === 0) this.turns = shuffled([...sessions.values()].filter(stays), random);
    const rest = this.turns.length;
    if (rest === 0) return;
    // Between half and one and a half times the pace: devices that left together would come together.
    this.credit += (spentMs / 1_000) * drainPace(rest, plan, nowMs) * (0.5 + random());
    if (nowMs >= plan.endsMs) this.credit = rest;
    for (; this.credit >= 1 && this.turns.length > 0; this.credit--) {
      const session = this.turns.pop();
      if (session !== undefined) departures.begin(session, 'draining', nowMs);
    }
  }

  private becomeEmpty(nowMs: number): void {
    if (this.isEmpty) return;
    this.isEmpty = true;
    const tookMs = Math.round(nowMs - this.startedMs);
    this.options.log.info({ devices: this.progress?.devices ?? 0, tookMs }, 'drain.ended');
    this.options.announce();
    this.left?.();
  }
}

function stays(session: Session): boolean {
  return session.isOpen && !session.leaving;
}

function shuffled<T>(items: T[], random: () => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j] as T, items[i] as T];
  }
  return items;
}
