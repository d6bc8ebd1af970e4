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
  /** Time past a command's deadline in which the owning node's own verdict may still arrive. */
  replyGraceMs: 250,
  /** Between two sweeps over the pending commands: the resolution of every deadline here. */
  sweepMs: 100,
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
  reapBatch: 500,
  /** Between two looks at the node directory. */
  directoryMs: 1_000,
  /** A directory older than this answers nothing any more. */
  directoryStaleMs: 15_000,
} as const;
