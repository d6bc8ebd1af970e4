/** The shapes of schedules: what is accepted (closed schemas) and what is answered. Times are RFC 3339 in UTC. */

import { ERRORS, LAPI_METHODS } from '@lapi-broker/protocol';
import { z } from 'zod';
import { timetableProblem } from '../schedule/cron.ts';
import { queuedShape } from './command-schema.ts';
import { JobRequest } from './job-schema.ts';
import { DeviceCodeText } from './schema.ts';

const time = z.iso.datetime();
const NAME_CHARS = 64;
const GRACE_MS = { min: 1_000, max: 3_600_000, default: 60_000 } as const;
/** Of the whole body. A schedule is kept for years, and 1,000 of them share one place in the store. */
export const SCHEDULE_BYTES = 64 * 1024;
export const SCHEDULE_PAGE = { min: 1, max: 1_000, default: 100 } as const;

const ScheduledCommandRequest = z
  .strictObject({ code: DeviceCodeText, ...queuedShape })
  .omit({ expiresAt: true, notBefore: true })
  .meta({ id: 'ScheduledCommand' });

export const ScheduleRequest = z
  .strictObject({
    name: z.string().max(NAME_CHARS).default('').describe('For people.'),
    cron: z
      .string()
      .describe(
        'Five fields: minute, hour, day of month, month, day of week (0–7 or SUN–SAT). A time of day that clocks skip is due at the first moment after it; one that comes twice is due the first time; an expression for every hour goes by the hours that pass.',
      )
      .meta({ examples: ['30 2 * * MON-FRI'] }),
    timeZone: z.string().default('UTC').describe('IANA name of the zone whose clocks count.'),
    command: ScheduledCommandRequest.optional().describe(
      'What each firing sends to one device, as mode `queue` of a command does.',
    ),
    job: JobRequest.optional().describe(
      'What each firing starts: a job, without `window`, `expiresAt` and `dryRun`. A filter is resolved at each firing.',
    ),
    graceMs: z
      .number()
      .int()
      .min(GRACE_MS.min)
      .max(GRACE_MS.max)
      .default(GRACE_MS.default)
      .describe(
        'How late a firing may be, in ms, when the broker was away at its time. Of several that passed only the latest fires.',
      ),
    enabled: z.boolean().default(true).describe('False makes it paused.'),
  })
  .superRefine(({ cron, timeZone, command, job }, context) => {
    const refuse = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message });
    if ((command === undefined) === (job === undefined)) refuse(['command'], 'give either `command` or `job`');
    const problem = timetableProblem({ cron, timeZone });
    if (problem !== undefined) refuse([problem.path], problem.problem);
    const timeOfDay = 'is a time of day, which a schedule has by itself; use `ttlMs`';
    if (job?.window !== undefined) refuse(['job', 'window'], timeOfDay);
    if (job?.expiresAt !== undefined) refuse(['job', 'expiresAt'], timeOfDay);
    if (job?.dryRun === true) refuse(['job', 'dryRun'], 'a schedule cannot be a dry run');
  })
  .meta({ id: 'ScheduleRequest' });

export const ScheduleView = z
  .object({
    id: z.string(),
    name: z.string(),
    cron: z.string(),
    timeZone: z.string(),
    graceMs: z.number().int(),
    enabled: z.boolean().describe('False: paused.'),
    command: z.object({ code: z.string(), method: z.enum(LAPI_METHODS), url: z.string() }).optional(),
    job: z.object({ name: z.string(), method: z.enum(LAPI_METHODS), url: z.string() }).optional(),
    nextAt: time.optional().describe('The next firing; absent while paused.'),
    lastFiredAt: time
      .optional()
      .describe('The last moment of the timetable that was dealt with; what became of it is in `lastResult`.'),
    lastResult: z
      .object({
        status: z
          .enum(['fired', 'failed', 'missed'])
          .describe('fired: accepted; how it ends is told by the command or job. missed: later than `graceMs`.'),
        command: z.string().optional().describe('Id of the command.'),
        job: z.string().optional().describe('Id of the job.'),
        error: z
          .enum(Object.keys(ERRORS) as [string, ...string[]])
          .optional()
          .describe('Why it was not accepted.'),
        detail: z.string().optional(),
      })
      .optional(),
    missed: z.number().int().describe('Moments that were not carried out, since the schedule was made.'),
    createdAt: time,
  })
  .meta({ id: 'Schedule' });

export const ScheduleList = z
  .object({
    items: z.array(ScheduleView),
    cursor: z.string().optional().describe('Begin of the next page, while there may be one.'),
  })
  .meta({ id: 'ScheduleList' });

const ID = /^[0-9a-z]{20}$/;

export const SchedulePath = z.object({
  id: z.string().regex(ID, 'must be the id of a schedule').describe('Id of the schedule.'),
});

export const ScheduleListQuery = z.strictObject({
  limit: z.coerce
    .number(`must be a whole number from ${SCHEDULE_PAGE.min} to ${SCHEDULE_PAGE.max}`)
    .int()
    .min(SCHEDULE_PAGE.min)
    .max(SCHEDULE_PAGE.max)
    .default(SCHEDULE_PAGE.default)
    .describe('Schedules per page.'),
  cursor: z.string().regex(ID, 'not a cursor of this listing').optional().describe('From the page before.'),
});
