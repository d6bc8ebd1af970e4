/** Decides when a DeviceCode changes hands too often (protocol D8): more than `limit` take-overs within `windowMs` and the current session
 *  stays for `holdMs`. Only take-overs count: a device that goes and comes back never meets it. The window slides; it is not a fixed minute,
 *  so no interval of `windowMs` ever holds more than `limit`. What lies in the
 *  future does not count: the clock went back. claim.lua holds the same decision for Redis. */

import { BrokerError } from '@lapi-broker/protocol';
import type { Hold } from './owner-registry.ts';

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

export interface TakeOver {
  readonly atMs: number;
  /** Of the device that took over. */
  readonly address: string;
}

/** One more take-over is asked for, `recent` being those that were let through, oldest first: those that still count, or the hold-down that
 *  begins. */
export function takeOver(
  recent: readonly TakeOver[],
  guard: FlapGuard,
  { atMs, address }: TakeOver,
): { readonly passed: readonly TakeOver[] } | { readonly hold: Hold } {
  const counted = [
    ...recent.filter((each) => each.atMs > atMs - guard.windowMs && each.atMs <= atMs),
    { atMs, address },
  ];
  if (counted.length <= guard.limit) return { passed: counted };
  const addresses = counted.map((each) => each.address);
  return {
    hold: {
      reason: takeTurns(addresses) ? 'conflict' : 'flapping',
      untilMs: atMs + guard.holdMs,
      addresses: [...new Set(addresses)],
    },
  };
}

/** Did one come back after another? Two devices with one code do that; one device that moves does not. */
function takeTurns(addresses: readonly string[]): boolean {
  const stretches = addresses.filter((address, i) => address !== addresses[i - 1]).length;
  return stretches > new Set(addresses).size;
}
