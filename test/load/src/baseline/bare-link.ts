/** What the bare loop sends between its two processes: frames of one turn of the event loop as one PUBLISH, nothing else. No deadline, no
 *  epoch, no check of anything: the floor under which no broker of this design can go. */

import { Redis } from 'ioredis';

export interface BareLink {
  publish(channel: string, frame: Buffer): void;
  close(): void;
}

const LENGTH_BYTES = 4;

export async function openLink(
  redisPort: number,
  channel: string,
  onFrame: (frame: Buffer) => void,
): Promise<BareLink> {
  const publisher = new Redis({ port: redisPort, host: '127.0.0.1' });
  const subscriber = new Redis({ port: redisPort, host: '127.0.0.1' });
  subscriber.on('messageBuffer', (_channel: Buffer, batch: Buffer) => {
    for (let at = 0; at < batch.length; ) {
      const end = at + LENGTH_BYTES + batch.readUInt32BE(at);
      onFrame(batch.subarray(at + LENGTH_BYTES, end));
      at = end;
    }
  });
  await subscriber.subscribe(channel);
  const waiting = new Map<string, Buffer[]>();
  const flush = (): void => {
    for (const [to, frames] of waiting) void publisher.publish(to, Buffer.concat(frames));
    waiting.clear();
  };
  return {
    publish(to, frame) {
      const frames = waiting.get(to);
      if (frames !== undefined) {
        frames.push(frame);
        return;
      }
      if (waiting.size === 0) setImmediate(flush);
      waiting.set(to, [frame]);
    },
    close() {
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}

export const REPLY_CHANNEL = 'bare:reply';

export function edgeChannel(edge: number): string {
  return `bare:edge:${edge}`;
}

/** length (4) id (8) length of the code (1) code url */
export function encodeCall(id: number, code: string, url: string): Buffer {
  const bytes = 9 + code.length + url.length;
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + bytes);
  frame.writeUInt32BE(bytes, 0);
  frame.writeDoubleBE(id, 4);
  frame[12] = code.length;
  frame.write(code, 13, 'latin1');
  frame.write(url, 13 + code.length, 'latin1');
  return frame;
}

export function decodeCall(frame: Buffer): { readonly id: number; readonly code: string; readonly url: string } {
  const codeEnd = 9 + (frame[8] as number);
  return {
    id: frame.readDoubleBE(0),
    code: frame.toString('latin1', 9, codeEnd),
    url: frame.toString('latin1', codeEnd),
  };
}

/** length (4) id (8) the device's answer */
export function encodeReply(id: number, body: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + 8 + body.length);
  frame.writeUInt32BE(8 + body.length, 0);
  frame.writeDoubleBE(id, 4);
  frame.set(body, 12);
  return frame;
}

export function decodeReply(frame: Buffer): { readonly id: number; readonly body: Buffer } {
  return { id: frame.readDoubleBE(0), body: frame.subarray(8) };
}
