/** The device listener: where bytes of devices enter and leave. Wires the transport's callbacks to handshake, session and conversation;
 *  decides nothing but the reason of a lost connection. Only Register can become a WebSocket (S1); no platform path exists here (S9). */

import { createServer, dropCauseOf, type Server, type ServerOptions } from '@lapi-broker/http';
import type { OfflineReason } from '@lapi-broker/routing';
import type { Part } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import { MAX_MESSAGE_BYTES, MAX_SEND_BUFFER_BYTES } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { Conversation } from './conversation.ts';
import { type Handshake, REGISTER_HEADERS } from './handshake.ts';
import type { Session } from './session.ts';
import type { SessionTable } from './session-table.ts';

export interface ListenerOptions {
  readonly server: ServerOptions;
  readonly handshake: Handshake;
  readonly conversation: Conversation;
  readonly sessions: SessionTable;
  readonly monotonicMs: () => number;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

export class DeviceListener implements Part {
  readonly name = 'device-listener';
  private readonly options: ListenerOptions;
  private server: Server | undefined;

  constructor(options: ListenerOptions) {
    this.options = options;
  }

  get port(): number {
    return this.server?.port ?? 0;
  }

  async start(): Promise<void> {
    const { handshake, conversation, sessions, monotonicMs, log } = this.options;
    this.server = await createServer({
      ...this.options.server,
      onError: (error, request) => log.error({ err: error, path: request?.path }, 'listener.handler_failed'),
    })
      .webSocket<Session>('/*', {
        maxMessageBytes: MAX_MESSAGE_BYTES,
        maxBufferedBytes: MAX_SEND_BUFFER_BYTES,
        headers: REGISTER_HEADERS,
        upgrade: (request, upgrade) => handshake.upgrade(request, upgrade),
        open: (socket) => {
          const session = socket.session;
          session.opened(socket);
          const loser = sessions.enter(session);
          // The newest claim wins, also when it was answered before an older one (D3).
          loser?.close(1000, 'superseded', 'superseded');
          if (loser !== session) conversation.begin(session);
        },
        message: (socket, bytes, isBinary) => conversation.receive(socket.session, bytes, isBinary),
        control: (socket) => {
          socket.session.alive(0, monotonicMs());
        },
        closed: (session, code, reason) => session.ended(this.reasonOf(session, code, reason)),
      })
      .otherwise((request, response) => handshake.plain(request, response))
      .listen();
  }

  stopListening(): void {
    this.server?.stopListening();
  }

  stop(): void {
    this.options.handshake.stop();
    this.server?.close();
    this.server = undefined;
  }

  /** A plain loss is `closed`. When the transport refused a frame, its text says why; if the device had been called and had never given
   *  a valid response, it is firmware that sends its responses unmasked (E5 b). */
  private reasonOf(session: Session, code: number, text: string): OfflineReason {
    if (session.reason !== undefined) return session.reason;
    const cause = dropCauseOf(code, text);
    if (cause === undefined || cause === 'peer_gone') return 'closed';
    return session.callsWritten > 0 && session.responsesReceived === 0 ? 'unmasked' : cause;
  }
}
