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

/** Which headers a server copies, made once. */
export class HeaderPlan {
  /** Undefined: all. */
  readonly names: readonly string[] | undefined;
  /** Place of each name among the copied values. */
  readonly places: ReadonlyMap<string, number>;

  constructor(choice: HeaderChoice) {
    this.names = choice === 'all' ? undefined : choice;
    this.places = new Map(this.names?.map((name, place) => [name, place]));
  }
}

class Snapshot implements RequestSnapshot {
  readonly method: string;
  readonly path: string;
  readonly query: string | undefined;
  readonly params: readonly string[];
  readonly #address: AddressSource;
  readonly #plan: HeaderPlan;
  /** By place, where the plan names them; else by name. */
  readonly #headers: readonly string[] | ReadonlyMap<string, string>;

  constructor(request: NativeRequest, method: string, address: AddressSource, paramCount: number, plan: HeaderPlan) {
    this.method = UPPER.get(method) ?? method.toUpperCase();
    this.path = request.getUrl();
    this.query = request.getQuery();
    this.params = paramCount === 0 ? NONE : paramsOf(request, paramCount);
    this.#address = address;
    this.#plan = plan;
    this.#headers = plan.names === undefined ? allHeaders(request) : chosenHeaders(request, plan.names);
  }

  get address(): string {
    return this.#address.address;
  }

  header(name: string): string {
    const headers = this.#headers;
    if (headers instanceof Map) return headers.get(name) ?? '';
    const place = this.#plan.places.get(name);
    if (place === undefined)
      throw new TypeError(`header ${name} is not copied on this server; name it in its headers option`);
    return (headers as readonly string[])[place] as string;
  }
}

const NONE: readonly string[] = Object.freeze([]);

/** `method` as the request has it, lower case. */
export function snapshotOf(
  request: NativeRequest,
  method: string,
  address: AddressSource,
  paramCount: number,
  plan: HeaderPlan,
): RequestSnapshot {
  return new Snapshot(request, method, address, paramCount, plan);
}

/** Parameters that a uWebSockets.js pattern such as `/v1/devices/:code` has. */
export function paramCountOf(pattern: string): number {
  return pattern.split('/').filter((segment) => segment.startsWith(':')).length;
}

function paramsOf(request: NativeRequest, count: number): readonly string[] {
  const params: string[] = [];
  for (let i = 0; i < count; i++) params.push(request.getParameter(i) ?? '');
  return params;
}

function chosenHeaders(request: NativeRequest, names: readonly string[]): readonly string[] {
  const values: string[] = [];
  for (const name of names) values.push(request.getHeader(name));
  return values;
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
