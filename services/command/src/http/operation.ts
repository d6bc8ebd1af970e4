/** What one route of the API is: its words for the document, the schemas that validate it, and what it does. The same schemas make the
 *  OpenAPI document, so the two cannot differ. Two forms: an operation gets validated input and returns an answer; a raw operation gets
 *  the exchange itself, for the fast path and for streams. */

import { isUtf8 } from 'node:buffer';
import type { HeaderList } from '@lapi-broker/http';
import { type ErrorCode, scanJson } from '@lapi-broker/protocol';
import type { z } from 'zod';
import type { Caller } from '../access/access.ts';
import type { Scope } from '../access/api-key.ts';
import type { Answer } from './answer.ts';
import type { Broker } from './broker.ts';
import type { Exchange } from './exchange.ts';
import type { Fault } from './problem.ts';

export interface ResponseDoc {
  readonly description: string;
  readonly schema?: z.ZodType;
  readonly contentType?: string;
  /** Other content types that the caller can ask for, with what they hold. */
  readonly also?: Readonly<Record<string, z.ZodType>>;
  readonly example?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface OperationDoc {
  /** camelCase, unique; becomes the operationId. */
  readonly id: string;
  readonly tag: string;
  readonly summary: string;
  readonly description?: string;
  /** undefined = open to everybody. */
  readonly scope: Scope | undefined;
  /** Is enough as well. */
  readonly orScope?: Scope;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  /** Request headers; names as written. */
  readonly headers?: z.ZodObject;
  readonly body?: z.ZodType;
  readonly bodyExample?: unknown;
  /** May the body be left out? */
  readonly bodyOptional?: boolean;
  readonly responses: Readonly<Record<string, ResponseDoc>>;
  /** Beyond those that follow from scope and schemas. */
  readonly errors?: readonly ErrorCode[];
}

export interface Call<P, Q, B> {
  /** Undefined on open routes only. */
  readonly caller: Caller | undefined;
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  /** The body as it came. */
  readonly bytes: Buffer;
  readonly exchange: Exchange;
}

export interface RawInput {
  readonly caller: Caller | undefined;
  readonly bytes: Buffer;
  readonly exchange: Exchange;
}

export type BodyLimit = 'api' | 'direct' | 'job';

export interface Operation extends OperationDoc {
  readonly kind: 'operation';
  /** Which bound of the broker holds for the body; undefined = no body is read. */
  readonly bodyLimit: BodyLimit | undefined;
  run(input: RawInput, broker: Broker): Answer | Promise<Answer>;
}

/** Authenticates, validates and answers by itself. */
export interface RawOperation extends OperationDoc {
  readonly kind: 'raw';
  serve(exchange: Exchange, broker: Broker): void;
}

export type Decoded =
  | { readonly status: 'ok'; readonly value: unknown }
  | { readonly status: 'bad'; readonly fault: Fault };

interface Spec<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> extends OperationDoc {
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  readonly bodyLimit?: BodyLimit;
  /** From bytes to the value that `body` validates; JSON when absent. */
  readonly decode?: (bytes: Buffer) => Decoded;
  readonly handle: (call: Call<z.output<P>, z.output<Q>, z.output<B>>, broker: Broker) => Answer | Promise<Answer>;
}

export function operation<
  P extends z.ZodObject = z.ZodObject<Record<never, never>>,
  Q extends z.ZodObject = z.ZodObject<Record<never, never>>,
  B extends z.ZodType = z.ZodUndefined,
>(spec: Spec<P, Q, B>): Operation {
  const { params, query, body, decode = decodeJson, handle, ...doc } = spec;
  return {
    ...doc,
    ...(params === undefined ? {} : { params }),
    ...(query === undefined ? {} : { query }),
    ...(body === undefined ? {} : { body }),
    kind: 'operation',
    bodyLimit: body === undefined ? undefined : (spec.bodyLimit ?? 'api'),
    run({ caller, bytes, exchange }, broker) {
      const faults: Fault[] = [];
      const check = <S extends z.ZodType>(schema: S | undefined, value: unknown, part: string): z.output<S> => {
        const result = schema?.safeParse(value);
        if (result?.success === false) faults.push(...faultsOf(result.error, part));
        return result?.data as z.output<S>;
      };
      const inPath = check(params, exchange.params(Object.keys(params?.shape ?? {})), 'path');
      const inQuery = check(query, queryOf(exchange.request.query, faults), 'query');
      const decoded: Decoded = body === undefined ? { status: 'ok', value: undefined } : decode(bytes);
      if (decoded.status === 'bad') faults.push(decoded.fault);
      const inBody = check(
        decoded.status === 'bad' ? undefined : body,
        decoded.status === 'bad' ? undefined : decoded.value,
        'body',
      );
      if (faults.length > 0) return invalid(faults);
      return handle({ caller, params: inPath, query: inQuery, body: inBody as z.output<B>, bytes, exchange }, broker);
    },
  };
}

export function invalid(faults: readonly Fault[]): Answer {
  const [first] = faults;
  const more = faults.length > 1 ? ` (and ${faults.length - 1} more)` : '';
  return { kind: 'problem', error: 'invalid_request', detail: `${first?.path}: ${first?.problem}${more}`, faults };
}

export function problem(error: ErrorCode, detail: string): Answer {
  return { kind: 'problem', error, detail };
}

export function json(status: number, value: unknown, headers?: HeaderList): Answer {
  return { kind: 'json', status, value, ...(headers === undefined ? {} : { headers }) };
}

const MAX_FAULTS = 20;

export function faultsOf(error: z.ZodError, part: string): Fault[] {
  return error.issues.slice(0, MAX_FAULTS).map((issue) => ({
    path: [part, ...issue.path.map((step) => String(step).slice(0, 64))].join('.'),
    problem: issue.message.slice(0, 500),
  }));
}

/** Why the bytes are not JSON within our bounds (S11); undefined when they are. */
export function jsonFault(bytes: Buffer): string | undefined {
  if (!isUtf8(bytes)) return 'not valid UTF-8';
  switch (scanJson(bytes).status) {
    case 'ok':
      return undefined;
    case 'too_deep':
      return 'JSON nested more than 64 levels deep';
    case 'too_many_keys':
      return 'JSON with more than 10,000 keys';
    default:
      return 'not valid JSON';
  }
}

export function decodeJson(bytes: Buffer): Decoded {
  if (bytes.length === 0) return { status: 'ok', value: undefined };
  const fault = jsonFault(bytes);
  if (fault !== undefined) return { status: 'bad', fault: { path: 'body', problem: fault } };
  return { status: 'ok', value: JSON.parse(bytes.toString()) };
}

/** Null-prototype, because names come from outside. A parameter given twice is a fault, not a choice. */
export function queryOf(query: string | undefined, faults: Fault[]): Record<string, string> {
  const found: Record<string, string> = Object.create(null);
  if (query === undefined || query === '') return found;
  for (const [name, value] of new URLSearchParams(query)) {
    if (name in found) faults.push({ path: `query.${name.slice(0, 64)}`, problem: 'given more than once' });
    found[name] = value;
  }
  return found;
}
