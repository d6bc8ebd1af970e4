/** Reads what the API says of events, without losing their bytes: `data` is hashed as it came. Pure. */

import { hashOf } from './sender.ts';

export interface ReceivedEvent {
  readonly id: string;
  readonly device: string;
  /** Undefined for events that no device sent; NaN for those of a device that bear none. */
  readonly number: number | undefined;
  readonly hash: string;
  readonly epoch: number;
  readonly seq: number;
  readonly topic: string;
}

export interface ReceivedGap {
  readonly from: string;
  readonly to: string;
  readonly count: number | null;
  readonly reason?: 'trimmed' | 'rewound';
}

export interface ReceivedDelivery {
  readonly ackId: string;
  readonly attempt: number;
  readonly event?: ReceivedEvent;
  readonly gap?: ReceivedGap;
}

interface Told {
  readonly id: string;
  readonly code: string;
  readonly epoch: number;
  readonly seq: number;
  readonly kind: string;
  readonly data: { readonly Number?: number } | null;
}

const DATA = '"data":';

/** `text`: of one event. */
export function readEvent(text: string): ReceivedEvent {
  return eventOf(JSON.parse(text) as Told, dataIn(text)[0] ?? '');
}

/** `text`: the answer of a pull, or one delivery. */
export function readDeliveries(text: string): readonly ReceivedDelivery[] {
  const answer = JSON.parse(text) as Record<string, unknown>;
  const told = (Array.isArray(answer.deliveries) ? answer.deliveries : [answer]) as readonly (Omit<
    ReceivedDelivery,
    'event'
  > & { readonly event?: Told })[];
  const data = dataIn(text).values();
  return told.map(({ ackId, attempt, event, gap }) => {
    if (gap !== undefined) return { ackId, attempt, gap };
    if (event === undefined) throw new TypeError(`neither event nor gap: ${text.slice(0, 200)}`);
    return { ackId, attempt, event: eventOf(event, data.next().value ?? '') };
  });
}

function eventOf({ id, code, epoch, seq, kind, data }: Told, bytes: string): ReceivedEvent {
  const number = kind.startsWith('alarm') ? (data?.Number ?? Number.NaN) : undefined;
  return { id, device: code, number, hash: hashOf(bytes), epoch, seq, topic: kind };
}

/** The text of each `data` in their order; what a device sends here has no member of that name. */
function dataIn(text: string): string[] {
  const found: string[] = [];
  for (let at = text.indexOf(DATA); at >= 0; at = text.indexOf(DATA, at)) {
    const start = at + DATA.length;
    at = endOfValue(text, start);
    found.push(text.slice(start, at));
  }
  return found;
}

/** Behind the JSON value that begins at `start`. */
function endOfValue(text: string, start: number): number {
  let depth = 0;
  let inText = false;
  for (let at = start; at < text.length; at++) {
    const char = text[at];
    if (inText) {
      if (char === '\\') at += 1;
      else if (char === '"') inText = false;
    } else if (char === '"') inText = true;
    else if (char === '{' || char === '[') depth += 1;
    else if (char === '}' || char === ']') {
      if (depth === 0) return at;
      depth -= 1;
    } else if (char === ',' && depth === 0) return at;
  }
  return text.length;
}
