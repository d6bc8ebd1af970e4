/** Bounds of the bus. */

import type { PublisherLimits } from './publisher.ts';

export const DEFAULT_LIMITS: PublisherLimits = {
  // Answers of 16 MiB from eight devices at once find room, and small ones beside them.
  maxWaitingBytes: 176 * 2 ** 20,
  // Redis cuts a subscriber that is 32 MB behind: batches must stay far below, whatever the tick brought.
  maxBatchBytes: 2 ** 20,
  // Three of 16 MiB that were published at once would cut it, and with it everybody whose answers come the same way.
  parcelBytes: 256 * 2 ** 10,
  // Else the small answers of all other devices would find no room behind large ones.
  keptForSmallBytes: 32 * 2 ** 20,
};
