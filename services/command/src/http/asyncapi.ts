/** Makes the AsyncAPI 3.0 document: the three ways on which the broker speaks by itself, from the schemas of their messages (message-schema.ts) and
 *  those that validate what clients send (stream-message.ts). `send` is what the broker sends. Pure. */

import type { z } from 'zod';
import { BROKER_MESSAGES, SSE_MESSAGES, WEBHOOK_MESSAGES, WebhookHeaders } from './message-schema.ts';
import { type JsonObject, SchemaComponents } from './schema-components.ts';
import { EVENT_OPERATIONS, EVENTS_PATH, STREAM_PATH } from './stream.ts';
import { ClientMessage } from './stream-message.ts';

export interface AsyncApiDocument {
  readonly asyncapi: '3.0.0';
  readonly info: JsonObject;
  readonly defaultContentType: 'application/json';
  readonly servers: JsonObject;
  readonly channels: { readonly [name: string]: AsyncApiChannel };
  readonly operations: JsonObject;
  readonly components: {
    readonly schemas: { readonly [name: string]: JsonObject };
    readonly securitySchemes: JsonObject;
  };
}

export interface AsyncApiChannel {
  readonly address: string | null;
  readonly title: string;
  readonly description: string;
  readonly servers?: readonly JsonObject[];
  readonly messages: { readonly [name: string]: JsonObject };
  readonly bindings?: JsonObject;
}

const DESCRIPTION = `What the broker says by itself: events of devices, live and replayed, and the WebSocket that carries them together with commands.

One event has the same members on every way; its schema alone is at \`/v1/event.schema.json\`. Requests and their answers are in the OpenAPI document at \`/v1/openapi.json\`.`;

export function createAsyncApi(version: string): AsyncApiDocument {
  const schemas = new SchemaComponents();
  const message = (name: string, schema: z.ZodType, more: JsonObject = {}): JsonObject => {
    const { description, ...payload } = schemas.use(schema);
    const summary = schema.description ?? description;
    return { name, ...(summary === undefined ? {} : { summary }), payload, ...more };
  };
  const messages = (byType: Readonly<Record<string, z.ZodType>>, more?: JsonObject) =>
    Object.fromEntries(Object.entries(byType).map(([type, schema]) => [type, message(type, schema, more)]));
  const events = EVENT_OPERATIONS.find(({ path }) => path === EVENTS_PATH)?.operation;
  const stream = EVENT_OPERATIONS.find(({ path }) => path === STREAM_PATH)?.operation;
  const sent = messages(BROKER_MESSAGES);
  const received = messages(Object.fromEntries(ClientMessage.options.map((each) => [each.shape.type.value, each])));

  return {
    asyncapi: '3.0.0',
    info: {
      title: 'LAPI Broker',
      version,
      description: DESCRIPTION,
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
    },
    defaultContentType: 'application/json',
    servers: {
      http: server('http', 'Server-sent events.'),
      ws: server('ws', 'WebSocket.'),
    },
    channels: {
      events: {
        address: EVENTS_PATH,
        title: 'Server-sent events',
        description: events?.description ?? '',
        servers: [{ $ref: '#/servers/http' }],
        messages: messages(SSE_MESSAGES),
      },
      stream: {
        address: STREAM_PATH,
        title: 'WebSocket',
        description: stream?.description ?? '',
        servers: [{ $ref: '#/servers/ws' }],
        messages: { ...sent, ...received },
        bindings: { ws: { method: 'GET', bindingVersion: '0.1.0' } },
      },
      webhook: {
        // Of the receiver: whatever the webhook says.
        address: null,
        title: 'Webhooks',
        description:
          'POST requests of the broker to a receiver, signed as Standard Webhooks say. Any 2xx is an acknowledgement; everything else is tried again later.',
        messages: messages(WEBHOOK_MESSAGES, { headers: schemas.use(WebhookHeaders) }),
      },
    },
    operations: {
      sendEvents: {
        ...operation('send', 'events'),
        summary: events?.summary ?? '',
        bindings: {
          http: {
            method: 'GET',
            ...(events?.query === undefined ? {} : { query: schemas.use(events.query) }),
            bindingVersion: '0.3.0',
          },
        },
      },
      sendOnStream: {
        ...operation('send', 'stream', Object.keys(sent)),
        summary: 'What the broker says on the socket.',
      },
      receiveOnStream: {
        ...operation('receive', 'stream', Object.keys(received)),
        summary: 'What a client says on the socket.',
      },
      postToWebhook: {
        ...operation('send', 'webhook'),
        summary: 'Deliver events to a receiver.',
        bindings: { http: { method: 'POST', bindingVersion: '0.3.0' } },
      },
    },
    components: {
      schemas: schemas.all(),
      securitySchemes: { key: { type: 'http', scheme: 'bearer', description: 'An API key of this installation.' } },
    },
  };
}

function server(protocol: string, description: string): JsonObject {
  return {
    host: '{host}',
    protocol,
    description: `${description} Put TLS in front of it where the network is not yours.`,
    variables: { host: { default: 'localhost:8080', description: 'Where a command service listens.' } },
    security: [{ $ref: '#/components/securitySchemes/key' }],
  };
}

function operation(action: 'send' | 'receive', channel: string, messages?: readonly string[]): JsonObject {
  return {
    action,
    channel: { $ref: `#/channels/${channel}` },
    ...(messages === undefined
      ? {}
      : { messages: messages.map((name) => ({ $ref: `#/channels/${channel}/messages/${name}` })) }),
  };
}
