/** The command side of the bare loop: HTTP → frame to the edge of the device → its answer as the body. It is told at the start which edge
 *  has which device, where ours has to find out. */

import { answerAs } from '../worker/verbs.ts';
import { decodeReply, edgeChannel, encodeCall, openLink, REPLY_CHANNEL } from './bare-link.ts';
import { openHttpFront } from './http-front.ts';

export interface LoopCommandPlan {
  readonly redisPort: number;
  /** Edge of each device. */
  readonly edges: ReadonlyMap<string, number>;
}

async function start({ redisPort, edges }: LoopCommandPlan): Promise<number> {
  const channels = new Map([...edges].map(([code, edge]) => [code, edgeChannel(edge)]));
  const pending = new Map<number, (answer: Buffer) => void>();
  let lastId = 0;
  const link = await openLink(redisPort, REPLY_CHANNEL, (frame) => {
    const { id, body } = decodeReply(frame);
    const done = pending.get(id);
    pending.delete(id);
    done?.(body);
  });
  return await openHttpFront((code, url, done) => {
    const channel = channels.get(code);
    if (channel === undefined) {
      done(undefined);
      return;
    }
    const id = ++lastId;
    pending.set(id, done);
    link.publish(channel, encodeCall(id, code, url));
  });
}

const verbs = { start };
export type LoopCommandVerbs = typeof verbs;

answerAs(verbs);
