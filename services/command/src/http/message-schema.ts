/** Shapes of all that leaves the broker without being an answer to a request: messages of the event stream, of `WS /v1/stream` and of webhooks.
 *  They make the AsyncAPI document, and tests hold every real message against them. What clients send is in stream-message.ts, where it is
 *  validated. Members may be added one day, so readers leave unknown ones alone. Pure. */

import { z } from 'zod';
import { EventGap, EventView } from './event-schema.ts';
import { ProblemDocument } from './schema.ts';

const time = z.iso.datetime();
const cursor = z.string().describe('Resume with it: everything up to here has been given.');
const id = z.string().describe('As in the message that asked for it.');
const subscription = z.string().describe('The id of the subscription, as its client named it.');
const closeReason = z.enum(['slow_consumer', 'draining', 'unauthenticated', 'too_many_messages']);

/** Of the event stream, by the name in `event:`; one without a name is an event. */
export const SSE_MESSAGES = {
  event: EventView,
  gap: EventGap,
  closed: z
    .object({ reason: closeReason.exclude(['too_many_messages']), cursor })
    .describe('The last message: connect again with its cursor.'),
} as const;

const GroupGap = EventGap.omit({ reason: true })
  .describe('Events that retention took before the subscription got to them. Acknowledged like an event.')
  .meta({ id: 'SubscriptionGap' });

const settled = z
  .enum(['done', 'stale', 'invalid'])
  .describe(
    'stale: handed out again or settled meanwhile, so this consumer has no say any more. invalid: no id of this subscription.',
  );

const deliveryHead = {
  type: z.literal('delivery'),
  consumer: z.string().describe('The id of the consumer, as its client named it.'),
  ackId: z.string().describe('Names the event and this attempt.'),
  attempt: z.number().int().min(1).describe('1 for the first.'),
};

const replyHead = {
  type: z.literal('reply'),
  id,
  status: z.number().int().describe('As over HTTP.'),
};

/** Broker → client on `WS /v1/stream`, by `type`. */
export const BROKER_MESSAGES = {
  subscribed: z
    .object({ type: z.literal('subscribed'), id, cursor })
    .describe('The subscription stands. Comes before its first event.'),
  event: z.object({ type: z.literal('event'), subscription, cursor, event: EventView }).describe('One event.'),
  gap: z
    .object({ type: z.literal('gap'), subscription, cursor, gap: EventGap })
    .describe('Events that are missing. Comes before what follows them.'),
  heartbeat: z
    .object({
      type: z.literal('heartbeat'),
      subscription,
      cursor,
      store: z.enum(['available', 'unavailable']).describe('Can the broker reach its store?'),
    })
    .describe('After 15 s without anything else.'),
  consuming: z
    .object({ type: z.literal('consuming'), id, maxInFlight: z.number().int().min(1) })
    .describe('The consumer of a durable subscription stands. `maxInFlight`: what it may hold unsettled.'),
  delivery: z
    .union([z.object({ ...deliveryHead, event: EventView }), z.object({ ...deliveryHead, gap: GroupGap })])
    .describe('An event, or a gap, of a durable subscription; to be acknowledged.'),
  settled: z
    .object({ type: z.literal('settled'), id, results: z.array(settled) })
    .describe('Answer to one ack, nack or extend: one result per ackId, in their order.'),
  unsubscribed: z
    .object({
      type: z.literal('unsubscribed'),
      id,
      cursor: cursor.optional().describe('Not of consumers.'),
      problem: ProblemDocument.optional().describe('Why, when the broker ended it.'),
    })
    .describe('The subscription, or the consumer, is over.'),
  reply: z
    .union([
      z.object({
        ...replyHead,
        executed: z.literal('yes'),
        source: z.literal('device'),
        response: z.unknown().describe("The device's answer, as it sent it."),
      }),
      z.object({
        ...replyHead,
        executed: z.enum(['no', 'maybe']),
        source: z.literal('broker'),
        problem: ProblemDocument,
      }),
    ])
    .describe('The end of a command.'),
  pong: z.object({ type: z.literal('pong') }).describe('Answer to a ping.'),
  error: z
    .object({ type: z.literal('error'), id: id.optional(), problem: ProblemDocument })
    .describe('A message was refused; the socket stays open.'),
  closing: z
    .object({
      type: z.literal('closing'),
      reason: closeReason,
      cursors: z.record(z.string(), z.string()).describe('Of each subscription, by its id.'),
    })
    .describe('The last message; a close frame follows.'),
} as const;

/** The body of a request to a webhook, by `type`. */
export const WEBHOOK_MESSAGES = {
  events: z
    .object({
      type: z.literal('events'),
      timestamp: time,
      data: z.object({
        webhook: z.string().describe('Id of the webhook.'),
        events: z.array(EventView),
        gaps: z.array(GroupGap),
      }),
    })
    .describe('Events, in the order of each device, and what is missing. Answer 2xx when they are in safe hands.'),
  'webhook.test': z
    .object({
      type: z.literal('webhook.test'),
      timestamp: time,
      data: z.object({ webhook: z.string().describe('Id of the webhook.') }),
    })
    .describe('Somebody pressed the test button.'),
} as const;

/** Headers of such a request (Standard Webhooks). */
export const WebhookHeaders = z.object({
  'webhook-id': z.string().describe('The same for all attempts of one message.'),
  'webhook-timestamp': z.string().describe('Unix seconds of this attempt.'),
  'webhook-signature': z
    .string()
    .describe(
      '`v1,` and the base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`; one per active secret, with blanks between.',
    ),
});
