/** The last messages of the sessions of this node, for the timeline: without keepalives and without our own upkeep of the subscription, so that a
 *  device that only stays connected costs nothing (P4). All sessions share one circular log of bytes, in which each message points to the one before
 *  it of the same session: a message costs a copy of its begin and no object, and the memory is bounded whatever devices say. So how far back it goes
 *  depends on how much all of them say. Kept as it came and masked when somebody reads it, because most is never read.
 *  Pure. */

import type { FrameEntry } from '@lapi-broker/timeline';
import { excerptOf, shownUrl } from './excerpt.ts';

/** Whoever says something. */
export interface Speaker {
  /** Where its last message lies in the log; -1 = it said nothing yet. Set by the log only. */
  frameMark: number;
}

export interface Frame {
  readonly atMs: number;
  readonly direction: FrameEntry['direction'];
  readonly type: FrameEntry['type'];
  readonly bytes: number;
  readonly method?: string;
  readonly url?: string;
  readonly responseCode?: number | undefined;
  /** Copied as far as it is kept: the bytes of a message die with its callback (protocol E8). */
  readonly data?: Uint8Array | undefined;
}

/** Messages of one session that are read. */
const MAX_FRAMES = 16;
/** What is kept of `Data`: a little more than is shown. */
const DATA_BYTES = 256;
const URL_BYTES = 200;
const METHOD_BYTES = 16;

/** Head of a message: 0 mark of the one before (f64), 8 time (f64), 16 bytes (u32), 20 response code (i32), 24 direction and type (u8),
 *  25 length of the method (u8), 26 of the URL (u16), 28 of the data (u16). Then these three. */
const HEAD_BYTES = 32;
const RECORD_BYTES = HEAD_BYTES + METHOD_BYTES + URL_BYTES + DATA_BYTES;
const NO_CODE = -0x8000_0000;
const TYPES: readonly FrameEntry['type'][] = ['request', 'response', 'stray', 'malformed', 'binary'];
const OUT = 0x80;

export class FrameLog {
  private readonly capacity: number;
  private log: Buffer | undefined;
  private view: DataView | undefined;
  /** Behind the last message. Marks only grow; where one lies in the log is its remainder by the capacity. */
  private end = 0;

  /** Bytes; less than a message needs keeps nothing. Taken with the first message. */
  constructor(capacity: number) {
    this.capacity = capacity;
  }

  note(speaker: Speaker, frame: Frame): void {
    if (this.capacity < RECORD_BYTES) return;
    this.log ??= Buffer.allocUnsafeSlow(this.capacity);
    this.view ??= new DataView(this.log.buffer);
    const { log, view } = this;
    // A message lies in one piece.
    const left = this.capacity - (this.end % this.capacity);
    const mark = left < RECORD_BYTES ? this.end + left : this.end;
    const at = mark % this.capacity;
    let to = at + HEAD_BYTES;
    const method = frame.method === undefined ? 0 : log.write(frame.method, to, METHOD_BYTES, 'latin1');
    to += method;
    const url = frame.url === undefined ? 0 : log.write(frame.url, to, URL_BYTES);
    to += url;
    const data = Math.min(frame.data?.length ?? 0, DATA_BYTES);
    if (frame.data !== undefined && data > 0)
      log.set(frame.data.length > data ? frame.data.subarray(0, data) : frame.data, to);
    view.setFloat64(at, speaker.frameMark);
    view.setFloat64(at + 8, frame.atMs);
    view.setUint32(at + 16, frame.bytes);
    view.setInt32(at + 20, frame.responseCode ?? NO_CODE);
    view.setUint8(at + 24, TYPES.indexOf(frame.type) | (frame.direction === 'out' ? OUT : 0));
    view.setUint8(at + 25, method);
    view.setUint16(at + 26, url);
    view.setUint16(at + 28, data);
    speaker.frameMark = mark;
    this.end = mark + (to - at) + data;
  }

  /** The last ones that are still there, oldest first, masked; `offsetMs` turns their times into others. */
  read(speaker: Speaker, offsetMs: number): readonly FrameEntry[] {
    const frames: FrameEntry[] = [];
    const { log, view } = this;
    for (let mark = speaker.frameMark; frames.length < MAX_FRAMES; ) {
      const isThere = mark >= 0 && mark + this.capacity >= this.end;
      if (!isThere || log === undefined || view === undefined) break;
      const at = mark % this.capacity;
      frames.push(readFrame(log, view, at, offsetMs));
      mark = view.getFloat64(at);
    }
    return frames.reverse();
  }
}

function readFrame(log: Buffer, view: DataView, at: number, offsetMs: number): FrameEntry {
  const kind = view.getUint8(at + 24);
  const code = view.getInt32(at + 20);
  const method = at + HEAD_BYTES;
  const url = method + view.getUint8(at + 25);
  const data = url + view.getUint16(at + 26);
  const end = data + view.getUint16(at + 28);
  return {
    atMs: view.getFloat64(at + 8) + offsetMs,
    direction: (kind & OUT) === 0 ? 'in' : 'out',
    type: TYPES[kind & ~OUT] ?? 'stray',
    bytes: view.getUint32(at + 16),
    method: method === url ? undefined : log.toString('latin1', method, url),
    url: url === data ? undefined : shownUrl(log.toString('utf8', url, data)),
    responseCode: code === NO_CODE ? undefined : code,
    excerpt: data === end ? undefined : excerptOf(log.toString('utf8', data, end)),
  };
}
