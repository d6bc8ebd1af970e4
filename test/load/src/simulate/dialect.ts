/** How a simulated device speaks to the systems that are compared: what it sends to get in, and how it answers what it is asked.
 *  Answers are of a given size, name the device, and cost little: most of the bytes are made once. Pure. */

import { createHmac } from 'node:crypto';
import { maskedHead } from './raw-frame.ts';

/** lapi: 401, signed GET, LAPI envelopes. plain: one WebSocket handshake that names the device, LAPI envelopes. socketio: Engine.IO 4 and
 *  Socket.IO 5 over WebSocket, the room being the DeviceCode. */
export type Dialect = 'lapi' | 'plain' | 'socketio';

export interface DeviceIdentity {
  readonly code: string;
  /** Only `lapi` asks for it. */
  readonly secret: string;
}

export const REGISTER = '/LAPI/V1.0/System/UpServer/Register';

const HANDSHAKE =
  'Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

function get(target: string): string {
  return `GET ${target} HTTP/1.1\r\n${HANDSHAKE}`;
}

const CHALLENGE_REQUEST = get(REGISTER);

export function firstRequest(dialect: Dialect, { code }: DeviceIdentity): string {
  switch (dialect) {
    case 'lapi':
      return CHALLENGE_REQUEST;
    case 'plain':
      return get(`/device?${code}`);
    case 'socketio':
      return get(`/socket.io/?EIO=4&transport=websocket&code=${code}`);
  }
}

/** Protocol 2.3 and 3.1. */
export function signedRequest({ code, secret }: DeviceIdentity, nonce: string): string {
  const sign = createHmac('sha256', secret).update(`Uniview/NVR/${code}/HMAC-SHA256/${nonce}`).digest('base64');
  return get(
    `${REGISTER}?Vendor=Uniview&DeviceType=NVR&DeviceCode=${code}&Algorithm=HMAC-SHA256&Nonce=${nonce}&Cnonce=zY9xW8vU7tS6rQ5p&Sign=${encodeURIComponent(sign)}`,
  );
}

const NONCE = /"Nonce":"([^"]+)"/;

export function nonceIn(answer: string): string | undefined {
  return NONCE.exec(answer)?.[1];
}

const DIGIT_0 = 0x30;
const CSEQ = Buffer.from('"Cseq":');

/** Our requests write Cseq as a plain number. */
function cseqIn(request: Buffer): number | undefined {
  let at = request.indexOf(CSEQ);
  if (at < 0) return undefined;
  at += CSEQ.length;
  let cseq = 0;
  for (;;) {
    const digit = (request[at++] ?? 0) - DIGIT_0;
    if (digit < 0 || digit > 9) return cseq;
    cseq = cseq * 10 + digit;
  }
}

const SUBSCRIPTION = Buffer.from('/LAPI/V1.0/System/Event/Subscription');

/** The end of all answers of one size: shared by all devices of a process. */
export class AnswerTemplate {
  private readonly tail: Buffer;
  private readonly tailText: string;
  private readonly answerBytes: number;

  constructor(answerBytes: number) {
    const head = answerHead('X'.repeat(16), 1_000);
    this.answerBytes = answerBytes;
    this.tail = Buffer.from(`${'0123456789abcdef'.repeat(Math.ceil(answerBytes / 16))}`).subarray(
      0,
      Math.max(0, answerBytes - head.length - 3),
    );
    this.tailText = `${this.tail.toString('latin1')}"}}`;
    this.tail = Buffer.from(this.tailText);
  }

  /** One frame, in one piece when small and in two when large. */
  frames(code: string, cseq: number): readonly [string | Buffer] | readonly [Buffer, Buffer] {
    const head = answerHead(code, cseq);
    const frame = maskedHead(head.length + this.tail.length);
    if (this.answerBytes <= 4_096) return [Buffer.concat([frame, Buffer.from(head + this.tailText, 'latin1')])];
    return [Buffer.concat([frame, Buffer.from(head, 'latin1')]), this.tail];
  }

  /** The same content as the data of an acknowledgement. */
  object(code: string): string {
    return answerHead(code, 1) + this.tailText;
  }
}

function answerHead(code: string, cseq: number): string {
  return `{"ResponseURL":"/LAPI/V1.0/System/DeviceInfo","ResponseCode":0,"ResponseString":"Succeed","Cseq":${cseq},"Data":{"DeviceCode":"${code}","Text":"`;
}

export function textFrame(text: string): Buffer {
  const payload = Buffer.from(text);
  return Buffer.concat([maskedHead(payload.length), payload]);
}

/** What a LAPI device answers to a message of the broker; undefined for what needs no answer. */
export function lapiAnswer(
  message: Buffer,
  code: string,
  template: AnswerTemplate,
): ReturnType<AnswerTemplate['frames']> | undefined {
  // An answer to our own keepalive, or the acknowledgement of the registration.
  if (message[2] !== 0x52 || message[4] !== 0x71) return undefined;
  const cseq = cseqIn(message);
  if (cseq === undefined) return undefined;
  if (message.indexOf(SUBSCRIPTION) >= 0) {
    const now = Math.floor(Date.now() / 1_000);
    const data = `{"ID":1,"SupportType":1,"CurrentTime":${now},"TerminationTime":${now + 600}}`;
    return [textFrame(`{"ResponseURL":"","ResponseCode":0,"Cseq":${cseq},"Data":${data}}`)];
  }
  return template.frames(code, cseq);
}

export const KEEPALIVE = textFrame(
  '{"RequestURL":"/LAPI/V1.0/System/UpServer/Keepalive","Method":"PUT","Cseq":1,"Data":{}}',
);

const ENGINE_PING = Buffer.from('2');

/** What a Socket.IO client answers: its connection to the namespace, pongs, acknowledgements. */
export function socketIoAnswer(message: Buffer, code: string, template: AnswerTemplate): Buffer | 'joined' | undefined {
  if (message.equals(ENGINE_PING)) return textFrame('3');
  const text = message.toString('latin1', 0, 24);
  if (text.startsWith('0')) return textFrame('40');
  if (text.startsWith('40')) return 'joined';
  const event = /^42(\d+)\[/.exec(text);
  return event === null ? undefined : textFrame(`43${event[1]}[${template.object(code)}]`);
}
