/** Decides when a DeviceCode changes hands too often (protocol D8): more than `limit` take-overs within `windowMs` and the current session
 *  stays for `holdMs`. Only take-overs count: a device that goes and comes back never meets it. The window slides; it is not a fixed minute,
 *  so no interval of `windowMs` ever holds more than `limit`. claim.lua holds the same decision for Redis. */

import { BrokerError } from '@lapi-broker/protocol';

export interface FlapGuard {
  /** Take-overs that are let through within the window; 1–60, because their times lie in the row. */
  readonly limit: number;
  readonly windowMs: number;
  readonly holdMs: number;
}

export const DEFAULT_FLAP_GUARD: FlapGuard = { limit: 5, windowMs: 60_000, holdMs: 60_000 };

export function flapGuard(settings: Partial<FlapGuard> = {}): FlapGuard {
  const guard = { ...DEFAULT_FLAP_GUARD, ...settings };
  if (!Number.isInteger(guard.limit) || guard.limit < 1 || guard.limit > 60) {
    throw new BrokerError('internal', `flap guard: limit must be a whole number from 1 to 60, not ${guard.limit}`);
  }
  if (!(guard.windowMs > 0 && guard.holdMs > 0)) {
    throw new BrokerError('internal', 'flap guard: windowMs and holdMs must be above 0');
  }
  return guard;
}

/** What a row remembers. */
export interface TakeOvers {
  /** Times of the take-overs that still count, oldest first. */
  readonly timesMs: readonly number[];
  readonly heldUntilMs: number;
}

export const NO_TAKE_OVERS: TakeOvers = { timesMs: [], heldUntilMs: 0 };

/** One take-over is asked for at `nowMs`: the state to keep, and for how long it is refused (0 = go on). */
export function takeOver(state: TakeOvers, guard: FlapGuard, nowMs: number): { state: TakeOvers; refusedMs: number } {
  if (nowMs < state.heldUntilMs) return { state, refusedMs: state.heldUntilMs - nowMs };
  const recent = state.timesMs.filter((at) => at > nowMs - guard.windowMs);
  if (recent.length < guard.limit) return { state: { timesMs: [...recent, nowMs], heldUntilMs: 0 }, refusedMs: 0 };
  return { state: { timesMs: [], heldUntilMs: nowMs + guard.holdMs }, refusedMs: guard.holdMs };
}
