/** The text messages of a LAPI session as a device reads and writes them (protocol 6.2): plain JSON, key order as in the specification.
 *  Pure. Limits on size are the transport's; a message that is not a JSON object is `unreadable`, never an exception. */

export type Json = Record<string, unknown>;

/** A call from the platform. */
export interface DeviceRequest {
  /** As received, with the query. */
  readonly url: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** Upper case. */
  readonly method: string;
  /** As received; undefined when there was none. */
  readonly cseq: unknown;
  /** `{}` when absent or not an object. */
  readonly data: Json;
  /** The whole message. */
  readonly text: string;
}

/** What a device answers to a call. */
export interface Answer {
  readonly code: number;
  /** `{}` when absent. */
  readonly data?: Json;
  /** Further top-level members, such as CreatedID. */
  readonly members?: Json;
}

/** What the broker answered to a request of the device. */
export interface BrokerAnswer {
  /** ResponseCode; undefined when the answer carried none. */
  readonly code: number | undefined;
  readonly data: Json;
  readonly text: string;
}

/** First message of a session (A1); members are undefined when left out. */
export interface RegisterAck {
  readonly cnonce: string | undefined;
  readonly resign: string | undefined;
}

export type Incoming =
  | { readonly kind: 'request'; readonly request: DeviceRequest }
  | { readonly kind: 'answer'; readonly cseq: number; readonly answer: BrokerAnswer }
  | { readonly kind: 'ack'; readonly ack: RegisterAck }
  | { readonly kind: 'unreadable' };

const PHRASES: Readonly<Record<number, string>> = {
  0: 'Succeed',
  1: 'Common Error',
  2: 'Invalid Arguments',
  3: 'Not Authorized',
  4: 'Not Supported',
  5: 'Abnormal User Status',
  102: 'Partially Succeed',
  201: 'Stream session does not exist',
  202: 'Stream session exists',
  203: 'Stream session limit reached',
};

export function readMessage(text: string): Incoming {
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch {
    return { kind: 'unreadable' };
  }
  if (!isJson(message)) return { kind: 'unreadable' };
  if ('ResponseURL' in message || 'ResponseCode' in message) {
    const answer = { code: numberOf(message.ResponseCode), data: isJson(message.Data) ? message.Data : {}, text };
    return { kind: 'answer', cseq: numberOf(message.Cseq) ?? Number.NaN, answer };
  }
  if (typeof message.RequestURL === 'string')
    return { kind: 'request', request: readRequest(message.RequestURL, message, text) };
  if ('Cnonce' in message || 'Resign' in message) {
    return { kind: 'ack', ack: { cnonce: textOf(message.Cnonce), resign: textOf(message.Resign) } };
  }
  return { kind: 'unreadable' };
}

export function requestText(url: string, method: string, cseq: number, data: Json): string {
  return JSON.stringify({ RequestURL: url, Method: method, Cseq: cseq, Data: data });
}

export function answerText(request: DeviceRequest, answer: Answer): string {
  return JSON.stringify({
    ResponseURL: request.url,
    ResponseCode: answer.code,
    ResponseString: PHRASES[answer.code] ?? 'Error',
    ...answer.members,
    Cseq: request.cseq,
    Data: answer.data ?? {},
  });
}

export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Numbers and numeric strings (tolerance 6.3 row 2). */
export function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  if (typeof value !== 'string' || value.trim() === '') return undefined;
  const parsed = Number(value);
  return Number.isFinite(parsed) ? parsed : undefined;
}

function readRequest(url: string, message: Json, text: string): DeviceRequest {
  const mark = url.indexOf('?');
  return {
    url,
    path: mark < 0 ? url : url.slice(0, mark),
    query: new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1)),
    method: typeof message.Method === 'string' ? message.Method.toUpperCase() : '',
    cseq: message.Cseq,
    data: isJson(message.Data) ? message.Data : {},
    text,
  };
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
