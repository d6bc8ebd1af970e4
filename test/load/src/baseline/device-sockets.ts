/// <reference path="../../../../libs/http/src/uwebsockets.d.ts" />
/** The sockets of devices in the bare loops: uWebSockets.js, one map, answers found by the bytes of their Cseq. The bare loop and the
 *  BullMQ loop share it, so that they differ in nothing but how a call travels. */

import { App, DISABLED, LIBUS_LISTEN_EXCLUSIVE_PORT, us_socket_local_port, type WebSocket } from 'uWebSockets.js';

const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
const CSEQ = Buffer.from('"Cseq":');
const DIGIT_0 = 0x30;

export interface DeviceSockets {
  readonly port: number;
  /** False if the device is not here. */
  call(code: string, url: string, done: (answer: Buffer) => void): boolean;
}

export function openDeviceSockets(): Promise<DeviceSockets> {
  const sockets = new Map<string, WebSocket>();
  const pending = new Map<number, (answer: Buffer) => void>();
  let lastCseq = 0;
  const app = App().ws('/device', {
    compression: DISABLED,
    maxPayloadLength: MAX_MESSAGE_BYTES,
    maxBackpressure: MAX_MESSAGE_BYTES,
    closeOnBackpressureLimit: false,
    idleTimeout: 0,
    maxLifetime: 0,
    sendPingsAutomatically: false,
    upgrade: (response, request, context) => {
      const code = request.getQuery() ?? '';
      response.upgrade({ code }, request.getHeader('sec-websocket-key'), '', '', context);
    },
    open: (socket) => {
      sockets.set(socket.code as string, socket);
    },
    message: (_socket, message) => {
      const bytes = Buffer.from(message);
      const cseq = cseqOf(bytes);
      const done = pending.get(cseq);
      if (done === undefined) return;
      pending.delete(cseq);
      done(bytes);
    },
    close: (socket) => {
      if (sockets.get(socket.code as string) === socket) sockets.delete(socket.code as string);
    },
  });
  return new Promise((resolve, reject) => {
    app.listen('127.0.0.1', 0, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
      if (token === false) {
        reject(new Error('cannot listen'));
        return;
      }
      resolve({
        port: us_socket_local_port(token),
        call(code, url, done) {
          const socket = sockets.get(code);
          if (socket === undefined) return false;
          const cseq = ++lastCseq;
          pending.set(cseq, done);
          socket.send(`{"RequestURL":"${url}","Method":"GET","Cseq":${cseq},"Data":{}}`, false);
          return true;
        },
      });
    });
  });
}

function cseqOf(message: Buffer): number {
  let at = message.indexOf(CSEQ) + CSEQ.length;
  let cseq = 0;
  for (;;) {
    const digit = (message[at++] ?? 0) - DIGIT_0;
    if (digit < 0 || digit > 9) return cseq;
    cseq = cseq * 10 + digit;
  }
}
