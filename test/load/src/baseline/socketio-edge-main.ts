/** A Socket.IO server that devices connect to, as its documentation shows it: each device joins the room of its code. With a Redis port the
 *  sharded adapter ties it to the others; without one it stands alone. */

import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { answerAs } from '../worker/verbs.ts';
import { sharded } from './socketio-adapter.ts';

export interface SocketIoEdgePlan {
  readonly redisPort: number | undefined;
}

async function start({ redisPort }: SocketIoEdgePlan): Promise<number> {
  const http = createServer();
  const io = new Server(http, {
    transports: ['websocket'],
    maxHttpBufferSize: 16 * 1024 * 1024,
    ...(redisPort === undefined ? {} : { adapter: sharded(redisPort) }),
  });
  io.on('connection', (socket) => {
    void socket.join(String(socket.handshake.query.code));
  });
  return await new Promise((resolve) => {
    http.listen(0, '127.0.0.1', 4_096, () => {
      const address = http.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
}

const verbs = { start };
export type SocketIoEdgeVerbs = typeof verbs;

answerAs(verbs);
