/** One stored event on its way out, to whoever it goes: written as JSON once, whatever the number of readers. All members are always there,
 *  in one order (event-schema.ts says what they mean).
 *  The device's own bytes go into `data` as they are (protocol E18): integers above 2^53 and every digit survive. Only two things are
 *  touched, because a line-based stream and a text socket would break on them: line ends between JSON tokens become blanks, and bytes that
 *  are not UTF-8 become U+FFFD. Whether `data` is well-formed JSON was the edge's decision when it took the event. */

import { isUtf8 } from 'node:buffer';
import type { EventRecord } from '@lapi-broker/protocol';
import { eventId, type Position } from './position.ts';

const LF = 0x0a;
const CR = 0x0d;
const BLANK = 0x20;
const CLOSE = 0x7d;
const NOTHING = Buffer.from('null');
const DATA_LINE = '\ndata: ';

export class OutgoingEvent {
  readonly shard: number;
  readonly position: Position;
  readonly record: EventRecord;
  #json: Buffer | undefined;
  #sseCursor = '';
  #sse: Buffer | undefined;

  constructor(shard: number, position: Position, record: EventRecord) {
    this.shard = shard;
    this.position = position;
    this.record = record;
  }

  /** Memory it holds, roughly: the record, its JSON, its SSE message. */
  get bytes(): number {
    return 1024 + 3 * (this.record.data.length + this.record.images.length);
  }

  /** `{id, seq, code, kind, url, at, receivedAt, epoch, tags, dedupKey, images, data}` in one line; shared, so not to be changed. */
  json(): Buffer {
    this.#json ??= this.#write();
    return this.#json;
  }

  /** The whole SSE message. Subscribers with the same cursor share one. */
  sse(cursor: string): Buffer {
    if (this.#sse === undefined || this.#sseCursor !== cursor) {
      const json = this.json();
      const head = `id: ${cursor}${DATA_LINE}`;
      const frame = Buffer.allocUnsafe(head.length + json.length + 2);
      frame.write(head, 0, 'latin1');
      frame.set(json, head.length);
      frame[frame.length - 2] = LF;
      frame[frame.length - 1] = LF;
      this.#sse = frame;
      this.#sseCursor = cursor;
    }
    return this.#sse;
  }

  #write(): Buffer {
    const { seq, code, kind, url, at, receivedAt, epoch, tags, dedupKey, images } = this.record;
    let head = `{"id":"${eventId(this.shard, this.position)}","seq":${seq},"code":${JSON.stringify(code)}`;
    head += `,"kind":${JSON.stringify(kind)},"url":${JSON.stringify(url)},"at":"${timeText(at)}"`;
    head += `,"receivedAt":"${timeText(receivedAt)}","epoch":${epoch},"tags":${JSON.stringify(tags)}`;
    head += `,"dedupKey":${dedupKey === '' ? 'null' : JSON.stringify(dedupKey)}`;
    head += `,"images":${images === '' ? '[]' : images},"data":`;
    const data = toLine(this.record.data);
    const headBytes = Buffer.byteLength(head);
    const json = Buffer.allocUnsafe(headBytes + data.length + 1);
    json.write(head, 0, 'utf8');
    json.set(data, headBytes);
    json[json.length - 1] = CLOSE;
    return json;
  }
}

/** A clock that was wrong by ages must not make one event unreadable. */
function timeText(ms: number): string {
  return Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : new Date(0).toISOString();
}

function toLine(data: Uint8Array): Uint8Array {
  if (data.length === 0) return NOTHING;
  const valid = isUtf8(data) ? data : Buffer.from(new TextDecoder('utf-8', { ignoreBOM: true }).decode(data));
  if (!valid.includes(LF) && !valid.includes(CR)) return valid;
  const line = Uint8Array.prototype.slice.call(valid);
  for (let i = 0; i < line.length; i++) if (line[i] === LF || line[i] === CR) line[i] = BLANK;
  return line;
}
