/** One HTTP request and its one answer: knows the request id, counts the answer, and turns answers and errors into bytes.
 *  Answers after the peer has gone do nothing. A class, because one is made for every command. */

import type { HeaderList, RequestSnapshot, ResponseHandle } from '@lapi-broker/http';
import { BrokerError, type ErrorCode } from '@lapi-broker/protocol';
import type { Refusal } from '../access/access.ts';
import type { Answer } from './answer.ts';
import type { BodyBudget } from './body-budget.ts';
import { createProblem, type ProblemCase } from './problem.ts';
import { sendPieces } from './send-pieces.ts';

/** Shared by all exchanges of one route. */
export interface ExchangeRoute {
  /** For metrics: the pattern, never the path. */
  readonly label: string;
  /** For everybody, key or not: each answer then ends its connection. Otherwise a stranger who sends thousands of requests in one packet has
   *  them all answered before anybody else is heard, and their answers kept for as long as they are not read (reliability I4.5). */
  readonly open: boolean;
  count(route: string, status: number): void;
  newRequestId(): string;
  /** True while the process leaves: answers then end their connection, so that its client goes to another process. */
  leaving(): boolean;
  onDefect(error: unknown, requestId: string, route: string): void;
}

export type BodyRead =
  | { readonly status: 'read'; readonly body: Buffer }
  | { readonly status: 'too_large' | 'aborted' | 'no_room' };

const CLOSE = { close: true };
/** Of the limit: how long a refused body may be for its connection to live on. */
const DROPPED_BODIES = 4;
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,64}$/;

export class Exchange {
  readonly request: RequestSnapshot;
  readonly response: ResponseHandle;
  readonly requestId: string;
  readonly #route: ExchangeRoute;
  #budget: BodyBudget | undefined;
  #reservedBytes = 0;

  constructor(request: RequestSnapshot, response: ResponseHandle, route: ExchangeRoute) {
    this.request = request;
    this.response = response;
    this.#route = route;
    const given = request.header('x-request-id');
    this.requestId = given !== '' && REQUEST_ID.test(given) ? given : route.newRequestId();
  }

  /** Path parameters by name, percent-decoded once; what cannot be decoded stays as it is and fails its schema. */
  params(names: readonly string[]): Record<string, string> {
    const found: Record<string, string> = {};
    for (let i = 0; i < names.length; i++) found[names[i] as string] = decoded(this.request.params[i] ?? '');
    return found;
  }

  /** Has the request a body? By its headers, before any of it was read. */
  get hasBody(): boolean {
    const length = this.request.header('content-length');
    return (length !== '' && length !== '0') || this.request.header('transfer-encoding') !== '';
  }

  /** Reads the body into a buffer of our own, if the bodies of all requests leave room for it. `too_large` also when it only says it will be.
   *  Must be called in the handler's first tick. */
  async readBody(limitBytes: number, budget: BodyBudget): Promise<BodyRead> {
    const length = this.request.header('content-length');
    this.#budget = budget;
    this.response.onAborted(() => this.#release());
    // Without a length, what it may become says nothing about what it is: it reserves as it grows.
    if (length === '') return this.response.readBody(limitBytes, (bytes) => this.#reserve(bytes));
    const declaredBytes = Number(length);
    if (declaredBytes > limitBytes) return { status: 'too_large' };
    if (!this.#reserve(declaredBytes)) return { status: 'no_room' };
    return this.response.readBody(limitBytes);
  }

  /** Called at most once, if the peer goes away before the answer. To be asked for after the body was read. */
  onAborted(callback: () => void): void {
    this.response.onAborted(() => {
      this.#release();
      callback();
    });
  }

  #reserve(bytes: number): boolean {
    if (this.response.ended || this.#budget?.reserve(bytes) !== true) return false;
    this.#reservedBytes += bytes;
    return true;
  }

  #release(): void {
    this.#budget?.release(this.#reservedBytes);
    this.#reservedBytes = 0;
  }

  send(status: number, contentType: string, bytes: string | Uint8Array, headers: HeaderList = [], close = false): void {
    if (this.response.ended) return;
    this.#release();
    this.#route.count(this.#route.label, status);
    const all: (readonly [string, string])[] = [['X-Request-Id', this.requestId]];
    if (contentType !== '') all.push(['Content-Type', contentType]);
    for (const header of headers) all.push(header);
    this.response.send(status, all, bytes, this.#ends(close));
  }

  /** A promise for what is sent piece by piece; it never rejects for the source. */
  answer(answer: Answer): void | Promise<void> {
    switch (answer.kind) {
      case 'json':
        this.send(answer.status, 'application/json', JSON.stringify(answer.value), answer.headers);
        return;
      case 'bytes':
        this.send(answer.status, answer.contentType, answer.bytes, answer.headers);
        return;
      case 'stream':
        return this.#stream(answer);
      case 'empty':
        this.send(answer.status, '', '');
        return;
      case 'problem':
        this.problem(answer.error, answer.detail, answer);
        return;
    }
  }

  async #stream({ status, contentType, pieces, close, headers = [] }: Answer & { kind: 'stream' }): Promise<void> {
    try {
      if (this.response.ended) return;
      this.#release();
      this.#route.count(this.#route.label, status);
      const all = [['X-Request-Id', this.requestId], ['Content-Type', contentType], ...headers] as const;
      const stream = this.response.stream(status, all);
      try {
        await sendPieces(stream, pieces);
      } catch (error) {
        // The head has left: only a broken connection tells the peer that this is not all.
        stream.abort();
        if (!(error instanceof BrokerError)) this.#route.onDefect(error, this.requestId, this.#route.label);
      }
    } finally {
      await close();
    }
  }

  problem(code: ErrorCode, detail: string, about: Partial<ProblemCase> = {}, close = false): void {
    if (this.response.ended) return;
    this.#release();
    const { status, headers, body } = createProblem(code, {
      method: this.request.method,
      ...about,
      detail,
      requestId: this.requestId,
    });
    this.#route.count(this.#route.label, status);
    this.response.send(status, [['X-Request-Id', this.requestId], ...headers], body, this.#ends(close));
  }

  #ends(close: boolean): typeof CLOSE | undefined {
    return close || this.#route.open || this.#route.leaving() ? CLOSE : undefined;
  }

  /** For a body that was not read. `aborted` needs no answer. A connection that is closed while its client still sends is reset, and the
   *  client may never see why; so the transport drops the bytes of a body whose length is told and not absurd. */
  refuseBody(status: Exclude<BodyRead['status'], 'read'>, limitBytes: number): void {
    const length = this.request.header('content-length');
    const close = length === '' || Number(length) > DROPPED_BODIES * limitBytes;
    if (status === 'too_large') this.problem('request_too_large', `the body exceeds ${limitBytes} bytes`, {}, close);
    else if (status === 'no_room')
      this.problem('rate_limited', 'bytes of request bodies in progress in this process', {}, true);
  }

  /** Closes the connection when a body may still be on its way, because nobody is going to read it, and that of a stranger. */
  refuse(refusal: Refusal): void {
    const about = refusal.retryAfterMs === undefined ? {} : { retryAfterMs: refusal.retryAfterMs };
    this.problem(refusal.error, refusal.detail, about, this.hasBody || refusal.error === 'unauthenticated');
  }

  /** Whatever a handler threw. Only designed failures are told to the caller; the rest is logged under the request id. */
  failed(error: unknown): void {
    if (error instanceof BrokerError && error.code !== 'internal') {
      this.problem(error.code, error.message);
      return;
    }
    this.#route.onDefect(error, this.requestId, this.#route.label);
    this.problem('internal', 'the broker failed in a way it does not know');
  }
}

function decoded(raw: string): string {
  if (!raw.includes('%')) return raw;
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw; // A broken escape: the schema refuses the `%`.
  }
}
