/** Leaving on purpose (design §9): refuse new registrations, then take the devices one after the other: refuse
 *  its further calls, finish what is out, end its subscription, close it with 1001. Paced and jittered, so that devices arrive at the other
 *  nodes as a stream and not as a storm; whoever has not had its turn is served as before. Bounded by its deadline. */

import type { Clock } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import type { Session } from './device/session.ts';
import type { SessionTable } from './device/session-table.ts';

/** How long calls that are out may still be answered, ms. */
const IN_FLIGHT_MS = 5_000;
const LOOK_MS = 50;
/** Slowest pace, so that a small node does not linger. */
const LEAST_PER_SECOND = 50;

/** Devices to close per second so that all are gone in `seconds`. Pure. */
export function drainPace(devices: number, seconds: number): number {
  return Math.max(LEAST_PER_SECOND, devices / Math.max(1, seconds));
}

export async function drainSessions(
  sessions: SessionTable,
  deadlineMs: number,
  clock: Clock,
  random: () => number,
  log: Log,
): Promise<void> {
  const endMs = clock.monotonicMs() + deadlineMs;
  const all = shuffled([...sessions.values()], random);
  const perSecond = drainPace(all.length, deadlineMs / 1_000 / 2);
  log.info({ sessions: all.length, perSecond: Math.round(perSecond) }, 'drain.started');
  const leaving: Promise<void>[] = [];
  const startedMs = clock.monotonicMs();
  for (let next = 0; next < all.length; ) {
    const nowMs = clock.monotonicMs();
    const due = nowMs >= endMs ? all.length : Math.ceil(((nowMs - startedMs + LOOK_MS) / 1_000) * perSecond);
    for (; next < Math.min(due, all.length); next++) leaving.push(leave(all[next] as Session, clock, endMs));
    if (next < all.length) await pause(LOOK_MS * (0.5 + random()));
  }
  await Promise.all(leaving);
  log.info({ sessions: all.length, tookMs: Math.round(clock.monotonicMs() - startedMs) }, 'drain.ended');
}

async function leave(session: Session, clock: Clock, endMs: number): Promise<void> {
  session.leaving = true;
  session.refuseWaiting('node_draining');
  const lastMs = Math.min(endMs, clock.monotonicMs() + IN_FLIGHT_MS);
  while (session.isOpen && session.unfinished > 0 && clock.monotonicMs() < lastMs) await pause(LOOK_MS);
  if (session.isOpen) await session.subscription?.remove();
  session.close(1001, 'node draining', 'draining');
}

function shuffled<T>(items: T[], random: () => number): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j] as T, items[i] as T];
  }
  return items;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
