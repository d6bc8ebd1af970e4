/** The edge of the bare loop: frame from Redis → WebSocket of the device → its answer → frame to Redis. */

import { answerAs } from '../worker/verbs.ts';
import { decodeCall, edgeChannel, encodeReply, openLink, REPLY_CHANNEL } from './bare-link.ts';
import { openDeviceSockets } from './device-sockets.ts';

export interface LoopEdgePlan {
  readonly redisPort: number;
  readonly edge: number;
}

async function start({ redisPort, edge }: LoopEdgePlan): Promise<number> {
  const sockets = await openDeviceSockets();
  const link = await openLink(redisPort, edgeChannel(edge), (frame) => {
    const { id, code, url } = decodeCall(frame);
    sockets.call(code, url, (answer) => link.publish(REPLY_CHANNEL, encodeReply(id, answer)));
  });
  return sockets.port;
}

const verbs = { start };
export type LoopEdgeVerbs = typeof verbs;

answerAs(verbs);
