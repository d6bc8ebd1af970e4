/** Every bound of the edge in one place, with the source of its default. Those an operator may change are in config.ts. */

/** Protocol E3: largest message in both directions, bytes. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
/** Room in a message for the envelope around `Data`, bytes. */
export const ENVELOPE_BYTES = 4_096;
/** Protocol S11: send buffer per session; a device that does not read is closed beyond it, bytes. */
export const MAX_SEND_BUFFER_BYTES = 32 * 1024 * 1024;
/** A device with more than this waiting in its send buffer takes no further call (`device_busy`), bytes. */
export const BUSY_SEND_BUFFER_BYTES = 256 * 1024;
/** Protocol V4: events received and not yet stored, per session and per node; each class may fill a share (event/pressure.ts). */
export const UNSTORED_LIMITS = {
  sessionEvents: 256,
  sessionBytes: 32 * 1024 * 1024,
  nodeBytes: 64 * 1024 * 1024,
  // Below STORE_DEADLINE_MS: what is let in behind it should still be stored in time.
  waitMs: 4_000,
} as const;
/** What an event that waits costs beside its data; bounds the number of small ones. */
export const EVENT_OVERHEAD_BYTES = 1_024;
/** Pictures that wait for the image store: of one event so long, ms; of a node so many bytes, a share of what may be un-stored. */
export const PICTURE_DEADLINE_MS = 2_000;
export const MAX_PICTURE_BYTES_PER_NODE = 32 * 1024 * 1024;
/** A store that has taken an event within so long takes events. */
export const STORE_ALIVE_MS = 1_000;
/** Share of the store's memory from which events of a class are refused, so that others still find room, in percent; alarms always try. */
export const STORE_FULL_PERCENT = { lossy: 80, normal: 95 } as const;
/** Between two looks at the memory of the store, ms. */
export const STORE_MEMORY_LOOK_MS = 2_000;
/** Protocol V3: no success answer for an event that the store did not take by then, ms. */
export const STORE_DEADLINE_MS = 5_000;
/** Protocol H12: one registration, store look-ups included, ms. */
export const REGISTRATION_DEADLINE_MS = 5_000;
/** Registrations whose step 2 is being verified at once; further ones get 503. */
export const MAX_REGISTRATIONS_IN_PROGRESS = 256;
/** Protocol 4.4: how long after its expiry a used nonce is remembered, ms. */
export const NONCE_MEMORY_SLACK_MS = 10_000;
/** Protocol E16: malformed messages in a row before the session is closed. */
export const MAX_MALFORMED_IN_A_ROW = 5;
/** Lease of a node (D2): how often renewed, how long it lives, how old a renewal may be while devices are written to (D8), ms. */
export const LEASE_BEAT_MS = 2_000;
export const LEASE_MS = 10_000;
export const FENCE_AFTER_MS = 7_000;
/** A renewal that reaches the store later than this after it was sent does not count (D7), ms. */
export const RENEWAL_NOT_AFTER_MS = 3_000;
/** Re-claims and re-checks of all sessions run in batches of this size, so that a Redis restart makes no storm. */
export const RECLAIM_BATCH = 200;
/** Tokens of a session: messages and bytes per second, with their bursts (reliability limits; two full messages). */
export const MESSAGES_PER_SECOND = 50;
export const MESSAGES_BURST = 100;
export const BYTES_PER_SECOND = 2 * 1024 * 1024;
export const BYTES_BURST = 32 * 1024 * 1024;
/** Ten times of it is no device any more: frames of every kind count, pings too, and the session is closed (S11). */
export const FLOOD_FRAMES_PER_SECOND = 500;
export const FLOOD_FRAMES_BURST = 2_000;
export const FLOOD_BYTES_PER_SECOND = 20 * 1024 * 1024;
export const FLOOD_BYTES_BURST = 64 * 1024 * 1024;
/** Addresses and codes whose failed registrations are remembered; the oldest are forgotten first. */
export const MAX_REMEMBERED_FAILURES = 10_000;
/** Provisioning records cached for the next registration of the same device; a stale one is refused by the claim. */
export const MAX_CACHED_CREDENTIALS = 20_000;
export const CREDENTIALS_CACHE_MS = 5 * 60_000;
/** Command ids remembered per asking process, to refuse a frame that arrives twice: the last six seconds of one that sends 40,000 per
 *  second, an hour of one that sends 70. 2 MiB each, and a bound on the processes. */
export const REMEMBERED_COMMAND_IDS = 262_144;
export const MAX_ASKING_PROCESSES = 32;
/** An answer that comes after the timeout is taken for so long (protocol E13), ms; of so many calls per session. */
export const LATE_ANSWER_MS = 600_000;
export const MAX_LATE_ANSWERS = 64;
/** A begin that reaches the store later than this after it was sent hands out nothing (D7), ms. Below BEGIN_FRESH_MS, because nobody would
 *  hear of what was handed out later. */
export const BEGIN_NOT_AFTER_MS = 1_800;
/** What was begun is written so soon after it was asked for, or given back: a process that was paused meanwhile does not know yet whether the
 *  device has moved, ms. As long as the store may take to answer. */
export const BEGIN_FRESH_MS = 2_000;
/** How long a lane rests after its command could not be written, or while nothing may be written, ms. */
export const LANE_PAUSE_MS = 1_000;
/** Ends of attempts that the store has not heard of: so many, so many bytes of answers, for so long. */
export const MAX_UNHEARD_ENDS = 50_000;
export const MAX_UNHEARD_BYTES = 64 * 1024 * 1024;
export const UNHEARD_END_MS = 600_000;
/** Ends that the store has taken, told again after it may have fallen back: as long as a failover takes, several times over. */
export const MAX_HEARD_ENDS = 20_000;
export const MAX_HEARD_BYTES = 32 * 1024 * 1024;
export const HEARD_END_MS = 60_000;
/** How often the names of the masters are compared, ms. */
export const MASTERS_LOOK_MS = 1_000;
/** Repeated in batches of this size, so often, ms. */
export const UNHEARD_BATCH = 200;
export const UNHEARD_REPEAT_MS = 500;
/** Commands of lanes whose last written attempt is remembered, to refuse a store that fell back behind it (I7). */
export const MAX_REMEMBERED_ATTEMPTS = 50_000;
/** What is out when a device is sent elsewhere may be finished for so long, ms. */
export const FINISH_MS = 5_000;
/** Protocol D7: a close frame is sent and the TCP connection ended without waiting for the device. */
export const MAX_PENDING_RELEASES = 100_000;
/** The last messages of all sessions of a node, for the timeline: some 150,000 ordinary ones, bytes. */
export const FRAME_LOG_BYTES = 32 * 1024 * 1024;
/** Entries of the timeline that wait for the store; how many go in one batch, how long they are collected, and how soon a batch that failed comes
 *  again, ms. */
export const MAX_TIMELINE_ENTRIES = 20_000;
export const TIMELINE_BATCH = 32;
export const TIMELINE_FLUSH_MS = 200;
export const TIMELINE_RETRY_MS = 1_000;
/** Refusals of codes that nobody may have provisioned, per node: kept for an hour each, that is at most 18,100 of them. */
export const UNKNOWN_REFUSALS_PER_SECOND = 5;
export const UNKNOWN_REFUSALS_BURST = 100;
