/// <reference path="../../../../libs/http/src/uwebsockets.d.ts" />
/** The way out of the bare loop for events: XREAD → server-sent events, one write per batch and subscriber. No filter, no cursor but the
 *  entry's id, no bound on who reads slowly. */

import { App, type HttpResponse, LIBUS_LISTEN_EXCLUSIVE_PORT, us_socket_local_port } from 'uWebSockets.js';
import { Redis } from 'ioredis';
import { answerAs } from '../worker/verbs.ts';

const STREAM = 'bare:events';
const BLOCK_MS = 1_000;
const COUNT = 512;

type Entry = readonly [id: Buffer, fields: readonly Buffer[]];

async function follow(redis: Redis, subscribers: ReadonlySet<HttpResponse>): Promise<never> {
  for (let after = '$'; ; ) {
    const reply = await redis.xreadBuffer('COUNT', COUNT, 'BLOCK', BLOCK_MS, 'STREAMS', STREAM, after);
    const entries = (reply?.[0]?.[1] ?? []) as readonly Entry[];
    if (entries.length === 0) continue;
    const parts: Buffer[] = [];
    for (const [id, fields] of entries) parts.push(Buffer.from(`id: ${id}\ndata: `), fields[1] as Buffer, END);
    after = String(entries.at(-1)?.[0]);
    const bytes = Buffer.concat(parts);
    for (const subscriber of subscribers) subscriber.cork(() => subscriber.write(bytes));
  }
}

const END = Buffer.from('\n\n');

function start(redisPort: number): Promise<number> {
  const subscribers = new Set<HttpResponse>();
  const app = App().get('/v1/events', (response) => {
    subscribers.add(response);
    response.onAborted(() => subscribers.delete(response));
    response.cork(() => {
      response.writeStatus('200 OK').writeHeader('Content-Type', 'text/event-stream').write('id: 0\n\n');
    });
  });
  void follow(new Redis({ port: redisPort, host: '127.0.0.1' }), subscribers);
  return new Promise((resolve, reject) => {
    app.listen('127.0.0.1', 0, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
      if (token === false) reject(new Error('cannot listen'));
      else resolve(us_socket_local_port(token));
    });
  });
}

const verbs = { start };
export type BareEventCommandVerbs = typeof verbs;

answerAs(verbs);
