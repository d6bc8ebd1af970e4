/** The shapes of commands: what is accepted (closed schemas) and what is answered. Times are RFC 3339 in UTC. Which options belong to which mode
 *  is said here too, so that an option that would be ignored is an error instead. */

import { COMMAND_MODES, COMMAND_STATES, LANES } from '@lapi-broker/lane';
import { type CommandId, isCommandId, LAPI_METHODS, type LapiMethod } from '@lapi-broker/protocol';
import { z } from 'zod';
import { LIMITS } from '../limits.ts';

const time = z.iso.datetime();
const anyTime = z.iso.datetime({ offset: true, error: 'must be an RFC 3339 time, such as 2026-01-31T22:00:00Z' });
const whole = (bounds: { readonly min: number; readonly max: number }) =>
  z.number().int().min(bounds.min).max(bounds.max);

/** Without the checks of `refineQueued`, for requests that contain a command. */
export const queuedShape = {
  method: z.enum(LAPI_METHODS),
  url: z.string().min(1).max(LIMITS.urlBytes).describe('RequestURL with its query; starts with /LAPI/.'),
  data: z
    .unknown()
    .optional()
    .describe('`Data` of the request: any JSON, passed on byte by byte. Absent or null = `{}`.'),
  timeoutMs: whole(LIMITS.timeoutMs)
    .default(LIMITS.timeoutMs.default)
    .describe('How long the device may take to answer one attempt, in ms.'),
  ttlMs: whole(LIMITS.ttlMs)
    .optional()
    .describe(
      'For how long it is tried, in ms from now; then it ends `expired`. Default 24 hours. Either this or `expiresAt`.',
    ),
  expiresAt: anyTime.optional().describe('Until when it is tried, at most 7 days from now.'),
  notBefore: anyTime
    .optional()
    .describe('Takes its place in the lane at this time, behind what waits there then. Mode `queue` only.'),
  retrySafe: z
    .boolean()
    .optional()
    .describe('May the command reach the device more than once? Default: GET may, and nothing else.'),
  maxAttempts: whole(LIMITS.attempts)
    .optional()
    .describe(`Attempts altogether. Default ${LIMITS.attempts.default} for what may be repeated, else 1.`),
  backoffMs: whole(LIMITS.backoffMs)
    .optional()
    .describe(
      `Before the second attempt, in ms; doubled for each further one, at most 60 s. Default ${LIMITS.backoffMs.default}.`,
    ),
  lane: z
    .enum(LANES)
    .optional()
    .describe('`urgent` is a second lane beside the first: its commands do not wait for those. Default `normal`.'),
  coalesceKey: z
    .string()
    .regex(/^[^\p{Cc}\p{Cs}]{1,64}$/u, `must be 1–${LIMITS.coalesceKey} characters without control characters`)
    .optional()
    .describe(
      'Replaces the command of this lane that waits with the same key; that one ends `cancelled`, reason `superseded`.',
    ),
};

const KEY = /^[ -~]{1,128}$/;

export const IdempotencyKey = z
  .string()
  .regex(KEY, `must be 1–${LIMITS.idempotencyKey} printable ASCII characters`)
  .describe(
    'The same key with the same request within 24 hours is the same command, however often it is sent; with another request it is refused.',
  );

export const CommandRequest = z
  .strictObject({
    mode: z
      .enum(COMMAND_MODES)
      .default('direct')
      .describe(
        '`direct`: now or not at all. `queue`: waits in the lane of the device until it can be delivered. `direct-then-queue`: now, and if nothing of it was written, as `queue`.',
      ),
    ...queuedShape,
    connectTimeoutMs: whole(LIMITS.connectTimeoutMs)
      .optional()
      .describe(
        `Direct modes: how long to wait for an offline device to come, in ms, before the time for the answer begins. Default ${LIMITS.connectTimeoutMs.default}: answer at once.`,
      ),
    waitMs: whole(LIMITS.waitMs)
      .optional()
      .describe(
        'Modes that queue: how long this request stays open for the end, in ms. Default 0: answer 202 at once.',
      ),
    idempotencyKey: IdempotencyKey.optional().describe('The same as the header `Idempotency-Key`.'),
  })
  .superRefine((request, context) => {
    const refuse = (names: readonly (keyof typeof request)[], why: string): void => {
      for (const name of names)
        if (request[name] !== undefined) context.addIssue({ code: 'custom', path: [name], message: why });
    };
    if (request.mode === 'direct') refuse(QUEUE_ONLY, 'belongs to mode "queue" and "direct-then-queue"');
    if (request.mode === 'queue') refuse(['connectTimeoutMs'], 'belongs to the direct modes');
    if (request.mode === 'direct-then-queue')
      refuse(['notBefore'], 'belongs to mode "queue": a direct call is made now');
    if (request.ttlMs !== undefined) refuse(['expiresAt'], 'says the same as ttlMs; give one of them');
  })
  .meta({ id: 'CommandRequest' });
export type CommandRequest = z.output<typeof CommandRequest>;

const QUEUE_ONLY = [
  'waitMs',
  'ttlMs',
  'expiresAt',
  'notBefore',
  'retrySafe',
  'maxAttempts',
  'backoffMs',
  'lane',
  'coalesceKey',
] as const;

interface Repetition {
  readonly method: LapiMethod;
  readonly retrySafe?: boolean | undefined;
  readonly maxAttempts?: number | undefined;
}

/** How often a command may be begun; `not_repeatable` when more was asked than its method and `retrySafe` allow (I7). */
export function attemptsOf(asked: Repetition): number | 'not_repeatable' {
  const attempts = asked.maxAttempts ?? (isRepeatable(asked) ? LIMITS.attempts.default : 1);
  return attempts > 1 && !isRepeatable(asked) ? 'not_repeatable' : attempts;
}

/** What the platform says about it goes before what its method promises. */
export function isRepeatable({ method, retrySafe }: Repetition): boolean {
  return retrySafe ?? method === 'GET';
}

export const CommandIdText = z
  .string()
  .regex(/^[0-9a-z]{22}$/, 'must be the id of a command')
  .transform((text) => asCommandId(text))
  .describe('Id of the command.')
  .meta({ examples: ['07k3v9x2m4q8w1z5t6r0ya'] });

function asCommandId(text: string): CommandId {
  if (!isCommandId(text)) throw new TypeError('checked by the pattern before');
  return text;
}

export const CommandPath = z.object({ id: CommandIdText });

export const CommandView = z
  .object({
    id: z.string(),
    code: z.string().describe('DeviceCode.'),
    mode: z.enum(COMMAND_MODES),
    lane: z.enum(LANES),
    method: z.enum(LAPI_METHODS),
    url: z.string(),
    state: z
      .enum(COMMAND_STATES)
      .describe(
        'queued: waits. sent: written, or about to be. Ended: succeeded, failed (the device answered an error, or it was refused unsent: see `executed`), timed_out, unknown, expired, cancelled.',
      ),
    executed: z
      .enum(['yes', 'no', 'maybe'])
      .optional()
      .describe(
        'Of an ended command. no: no byte of it was ever written to the device. yes: the device answered it. maybe: nobody can know.',
      ),
    reason: z
      .string()
      .optional()
      .describe(
        'Why, where the state does not say it: device_error, timeout, session_lost, superseded, cancelled, device_removed, expired, service_lost, store_rewound, retry, or an error code.',
      ),
    late: z.literal(true).optional().describe('The answer came after another end had been recorded, and replaced it.'),
    attempts: z.number().int().describe('Begun so far.'),
    maxAttempts: z.number().int(),
    acceptedAt: time,
    expiresAt: time,
    notBefore: time.optional(),
    sentAt: time.optional().describe('Of the last attempt.'),
    endedAt: time.optional(),
    responseCode: z.number().int().optional().describe('ResponseCode of the device.'),
    response: z
      .unknown()
      .optional()
      .describe("The device's answer, as it sent it. One above 64 KiB is kept for 10 minutes; not in lists."),
    responseBytes: z.number().int().describe('How long the answer is, also when it is not kept any more.'),
    coalesceKey: z.string().optional(),
    job: z.string().optional().describe('Id of the job that it belongs to.'),
    retryOf: z.string().optional().describe('Id of the command that it repeats.'),
  })
  .meta({ id: 'Command' });

export const CommandList = z
  .object({
    items: z.array(CommandView),
    cursor: z
      .string()
      .optional()
      .describe('Begin of the next page. Present while there may be more, also when this page is short or empty.'),
  })
  .meta({ id: 'CommandList' });

export const CommandListQuery = z.strictObject({
  limit: z.coerce
    .number(`must be a whole number from ${LIMITS.historyPage.min} to ${LIMITS.historyPage.max}`)
    .int()
    .min(LIMITS.historyPage.min)
    .max(LIMITS.historyPage.max)
    .default(LIMITS.historyPage.default)
    .describe('Commands per page.'),
  cursor: z.string().max(64).optional().describe('From the page before.'),
  state: z.enum(COMMAND_STATES).optional().describe('Only commands in this state.'),
});

export const RetryRequest = z
  .strictObject({
    ttlMs: whole(LIMITS.ttlMs).default(LIMITS.ttlMs.default).describe('For how long the new command is tried, in ms.'),
  })
  .meta({ id: 'RetryRequest' });
