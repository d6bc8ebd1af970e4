/** Notifications as a simulated device sends them: of a given size, with the moment of sending inside, so that whoever receives the event can
 *  tell how long it took. Time is the monotonic clock of the machine, which all its processes share. Pure but for the clock. */

import { maskedHead } from './raw-frame.ts';

export type NotificationShape =
  /** An alarm of so many bytes altogether. */
  | { readonly kind: 'alarm'; readonly bytes: number }
  /** A structure event with one picture in base64, of so many bytes altogether. */
  | { readonly kind: 'image'; readonly bytes: number };

/** Stands in the event right before the digits of the moment of sending, in µs. */
export const SENT_MARK = '"SentUs":';

const EVENT_PATH = '/LAPI/V1.0/System/Event/Notification';
const JPEG_START = Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0x00, 0x10, 0x4a, 0x46, 0x49, 0x46, 0x00, 0x01]);

export function nowUs(): number {
  return Number(process.hrtime.bigint() / 1_000n);
}

/** Makes the frames of one shape; most of the bytes are made once. */
export class NotificationTemplate {
  private readonly shape: NotificationShape;
  private readonly tail: Buffer;

  constructor(shape: NotificationShape) {
    this.shape = shape;
    const rest = Math.max(16, shape.bytes - this.head(1_000_000, nowUs()).length);
    this.tail = Buffer.from(shape.kind === 'alarm' ? alarmTail(rest) : imageTail(rest), 'latin1');
  }

  /** One frame, in two pieces. */
  frame(cseq: number): readonly [Buffer, Buffer] {
    const head = this.head(cseq, nowUs());
    const frame = maskedHead(head.length + this.tail.length);
    return [Buffer.concat([frame, Buffer.from(head, 'latin1')]), this.tail];
  }

  private head(cseq: number, sentUs: number): string {
    const seconds = Math.floor(Date.now() / 1_000);
    const end = `"Method":"POST","Cseq":${cseq},"Data":{${SENT_MARK}${sentUs},`;
    if (this.shape.kind === 'image')
      return `{"RequestURL":"${EVENT_PATH}/Structure",${end}"TimeStamp":${seconds},"SrcID":1,"RelatedID":"${cseq}",${pictureStart(sentUs)}`;
    return `{"RequestURL":"${EVENT_PATH}/Alarm",${end}"AlarmInfo":{"AlarmType":"MotionAlarmOn","AlarmLevel":0,"TimeStamp":${seconds},"AlarmSeq":${cseq},`;
  }
}

function alarmTail(bytes: number): string {
  const [start, end] = ['"AlarmSrcType":8,"AlarmSrcID":1,"AlarmSrcName":"', '"}}}'];
  return start + 'x'.repeat(Math.max(1, bytes - start.length - end.length)) + end;
}

/** Up to the first bytes of the picture. No two are the same, because a store may keep equal pictures once. */
function pictureStart(sentUs: number): string {
  const bytes = Buffer.alloc(JPEG_START.length + 6, JPEG_START);
  bytes.writeUIntBE(sentUs % 2 ** 48, JPEG_START.length, 6);
  const list = `"ImageInfoList":[{"Index":1,"Type":1,"Format":0,"Size":0,"Data":"${bytes.toString('base64')}`;
  return `"StructureInfo":{"ObjInfo":{},"ImageNum":1,${list}`;
}

function imageTail(bytes: number): string {
  const end = '"}]}}}';
  const picture = Buffer.alloc(Math.floor((bytes - end.length) / 4) * 3);
  for (let i = 0; i < picture.length; i++) picture[i] = (i * 131) & 0xff;
  return picture.toString('base64') + end;
}

/** What became of a notification, by the answer to it; undefined for a message that is no such answer. */
export function verdictOf(message: Buffer): 'accepted' | 'refused' | undefined {
  if (message.indexOf(ANSWERED) < 0) return undefined;
  return message.indexOf(SUCCESS) >= 0 ? 'accepted' : 'refused';
}

const ANSWERED = Buffer.from(`"ResponseURL":"${EVENT_PATH}/`);
const SUCCESS = Buffer.from('"ResponseCode":0,');
