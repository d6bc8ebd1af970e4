/** The shapes of jobs: what is accepted (closed schemas) and what is answered. Times are RFC 3339 in UTC. */

import { LANES } from '@lapi-broker/lane';
import { LAPI_METHODS } from '@lapi-broker/protocol';
import { z } from 'zod';
import { JOB_STATES, RETRYABLE_STATES, TARGET_STATES } from '../job/job.ts';
import { JOB_LIMITS } from '../job/job-limits.ts';
import { LIMITS } from '../limits.ts';
import { IdempotencyKey } from './command-schema.ts';
import { DeviceCodeText } from './schema.ts';

const time = z.iso.datetime();
const anyTime = z.iso.datetime({ offset: true, error: 'must be an RFC 3339 time, such as 2026-01-31T22:00:00Z' });
const whole = (bounds: { readonly min: number; readonly max: number }) =>
  z.number().int().min(bounds.min).max(bounds.max);

const JobCommandRequest = z
  .strictObject({
    method: z.enum(LAPI_METHODS),
    url: z.string().min(1).max(LIMITS.urlBytes).describe('RequestURL with its query; starts with /LAPI/.'),
    data: z
      .unknown()
      .optional()
      .describe('`Data` of the request: any JSON up to 256 KiB, passed on byte by byte. Absent or null = `{}`.'),
    timeoutMs: whole(LIMITS.timeoutMs)
      .default(LIMITS.timeoutMs.default)
      .describe('How long a device may take to answer one attempt, in ms.'),
    retrySafe: z
      .boolean()
      .optional()
      .describe('May the command reach a device more than once? Default: GET may, and nothing else.'),
    maxAttempts: z
      .number()
      .int()
      .min(1)
      .max(10)
      .optional()
      .describe('Attempts per device. Default 3 for what may be repeated, else 1.'),
    backoffMs: z
      .number()
      .int()
      .min(100)
      .max(60_000)
      .default(1_000)
      .describe('Before the second attempt; then doubled.'),
    lane: z.enum(LANES).default('normal').describe('`urgent` overtakes the commands that wait for a device.'),
  })
  .meta({ id: 'JobCommand' });

const TargetFilter = z
  .strictObject({
    tag: z.string().min(1).max(64).optional().describe('Devices with this tag.'),
    type: z.string().min(1).max(64).optional().describe('Devices with this `type`.'),
    firmware: z
      .string()
      .min(1)
      .max(65)
      .optional()
      .describe('Devices with this `firmware`, as provisioned; with `*` at its end, those whose firmware begins so.'),
    online: z.boolean().optional().describe('Devices with, or without, a session at this moment.'),
  })
  .refine(
    (filter) => Object.values(filter).some((wish) => wish !== undefined),
    'is empty; a job for every device needs {"online": true}, {"online": false}, a tag, a type or a firmware',
  )
  .describe('All that is given must hold. Resolved once, when the job is created.');

const Targets = z
  .strictObject({
    codes: z
      .array(DeviceCodeText)
      .min(1)
      .max(JOB_LIMITS.targets)
      .optional()
      .describe('Devices by code, in this order.'),
    filter: TargetFilter.optional(),
  })
  .refine(({ codes, filter }) => (codes === undefined) !== (filter === undefined), 'must hold `codes` or `filter`')
  .superRefine(({ codes }, context) => {
    const seen = new Set<string>();
    for (const [at, code] of (codes ?? []).entries()) {
      if (seen.has(code)) {
        context.addIssue({ code: 'custom', path: ['codes', at], message: `${code} is listed twice` });
        return;
      }
      seen.add(code);
    }
  });

const percent = z.number().min(0).max(100);

export const JobRequest = z
  .strictObject({
    name: z.string().max(JOB_LIMITS.nameLength).default('').describe('For people.'),
    command: JobCommandRequest,
    targets: Targets,
    concurrency: whole(JOB_LIMITS.concurrency)
      .default(JOB_LIMITS.concurrency.default)
      .describe('Devices at a time. Devices without a session hold no place.'),
    ratePerSecond: z
      .number()
      .min(JOB_LIMITS.ratePerSecond.min)
      .max(JOB_LIMITS.ratePerSecond.max)
      .optional()
      .describe('Devices started per second at most.'),
    perTag: z
      .strictObject({
        prefix: z.string().min(1).max(64).describe('Every tag with this prefix is a group, such as `site-`.'),
        limit: whole(JOB_LIMITS.concurrency),
      })
      .optional()
      .describe('Devices at a time in each group; the tags are those at creation.'),
    waves: z
      .strictObject({
        first: z.number().int().min(1).max(JOB_LIMITS.targets).describe('Devices of the canary.'),
        growth: z.number().min(JOB_LIMITS.growth.min).max(JOB_LIMITS.growth.max).default(JOB_LIMITS.growth.default),
      })
      .optional()
      .describe(
        'The next wave begins when every device of the one before has ended and `abort` allows it. A wave counts devices that were started, so offline ones hold nothing up.',
      ),
    abort: z
      .strictObject({
        failures: z.number().int().min(0).max(JOB_LIMITS.targets).optional().describe('Abort above this many.'),
        failurePercent: percent.optional().describe('Abort above this share of the ended devices.'),
        afterEnded: z
          .number()
          .int()
          .min(1)
          .max(JOB_LIMITS.targets)
          .default(10)
          .describe('The share counts from this many ended devices on, and at the end of every wave.'),
      })
      .refine(
        ({ failures, failurePercent }) => failures !== undefined || failurePercent !== undefined,
        'must hold `failures` or `failurePercent`',
      )
      .optional()
      .describe(
        'Failures are devices that ended failed, timed_out or unknown; unknown and offline devices do not count.',
      ),
    window: z
      .strictObject({
        notBefore: anyTime.optional(),
        notAfter: anyTime.optional().describe('Nothing starts, and no answer is awaited, after it.'),
      })
      .optional()
      .describe('Maintenance window.'),
    ttlMs: whole(JOB_LIMITS.ttlMs)
      .optional()
      .describe('What has not started by then is `expired`. Default 24 h. Counts from `window.notBefore` where given.'),
    expiresAt: anyTime.optional().describe('The same as a time of day; not together with `ttlMs`.'),
    offline: z
      .enum(['wait', 'fail'])
      .default('wait')
      .describe('`wait`: a device without a session is started when it comes. `fail`: it has failed.'),
    dryRun: z.boolean().default(false).describe('Only say who would be hit.'),
  })
  .refine(({ ttlMs, expiresAt }) => ttlMs === undefined || expiresAt === undefined, {
    path: ['expiresAt'],
    message: 'not together with `ttlMs`',
  })
  .meta({ id: 'JobRequest' });

export type JobRequestBody = z.output<typeof JobRequest>;

const count = z.number().int();

export const JobView = z
  .object({
    id: z.string(),
    name: z.string(),
    state: z
      .enum(['scheduled', ...JOB_STATES])
      .describe('stopping: nothing starts any more, what is out ends. finished_with_failures: not all succeeded.'),
    reason: z.string().optional().describe('Why it was aborted.'),
    total: count,
    counts: z.object(Object.fromEntries(TARGET_STATES.map((state) => [state, count]))).describe('Devices per state.'),
    wave: z
      .object({ number: count, size: count, started: count })
      .optional()
      .describe('The wave in progress, where there are waves.'),
    ratePerSecond: z.number().optional().describe('Devices ended per second over the last seconds.'),
    estimatedEndAt: time.optional().describe('At that rate; a guess.'),
    command: z.object({ method: z.enum(LAPI_METHODS), url: z.string() }),
    concurrency: count,
    notBefore: time.optional(),
    expiresAt: time.describe('Nothing starts after it.'),
    schedule: z.string().optional().describe('The schedule that made it.'),
    createdAt: time,
    startedAt: time.optional(),
    endedAt: time.optional(),
  })
  .meta({ id: 'Job' });

export const JobPlan = z
  .object({
    total: count,
    unknown: count.describe('Codes that are not provisioned; they would fail.'),
    online: count.describe('At this moment.'),
    groups: z.array(z.object({ tag: z.string(), devices: count })).describe('By tags of `perTag`; largest first.'),
    sample: z.array(z.string()).describe('The first devices.'),
  })
  .describe('Whom the job would reach. Nothing was created.')
  .meta({ id: 'JobPlan' });

export const JobPath = z.object({
  id: z
    .string()
    .regex(/^[0-9a-z]{20}$/, 'must be the id of a job')
    .describe('Id of the job.'),
});

const limit = z.coerce
  .number(`must be a whole number from ${JOB_LIMITS.pageSize.min} to ${JOB_LIMITS.pageSize.max}`)
  .int()
  .min(JOB_LIMITS.pageSize.min)
  .max(JOB_LIMITS.pageSize.max)
  .default(JOB_LIMITS.pageSize.default);

export const JobListQuery = z.strictObject({
  limit: limit.describe('Jobs per page.'),
  cursor: z.string().max(64).optional().describe('From the page before.'),
});

export const JobList = z
  .object({
    items: z.array(JobView),
    cursor: z.string().optional().describe('Begin of the next page, while there is one.'),
  })
  .meta({ id: 'JobList' });

export const TargetListQuery = z.strictObject({
  limit: limit.describe('Devices per page.'),
  cursor: z.string().max(64).optional().describe('From the page before, with the same filter.'),
  state: z.enum(TARGET_STATES).optional().describe('Only devices in this state.'),
});

export const TargetView = z
  .object({
    code: z.string(),
    state: z.enum(TARGET_STATES),
    tries: count.describe('Commands made for this device.'),
    commandId: z
      .string()
      .optional()
      .describe('The latest command; its record is the whole truth, late answers included.'),
    executed: z.enum(['yes', 'no', 'maybe']).optional().describe('Of ended ones.'),
    reason: z.string().optional(),
    responseCode: z.number().int().optional(),
    startedAt: time.optional(),
    endedAt: time.optional(),
  })
  .meta({ id: 'JobTarget' });

export const TargetList = z
  .object({
    items: z.array(TargetView),
    cursor: z.string().optional().describe('Begin of the next page, while there is one.'),
  })
  .meta({ id: 'JobTargetList' });

export const RetryRequest = z
  .strictObject({
    states: z
      .array(z.enum(RETRYABLE_STATES))
      .min(1)
      .max(RETRYABLE_STATES.length)
      .optional()
      .describe(
        'Default: failed and expired, and for commands that may be repeated also timed_out and unknown. Those two may have been executed: name them to send such a command again.',
      ),
    ttlMs: whole(JOB_LIMITS.ttlMs)
      .optional()
      .describe('The new time limit, from now, or from `window.notBefore` where that is still to come. Default 24 h.'),
  })
  .meta({ id: 'JobRetry' });

export const JobHeaders = z.object({
  'Idempotency-Key': IdempotencyKey.optional().describe('The same key with the same body within 24 h is the same job.'),
});
