/** How much of a shard's stream is kept. What is beyond either limit goes, oldest first; readers who come later find a gap. One entry may be
 *  larger than the limit: it stays while it is the last. */

export interface Retention {
  readonly maxAgeMs: number;
  /** Per shard: data and pictures' lists of the entries, and ENTRY_BYTES for each. */
  readonly maxBytes: number;
}

export const DEFAULT_RETENTION: Retention = { maxAgeMs: 3_600_000, maxBytes: 256 * 2 ** 20 };

/** What an entry costs beside its data and pictures, roughly; append-event.lua counts the same. */
export const ENTRY_BYTES = 256;
