/// <reference path="../../../../libs/http/src/uwebsockets.d.ts" />
/** The HTTP side of the loops that are compared: the same route as ours on uWebSockets.js, without authentication, checks or metrics.
 *  All of them share it, so that they differ in nothing but how a call travels. */

import { App, LIBUS_LISTEN_EXCLUSIVE_PORT, us_socket_local_port } from 'uWebSockets.js';

const PREFIX = '/v1/devices/';

/** `call` must answer exactly once; undefined = failed. */
export function openHttpFront(
  call: (code: string, url: string, done: (answer: string | Buffer | undefined) => void) => void,
): Promise<number> {
  const app = App().any('/v1/devices/:code/LAPI/*', (response, request) => {
    let aborted = false;
    response.onAborted(() => {
      aborted = true;
    });
    const code = request.getParameter(0) ?? '';
    const query = request.getQuery();
    const path = request.getUrl().slice(PREFIX.length + code.length);
    call(code, query === undefined ? path : `${path}?${query}`, (answer) => {
      if (aborted) return;
      response.cork(() => {
        if (answer === undefined) response.writeStatus('504 Gateway Timeout').end();
        else response.writeHeader('Content-Type', 'application/json').end(answer);
      });
    });
  });
  return new Promise((resolve, reject) => {
    app.listen('127.0.0.1', 0, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
      if (token === false) reject(new Error('cannot listen'));
      else resolve(us_socket_local_port(token));
    });
  });
}
