/** What the API says about itself, open to everybody because nothing of an installation is in it: the documents for tools, a page
 *  for people, and the two probes that a load balancer in front of the API port needs. Metrics are on the probe listener only. */

import type { HeaderList } from '@lapi-broker/http';
import { z } from 'zod';
import type { Answer } from '../answer.ts';
import { json, operation } from '../operation.ts';
import { Status } from '../schema.ts';

/** The page has neither scripts nor anything from elsewhere, and must not be framed (threat T17). */
const PAGE_HEADERS: HeaderList = [
  ['Content-Security-Policy', "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"],
  ['X-Content-Type-Options', 'nosniff'],
  ['Cache-Control', 'no-cache'],
];

function documentAt(id: string, summary: string, document: 'openapi' | 'asyncapi' | 'eventSchema', what: string) {
  return operation({
    id,
    tag: 'About',
    summary,
    scope: undefined,
    responses: { 200: { description: what, schema: z.looseObject({}), contentType: DOCUMENT_TYPES[document] } },
    handle: (_call, broker): Answer => ({
      kind: 'bytes',
      status: 200,
      contentType: DOCUMENT_TYPES[document],
      bytes: broker.documents[document],
      headers: [['Cache-Control', 'no-cache']],
    }),
  });
}

const DOCUMENT_TYPES = {
  openapi: 'application/json',
  asyncapi: 'application/json',
  eventSchema: 'application/schema+json',
} as const;

export const readDocument = documentAt('readDocument', 'This document', 'openapi', 'OpenAPI 3.1.');
export const readDocumentAlias = documentAt(
  'readDocumentAlias',
  'This document, at the path where tools look first',
  'openapi',
  'OpenAPI 3.1.',
);
export const readAsyncApi = documentAt(
  'readAsyncApi',
  'What the broker says by itself: events, the WebSocket, webhooks',
  'asyncapi',
  'AsyncAPI 3.0.',
);
export const readEventSchema = documentAt(
  'readEventSchema',
  'One event, as it leaves on every way',
  'eventSchema',
  'JSON Schema 2020-12.',
);

export const readDocs = operation({
  id: 'readDocs',
  tag: 'About',
  summary: 'This document as a page',
  scope: undefined,
  responses: { 200: { description: 'HTML.', contentType: 'text/html; charset=utf-8' } },
  handle: (_call, broker): Answer => ({
    kind: 'bytes',
    status: 200,
    contentType: 'text/html; charset=utf-8',
    bytes: broker.documents.html,
    headers: PAGE_HEADERS,
  }),
});

export const live = operation({
  id: 'live',
  tag: 'About',
  summary: 'Does the process work?',
  scope: undefined,
  responses: { 200: { description: 'Yes.', schema: Status, example: { status: 'ok' } } },
  handle: () => json(200, { status: 'ok' }),
});

export const ready = operation({
  id: 'ready',
  tag: 'About',
  summary: 'Should this process get requests?',
  scope: undefined,
  responses: {
    200: { description: 'Yes.', schema: Status, example: { status: 'ok' } },
    503: {
      description: 'Not now.',
      schema: Status,
      example: { status: 'unavailable', reason: 'the reply channel is not trustworthy now' },
    },
  },
  handle(_call, broker) {
    const verdict = broker.ready();
    return verdict === true ? json(200, { status: 'ok' }) : json(503, { status: 'unavailable', reason: verdict });
  },
});
