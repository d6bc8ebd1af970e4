/** Answers "is it only this node that the store is away from?" and then lets its devices go, slowly, to nodes that can serve them (3.6).
 *  A node without a confirmed lease for longer than the fence asks up to three peers whether they are ready, every 5 s. From 30 s on, while most
 *  of those it asked have said yes for 10 s, it sheds 2 % of its devices per second. Nobody says yes: the store is away for all, and shedding would
 *  only make a storm, so devices stay; so they do while the store comes back and others are a little faster. One good renewal ends it. Without
 *  peers in the settings nothing is ever shed.
 *  A peer that does not answer in time counts as not ready: a node that is cut off from everything holds its devices too. */

import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import type { Clock, Part } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import type { Session } from '../device/session.ts';
import { FENCE_AFTER_MS } from '../limits.ts';

const LOOK_MS = 1_000;
const ASK_EVERY_MS = 5_000;
const ASK_TIMEOUT_MS = 2_000;
const PEERS_ASKED = 3;
const SHED_AFTER_MS = 30_000;
/** After an outage for all, every node has its lease again within this. */
const PEERS_READY_FOR_MS = 10_000;
const SHARE_PER_SECOND = 0.02;

/** Of the peers that were asked. */
export interface PeerCount {
  readonly ready: number;
  readonly asked: number;
}

/** Do most of the peers reach the store? Not known: no. */
export function mostAreReady({ ready, asked }: PeerCount): boolean {
  return ready * 2 > asked;
}

/** How many devices to let go now, once a second. `peersReadyMs`: for how long most peers have been ready. `random` in [0, 1). Pure. */
export function devicesToShed(leaseAgeMs: number, peersReadyMs: number, devices: number, random: number): number {
  if (leaseAgeMs < SHED_AFTER_MS || peersReadyMs < PEERS_READY_FOR_MS) return 0;
  return Math.min(devices, Math.ceil(devices * SHARE_PER_SECOND * (0.5 + random)));
}

export interface IsolationOptions {
  readonly nodeName: string;
  /** Base URLs of the probe listeners of the other nodes; a name may stand for several addresses. */
  readonly peers: readonly string[];
  readonly leaseAgeMs: () => number;
  readonly sessions: { readonly size: number; values(): Iterable<Pick<Session, 'close'>> };
  readonly clock: Clock;
  readonly random: () => number;
  readonly onShed: (devices: number) => void;
  readonly log: Log;
}

export class Isolation implements Part {
  readonly name = 'isolation';
  private readonly options: IsolationOptions;
  private peers: PeerCount = { ready: 0, asked: 0 };
  /** Since when most of them have been ready without a break; Infinity = they are not. */
  private readySinceMs = Number.POSITIVE_INFINITY;
  private askedMs = Number.NEGATIVE_INFINITY;
  private asking: AbortController | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(options: IsolationOptions) {
    this.options = options;
  }

  start(): void {
    if (this.options.peers.length > 0) this.timer ??= setInterval(() => this.look(), LOOK_MS);
  }

  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.asking?.abort();
  }

  private look(): void {
    const { leaseAgeMs, clock, sessions, random, onShed, log } = this.options;
    const ageMs = leaseAgeMs();
    const nowMs = clock.monotonicMs();
    if (ageMs < FENCE_AFTER_MS) {
      this.readySinceMs = Number.POSITIVE_INFINITY;
      return;
    }
    if (nowMs - this.askedMs >= ASK_EVERY_MS && this.asking === undefined) void this.ask();
    const count = devicesToShed(ageMs, nowMs - this.readySinceMs, sessions.size, random());
    if (count === 0) return;
    const leaving: Pick<Session, 'close'>[] = [];
    for (const session of sessions.values()) {
      if (leaving.length === count) break;
      leaving.push(session);
    }
    for (const session of leaving) session.close(1001, 'node cut off', 'isolated');
    onShed(leaving.length);
    log.warn({ devices: leaving.length, left: sessions.size, ...this.peers }, 'isolation.shed');
  }

  /** Never rejects. */
  private async ask(): Promise<void> {
    const { clock, random, nodeName } = this.options;
    this.askedMs = clock.monotonicMs();
    const stopping = new AbortController();
    this.asking = stopping;
    const inTime = (): AbortSignal => AbortSignal.any([stopping.signal, AbortSignal.timeout(ASK_TIMEOUT_MS)]);
    try {
      const overdue = once(inTime(), 'abort').then((): [] => []);
      const urls = (await Promise.all(this.options.peers.map((base) => addressesOf(base, overdue)))).flat();
      // One more than wanted, because this node may be among them.
      const chosen = urls.map((url) => ({ url, at: random() })).sort((a, b) => a.at - b.at);
      const signal = inTime();
      const answers = await Promise.all(
        chosen.slice(0, PEERS_ASKED + 1).map(({ url }) => isReady(url, nodeName, signal)),
      );
      const others = answers.filter((answer) => answer !== 'self').slice(0, PEERS_ASKED);
      this.peers = { ready: others.filter((answer) => answer === 'ready').length, asked: others.length };
      this.readySinceMs = mostAreReady(this.peers)
        ? Math.min(this.readySinceMs, this.askedMs)
        : Number.POSITIVE_INFINITY;
    } finally {
      this.asking = undefined;
    }
  }
}

/** A name that cannot be resolved in time has no address. */
async function addressesOf(base: string, overdue: Promise<[]>): Promise<string[]> {
  const url = new URL(base);
  const resolving = lookup(url.hostname.replace(/^\[|\]$/g, ''), { all: true }).catch(() => []);
  const found = await Promise.race([resolving, overdue]);
  return found.map(
    ({ address, family }) => `${url.protocol}//${family === 6 ? `[${address}]` : address}:${url.port || '80'}`,
  );
}

async function isReady(base: string, nodeName: string, signal: AbortSignal): Promise<'ready' | 'not ready' | 'self'> {
  try {
    const response = await fetch(`${base}/readyz`, { signal, redirect: 'error' });
    await response.body?.cancel();
    if (response.headers.get('lapi-node') === nodeName) return 'self';
    return response.ok ? 'ready' : 'not ready';
  } catch {
    return 'not ready';
  }
}
