/// <reference path="../../../../libs/http/src/uwebsockets.d.ts" />
/** The floor of a registration: a GET that gets a nonce, a second one whose HMAC is verified, then the WebSocket. On bare uWebSockets.js, with
 *  all secrets in memory; no store, no bound, no log, and a nonce that may be used twice. */

import { App, DISABLED, LIBUS_LISTEN_EXCLUSIVE_PORT, us_socket_local_port } from 'uWebSockets.js';
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { answerAs } from '../worker/verbs.ts';

export interface BareRegisterPlan {
  readonly secrets: ReadonlyMap<string, string>;
}

const QUERY =
  /^Vendor=([^&]*)&DeviceType=([^&]*)&DeviceCode=([^&]*)&Algorithm=([^&]*)&Nonce=([^&]*)&Cnonce=([^&]*)&Sign=([^&]*)$/;

function isSigned(query: string, secrets: ReadonlyMap<string, string>): string | undefined {
  const [, vendor, type, code, algorithm, nonce, , sign] = QUERY.exec(query) ?? [];
  const secret = secrets.get(code ?? '');
  if (secret === undefined || sign === undefined) return undefined;
  const mac = createHmac('sha256', secret).update(`${vendor}/${type}/${code}/${algorithm}/${nonce}`).digest();
  const given = Buffer.from(decodeURIComponent(sign), 'base64');
  return given.length === mac.length && timingSafeEqual(given, mac) ? code : undefined;
}

function start({ secrets }: BareRegisterPlan): Promise<number> {
  const app = App().ws('/LAPI/V1.0/System/UpServer/Register', {
    compression: DISABLED,
    maxPayloadLength: 16 * 1024 * 1024,
    maxBackpressure: 16 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    idleTimeout: 0,
    maxLifetime: 0,
    sendPingsAutomatically: false,
    upgrade: (response, request, context) => {
      const query = request.getQuery();
      const code = query === undefined ? undefined : isSigned(query, secrets);
      if (code === undefined) {
        response
          .writeStatus('401 Unauthorized')
          .writeHeader('Content-Type', 'application/json')
          .end(`{"Nonce":"${randomBytes(12).toString('hex')}"}`);
        return;
      }
      response.upgrade({ code }, request.getHeader('sec-websocket-key'), '', '', context);
    },
    open: (socket) => {
      socket.send('{"Cnonce":"zY9xW8vU7tS6rQ5p"}', false);
    },
    message: () => undefined,
    close: () => undefined,
  });
  return new Promise((resolve, reject) => {
    app.listen('127.0.0.1', 0, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
      if (token === false) reject(new Error('cannot listen'));
      else resolve(us_socket_local_port(token));
    });
  });
}

const verbs = { start };
export type BareRegisterVerbs = typeof verbs;

answerAs(verbs);
