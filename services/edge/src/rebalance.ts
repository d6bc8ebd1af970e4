/** Evens out the devices over the nodes that serve, after a node came: a node that has clearly more than the mean lets go of the surplus,
 *  slowly, those first that were idle for longest, never one with something out, waiting or not yet stored.
 *  Each node judges for itself, from the list of nodes, and only itself: nobody can be told to take a device, the balancer decides where it
 *  goes. So if those that were let go come back, it rests for a while and says so. Nothing moves while the fleet moves anyway: a node is
 *  young, drains or has died, many devices arrive anywhere (a storm puts them where it likes first), or our own lease is not confirmed.
 *  Store away: the last surplus is not worked on, the next list decides. Driven by `look`, without timers; the core is `judgeBalance`. */

import type { DeviceCode, NodeId } from '@lapi-broker/protocol';
import type { NodeDirectory, NodeView } from '@lapi-broker/routing';
import type { Log } from '@lapi-broker/telemetry';
import type { Departures } from './device/departures.ts';
import type { Session } from './device/session.ts';
import type { SessionTable } from './device/session-table.ts';
import type { EdgeMetrics } from './metrics.ts';

/** Above the mean by more than this part of it, and by more than this number of devices, is a surplus. */
const TOLERANCE = 0.1;
const TOLERANCE_DEVICES = 50;
/** Nodes younger than this still fill by themselves, ms. */
const YOUNG_MS = 30_000;
/** Arrivals per second of all nodes that are a storm: this part of all devices, and more than this number. Five times what we cause. */
const STORM_SHARE = 0.01;
const STORM_DEVICES = 20;
const LIST_EVERY_MS = 10_000;
/** The pace: this part of our own devices per second, and not less than this number. */
const SHARE_PER_SECOND = 0.002;
const LEAST_PER_SECOND = 1;
/** A device that was let go is somewhere again after this, ms. */
const BACK_AFTER_MS = 30_000;
/** So many are looked at before it is said that they come back; more than this part of them is too many. Two nodes taken in turn give half. */
const JUDGED_AT_LEAST = 20;
const TOO_MANY_BACK = 0.75;
const REST_MS = 600_000;
/** After a pause of the process, what was missed must not go at once. */
const LONGEST_STEP_MS = 1_000;

export interface Balance {
  /** Our devices divided by the mean; 1 where there is nothing to compare. */
  readonly skew: number;
  /** Devices that belong elsewhere. */
  readonly surplus: number;
}

/** `knownSinceMs`: since when this node has seen each incarnation serve, on the clock of `nowMs`. */
export function judgeBalance(
  node: NodeId,
  own: number,
  nodes: readonly NodeView[],
  knownSinceMs: ReadonlyMap<NodeId, number>,
  nowMs: number,
): Balance {
  const serving = nodes.filter(({ alive, phase }) => alive && phase === 'serving');
  if (!serving.some((view) => view.node === node)) return { skew: 1, surplus: 0 };
  const all = serving.reduce((sum, view) => sum + (view.node === node ? own : view.sessions), 0);
  const mean = all / serving.length;
  const skew = mean === 0 ? 1 : own / mean;
  const arriving = serving.reduce((sum, { registrations }) => sum + registrations, 0);
  const moving =
    arriving > Math.max(STORM_DEVICES, all * STORM_SHARE) ||
    nodes.some(
      ({ node: other, alive, phase, sessions }) =>
        !alive || (phase === 'draining' ? sessions > 0 : nowMs - (knownSinceMs.get(other) ?? nowMs) < YOUNG_MS),
    );
  const surplus = Math.floor(own - mean - Math.max(TOLERANCE_DEVICES, mean * TOLERANCE));
  return { skew, surplus: moving ? 0 : Math.max(0, surplus) };
}

/** Up to `count` sessions that may be ended without cutting anything off, the one that was idle for longest first. */
export function idlest(sessions: Iterable<Session>, count: number): Session[] {
  const idle = [...sessions].filter(mayGo);
  // Only the few that go are sorted as sessions; sorting plain numbers is cheap for tens of thousands.
  const limitMs = Float64Array.from(idle, ({ usedMs }) => usedMs).sort()[Math.min(count, idle.length) - 1] ?? 0;
  return idle
    .filter(({ usedMs }) => usedMs <= limitMs)
    .sort((a, b) => a.usedMs - b.usedMs)
    .slice(0, count);
}

function mayGo(session: Session): boolean {
  return session.isOpen && !session.leaving && session.isIdle;
}

export interface RebalanceOptions {
  readonly directory: Pick<NodeDirectory, 'list'>;
  readonly sessions: SessionTable;
  readonly departures: Departures;
  /** Incarnation of this node. */
  readonly node: () => NodeId;
  /** May devices be let go now: switched on, lease confirmed, no drain? */
  readonly mayShed: () => boolean;
  readonly monotonicMs: () => number;
  /** In [0, 1). */
  readonly random: () => number;
  readonly metrics: Pick<EdgeMetrics, 'skew' | 'rebalanced'>;
  readonly log: Log;
}

export class Rebalance {
  private readonly options: RebalanceOptions;
  private knownSinceMs = new Map<NodeId, number>();
  private listing = false;
  private listAtMs: number;
  private lookedMs: number;
  private surplus = 0;
  private credit = 0;
  /** Those that go next; as many as go until the next list. */
  private next: Session[] = [];
  /** Let go and not judged yet, oldest first; bounded by the pace times BACK_AFTER_MS and a list. */
  private shed: { readonly code: DeviceCode; readonly atMs: number }[] = [];
  private judged = 0;
  private back = 0;
  private restsUntilMs = Number.NEGATIVE_INFINITY;

  constructor(options: RebalanceOptions) {
    this.options = options;
    this.lookedMs = options.monotonicMs();
    this.listAtMs = this.lookedMs + this.spread(LIST_EVERY_MS);
  }

  look(nowMs: number): void {
    const spentMs = Math.min(nowMs - this.lookedMs, LONGEST_STEP_MS);
    this.lookedMs = nowMs;
    if (nowMs >= this.listAtMs && !this.listing) void this.list();
    if (this.surplus > 0) this.letGo(nowMs, spentMs);
  }

  private async list(): Promise<void> {
    const { directory, log, monotonicMs } = this.options;
    this.listing = true;
    try {
      this.judge(await directory.list(), monotonicMs());
    } catch (error) {
      this.surplus = 0;
      log.debug({ err: error }, 'rebalance.no_list');
    } finally {
      this.listing = false;
      this.listAtMs = monotonicMs() + this.spread(LIST_EVERY_MS);
    }
  }

  private judge(nodes: readonly NodeView[], nowMs: number): void {
    const { sessions, departures, node, metrics, log, mayShed } = this.options;
    // One that was resumed is as young as one that came: balancers have yet to hear of it.
    const serving = nodes.filter(({ alive, phase }) => alive && phase === 'serving');
    this.knownSinceMs = new Map(serving.map((view) => [view.node, this.knownSinceMs.get(view.node) ?? nowMs]));
    const own = sessions.size - departures.size;
    const { skew, surplus } = judgeBalance(node(), own, nodes, this.knownSinceMs, nowMs);
    metrics.skew.set(skew);
    this.judgeReturns(nowMs);
    const before = this.surplus;
    this.surplus = mayShed() && nowMs >= this.restsUntilMs ? surplus : 0;
    const untilNextList = Math.ceil((2 * LIST_EVERY_MS * this.perSecond()) / 1_000);
    this.next = this.surplus === 0 ? [] : idlest(sessions.values(), Math.min(this.surplus, untilNextList));
    if (before === 0 && this.surplus > 0) {
      this.credit = 0;
      log.info({ sessions: sessions.size, surplus, skew }, 'rebalance.started');
    } else if (before > 0 && this.surplus === 0) log.info({ sessions: sessions.size, skew }, 'rebalance.ended');
  }

  private letGo(nowMs: number, spentMs: number): void {
    const { departures, mayShed, metrics, random } = this.options;
    if (!mayShed()) return;
    this.credit += (spentMs / 1_000) * this.perSecond() * (0.5 + random());
    while (this.credit >= 1 && this.next.length > 0) {
      const session = this.next.shift();
      // Used since it was chosen.
      if (session === undefined || !mayGo(session)) continue;
      this.credit--;
      departures.begin(session, 'rebalanced', nowMs);
      metrics.rebalanced.inc({ result: 'shed' });
      this.shed.push({ code: session.code, atMs: nowMs });
    }
    // What could not be spent is not saved up: it would go at once.
    this.credit = Math.min(this.credit, 1);
  }

  private judgeReturns(nowMs: number): void {
    const { sessions, metrics, log } = this.options;
    const due = this.shed.filter(({ atMs }) => nowMs - atMs >= BACK_AFTER_MS);
    if (due.length === 0) return;
    this.shed = this.shed.slice(due.length);
    const back = due.filter(({ code }) => sessions.get(code) !== undefined).length;
    if (back > 0) metrics.rebalanced.inc({ result: 'returned' }, back);
    this.judged += due.length;
    this.back += back;
    if (this.judged < JUDGED_AT_LEAST) return;
    if (this.back > this.judged * TOO_MANY_BACK) {
      this.restsUntilMs = nowMs + REST_MS;
      log.warn({ shed: this.judged, returned: this.back, restSeconds: REST_MS / 1_000 }, 'rebalance.in_vain');
    }
    this.judged = 0;
    this.back = 0;
  }

  private perSecond(): number {
    return Math.max(LEAST_PER_SECOND, this.options.sessions.size * SHARE_PER_SECOND);
  }

  private spread(ms: number): number {
    return ms * (0.8 + 0.4 * this.options.random());
  }
}
