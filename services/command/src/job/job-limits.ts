/** Bounds of jobs. What an installation may set is in config.ts (LAPI_JOBS_ACTIVE, LAPI_JOBS_KEPT). */

const SECOND = 1_000;
const DAY = 24 * 3_600 * SECOND;

export const JOB_LIMITS = {
  targets: 10_000,
  /** Of `POST /v1/jobs`: room for all codes and the largest `data`. */
  requestBytes: 1024 * 1024,
  /** `data` of the command: what a lane takes. */
  bodyBytes: 256 * 1024,
  nameLength: 64,
  concurrency: { min: 1, max: 1_000, default: 50 },
  ratePerSecond: { min: 0.01, max: 10_000 },
  growth: { min: 1, max: 100, default: 2 },
  ttlMs: { min: SECOND, max: 7 * DAY, default: DAY },
  /** A window may lie this far ahead. */
  aheadMs: 30 * DAY,
  /** Kept after the end. */
  keepMs: 7 * DAY,
  idempotencyMs: DAY,
  /** Devices or jobs of one page. */
  pageSize: { min: 1, max: 1_000, default: 100 },
  /** Devices that a dry run names. */
  sample: 20,
  /** Groups that a dry run counts. */
  groups: 100,
} as const;
