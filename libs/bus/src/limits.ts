/** Bounds of the bus. */

import type { PublisherLimits } from './publisher.ts';

export const DEFAULT_LIMITS: PublisherLimits = {
  maxWaitingBytes: 64 * 2 ** 20,
  // Redis cuts a subscriber that is 32 MB behind: batches must stay far below, whatever the tick brought.
  maxBatchBytes: 2 ** 20,
};
