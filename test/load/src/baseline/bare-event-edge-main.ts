/// <reference path="../../../../libs/http/src/uwebsockets.d.ts" />
/** The edge of the bare loop for events: WebSocket of a device → XADD → answer. No envelope is checked, nothing is bounded. */

import { App, DISABLED, LIBUS_LISTEN_EXCLUSIVE_PORT, us_socket_local_port, type WebSocket } from 'uWebSockets.js';
import { Redis } from 'ioredis';
import { answerAs } from '../worker/verbs.ts';

const STREAM = 'bare:events';

const CSEQ = Buffer.from('"Cseq":');
const COMMA = 0x2c;
const KEPT = 100_000;

function start(redisPort: number): Promise<number> {
  const redis = new Redis({ port: redisPort, host: '127.0.0.1', enableAutoPipelining: true });
  const sockets = new Set<WebSocket>();
  const app = App().ws('/device', {
    compression: DISABLED,
    maxPayloadLength: 16 * 1024 * 1024,
    maxBackpressure: 16 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    idleTimeout: 0,
    maxLifetime: 0,
    sendPingsAutomatically: false,
    upgrade: (response, request, context) => {
      response.upgrade({}, request.getHeader('sec-websocket-key'), '', '', context);
    },
    open: (socket) => {
      sockets.add(socket);
    },
    message: (socket, message) => {
      const bytes = Buffer.from(message.slice(0));
      const at = bytes.indexOf(CSEQ) + CSEQ.length;
      const cseq = bytes.toString('latin1', at, bytes.indexOf(COMMA, at));
      void redis.xadd(STREAM, 'MAXLEN', '~', KEPT, '*', 'd', bytes).then(() => {
        if (!sockets.has(socket)) return;
        socket.send(
          `{"ResponseURL":"/LAPI/V1.0/System/Event/Notification/Alarm","ResponseCode":0,"ResponseString":"Succeed","Cseq":${cseq},"Data":{}}`,
          false,
        );
      });
    },
    close: (socket) => {
      sockets.delete(socket);
    },
  });
  return new Promise((resolve, reject) => {
    app.listen('127.0.0.1', 0, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
      if (token === false) reject(new Error('cannot listen'));
      else resolve(us_socket_local_port(token));
    });
  });
}

const verbs = { start };
export type BareEventEdgeVerbs = typeof verbs;

answerAs(verbs);
