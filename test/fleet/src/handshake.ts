/** The registration of a device (protocol 2): GET Register → 401 with a nonce → signed GET that is the WebSocket handshake → 101.
 *  Step 1 is written by hand on a plain socket, because step 2 may have to follow on the same connection (H4).
 *  Ends in exactly one outcome, within the deadline of each step, unless aborted; after an abort nothing is reported.
 *  Tries once: when to try again is decided elsewhere. */

import { randomBytes } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import { WebSocket } from 'ws';
import { isJson, type Json } from './envelope.ts';
import { type Identity, registerQuery, type SignEncoding, signRegistration } from './signature.ts';
import type { Timer, TimerWheel } from './timer-wheel.ts';

const REGISTER_PATH = '/LAPI/V1.0/System/UpServer/Register';

/** Where an edge listens. */
export interface Edge {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
}

export interface RegisterOptions {
  readonly timers: TimerWheel;
  readonly stepDeadlineMs: number;
  readonly signEncoding: SignEncoding;
  /** Step 2 on the connection of step 1 instead of a new one. */
  readonly sameConnection: boolean;
  /** Source address; undefined leaves the choice to the system. */
  readonly localAddress: string | undefined;
  /** False accepts any certificate. */
  readonly verifyCertificate: boolean;
  /** All-zero masks are legal and save the simulator the work of masking large events. */
  readonly zeroMask: boolean;
}

export type RegisterOutcome =
  | {
      readonly status: 'registered';
      readonly socket: WebSocket;
      readonly tcp: net.Socket;
      readonly cnonce: string;
      readonly sign: string;
    }
  | {
      readonly status: 'refused';
      readonly step: 1 | 2;
      readonly httpStatus: number;
      /** From Retry-After. */
      readonly retryAfterMs: number | undefined;
    }
  /** `reason` is a short word such as ECONNREFUSED, deadline or no_nonce. */
  | { readonly status: 'failed'; readonly step: 1 | 2; readonly reason: string };

export interface Attempt {
  abort(): void;
}

interface HttpAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

const ANSWER_MAX_BYTES = 64 * 1024;
const MESSAGE_MAX_BYTES = 64 * 1024 * 1024;

/** Undefined for anything but ws, wss, http or https. A path in the URL is ignored: the path of Register is fixed (H1). */
export function parseEdge(text: string): Edge | undefined {
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  const secure = url.protocol === 'wss:' || url.protocol === 'https:';
  if (!secure && url.protocol !== 'ws:' && url.protocol !== 'http:') return undefined;
  if (url.hostname === '') return undefined;
  const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
  return { secure, host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port };
}

/** The nonce in a 401 body of any of the three shapes of H3. */
export function findNonce(body: string): string | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    return undefined;
  }
  return isJson(parsed) ? (nonceIn(parsed) ?? nonceIn(memberOf(memberOf(parsed, 'Response'), 'Data'))) : undefined;
}

/** `done` runs in the tick in which the WebSocket opens: listeners attached there miss no message. */
export function register(
  edge: Edge,
  identity: Identity,
  secret: string,
  options: RegisterOptions,
  done: (outcome: RegisterOutcome) => void,
): Attempt {
  let ended = false;
  let abortStep = ignore;
  const finish = (outcome: RegisterOutcome) => {
    if (ended) return;
    ended = true;
    done(outcome);
  };
  abortStep = challenge(edge, options, (result) => {
    if (ended) return;
    if (result.status !== 'challenged') return finish(result);
    const cnonce = randomBytes(8).toString('hex');
    const sign = signRegistration(secret, identity, result.nonce);
    const query = registerQuery(identity, { nonce: result.nonce, cnonce, sign }, options.signEncoding);
    abortStep = upgrade(edge, query, result.tcp, options, (opened) => {
      finish('socket' in opened ? { status: 'registered', ...opened, cnonce, sign } : opened);
    });
  });
  return {
    abort: () => {
      ended = true;
      abortStep();
    },
  };
}

type NotRegistered = Exclude<RegisterOutcome, { status: 'registered' }>;
type Challenge =
  | { readonly status: 'challenged'; readonly nonce: string; readonly tcp: net.Socket | undefined }
  | NotRegistered;

function challenge(edge: Edge, options: RegisterOptions, done: (result: Challenge) => void): () => void {
  const tcp = connect(edge, options);
  let received = Buffer.alloc(0);
  const greet = () => {
    tcp.write(
      `GET ${REGISTER_PATH} HTTP/1.1\r\nHost: ${authority(edge)}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
  };
  const onData = (chunk: Buffer) => {
    received = Buffer.concat([received, chunk]);
    if (received.length > ANSWER_MAX_BYTES) end({ status: 'failed', step: 1, reason: 'answer_too_long' });
    else read(false);
  };
  const onEnd = () => read(true);
  const onError = (error: Error) => end({ status: 'failed', step: 1, reason: errorWord(error) });
  const onClose = () => end({ status: 'failed', step: 1, reason: 'closed' });
  const timer: Timer = options.timers.after(options.stepDeadlineMs, () =>
    end({ status: 'failed', step: 1, reason: 'deadline' }),
  );
  const release = () => {
    options.timers.cancel(timer);
    // Only our own listeners: the socket has some itself that step 2 needs. An error without a listener takes the process down.
    tcp.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onError).on('error', ignore);
  };
  const end = (result: Challenge) => {
    release();
    if (result.status !== 'challenged' || result.tcp === undefined) tcp.destroy();
    done(result);
  };
  const read = (closed: boolean) => {
    const answer = parseAnswer(received, closed);
    if (answer !== undefined) end(judgeChallenge(answer, options.sameConnection ? tcp : undefined));
    else if (closed) end({ status: 'failed', step: 1, reason: 'closed' });
  };
  tcp.once(edge.secure ? 'secureConnect' : 'connect', greet);
  tcp.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose);
  return () => {
    release();
    tcp.destroy();
  };
}

function judgeChallenge(answer: HttpAnswer, tcp: net.Socket | undefined): Challenge {
  if (answer.status !== 401) {
    const retryAfterMs = parseRetryAfter(answer.headers.get('retry-after'));
    return { status: 'refused', step: 1, httpStatus: answer.status, retryAfterMs };
  }
  const nonce = findNonce(answer.body);
  return nonce === undefined ? { status: 'failed', step: 1, reason: 'no_nonce' } : { status: 'challenged', nonce, tcp };
}

function upgrade(
  edge: Edge,
  query: string,
  reused: net.Socket | undefined,
  options: RegisterOptions,
  done: (result: { readonly socket: WebSocket; readonly tcp: net.Socket } | NotRegistered) => void,
): () => void {
  const tcp = reused ?? connect(edge, options);
  const socket = new WebSocket(`${edge.secure ? 'wss' : 'ws'}://${authority(edge)}${REGISTER_PATH}?${query}`, {
    createConnection: () => tcp,
    perMessageDeflate: false,
    skipUTF8Validation: true,
    maxPayload: MESSAGE_MAX_BYTES,
    ...(options.zeroMask ? { generateMask: (mask: Buffer) => mask.fill(0) } : {}),
  });
  const timer = options.timers.after(options.stepDeadlineMs, () =>
    end({ status: 'failed', step: 2, reason: 'deadline' }),
  );
  const release = () => {
    options.timers.cancel(timer);
    socket.removeAllListeners();
    // Aborting a handshake makes ws emit an error of its own.
    socket.on('error', ignore);
  };
  const end = (result: NotRegistered) => {
    release();
    socket.terminate();
    tcp.destroy();
    done(result);
  };
  socket.on('open', () => {
    release();
    done({ socket, tcp });
  });
  socket.on('unexpected-response', (_request, response) => {
    const retryAfterMs = parseRetryAfter(response.headers['retry-after']);
    end({ status: 'refused', step: 2, httpStatus: response.statusCode ?? 0, retryAfterMs });
  });
  socket.on('error', (error) => end({ status: 'failed', step: 2, reason: errorWord(error) }));
  return () => {
    release();
    socket.terminate();
    tcp.destroy();
  };
}

function connect(edge: Edge, options: RegisterOptions): net.Socket {
  const target = {
    host: edge.host,
    port: edge.port,
    ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
  };
  const tcp = edge.secure
    ? tls.connect({
        ...target,
        rejectUnauthorized: options.verifyCertificate,
        ...(net.isIP(edge.host) === 0 ? { servername: edge.host } : {}),
      })
    : net.connect(target);
  return tcp.setNoDelay(true);
}

/** Undefined while incomplete. Without a Content-Length the body ends with the connection. */
function parseAnswer(bytes: Buffer, closed: boolean): HttpAnswer | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const [statusLine = '', ...lines] = bytes.toString('latin1', 0, headEnd).split('\r\n');
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon > 0) headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
  }
  const body = bytes.subarray(headEnd + 4);
  const length = Number(headers.get('content-length') ?? Number.NaN);
  if (closed || body.length >= length) {
    return {
      status: Number(statusLine.split(' ')[1] ?? 0),
      headers,
      body: body.toString('utf8', 0, Math.min(body.length, length || body.length)),
    };
  }
  return undefined;
}

/** Only the form in seconds: the broker sends no dates. */
function parseRetryAfter(value: string | undefined): number | undefined {
  return value !== undefined && /^\d{1,6}$/.test(value) ? Number(value) * 1000 : undefined;
}

function authority(edge: Edge): string {
  const host = edge.host.includes(':') ? `[${edge.host}]` : edge.host;
  return `${host}:${edge.port}`;
}

function ignore(): void {}

function errorWord(error: Error): string {
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'string') return code;
  return /hang up|closed/i.test(error.message) ? 'closed' : 'bad_answer';
}

function nonceIn(part: Json | undefined): string | undefined {
  const nonce = part?.Nonce;
  return typeof nonce === 'string' && nonce !== '' ? nonce : undefined;
}

function memberOf(part: Json | undefined, name: string): Json | undefined {
  const member = part?.[name];
  return isJson(member) ? member : undefined;
}
