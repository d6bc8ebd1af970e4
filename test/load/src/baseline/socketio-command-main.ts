/** The command side of the Socket.IO loop: `emitWithAck` to the room of the device, through the sharded adapter; the answer is the one
 *  acknowledgement that comes back. */

import { Server } from 'socket.io';
import { answerAs } from '../worker/verbs.ts';
import { openHttpFront } from './http-front.ts';
import { sharded } from './socketio-adapter.ts';

const TIMEOUT_MS = 10_000;

async function start({ redisPort }: { readonly redisPort: number }): Promise<number> {
  const io = new Server({ adapter: sharded(redisPort) });
  const call = async (code: string, url: string): Promise<string | undefined> => {
    const answers: unknown[] = await io
      .in(code)
      .timeout(TIMEOUT_MS)
      .emitWithAck('call', { RequestURL: url, Method: 'GET', Data: {} });
    return answers.length === 0 ? undefined : JSON.stringify(answers[0]);
  };
  return await openHttpFront((code, url, done) => {
    call(code, url).then(done, () => done(undefined));
  });
}

const verbs = { start };
export type SocketIoCommandVerbs = typeof verbs;

answerAs(verbs);
