/** Every bound of the command service, in one place. The upper part can be set from the environment; the lower part is fixed,
 *  because changing it would change what the API promises. config.ts adds the variables to its schema. */

import { z } from 'zod';

const MiB = 1024 * 1024;

export const LIMIT_VARIABLES = {
  LAPI_DIRECT_BODY_BYTES: z.coerce
    .number()
    .int()
    .min(1024)
    .max(64 * MiB)
    .default(16 * MiB)
    .describe('Largest body of a direct command, in bytes; above it 413 (protocol E3).'),
  LAPI_API_BODY_BYTES: z.coerce
    .number()
    .int()
    .min(1024)
    .max(16 * MiB)
    .default(256 * 1024)
    .describe('Largest body of every other API request, in bytes; above it 413.'),
  LAPI_BODIES_BYTES: z.coerce
    .number()
    .int()
    .min(1024)
    .max(64 * 1024 * MiB)
    .default(256 * MiB)
    .describe('Bodies of all requests in progress in one process together, in bytes; above it 429.'),
  LAPI_PENDING_COMMANDS: z.coerce
    .number()
    .int()
    .min(1)
    .max(1_000_000)
    .default(20_000)
    .describe('Direct commands in progress in one process, waiting ones included; above it 429 with Retry-After.'),
  LAPI_OWNER_CACHE_ENTRIES: z.coerce
    .number()
    .int()
    .min(0)
    .max(10_000_000)
    .default(100_000)
    .describe('Devices whose owner is remembered between look-ups. 0 looks up for every command.'),
  LAPI_OWNER_CACHE_MS: z.coerce
    .number()
    .int()
    .min(0)
    .max(60_000)
    .default(5_000)
    .describe(
      'How long a looked-up owner is used before the next look-up, in ms. A wrong one costs a refusal and a second look-up.',
    ),
  LAPI_LANE_COMMANDS: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .describe('Commands that wait in one lane of one device; above it 429 `lane_full`.'),
  LAPI_LANE_BYTES: z.coerce
    .number()
    .int()
    .min(1024)
    .max(1024 * MiB)
    .default(25 * MiB)
    .describe('URLs and bodies of all commands that wait for one device, in bytes; above it 429 `lane_full`.'),
  LAPI_WAITING_COMMANDS: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000_000)
    .default(100_000)
    .describe(
      'Commands that wait for all devices together; above it 429. Counted again each second, so several processes may pass it by what they take in one.',
    ),
  LAPI_COMMAND_KEEP_SECONDS: z.coerce
    .number()
    .int()
    .min(60)
    .max(30 * 24 * 3_600)
    .default(86_400)
    .describe(
      'How long the record of a command is kept after its end. An Idempotency-Key holds for a day, but no longer than its record.',
    ),
  LAPI_JOBS_ACTIVE: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .describe('Jobs that have not ended, of the whole installation; above it 429.'),
  LAPI_JOBS_KEPT: z.coerce
    .number()
    .int()
    .min(1)
    .max(100_000)
    .default(200)
    .describe(
      'Jobs kept, ended ones included, at most for 7 days; the oldest go first. One of 10,000 devices takes about 2 MB of Redis.',
    ),
  LAPI_SCHEDULES: z.coerce
    .number()
    .int()
    .min(0)
    .max(10_000)
    .default(1_000)
    .describe('Schedules of the whole installation, paused ones included; above it 429.'),
  LAPI_WEBHOOKS: z.coerce
    .number()
    .int()
    .min(0)
    .max(500)
    .default(100)
    .describe('Webhooks of the whole installation, disabled ones included; above it 429.'),
  LAPI_KEY_REQUESTS_PER_SECOND: z.coerce
    .number()
    .min(0)
    .max(10_000_000)
    .default(20_000)
    .describe(
      'Requests per second of one API key in one process, with a burst of twice as many; above it 429. 0 = no limit.',
    ),
} as const;

/** Fixed bounds. */
export const LIMITS = {
  /** Direct commands: time for the device to answer (protocol C4). */
  timeoutMs: { min: 1_000, max: 60_000, default: 10_000 },
  /** Direct commands: time to wait for an offline device to come; 0 = do not wait. */
  connectTimeoutMs: { min: 0, max: 60_000, default: 0 },
  /** `data` of a command that is kept: one that waits in a lane, or has an Idempotency-Key. */
  keptBodyBytes: 256 * 1024,
  /** Queued commands: for how long they are tried at all. */
  ttlMs: { min: 1_000, max: 7 * 24 * 3_600_000, default: 24 * 3_600_000 },
  /** Queued commands: how long the request stays open for the end. */
  waitMs: { min: 0, max: 30_000 },
  attempts: { min: 1, max: 10, default: 3 },
  backoffMs: { min: 100, max: 60_000, default: 1_000 },
  coalesceKey: 64,
  idempotencyKey: 128,
  /** Commands of one page of a device's history. */
  historyPage: { min: 1, max: 200, default: 50 },
  /** Pages that one request reads at most to find commands in a state. */
  historyScan: 10,
  /** Requests of one process that wait for the end of a recorded command; a further one is answered at once with what is known. */
  waiters: 20_000,
  /** Between two passes over all lanes that are due. */
  tendMs: 2_000,
  /** Between two counts of all waiting commands. */
  waitingMs: 1_000,
  /** Devices tended per shard and pass. */
  tendBatch: 500,
  /** Of them at once. */
  tendConcurrency: 32,
  /** Between two looks at the memory of the store. */
  storeMemoryMs: 2_000,
  /** Share of the store's memory from which no command is queued any more, in percent. */
  storeFullPercent: 80,
  /** From which on events are kept for a shorter time than was asked for, in percent. */
  storeTightPercent: 90,
  /** A submit that reaches the store later than this does nothing. */
  submitMs: 3_000,
  /** Time past a command's deadline in which the owning node's own verdict may still arrive. */
  replyGraceMs: 250,
  /** Between two sweeps over the pending commands: the resolution of every deadline here. */
  sweepMs: 100,
  /** Between two looks at how much of a shard's events is kept. */
  eventTrimMs: 5_000,
  /** Between two sweeps over the pictures, of all processes together. */
  imageSweepMs: 600_000,
  /** Open connections to the API, event streams included, WebSockets not; further ones are closed at once. */
  connections: 20_000,
  /** RequestURL with its query (protocol C5). */
  urlBytes: 2_048,
  /** Nesting of JSON bodies (protocol S11). */
  jsonDepth: 64,
  /** Devices of one page. */
  pageSize: { min: 1, max: 1_000, default: 100 },
  /** Rows that one listing request reads at most, so that a narrow filter cannot walk a million devices in one go. */
  scannedRows: 5_000,
  /** Rows per read of such a listing. */
  scannedBatch: 500,
  /** Secret of a device, UTF-8. */
  secretBytes: 256,
  tags: 32,
  tagLength: 64,
  apiKeys: 1_000,
  /** Positive answers about API keys are reused this long; a revoked key works at most so much longer. */
  keyCacheMs: 5_000,
  keyCacheEntries: 10_000,
  /** Key look-ups under way at once; a flood of unknown keys is refused beyond it instead of piling up. */
  keyLookUps: 256,
  /** Devices turned offline per shard and step when a node died. */
  reapBatch: 250,
  /** Between two looks at the node directory. */
  directoryMs: 1_000,
  /** A directory older than this answers nothing any more. */
  directoryStaleMs: 15_000,
} as const;
