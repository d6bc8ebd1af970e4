/** One turn of one lane: takes events from the group of a webhook, sends them, and settles them by what the receiver answered, until there is nothing
 *  more to send, the turn is over, or the webhook is to rest.
 *  At least once: an event is acknowledged after a 2xx only. Whatever ends this process in between, the ack deadline of the group, which is longer
 *  than the longest request, hands the event out again. One request of a lane at a time, so the number of lanes is that of requests at once.
 *  Events of different attempts are not mixed in one request, and what failed comes again in ever smaller ones: an event that the receiver will not
 *  take ends up alone, and takes no others with it.
 *  Store away: rejects, and what was not settled comes again. */

import type { Delivery, Groups } from '../group/group.ts';
import { headersOf, writeEvents } from './message.ts';
import { askedRestMs, retryDelayMs } from './retry.ts';
import type { SafePost } from './safe-post.ts';
import { groupOf, isDelivered, type LogLine, type SigningWebhook, WEBHOOK_LIMITS } from './webhook.ts';
import type { LaneName, Report, WebhookStore } from './webhook-store.ts';

export interface LaneRunParts {
  readonly groups: Pick<Groups, 'pull' | 'settle'>;
  readonly store: Pick<WebhookStore, 'report' | 'wake'>;
  readonly poster: Pick<SafePost, 'post'>;
  /** Opens the sealed secrets that sign now, the newest first. */
  readonly secretsOf: (webhook: SigningWebhook, nowMs: number) => readonly string[];
  readonly userAgent: string;
  /** Of the store. */
  readonly nowMs: () => number;
  readonly monotonicMs: () => number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  /** Asks for a turn of a lane that was woken. Never rejects. */
  readonly askTurn: (lane: LaneName) => Promise<void>;
  /** About: until the second attempt. */
  readonly firstRetryMs: number;
  readonly onAttempt: (line: LogLine) => void;
  readonly onSwitchedOff: (webhook: SigningWebhook, reason: 'gone' | 'failing') => void;
}

export interface TurnSignals {
  /** Takes nothing more; what is on its way to the receiver arrives. */
  readonly leave: AbortSignal;
  /** Breaks off. */
  readonly stop: AbortSignal;
}

export type TurnEnd =
  /** There may be more to do. */
  | { readonly status: 'again' }
  | { readonly status: 'rest'; readonly restMs: number }
  /** This lane is not needed now. */
  | { readonly status: 'idle' };

/** A turn that is long keeps the queue quiet; one that is short lets the lanes of many webhooks share few places. */
const TURN_MS = 10_000;
const WAIT_MS = 2_000;
/** Of the events of one request; one that is larger goes alone. */
const BODY_BYTES = 1024 * 1024;

export async function runLane(
  parts: LaneRunParts,
  webhook: SigningWebhook,
  { id, lane }: LaneName,
  signals: TurnSignals,
): Promise<TurnEnd> {
  const { groups, store, monotonicMs } = parts;
  const group = groupOf(id);
  const endMs = monotonicMs() + TURN_MS;
  // Before anything is taken: events that cannot be signed stay where they are.
  const secrets = parts.secretsOf(webhook, parts.nowMs());
  // The breaker was open: one event shows whether the receiver is back.
  let probing = webhook.openUntilMs !== undefined;
  let max = probing ? 1 : webhook.batch;
  let found = false;
  for (let leftMs = TURN_MS; leftMs > 0 && !signals.leave.aborted; leftMs = endMs - monotonicMs()) {
    const waitMs = Math.max(0, Math.floor(Math.min(WAIT_MS, leftMs)));
    const pulled = await groups.pull(group, { max, waitMs, signal: signals.leave, maxBytes: BODY_BYTES });
    if (pulled.length === 0) continue;
    if (signals.leave.aborted) {
      await release(parts, group, pulled);
      break;
    }
    found = true;
    const more = pulled.length >= max;
    const { chosen, rest } = choose(pulled, webhook.batch);
    if (rest.length > 0) await release(parts, group, rest);
    // Where large events fill a request, pulling as many as before would read most of them in vain.
    max = rest.length > 0 ? chosen.length : Math.min(2 * max, webhook.batch);
    if (!probing && more && lane + 1 < webhook.concurrency) {
      const next = { id, lane: lane + 1 };
      if (await store.wake(next)) await parts.askTurn(next);
    }
    const sent = await send(parts, webhook, secrets, chosen, signals.stop);
    if (sent.status === 'rest') return lane === 0 ? sent : { status: 'idle' };
    if (sent.status === 'idle') return sent;
    probing = false;
  }
  // The first lane waits for what may come; the others are woken by it.
  return lane === 0 || found ? { status: 'again' } : { status: 'idle' };
}

async function send(
  parts: LaneRunParts,
  webhook: SigningWebhook,
  secrets: readonly string[],
  deliveries: readonly Delivery[],
  stop: AbortSignal,
): Promise<TurnEnd> {
  const { groups, poster, userAgent, nowMs, monotonicMs, random, firstRetryMs } = parts;
  const atMs = Math.floor(nowMs());
  const group = groupOf(webhook.id);
  const ackIds = deliveries.map(({ ackId }) => ackId);
  const attempt = deliveries[0]?.attempt ?? 1;
  const message = writeEvents(webhook.id, deliveries, atMs);
  const startMs = monotonicMs();
  const posted = await poster.post({
    url: webhook.url,
    headers: headersOf(message, secrets, atMs, userAgent),
    body: message.body,
    timeoutMs: webhook.timeoutMs,
    signal: stop,
  });
  const ms = Math.round(monotonicMs() - startMs);
  if (posted.status === 'failed' && posted.error === 'stopped') {
    await release(parts, group, deliveries);
    return { status: 'again' };
  }
  const result = posted.status === 'answered' ? posted.code : posted.error;
  const delivered = isDelivered(result);
  const askedMs = askedRestMs(posted);
  if (delivered) await groups.settle(group, ackIds, { type: 'ack' });
  else
    await groups.settle(group, ackIds, {
      type: 'nack',
      delayMs: retryDelayMs(attempt, askedMs, random(), firstRetryMs),
    });
  const ids = message.eventIds.slice(0, WEBHOOK_LIMITS.logIds);
  const line = {
    atMs,
    type: 'events',
    message: message.id,
    ids,
    count: deliveries.length,
    attempt,
    result,
    ms,
  } as const;
  parts.onAttempt(line);
  const verdict: Report['verdict'] = delivered ? 'delivered' : result === 410 ? 'gone' : 'failed';
  const reported = await parts.store.report(webhook.id, { line, verdict, askedMs, url: webhook.url });
  if (reported.status === 'switched off') parts.onSwitchedOff(webhook, reported.reason);
  if (reported.status === 'opened') return { status: 'rest', restMs: reported.restMs };
  return { status: reported.status === 'noted' ? 'again' : 'idle' };
}

/** Those of the first one's attempt that fit into one request, half as many in each further attempt. */
function choose(
  pulled: readonly Delivery[],
  batch: number,
): { readonly chosen: readonly Delivery[]; readonly rest: readonly Delivery[] } {
  const attempt = pulled[0]?.attempt ?? 1;
  const most = Math.max(1, Math.ceil(batch / 2 ** (attempt - 1)));
  const chosen: Delivery[] = [];
  const rest: Delivery[] = [];
  let bytes = 0;
  for (const delivery of pulled) {
    bytes += delivery.message.type === 'event' ? delivery.message.event.json().length : 0;
    const fits = chosen.length < most && bytes <= BODY_BYTES && delivery.attempt === attempt;
    (fits || chosen.length === 0 ? chosen : rest).push(delivery);
  }
  return { chosen, rest };
}

async function release(
  { groups }: Pick<LaneRunParts, 'groups'>,
  group: string,
  deliveries: readonly Delivery[],
): Promise<void> {
  const ackIds = deliveries.map(({ ackId }) => ackId);
  await groups.settle(group, ackIds, { type: 'release' });
}
