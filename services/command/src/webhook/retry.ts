/** Says when an attempt of delivery that failed is made again. 5 s, then twice as long each time up to an hour, each ± half by chance, so that what
 *  failed together does not come back together; 20 attempts take about 10 hours. A receiver that asks for more time with `Retry-After`
 *  (429, 503) gets it, up to an hour. Pure. */

import type { Posted } from './safe-post.ts';

export const FIRST_RETRY_MS = 5_000;
const LONGEST_MS = 3_600_000;

/** `attempt`: the one that failed, from 1. `random`: 0 ≤ x < 1. */
export function retryDelayMs(attempt: number, askedMs: number, random: number, firstMs = FIRST_RETRY_MS): number {
  const stepMs = Math.min(firstMs * 2 ** Math.min(attempt - 1, 30), LONGEST_MS);
  return Math.round(Math.max(stepMs * (0.5 + random), askedMs));
}

/** How long the receiver wants to be left alone; 0 where it does not say. */
export function askedRestMs(posted: Posted): number {
  if (posted.status === 'failed' || (posted.code !== 429 && posted.code !== 503)) return 0;
  return Math.min(posted.retryAfterMs ?? 0, LONGEST_MS);
}

/** `Retry-After` as seconds or as a date; undefined where it is neither. */
export function readRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1_000;
  const atMs = Date.parse(header);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}
