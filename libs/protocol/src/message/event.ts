/** One event as it lies in a shard's stream and as it leaves the broker: the one event model for every way out.
 *  `data` stays the device's own JSON text from the socket to the subscriber (protocol E18): numbers above 2^53 survive. */

import type { DeviceCode, Epoch, SessionId } from '../id.ts';

export interface EventRecord {
  readonly code: DeviceCode;
  /** Dotted lower-case family, then the device's own word: `alarm.MotionAlarmOn`, `structure`, `peoplecount.line`, `presence.online`. */
  readonly kind: string;
  /** The device's RequestURL; empty for presence. */
  readonly url: string;
  /** When it happened, ms since the epoch: by the device's own clock where it sent a readable time, else as `receivedAt`. */
  readonly at: number;
  /** When the broker received it, ms since the epoch. Presence and the like: Redis time of the change. */
  readonly receivedAt: number;
  readonly epoch: Epoch;
  readonly session: SessionId | '';
  /** Counts the events of one session from 1, in arrival order; 0 for presence. */
  readonly seq: number;
  readonly tags: readonly string[];
  /** Key for consumers that drop repeats (protocol 11.5); empty when the device sent nothing to build it from. */
  readonly dedupKey: string;
  /** JSON text of the list of pictures that were taken out of `data` (see image.ts of this package); empty when there are none. */
  readonly images: string;
  /** JSON text. */
  readonly data: Uint8Array;
}

/** Flat field/value list for XADD. Names are short because every event pays for them.
 *  c code · k kind · u url · t receivedAt · o at, when another · e epoch · s session · n seq · g tags (comma-joined) · q dedup key ·
 *  i images, when there are any · d data */
export function toStreamFields(event: EventRecord): (string | Buffer)[] {
  const fields = [
    'c', event.code, 'k', event.kind, 'u', event.url, 't', String(event.receivedAt), 'e', String(event.epoch), 's', event.session,
    'n', String(event.seq), 'g', event.tags.join(','), 'q', event.dedupKey,
    'd', Buffer.from(event.data.buffer, event.data.byteOffset, event.data.byteLength),
  ]; // biome-ignore format: pairs read better side by side
  if (event.at !== event.receivedAt) fields.push('o', String(event.at));
  if (event.images !== '') fields.push('i', event.images);
  return fields;
}

/** Inverse of `toStreamFields`; unknown fields are ignored, absent ones get their empty value (an older or newer writer). */
export function fromStreamFields(fields: readonly Buffer[]): EventRecord {
  const found = new Map<string, Buffer>();
  for (let i = 0; i + 1 < fields.length; i += 2) found.set(String(fields[i]), fields[i + 1] as Buffer);
  const text = (name: string): string => found.get(name)?.toString() ?? '';
  const tags = text('g');
  return {
    code: text('c') as DeviceCode,
    kind: text('k'),
    url: text('u'),
    at: Number(found.get('o') ?? text('t')),
    receivedAt: Number(text('t')),
    epoch: Number(text('e')) as Epoch,
    session: text('s') as SessionId | '',
    seq: Number(text('n')),
    tags: tags === '' ? [] : tags.split(','),
    dedupKey: text('q'),
    images: text('i'),
    data: found.get('d') ?? Buffer.from('{}'),
  };
}
