/** Makes the OpenAPI 3.1 document from the table of routes, with the very schemas that validate requests (z.toJSONSchema), so that what is
 *  written is what is checked. Every operation lists its errors by code, each with an example made by the code that makes the real one. Pure. */

import { ERRORS, type ErrorCode, errorDefinition, LAPI_METHODS } from '@lapi-broker/protocol';
import type { z } from 'zod';
import type { OperationDoc } from './operation.ts';
import { createProblem, PROBLEM_TYPE } from './problem.ts';
import { ProblemDocument } from './schema.ts';
import { type JsonObject, SchemaComponents } from './schema-components.ts';

export interface OpenApiParameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required: boolean;
  readonly description: string;
  readonly schema: JsonObject;
}

export interface OpenApiResponse {
  readonly description: string;
  readonly headers?: JsonObject;
  readonly content?: {
    readonly [type: string]: {
      readonly schema?: JsonObject;
      readonly example?: unknown;
      readonly examples?: JsonObject;
    };
  };
}

export interface OpenApiOperation {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description?: string;
  readonly security: readonly JsonObject[];
  readonly parameters?: readonly OpenApiParameter[];
  readonly requestBody?: { readonly required: boolean; readonly content: JsonObject };
  readonly responses: { readonly [status: string]: OpenApiResponse };
  readonly 'x-scope'?: string;
}

export interface OpenApiDocument {
  readonly openapi: '3.1.0';
  readonly info: {
    readonly title: string;
    readonly version: string;
    readonly summary: string;
    readonly description: string;
    readonly license: JsonObject;
  };
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  readonly paths: { readonly [path: string]: { readonly [method: string]: OpenApiOperation } };
  readonly components: {
    readonly schemas: { readonly [name: string]: JsonObject };
    readonly examples: JsonObject;
    readonly headers: JsonObject;
    readonly securitySchemes: JsonObject;
  };
}

const TAGS = [
  { name: 'Commands', description: 'LAPI calls to devices: now, or when they can be delivered.' },
  { name: 'Jobs', description: 'One command for many devices.' },
  { name: 'Schedules', description: 'Commands and jobs at the moments of a timetable.' },
  { name: 'Events', description: 'What devices send, live and from where a subscriber left off.' },
  { name: 'Subscriptions', description: 'Durable: events that are handed out until they are acknowledged.' },
  { name: 'Webhooks', description: 'Events that are sent to a URL, signed, until they are taken.' },
  { name: 'Devices', description: 'The fleet: provisioning, sessions, rotation of secrets.' },
  { name: 'Nodes', description: 'The edge processes that hold the sessions.' },
  { name: 'Keys', description: 'API keys and their scopes.' },
  { name: 'About', description: 'This document and the probes.' },
] as const;

const DESCRIPTION = `Call LAPI devices that dial in, and hear their events.

Every request needs \`Authorization: Bearer <key>\`, except where an operation says otherwise. Scopes: \`read\` (devices, nodes, events), \`call\` (LAPI calls on open paths), \`admin\` (everything, guarded paths included).

Every answer carries \`X-Request-Id\`: the caller's own if it sent one of 1–64 characters A–Z a–z 0–9 . _ : -, else a new one. Errors of the broker are problem documents (RFC 9457) with \`source: "broker"\`; answers of devices have \`source: "device"\`. Tell cases apart by \`source\` and \`error\`, never by the status alone.`;

export interface DocumentedRoute {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'ANY';
  /** Pattern of the transport. */
  readonly path: string;
  readonly operation: OperationDoc;
}

export function createOpenApi(routes: readonly DocumentedRoute[], version: string): OpenApiDocument {
  const schemas = new SchemaComponents();
  const problem = schemas.use(ProblemDocument);
  const paths: { [path: string]: { [method: string]: OpenApiOperation } } = {};
  for (const { method, path, operation } of routes) {
    const methods = method === 'ANY' ? LAPI_METHODS : [method];
    const template = toTemplate(path);
    for (const each of methods) {
      const suffix = methods.length > 1 ? `With${each[0]}${each.slice(1).toLowerCase()}` : '';
      const item = describeOperation(operation, path, each, `${operation.id}${suffix}`, schemas, problem);
      paths[template] = { ...paths[template], [each.toLowerCase()]: item };
    }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'LAPI Broker',
      version,
      summary: 'A cluster broker for camera fleets that speak LAPI.',
      description: DESCRIPTION,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    tags: TAGS,
    paths,
    components: {
      schemas: schemas.all(),
      examples: Object.fromEntries((Object.keys(ERRORS) as ErrorCode[]).map((code) => [code, exampleOf(code)])),
      headers: { RequestId: { description: 'Id of this request, also in logs.', schema: { type: 'string' } } },
      securitySchemes: { key: { type: 'http', scheme: 'bearer', description: 'An API key of this installation.' } },
    },
  };
}

/** `/v1/devices/:code/LAPI/*` → `/v1/devices/{code}/LAPI/{path}`. */
export function toTemplate(path: string): string {
  return path.replace(/:(\w+)/g, '{$1}').replace(/\*$/, '{path}');
}

function describeOperation(
  operation: OperationDoc,
  path: string,
  method: string,
  operationId: string,
  schemas: SchemaComponents,
  problem: JsonObject,
): OpenApiOperation {
  const { tag, summary, description, scope, orScope, params, query, headers, body, bodyExample } = operation;
  const parameters = [
    ...parametersOf(params, 'path', schemas),
    ...(path.endsWith('*') ? [REST] : []),
    ...parametersOf(query, 'query', schemas),
    ...parametersOf(headers, 'header', schemas),
  ];
  const passesBody = path.endsWith('*') && method !== 'GET';
  return {
    operationId,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    ...(scope === undefined ? {} : { 'x-scope': orScope === undefined ? scope : `${scope} or ${orScope}` }),
    security: scope === undefined ? [] : [{ key: [] }],
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: operation.bodyOptional !== true,
            content: {
              'application/json': {
                schema: schemas.use(body),
                ...(bodyExample === undefined ? {} : { example: bodyExample }),
              },
            },
          },
        }),
    ...(passesBody
      ? {
          requestBody: {
            required: false,
            content: { 'application/json': { schema: { description: '`Data` of the request.' } } },
          },
        }
      : {}),
    responses: { ...responsesOf(operation, schemas), ...errorResponses(operation, problem) },
  };
}

const REST: OpenApiParameter = {
  name: 'path',
  in: 'path',
  required: true,
  description: 'Rest of the RequestURL, slashes included; its query is passed on too.',
  schema: { type: 'string', examples: ['V1.0/System/DeviceInfo'] },
};

function parametersOf(
  shape: z.ZodObject | undefined,
  place: OpenApiParameter['in'],
  schemas: SchemaComponents,
): OpenApiParameter[] {
  return Object.entries(shape?.shape ?? {}).map(([name, field]) => {
    const { description, ...schema } = schemas.use(field as z.ZodType);
    return {
      name,
      in: place,
      required: place === 'path' || !(field as z.ZodType).safeParse(undefined).success,
      description: typeof description === 'string' ? description : '',
      schema,
    };
  });
}

const ALWAYS = { 'X-Request-Id': { $ref: '#/components/headers/RequestId' } };

function responsesOf({ responses }: OperationDoc, schemas: SchemaComponents): { [status: string]: OpenApiResponse } {
  return Object.fromEntries(
    Object.entries(responses).map(([status, { description, schema, contentType, also = {}, example }]) => [
      status,
      {
        description,
        headers: ALWAYS,
        ...(schema === undefined && contentType === undefined
          ? {}
          : {
              content: {
                [contentType ?? 'application/json']: {
                  ...(schema === undefined ? {} : { schema: schemas.use(schema) }),
                  ...(example === undefined ? {} : { example }),
                },
                ...Object.fromEntries(
                  Object.entries(also).map(([type, other]) => [type, { schema: schemas.use(other) }]),
                ),
              },
            }),
      },
    ]),
  );
}

/** All codes that an operation can answer with: its own, and those that follow from what it has. */
export function errorsOf({ scope, params, query, body, errors }: OperationDoc): readonly ErrorCode[] {
  const codes = new Set<ErrorCode>(errors);
  if (scope !== undefined)
    for (const code of ['unauthenticated', 'forbidden', 'rate_limited', 'broker_unavailable'] as const) codes.add(code);
  if (params !== undefined || query !== undefined || body !== undefined) codes.add('invalid_request');
  if (body !== undefined) codes.add('request_too_large');
  codes.add('internal');
  return (Object.keys(ERRORS) as ErrorCode[]).filter((code) => codes.has(code));
}

function errorResponses(operation: OperationDoc, problem: JsonObject): { [status: string]: OpenApiResponse } {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of errorsOf(operation)) {
    const { status } = errorDefinition(code);
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, codes]) => {
      const waits = codes.some((code) => errorDefinition(code).retryAfterS !== undefined);
      const headers = waits
        ? { ...ALWAYS, 'Retry-After': { description: 'Seconds.', schema: { type: 'integer' } } }
        : ALWAYS;
      const examples = Object.fromEntries(codes.map((code) => [code, { $ref: `#/components/examples/${code}` }]));
      const description = codes.map((code) => `\`${code}\`: ${errorDefinition(code).cause}`).join('\n\n');
      return [String(status), { description, headers, content: { [PROBLEM_TYPE]: { schema: problem, examples } } }];
    }),
  );
}

/** What a GET gets. */
function exampleOf(code: ErrorCode): JsonObject {
  const { cause, title } = errorDefinition(code);
  return {
    summary: title,
    value: JSON.parse(createProblem(code, { detail: cause, requestId: 'c1-1a', method: 'GET' }).body),
  };
}
