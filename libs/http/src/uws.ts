/// <reference path="./uwebsockets.d.ts" />
/** The only import of uWebSockets.js, and what its release does, found by running it (uws-pack 20.0.8, core "20"):
 *  - An HTTP request and response wrapper throws once the response ended or the peer left; a WebSocket throws after its close callback.
 *    The abort callback cannot run while a handler runs, so it suffices to register it when the handler returned unanswered.
 *  - A request that arrives while the previous answer of its connection is pending ends the connection: only synchronous answers can
 *    be pipelined. A FIN of the peer closes at once, also while an answer is pending.
 *  - No answer in progress: closed after 10 to 14 s without a complete request, not extendable by drips; a body below 16 KiB/s
 *    likewise. While an answer is pending no timer runs (protocol H12, H13).
 *  - `end(body)` on HEAD sends the body; `endWithoutBody(length)` leaves the response pending for ever. `endWithoutBody()` is right.
 *  - `end` adds Content-Length; Date and a server header are added too. The write offset stays 0 for chunked responses. With an
 *    onWritable callback the transport no longer flushes by itself: the callback must cork or write.
 *  - The properties of the object given to `upgrade` are copied to the socket; getUserData() does not return that object.
 *  - filter: +1 with address at each connection, -1 (address unknown by then) when it ends, but none when it becomes a WebSocket.
 *    onAborted may be set there and runs if the connection ends before its first answer.
 *  - A PROXY v2 header is accepted from anyone and changes only the proxied address.
 *  - WebSocket close callback for a dropped connection: code 1006 and one of the texts in drop-cause.ts, "Received TCP FIN before WebSocket
 *    close frame", or an empty text for a reset; a close frame
 *    without code: 1005. Nothing is sent to the peer then (protocol E3, E6). An unmasked frame that is shorter than its key stays
 *    undelivered until more bytes come (protocol E4).
 *  - An upgrade outside the handler's first tick gives back the end of the socket's memory, and when the cork ends the transport reads a flag
 *    there that says whether to close. Whatever was allocated in between may stand there instead, and the new WebSocket is closed at once
 *    (uWebSockets pull request 1929, not in this release). Memory of that size is taken when a function is compiled and when a property gets
 *    a value of another kind than before; so no function of ours is entered or left between the two, and the session is put on the socket
 *    afterwards.
 *  - A frame in the same segment as the handshake is lost when the upgrade is synchronous; bytes before an asynchronous 101 are read as
 *    a bad HTTP request: 505 and close, the upgrade is aborted (protocol H13). */
export {
  type App as NativeApp,
  App,
  type Bytes,
  DISABLED,
  type Handler as NativeHandler,
  type HttpRequest as NativeRequest,
  type HttpResponse as NativeResponse,
  LIBUS_LISTEN_EXCLUSIVE_PORT,
  SSLApp,
  type UpgradeContext,
  us_listen_socket_close,
  us_socket_local_port,
  type WebSocket as NativeSocket,
} from 'uWebSockets.js';
