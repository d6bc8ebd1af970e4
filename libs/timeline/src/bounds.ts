/** Bounds of the timeline, in one place. */

/** Entries of each kind per device; the scripts have it from redis/timeline.lua. */
export const LIST_ENTRIES = 25;
/** Of one entry as text. */
export const ENTRY_BYTES = 2_048;
/** Refusals for one reason that follow each other within this are one entry. */
export const REFUSAL_WINDOW_MS = 60_000;
/** How many of the newest refusals are searched for one to count on: as many as there are reasons that alternate. */
export const MERGE_LOOK = 8;
/** How long refusals of a code are kept that is not provisioned. */
export const UNKNOWN_KEEP_MS = 3_600_000;
