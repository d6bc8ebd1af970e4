/** Writes what a webhook sends. Events go in as the bytes that every other way out carries (protocol E18); gaps stand beside them. The id follows
 *  from what is in the message, so the same events in another attempt are the same message to the receiver. Pure. */

import { createHash } from 'node:crypto';
import { eventId } from '../event/position.ts';
import type { Delivery, GroupGap } from '../group/group.ts';
import { sign } from './signature.ts';

export interface Message {
  /** `webhook-id`. */
  readonly id: string;
  readonly body: Buffer;
  readonly eventIds: readonly string[];
}

export function writeEvents(webhook: string, deliveries: readonly Delivery[], nowMs: number): Message {
  const events: Buffer[] = [];
  const eventIds: string[] = [];
  const gaps: GroupGap[] = [];
  for (const { message } of deliveries) {
    if (message.type === 'gap') {
      gaps.push(message.gap);
    } else {
      events.push(message.event.json());
      eventIds.push(eventId(message.event.shard, message.event.position));
    }
  }
  const gapIds = gaps.map(({ shard, from, to }) => `${shard}:${from}:${to}`);
  const head = `${headOf('events', nowMs)}{"webhook":${JSON.stringify(webhook)},"events":[`;
  const tail = `],"gaps":${JSON.stringify(gaps)}}}`;
  const parts: Uint8Array[] = [Buffer.from(head)];
  for (const [i, event] of events.entries()) parts.push(...(i > 0 ? [COMMA] : []), event);
  parts.push(Buffer.from(tail));
  return { id: messageId([webhook, ...eventIds, ...gapIds]), body: Buffer.concat(parts), eventIds };
}

/** `nonce` makes each test a message of its own. */
export function writeTest(webhook: string, nonce: string, nowMs: number): Message {
  const body = `${headOf('webhook.test', nowMs)}{"webhook":${JSON.stringify(webhook)}}}`;
  return { id: messageId([webhook, 'test', nonce]), body: Buffer.from(body), eventIds: [] };
}

export function headersOf(
  { id, body }: Message,
  secrets: readonly string[],
  nowMs: number,
  userAgent: string,
): Readonly<Record<string, string>> {
  const timestampS = Math.floor(nowMs / 1_000);
  return {
    'Content-Type': 'application/json',
    'User-Agent': userAgent,
    'webhook-id': id,
    'webhook-timestamp': String(timestampS),
    'webhook-signature': sign(secrets, id, timestampS, body),
  };
}

const COMMA = Buffer.from(',');

function headOf(type: string, nowMs: number): string {
  return `{"type":"${type}","timestamp":"${new Date(nowMs).toISOString()}","data":`;
}

function messageId(parts: readonly string[]): string {
  return `msg_${createHash('sha256').update(parts.join('\n')).digest('base64url').slice(0, 32)}`;
}
