/** Durable subscriptions and what they hand out, as the API shows them. Events are spliced in as the bytes that are stored (protocol E18). Pure. */

import type { z } from 'zod';
import type { DeadLetter, Delivery, Group, GroupProgress } from '../group/group.ts';
import type { SubscriptionProgress, SubscriptionView } from './subscription-schema.ts';

const CLOSE = Buffer.from('}');
const COMMA = Buffer.from(',');

const iso = (ms: number): string => new Date(ms).toISOString();

type View = Omit<z.output<typeof SubscriptionView>, 'filter'> & Pick<Group, 'filter'>;

export function subscriptionView(group: Group): View {
  const { name, filter, ackDeadlineMs, maxInFlight, maxAttempts, ordered, createdAtMs } = group;
  return {
    name,
    filter,
    ackDeadlineSeconds: ackDeadlineMs / 1_000,
    maxInFlight,
    maxAttempts,
    ordered,
    createdAt: iso(createdAtMs),
  };
}

export function progressView(
  group: Group,
  progress: GroupProgress,
): View & Omit<z.output<typeof SubscriptionProgress>, 'filter'> {
  const { oldestAtMs, ...counts } = progress;
  return { ...subscriptionView(group), ...counts, ...(oldestAtMs === undefined ? {} : { oldestAt: iso(oldestAtMs) }) };
}

/** One delivery as JSON; `opening` begins the object, and is `{` or ends with a comma. */
export function deliveryJson(opening: string, { ackId, attempt, message }: Delivery): Buffer {
  const head = `${opening}"ackId":"${ackId}","attempt":${attempt},`;
  if (message.type === 'gap') {
    const { shard, from, to, count } = message.gap;
    return Buffer.from(`${head}"gap":${JSON.stringify({ shard, from, to, count })}}`);
  }
  return Buffer.concat([Buffer.from(`${head}"event":`), message.event.json(), CLOSE]);
}

export function pullJson(deliveries: readonly Delivery[]): Buffer {
  return listOf(
    '{"deliveries":[',
    deliveries.map((delivery) => deliveryJson('{', delivery)),
    ']}',
  );
}

/** Only an empty page says that there is none after it. */
export function deadLettersJson(letters: readonly DeadLetter[]): Buffer {
  const after = letters.at(-1)?.id;
  const items = letters.map(({ id, attempts, diedAtMs, event }) => {
    const head = JSON.stringify({ id, attempts, diedAt: iso(diedAtMs) });
    return Buffer.concat([Buffer.from(`${head.slice(0, -1)},"event":`), event.json(), CLOSE]);
  });
  return listOf('{"items":[', items, after === undefined ? ']}' : `],"after":${JSON.stringify(after)}}`);
}

function listOf(opening: string, items: readonly Buffer[], ending: string): Buffer {
  const parts: Uint8Array[] = [Buffer.from(opening)];
  for (const [index, item] of items.entries()) {
    if (index > 0) parts.push(COMMA);
    parts.push(item);
  }
  parts.push(Buffer.from(ending));
  return Buffer.concat(parts);
}
