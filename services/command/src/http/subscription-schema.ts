/** The shapes of durable subscriptions: what is accepted (closed schemas) and what is answered. Times are RFC 3339 in UTC. The event of a
 *  delivery is not validated here: its bytes go out as they are stored. */

import { z } from 'zod';
import { GROUP_LIMITS } from '../group/group.ts';
import { EventView } from './event-schema.ts';
import {
  extendShape,
  Filter,
  MAX_CURSOR_LENGTH,
  nackShape,
  SubscriptionName,
  seconds,
  settleShape,
} from './stream-message.ts';

const time = z.iso.datetime();
const count = z.number().int().nonnegative();
export const DEAD_LETTER_PAGE = { min: 1, max: 100, default: 20 } as const;

export const SubscriptionPath = z.object({ name: SubscriptionName });

const ackDeadlineSeconds = seconds(GROUP_LIMITS.ackDeadlineMs).describe(
  'How long a consumer may take over an event before it is handed out again.',
);
const maxInFlight = z
  .number()
  .int()
  .min(GROUP_LIMITS.maxInFlight.min)
  .max(GROUP_LIMITS.maxInFlight.max)
  .describe('Events handed out and not settled, over all consumers.');
const maxAttempts = z
  .number()
  .int()
  .min(GROUP_LIMITS.maxAttempts.min)
  .max(GROUP_LIMITS.maxAttempts.max)
  .describe('Hand-outs before an event becomes a dead letter.');
const ordered = z
  .boolean()
  .describe(
    "One event of a device at a time, in the device's order. False: as fast as consumers take them, in no order.",
  );

export const SubscriptionRequest = z
  .strictObject({
    name: SubscriptionName,
    filter: Filter.default({}),
    from: z
      .string()
      .max(MAX_CURSOR_LENGTH)
      .default('now')
      .describe(
        'Where a new one begins: a cursor, an event id, an RFC 3339 time, `start` (the oldest kept) or `now`. One that exists keeps its place.',
      ),
    ackDeadlineSeconds: ackDeadlineSeconds.default(GROUP_LIMITS.ackDeadlineMs.default / 1_000),
    maxInFlight: maxInFlight.default(GROUP_LIMITS.maxInFlight.default),
    maxAttempts: maxAttempts.default(GROUP_LIMITS.maxAttempts.default),
    ordered: ordered.default(true),
  })
  .meta({ id: 'SubscriptionRequest' });

export const SubscriptionChange = z
  .strictObject({
    filter: Filter.optional(),
    ackDeadlineSeconds: ackDeadlineSeconds.optional(),
    maxInFlight: maxInFlight.optional(),
    maxAttempts: maxAttempts.optional(),
  })
  .describe('Absent members stay as they are. The filter counts for what is looked at from then on.')
  .meta({ id: 'SubscriptionChange' });

export const SubscriptionView = z
  .object({
    name: z.string(),
    filter: Filter,
    ackDeadlineSeconds: z.number(),
    maxInFlight: count,
    maxAttempts: count,
    ordered: z.boolean(),
    createdAt: time,
  })
  .meta({ id: 'DurableSubscription' });

export const SubscriptionProgress = SubscriptionView.extend({
  lag: count.describe('Stored events that it has not looked at yet, whatever its filter says of them.'),
  waiting: count.describe(
    'Matched and not handed out: waiting for a consumer, for an earlier event of their device, or for their next attempt.',
  ),
  inFlight: count.describe('Handed out and not settled.'),
  deadLetters: count,
  acknowledged: count.describe('Since it was made.'),
  deadLettersDropped: count.describe('Dead letters that had to make room for newer ones.'),
  oldestAt: time.optional().describe('Receipt of the oldest event that is not settled; absent when nothing is behind.'),
}).meta({ id: 'SubscriptionProgress' });

export const SubscriptionList = z.object({ items: z.array(SubscriptionView) }).meta({ id: 'SubscriptionList' });

export const PullRequest = z
  .strictObject({
    max: z
      .number()
      .int()
      .min(1)
      .max(GROUP_LIMITS.batch.max)
      .default(GROUP_LIMITS.batch.default)
      .describe('At most so many; fewer are answered as soon as there is one.'),
    waitSeconds: seconds({ min: 0, max: GROUP_LIMITS.waitMs.max })
      .default(GROUP_LIMITS.waitMs.default / 1_000)
      .describe('How long the request stays open for the first one.'),
  })
  .meta({ id: 'PullRequest' });

export const DeliveryView = z
  .object({
    ackId: z.string().describe('Names the event and this attempt.'),
    attempt: z.number().int().min(1).describe('1 for the first.'),
    event: EventView.optional(),
    gap: z
      .object({
        shard: count,
        from: z.string(),
        to: z.string(),
        count: count
          .nullable()
          .describe('Of all devices of the shard, whatever the filter; null when nobody can know.'),
      })
      .optional()
      .describe(
        'Instead of an event: events after `from` and before `to` are no longer stored. Acknowledged like an event.',
      ),
  })
  .meta({ id: 'Delivery' });

export const PullAnswer = z.object({ deliveries: z.array(DeliveryView) }).meta({ id: 'PullAnswer' });

export const AckRequest = z.strictObject(settleShape).meta({ id: 'AckRequest' });
export const NackRequest = z.strictObject(nackShape).meta({ id: 'NackRequest' });
export const ExtendRequest = z.strictObject(extendShape).meta({ id: 'ExtendRequest' });

export const SettleAnswer = z
  .object({
    results: z
      .array(z.enum(['done', 'stale', 'invalid']))
      .describe(
        'One per id, in their order. stale: handed out again or settled meanwhile, so this consumer has no say any more. invalid: no id of this subscription.',
      ),
  })
  .meta({ id: 'SettleAnswer' });

const EVENT_ID = z.string().regex(/^\d{1,5}-\d{1,15}-\d{1,16}$/, 'must be the id of an event');

export const DeadLetterQuery = z.strictObject({
  limit: z.coerce
    .number(`must be a whole number from ${DEAD_LETTER_PAGE.min} to ${DEAD_LETTER_PAGE.max}`)
    .int()
    .min(DEAD_LETTER_PAGE.min)
    .max(DEAD_LETTER_PAGE.max)
    .default(DEAD_LETTER_PAGE.default)
    .describe('Dead letters per page.'),
  after: EVENT_ID.optional().describe('From the page before.'),
});

export const DeadLetterList = z
  .object({
    items: z.array(
      z
        .object({
          id: z.string().describe('The id of the event.'),
          attempts: count,
          diedAt: time,
          event: EventView,
        })
        .meta({ id: 'DeadLetter' }),
    ),
    after: z.string().optional().describe('Begin of the next page, while there may be one.'),
  })
  .meta({ id: 'DeadLetterList' });

export const DeadLetterChoice = z
  .strictObject({
    ids: z
      .array(EVENT_ID)
      .min(1)
      .max(GROUP_LIMITS.batch.max)
      .optional()
      .describe('Ids of the events; all when absent.'),
  })
  .meta({ id: 'DeadLetterChoice' });

export const DeadLetterCount = z
  .object({ count: count.describe('How many there were.') })
  .meta({ id: 'DeadLetterCount' });
