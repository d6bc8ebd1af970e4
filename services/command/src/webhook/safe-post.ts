/** Sends one POST to a place that a stranger chose, without being led anywhere else (reliability T9).
 *  Each time the name is resolved, every address that it has is checked, and the connection goes to a checked address as such: the name is not
 *  looked up again behind the check. A connection is used again only for the same address and name, and for some seconds. One address that is
 *  refused refuses all. No redirect is followed, no proxy used, certificates are verified, and nothing of the answer but its status and
 *  `Retry-After` leaves from here.
 *  Bounds: one deadline from the look-up to the end of the answer; 64 KiB of the answer, then the connection is cut; some interim answers; one
 *  look-up of a name at a time, because few fit into this process and one that hangs cannot be stopped. An answer that breaks off is
 *  a failure, because nobody knows whether the receiver kept what it got.
 *  Never rejects. Not decided here: what counts as delivered, and whether to try again. */

import { lookup } from 'node:dns/promises';
import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { isIP } from 'node:net';
import { isAllowedAddress } from './address-rules.ts';
import { readRetryAfter } from './retry.ts';
import { readTarget, type Target, type TargetRules } from './target.ts';

export interface Post {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/** refused: the URL, or an address of its host, is not allowed. invalid: what came is not HTTP. closed: the connection ended before the answer.
 *  stopped: the caller gave up. */
export const POST_FAILURES = ['refused', 'dns', 'connect', 'tls', 'timeout', 'closed', 'invalid', 'stopped'] as const;
export type PostFailure = (typeof POST_FAILURES)[number];

export type Posted =
  | { readonly status: 'answered'; readonly code: number; readonly retryAfterMs: number | undefined }
  | { readonly status: 'failed'; readonly error: PostFailure };

/** All addresses of a name, as text. */
export type Resolve = (host: string) => Promise<readonly string[]>;

export interface SafePostParts {
  readonly rules: TargetRules;
  /** Default: as this machine resolves names. */
  readonly resolve?: Resolve | undefined;
  /** Certificates of authorities in place of the usual ones. */
  readonly ca?: string | undefined;
  readonly nowMs: () => number;
}

const ANSWER_BYTES = 64 * 1024;
/** Addresses of one name that are tried, one after the other, until one takes the connection. */
const TRIED_ADDRESSES = 4;
/** Interim answers (1xx) before the answer. */
const INTERIM_ANSWERS = 16;
/** Look-ups under way: more than requests at a time, so only what hangs can use them up. */
const LOOK_UPS = 1_024;
const REUSE = { keepAlive: true, timeout: 4_000, maxFreeSockets: 64 } as const;

const resolveHere: Resolve = async (host) => {
  const found = await lookup(host, { all: true, order: 'verbatim' });
  return found.map(({ address }) => address);
};

type Try = Posted | 'unreached' | 'went stale';

export class SafePost {
  readonly #parts: SafePostParts;
  readonly #resolve: Resolve;
  readonly #lookUps = new Map<string, Promise<readonly string[]>>();
  readonly #plain = new HttpAgent(REUSE);
  readonly #secure = new HttpsAgent(REUSE);

  constructor(parts: SafePostParts) {
    this.#parts = parts;
    this.#resolve = parts.resolve ?? resolveHere;
  }

  async post(post: Post): Promise<Posted> {
    const read = readTarget(post.url, this.#parts.rules);
    if (read.status === 'refused') return failed('refused');
    const ending = new AbortController();
    const timer = setTimeout(() => ending.abort(), post.timeoutMs);
    const stop = (): void => ending.abort();
    post.signal?.addEventListener('abort', stop);
    if (post.signal?.aborted === true) stop();
    try {
      const posted = await this.#postTo(read.target, post, ending.signal);
      if (!ending.signal.aborted || posted.status === 'answered') return posted;
      return failed(post.signal?.aborted === true ? 'stopped' : 'timeout');
    } finally {
      clearTimeout(timer);
      post.signal?.removeEventListener('abort', stop);
      ending.abort();
    }
  }

  /** Ends all connections. */
  stop(): void {
    this.#plain.destroy();
    this.#secure.destroy();
  }

  async #postTo(target: Target, post: Post, signal: AbortSignal): Promise<Posted> {
    const addresses = await this.#addressesOf(target.host, signal);
    if (addresses.length === 0) return failed('dns');
    const { allowed } = this.#parts.rules;
    if (!addresses.every((address) => isAllowedAddress(address, allowed))) return failed('refused');
    for (const address of addresses.slice(0, TRIED_ADDRESSES)) {
      let tried = await this.#try(address, target, post, signal, true);
      // The receiver ended an idle connection in the moment when it was used again.
      if (tried === 'went stale') tried = await this.#try(address, target, post, signal, false);
      if (typeof tried === 'object') return tried;
      if (signal.aborted) break;
    }
    return failed('connect');
  }

  async #addressesOf(host: string, signal: AbortSignal): Promise<readonly string[]> {
    if (isIP(host) !== 0) return [host];
    const given = Promise.withResolvers<readonly string[]>();
    const giveUp = (): void => given.resolve([]);
    signal.addEventListener('abort', giveUp);
    // A look-up cannot be stopped; one that takes too long is not waited for.
    this.#lookUp(host).then(given.resolve, giveUp);
    if (signal.aborted) giveUp();
    try {
      return await given.promise;
    } finally {
      signal.removeEventListener('abort', giveUp);
    }
  }

  /** What comes of one look-up is for all that wait for it; each checks it by itself. */
  async #lookUp(host: string): Promise<readonly string[]> {
    const underWay = this.#lookUps.get(host);
    if (underWay !== undefined) return underWay;
    if (this.#lookUps.size >= LOOK_UPS) return [];
    const lookUp = this.#resolve(host).finally(() => this.#lookUps.delete(host));
    this.#lookUps.set(host, lookUp);
    return lookUp;
  }

  #try(address: string, target: Target, post: Post, signal: AbortSignal, reuse: boolean): Promise<Try> {
    const { promise, resolve } = Promise.withResolvers<Try>();
    let phase: 'connect' | 'tls' | 'exchange' = 'connect';
    const options = {
      host: address,
      port: target.port,
      path: target.path,
      method: 'POST',
      headers: { ...post.headers, Host: target.hostHeader, 'Content-Length': post.body.length },
      signal,
    };
    // An address is no name that a server could be asked for.
    const servername = isIP(target.host) === 0 ? target.host : '';
    const { ca } = this.#parts;
    const trust = { servername, rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }) };
    const request: ClientRequest = target.secure
      ? httpsRequest({ ...options, ...trust, agent: reuse ? this.#secure : false })
      : httpRequest({ ...options, agent: reuse ? this.#plain : false });
    request.on('socket', (socket) => {
      if (!socket.connecting) {
        phase = 'exchange';
        return;
      }
      socket.once('connect', () => {
        phase = target.secure ? 'tls' : 'exchange';
      });
      socket.once('secureConnect', () => {
        phase = 'exchange';
      });
    });
    let interim = 0;
    request.on('information', () => {
      interim += 1;
      if (interim <= INTERIM_ANSWERS) return;
      resolve(failed('invalid'));
      request.destroy();
    });
    request.on('response', (response) => read(response, () => this.#parts.nowMs(), resolve));
    request.on('error', (error: NodeJS.ErrnoException) => {
      if (phase === 'connect') resolve('unreached');
      else if (phase === 'tls') resolve(failed('tls'));
      else if (error.code?.startsWith('HPE_') === true) resolve(failed('invalid'));
      else resolve(request.reusedSocket && reuse && !signal.aborted ? 'went stale' : failed('closed'));
    });
    request.on('close', () => resolve(failed('closed')));
    request.end(post.body);
    return promise;
  }
}

function read(response: IncomingMessage, nowMs: () => number, resolve: (tried: Try) => void): void {
  const answer: Posted = {
    status: 'answered',
    code: response.statusCode ?? 0,
    retryAfterMs: readRetryAfter(response.headers['retry-after'], nowMs()),
  };
  let bytes = 0;
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= ANSWER_BYTES) return;
    resolve(answer);
    response.destroy();
  });
  response.on('end', () => resolve(answer));
  // Of an answer that breaks off; the request closes then.
  response.on('error', () => undefined);
}

function failed(error: PostFailure): Posted {
  return { status: 'failed', error };
}
