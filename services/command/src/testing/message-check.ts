/** For tests: every message that a client of ours is given must be one of those that the documents describe, without a member that they do
 *  not know. So whatever a test is about, it also witnesses that the AsyncAPI document is true. Of a flood only some are looked at, because
 *  a look costs more than a message. */

import { isDeepStrictEqual } from 'node:util';
import type { z } from 'zod';
import { BROKER_MESSAGES, SSE_MESSAGES } from '../http/message-schema.ts';

export function checkStreamMessage(message: { readonly type: string }): void {
  check(`message ${message.type}`, BROKER_MESSAGES, message.type, message);
}

export function checkSseMessage(event: string, data: unknown): void {
  check(`event: ${event}`, SSE_MESSAGES, event === 'message' ? 'event' : event, data);
}

const ALL_UP_TO = 500;
const THEN_EACH = 200;
const seen = new Map<string, number>();

function check(what: string, schemas: Readonly<Record<string, z.ZodType>>, type: string, value: unknown): void {
  const count = (seen.get(what) ?? 0) + 1;
  seen.set(what, count);
  if (count > ALL_UP_TO && count % THEN_EACH !== 0) return;
  const schema = schemas[type];
  if (schema === undefined) throw new Error(`${what} is in no document`);
  const read = schema.safeParse(value);
  if (!read.success) throw new Error(`${what} is not as documented: ${read.error.message}`);
  if (!isDeepStrictEqual(read.data, value))
    throw new Error(`${what} has undocumented members: ${JSON.stringify(value)}`);
}
