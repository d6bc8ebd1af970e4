/** The shapes of webhooks: what is accepted (closed schemas) and what is answered. Times are RFC 3339 in UTC. A secret is in the answer that makes it,
 *  and in no other. */

import { z } from 'zod';
import { isSigningSecret, SIGNING_SECRET_RULE } from '../webhook/signature.ts';
import { URL_CHARS } from '../webhook/target.ts';
import { OFF_REASONS, WEBHOOK_ID, WEBHOOK_LIMITS, WEBHOOK_STATES } from '../webhook/webhook.ts';
import { Filter, MAX_CURSOR_LENGTH, seconds } from './stream-message.ts';
import { SubscriptionProgress } from './subscription-schema.ts';

const time = z.iso.datetime();
const whole = ({ min, max }: { readonly min: number; readonly max: number }) => z.number().int().min(min).max(max);
const text = (chars: number) =>
  z
    .string()
    .regex(new RegExp(`^[^\\p{Cc}\\p{Cs}]{0,${chars}}$`, 'u'), `must be at most ${chars} characters on one line`);

const url = z
  .string()
  .max(URL_CHARS)
  .describe('Where to send: https, port 443 or one that the operator allows, a public address, no credentials.')
  .meta({ examples: ['https://vms.example.com/lapi-events'] });
const name = text(WEBHOOK_LIMITS.nameChars).describe('For people.');
const description = text(WEBHOOK_LIMITS.descriptionChars).describe('For people.');
const concurrency = whole(WEBHOOK_LIMITS.concurrency).describe('Requests at a time.');
const batch = z
  .strictObject({ max: whole(WEBHOOK_LIMITS.batch).describe('Events in one request at most, up to about 1 MiB.') })
  .describe('Nothing waits for a request to fill.');
const timeoutSeconds = seconds(WEBHOOK_LIMITS.timeoutMs).describe(
  'From the look-up of the name to the end of the answer.',
);
const maxAttempts = whole(WEBHOOK_LIMITS.maxAttempts).describe(
  'Then an event becomes a dead letter. 20 take about 10 hours.',
);
const secret = z
  .string()
  .max(128)
  .refine(isSigningSecret, SIGNING_SECRET_RULE)
  .describe('Signs the requests: `whsec_` and base64. Made by the broker when absent.');

export const WebhookRequest = z
  .strictObject({
    url,
    name: name.default(''),
    description: description.default(''),
    filter: Filter.default({}),
    from: z
      .string()
      .max(MAX_CURSOR_LENGTH)
      .default('now')
      .describe('Where it begins: a cursor, an event id, an RFC 3339 time, `start` (the oldest kept) or `now`.'),
    ordered: z
      .boolean()
      .default(true)
      .describe(
        "One event of a device at a time, in the device's order. False: as fast as the receiver takes them, in no order.",
      ),
    concurrency: concurrency.default(WEBHOOK_LIMITS.concurrency.default),
    batch: batch.default({ max: WEBHOOK_LIMITS.batch.default }),
    timeoutSeconds: timeoutSeconds.default(WEBHOOK_LIMITS.timeoutMs.default / 1_000),
    maxAttempts: maxAttempts.default(WEBHOOK_LIMITS.maxAttempts.default),
    secret: secret.optional(),
  })
  .meta({ id: 'WebhookRequest' });

export const WebhookChange = z
  .strictObject({
    url: url.optional(),
    name: name.optional(),
    description: description.optional(),
    filter: Filter.optional(),
    concurrency: concurrency.optional(),
    batch: batch.optional(),
    timeoutSeconds: timeoutSeconds.optional(),
    maxAttempts: maxAttempts.optional(),
  })
  .describe('Absent members stay as they are. The filter counts for what is looked at from then on.')
  .meta({ id: 'WebhookChange' });

const attempt = {
  at: time,
  status: z.number().int().optional().describe('HTTP status of the receiver.'),
  error: z
    .string()
    .optional()
    .describe(
      'Why there was no answer: refused (the URL, or an address of its host, is not allowed), dns, connect, tls, timeout, closed, invalid.',
    ),
  durationMs: z.number().int(),
};

export const WebhookView = z
  .object({
    id: z.string(),
    url: z.string(),
    name: z.string(),
    description: z.string(),
    filter: Filter,
    ordered: z.boolean(),
    concurrency: z.number().int(),
    batch: z.object({ max: z.number().int() }),
    timeoutSeconds: z.number(),
    maxAttempts: z.number().int(),
    state: z
      .enum(WEBHOOK_STATES)
      .describe(
        'failing: the last request failed. open: the breaker is open, nothing is sent until `openUntil`, then one request tries. disabled: nothing is sent.',
      ),
    disabled: z
      .object({
        reason: z
          .enum(OFF_REASONS)
          .describe(
            'asked: by the API. gone: the receiver answered 410. failing: nothing but failures for too long. new: its making broke off; delete it.',
          ),
        at: time,
      })
      .optional(),
    failures: z.number().int().describe('Requests that failed since the last that did not.'),
    failingSince: time.optional(),
    openUntil: time.optional(),
    lastAttempt: z.object(attempt).optional(),
    lastSuccessAt: time.optional(),
    createdAt: time,
  })
  .meta({ id: 'Webhook' });

export const NewWebhook = WebhookView.extend({
  secret: z.string().describe('Verifies the signatures. Shown this one time.'),
}).meta({ id: 'NewWebhook' });

export const WebhookProgress = WebhookView.extend({
  progress: SubscriptionProgress.pick({
    lag: true,
    waiting: true,
    inFlight: true,
    deadLetters: true,
    acknowledged: true,
    deadLettersDropped: true,
    oldestAt: true,
  })
    .optional()
    .describe('What it still has to send.'),
}).meta({ id: 'WebhookProgress' });

export const WEBHOOK_PAGE = { min: 1, max: 500, default: 100 } as const;

export const WebhookPath = z.object({
  id: z.string().regex(WEBHOOK_ID, 'must be the id of a webhook').describe('Id of the webhook.'),
});

export const WebhookListQuery = z.strictObject({
  limit: z.coerce
    .number(`must be a whole number from ${WEBHOOK_PAGE.min} to ${WEBHOOK_PAGE.max}`)
    .int()
    .min(WEBHOOK_PAGE.min)
    .max(WEBHOOK_PAGE.max)
    .default(WEBHOOK_PAGE.default)
    .describe('Webhooks per page.'),
  cursor: z.string().regex(WEBHOOK_ID, 'not a cursor of this listing').optional().describe('From the page before.'),
});

export const WebhookList = z
  .object({
    items: z.array(WebhookView),
    cursor: z.string().optional().describe('Begin of the next page, while there may be one.'),
  })
  .meta({ id: 'WebhookList' });

export const SecretRotation = z
  .strictObject({
    secret: secret.optional(),
    overlapSeconds: seconds(WEBHOOK_LIMITS.overlapMs)
      .default(WEBHOOK_LIMITS.overlapMs.default / 1_000)
      .describe('How long the secret before signs along. 0 for one that has leaked.'),
  })
  .meta({ id: 'WebhookSecretRotation' });

export const RotatedSecret = z
  .object({
    secret: z.string().describe('Shown this one time.'),
    previousSignsUntil: time,
  })
  .meta({ id: 'WebhookSecret' });

export const WebhookTest = z
  .object({ status: attempt.status, error: attempt.error, durationMs: attempt.durationMs })
  .meta({ id: 'WebhookTest' });

export const WebhookDeliveries = z
  .object({
    items: z.array(
      z
        .object({
          ...attempt,
          type: z.enum(['events', 'webhook.test']),
          message: z.string().describe('`webhook-id` of the request.'),
          events: z.array(z.string()).describe(`Ids of its events, ${WEBHOOK_LIMITS.logIds} at most.`),
          count: z.number().int().describe('Events and gaps in it.'),
          attempt: z.number().int().describe('1 for the first.'),
        })
        .meta({ id: 'WebhookDelivery' }),
    ),
  })
  .meta({ id: 'WebhookDeliveries' });
