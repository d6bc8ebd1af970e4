/** One request and its answer, as a handler sees it: safe to use after any await and after the peer has left, when every method is a
 *  no-op. It ends exactly once, by an answer, an upgrade or an abort, and then lets go of the transport's object, which throws from
 *  there on.
 *  In the first tick (until the handler returns) writes are corked by the transport; later ones are corked here, so that status,
 *  headers and body leave in one packet. */
import { STATUS_CODES } from 'node:http';
import { ChunkStream } from './chunk-stream.ts';
import { remoteAddressOf } from './request.ts';
import type { HeaderList, ResponseHandle, StreamHandle, StreamOptions, UpgradeHandle } from './types.ts';
import type { UnreadAnswer, UnreadAnswers } from './unread-answers.ts';
import type { NativeResponse, UpgradeContext } from './uws.ts';

/** What an exchange needs of its server. */
export interface ExchangeServer {
  /** How exchanges end, for the connection limits. `remote` is undefined when `countsAddresses` is false. */
  answered(remote: string | undefined): void;
  aborted(remote: string | undefined): void;
  upgraded(remote: string | undefined): void;
  readonly countsAddresses: boolean;
  readonly unread: UnreadAnswers;
  /** A callback of the handler threw, with nobody of ours above it on the stack. */
  report(error: unknown): void;
  /** The address to show for a connection: its remote one, or what a trusted proxy says. */
  addressOf(raw: NativeResponse, remote: string): string;
}

const STATUS_LINES: ReadonlyMap<number, string> = new Map(
  Object.entries(STATUS_CODES).map(([code, text]) => [Number(code), `${code} ${text}`]),
);
const MAX_STREAM_BUFFER = 16 * 1024 * 1024;
const EMPTY = Buffer.alloc(0);
/** From here on an answer is given to the transport as the kernel takes it, because the transport would copy what is left, uncounted. */
const LARGE_BYTES = 64 * 1024;

/** RFC 9110: no body, and no Content-Length either, with these. */
function isBodiless(status: number): boolean {
  return status === 204 || status === 304;
}

function writeHead(raw: NativeResponse, status: number, headers: HeaderList): void {
  // 200 OK is what the transport writes when nothing else is said.
  if (status !== 200) raw.writeStatus(STATUS_LINES.get(status) ?? `${status} Unknown`);
  for (const [name, value] of headers) raw.writeHeader(name, value);
}

/** Names that were found to be fit; nearly all are constants of our own. */
const fitNames = new Set<string>();
const MAX_FIT_NAMES = 256;

function checkName(name: string): void {
  if (fitNames.has(name)) return;
  if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw new TypeError(`header ${JSON.stringify(name)} is malformed`);
  if (name.toLowerCase() === 'content-length') throw new TypeError('Content-Length is set by the server');
  if (fitNames.size < MAX_FIT_NAMES) fitNames.add(name);
}

/** Refuses what would forge headers or answers, and what the transport sets itself. Before anything is written: a head cannot be taken back. */
function checkHeaders(headers: HeaderList): void {
  for (const [name, value] of headers) {
    checkName(name);
    if (/[\r\n\0]/.test(value)) throw new TypeError(`header ${JSON.stringify(name)} is malformed`);
  }
}

export class Exchange {
  protected raw: NativeResponse | undefined;
  protected readonly server: ExchangeServer;
  /** Of the connection itself; undefined when nobody counts. */
  readonly remote: string | undefined;
  #address: string | undefined;
  readonly #isHead: boolean;
  /** Who gathers the writes of one answer: the transport does while the handler runs. */
  #corkedBy: 'transport' | 'self' = 'transport';
  #abortListener: (() => void) | undefined;
  /** A large answer that has begun and not left. */
  #unread: UnreadAnswer | undefined;

  constructor(raw: NativeResponse, isHead: boolean, server: ExchangeServer) {
    this.raw = raw;
    this.server = server;
    this.remote = server.countsAddresses ? remoteAddressOf(raw) : undefined;
    this.#isHead = isHead;
  }

  /** Empty when it is asked for the first time after the exchange has ended. */
  get address(): string {
    const { raw } = this;
    if (this.#address === undefined && raw !== undefined) {
      this.#address = this.server.addressOf(raw, this.remote ?? remoteAddressOf(raw));
    }
    return this.#address ?? '';
  }

  get ended(): boolean {
    return this.raw === undefined || this.#unread !== undefined;
  }

  /** For when the address must be known whatever happens next. */
  protected rememberAddress(): void {
    this.#address = this.address;
  }

  onAborted(callback: () => void): void {
    this.#abortListener = callback;
  }

  /** Called by the server when the handler has returned. The transport demands an abort callback for whatever is still open. */
  handlerReturned(): void {
    this.#corkedBy = 'self';
    this.raw?.onAborted(() => this.aborted());
  }

  protected aborted(): void {
    if (this.raw === undefined) return;
    this.raw = undefined;
    this.server.aborted(this.remote);
    if (this.#unread === undefined) this.guarded(this.#abortListener);
    else this.server.unread.remove(this.#unread);
  }

  protected guarded(callback: (() => void) | undefined): void {
    try {
      callback?.();
    } catch (error) {
      this.server.report(error);
    }
  }

  protected corked(raw: NativeResponse, write: () => void): void {
    if (this.#corkedBy === 'transport') write();
    else raw.cork(write);
  }

  protected answer(status: number, headers: HeaderList, body: string | Uint8Array, close: boolean): void {
    const { raw } = this;
    if (raw === undefined || this.ended) return;
    checkHeaders(headers);
    if (body.length >= LARGE_BYTES && !close && !this.#isHead && !isBodiless(status)) {
      this.#answerLarge(raw, status, headers, typeof body === 'string' ? Buffer.from(body) : body);
      return;
    }
    this.raw = undefined;
    this.corked(raw, () => {
      writeHead(raw, status, headers);
      if (!this.#isHead && !isBodiless(status)) {
        raw.end(body, close);
        return;
      }
      // The transport cannot close after an answer without a body; the peer does, or the idle limit.
      if (close) raw.writeHeader('Connection', 'close');
      if (!isBodiless(status)) raw.writeHeader('Content-Length', String(Buffer.byteLength(body)));
      raw.endWithoutBody();
    });
    this.server.answered(this.remote);
  }

  #answerLarge(raw: NativeResponse, status: number, headers: HeaderList, body: Uint8Array): void {
    const bytes = body.byteLength;
    let done = false;
    this.corked(raw, () => {
      writeHead(raw, status, headers);
      [, done] = raw.tryEnd(body, bytes);
    });
    const finish = (): void => {
      if (this.raw === undefined) return;
      this.raw = undefined;
      if (this.#unread !== undefined) this.server.unread.remove(this.#unread);
      this.server.answered(this.remote);
    };
    if (done) {
      finish();
      return;
    }
    raw.onWritable((offset) => {
      const [tookAll, isDone] = raw.tryEnd(body.subarray(offset), bytes);
      if (isDone) finish();
      return tookAll;
    });
    this.#unread = { bytes, drop: () => this.drop() };
    this.server.unread.add(this.#unread);
  }

  /** After an error: 500, if nothing has been written yet. */
  fail(): void {
    this.answer(500, [['Content-Type', 'application/json']], '{"error":"internal"}', false);
  }

  /** Drops the connection: for an answer that cannot be completed. */
  drop(): void {
    // Runs the abort callback, if one is registered by now.
    this.raw?.close();
    this.aborted();
  }
}

export class Response extends Exchange implements ResponseHandle {
  #bodyRefused = false;
  #abortBody: (() => void) | undefined;
  #stream: ChunkStream | undefined;

  send(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void {
    if (this.#stream !== undefined) throw new TypeError('the response is a stream already');
    // The rest of a body over the limit is still on its way: this connection cannot serve another request.
    this.answer(status, headers, body, options?.close === true || this.#bodyRefused);
  }

  readBody(limitBytes: number, admits?: (bytes: number) => boolean): ReturnType<ResponseHandle['readBody']> {
    const { raw } = this;
    if (raw === undefined) return Promise.resolve({ status: 'aborted' });
    return new Promise((resolve) => {
      let collected: Buffer = EMPTY;
      let length = 0;
      let settled = false;
      this.#abortBody = () => {
        settled = true;
        resolve({ status: 'aborted' });
      };
      const refuse = (status: 'too_large' | 'no_room'): void => {
        settled = true;
        this.#bodyRefused = true;
        this.#abortBody = undefined;
        collected = EMPTY;
        resolve({ status });
      };
      raw.onData((chunk, isLast) => {
        if (settled) return;
        const needed = length + chunk.byteLength;
        if (needed > limitBytes) {
          refuse('too_large');
          return;
        }
        const capacity = isLast && length === 0 ? needed : capacityFor(needed, collected.length, limitBytes);
        if (capacity > collected.length) {
          if (admits?.(capacity - collected.length) === false) {
            refuse('no_room');
            return;
          }
          const larger = Buffer.allocUnsafeSlow(capacity);
          collected.copy(larger, 0, 0, length);
          collected = larger;
        }
        collected.set(new Uint8Array(chunk), length);
        length = needed;
        if (!isLast) return;
        settled = true;
        this.#abortBody = undefined;
        resolve({ status: 'read', body: collected.subarray(0, length) });
      });
    });
  }

  stream(status: number, headers: HeaderList, options?: StreamOptions): StreamHandle {
    if (this.#stream !== undefined) throw new TypeError('the response is a stream already');
    checkHeaders(headers);
    const raw = this.ended ? undefined : this.raw;
    const stream = new ChunkStream(raw, options?.maxBufferedBytes ?? MAX_STREAM_BUFFER, {
      ended: () => {
        this.raw = undefined;
        this.server.answered(this.remote);
      },
      drop: () => this.drop(),
      run: (callback) => this.guarded(callback),
    });
    this.#stream = stream;
    if (raw !== undefined) this.corked(raw, () => writeHead(raw, status, headers));
    return stream;
  }

  override fail(): void {
    if (this.#stream === undefined) super.fail();
    else this.drop();
  }

  protected override aborted(): void {
    if (this.raw === undefined) return;
    super.aborted();
    this.#abortBody?.();
    this.#stream?.aborted();
  }
}

/** Grows by doubling, so that a body dripped byte by byte costs no more memory than its limit. */
function capacityFor(needed: number, capacity: number, limitBytes: number): number {
  return needed <= capacity ? capacity : Math.min(limitBytes, Math.max(needed, capacity * 2, 4096));
}

/** Runs an upgrade, and the `open` callback of its socket with this session after it. False if the socket was gone before that. */
export type Opener<Session> = (session: Session, upgrade: () => void) => boolean;

const NOTHING = Object.freeze({});

export class Upgrade<Session> extends Exchange implements UpgradeHandle<Session> {
  readonly #key: string;
  readonly #context: UpgradeContext;
  readonly #open: Opener<Session>;

  /** The address is read at once: failed registrations are counted by it (protocol F13, F14), and leaving early must not hide it. */
  constructor(
    raw: NativeResponse,
    server: ExchangeServer,
    key: string,
    context: UpgradeContext,
    open: Opener<Session>,
  ) {
    super(raw, false, server);
    this.rememberAddress();
    this.#key = key;
    this.#context = context;
    this.#open = open;
  }

  accept(session: Session): boolean {
    const { raw } = this;
    if (raw === undefined) return false;
    this.raw = undefined;
    this.server.upgraded(this.remote);
    // Offers of sub-protocols and extensions are ignored and not echoed (protocol H11).
    // Bound and not a closure, and without the session: see uws.ts on what must not happen between the upgrade and the end of the cork.
    const upgrade = raw.upgrade.bind(raw, NOTHING, this.#key, '', '', this.#context);
    return this.#open(session, () => this.corked(raw, upgrade));
  }

  refuse(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void {
    this.answer(status, headers, body, options?.close === true);
  }
}
