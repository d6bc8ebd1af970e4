/** Copies a request out of the transport's memory before its handler runs, because that memory is freed when the handler returns
 *  (protocol H7). Which headers are copied can be narrowed to a list: on the registration path each header costs about as much as
 *  parsing the whole query. Not decoded, not validated here; the query is never parsed (protocol H8). */

import type { RequestSnapshot } from './types.ts';
import type { NativeRequest, NativeResponse } from './uws.ts';

/** Asking the transport for the address costs as much as copying five headers, so it is done when somebody wants to know. */
export interface AddressSource {
  readonly address: string;
}

/** Names that are copied, lower case; 'all' copies whatever was sent. */
export type HeaderChoice = readonly string[] | 'all';

const UPPER: ReadonlyMap<string, string> = new Map(
  ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'].map((method) => [method, method.toUpperCase()]),
);

class Snapshot implements RequestSnapshot {
  readonly method: string;
  readonly path: string;
  readonly query: string | undefined;
  readonly params: readonly string[];
  readonly #address: AddressSource;
  readonly #headers: ReadonlyMap<string, string>;
  readonly #choice: HeaderChoice;

  constructor(request: NativeRequest, address: AddressSource, paramCount: number, choice: HeaderChoice) {
    const method = request.getMethod();
    this.method = UPPER.get(method) ?? method.toUpperCase();
    this.path = request.getUrl();
    this.query = request.getQuery();
    this.params = paramCount === 0 ? NONE : paramsOf(request, paramCount);
    this.#address = address;
    this.#headers = choice === 'all' ? allHeaders(request) : chosenHeaders(request, choice);
    this.#choice = choice;
  }

  get address(): string {
    return this.#address.address;
  }

  header(name: string): string {
    const value = this.#headers.get(name);
    if (value !== undefined) return value;
    if (this.#choice !== 'all' && !this.#choice.includes(name)) {
      throw new TypeError(`header ${name} is not copied on this server; name it in its headers option`);
    }
    return '';
  }
}

const NONE: readonly string[] = Object.freeze([]);

export function snapshotOf(
  request: NativeRequest,
  address: AddressSource,
  paramCount: number,
  choice: HeaderChoice,
): RequestSnapshot {
  return new Snapshot(request, address, paramCount, choice);
}

/** Parameters that a uWebSockets.js pattern such as `/v1/devices/:code` has. */
export function paramCountOf(pattern: string): number {
  return pattern.split('/').filter((segment) => segment.startsWith(':')).length;
}

function paramsOf(request: NativeRequest, count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => request.getParameter(index) ?? '');
}

function chosenHeaders(request: NativeRequest, names: readonly string[]): ReadonlyMap<string, string> {
  const headers = new Map<string, string>();
  for (const name of names) {
    const value = request.getHeader(name);
    if (value !== '') headers.set(name, value);
  }
  return headers;
}

function allHeaders(request: NativeRequest): ReadonlyMap<string, string> {
  const headers = new Map<string, string>();
  request.forEach((name, value) => {
    const earlier = headers.get(name);
    headers.set(name, earlier === undefined ? value : `${earlier}, ${value}`);
  });
  return headers;
}

/** The transport's text for an IPv4-mapped address, which a dual-stack listener sees for every IPv4 peer. */
const MAPPED = /^(?:0000:){5}ffff:([0-9a-f]{4}):([0-9a-f]{4})$/;

export function remoteAddressOf(response: NativeResponse): string {
  return plainAddress(Buffer.from(response.getRemoteAddressAsText()).toString('latin1'));
}

/** Empty when the connection brought no PROXY header. */
export function proxiedAddressOf(response: NativeResponse): string {
  return plainAddress(Buffer.from(response.getProxiedRemoteAddressAsText()).toString('latin1'));
}

export function plainAddress(text: string): string {
  const mapped = text.length === 39 ? MAPPED.exec(text) : null;
  if (mapped === null) return text;
  const bytes = Buffer.from(`${mapped[1]}${mapped[2]}`, 'hex');
  return bytes.join('.');
}
