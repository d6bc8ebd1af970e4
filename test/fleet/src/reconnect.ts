/** When a device tries again after a lost connection or a refused registration. Pure. */

import type { Random } from './random.ts';

export interface ReconnectPolicy {
  readonly minMs: number;
  /** Cap of the growing delay; Retry-After may exceed it. */
  readonly maxMs: number;
}

/** Firmware behaviour is unknown (Q5, Q17); this is a quick, patient device. */
export const DEFAULT_RECONNECT: ReconnectPolicy = { minMs: 1000, maxMs: 30_000 };

/** Keeps a storm from becoming a busy loop of this process when nobody listens. */
const STORM_PAUSE_MS = 50;

/** `failures` counts attempts without success since the device was last online. */
export function reconnectDelayMs(
  policy: ReconnectPolicy,
  situation: { readonly failures: number; readonly retryAfterMs: number | undefined; readonly storm: boolean },
  random: Random,
): number {
  if (situation.storm) return situation.failures === 0 ? 0 : STORM_PAUSE_MS;
  const grown = Math.min(policy.maxMs, policy.minMs * 2 ** Math.min(situation.failures, 20));
  const delayMs = grown * (0.5 + 0.5 * random());
  const askedMs = situation.retryAfterMs ?? 0;
  // Devices that were all told the same moment must not come back in the same moment (S15).
  return askedMs > delayMs ? askedMs + random() * Math.min(askedMs, policy.minMs) : delayMs;
}
