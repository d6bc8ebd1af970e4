/** The whole API on one screen: every route, the operation behind it, and how requests reach it. The table also makes the OpenAPI document.
 *  Each request is authenticated before its body is judged, answered exactly once, and never ends the process: what a handler throws is
 *  logged under the request id and answered as `internal`. Device paths do not exist here (protocol S9). */

import type { RequestHandler, ServerBuilder } from '@lapi-broker/http';
import { allows, missingScope } from '../access/access.ts';
import { JOB_LIMITS } from '../job/job-limits.ts';
import type { Broker } from './broker.ts';
import { Exchange, type ExchangeRoute } from './exchange.ts';
import type { ApiObserver } from './observer.ts';
import type { DocumentedRoute } from './openapi.ts';
import type { Operation, RawOperation } from './operation.ts';
import { passThrough } from './routes/call.ts';
import { cancelCommand, createCommand, listCommands, readCommand, retryCommand } from './routes/command.ts';
import { disconnectDevice, listDevices, promoteSecret, putDevice, readDevice, removeDevice } from './routes/device.ts';
import {
  live,
  readAsyncApi,
  readDocs,
  readDocument,
  readDocumentAlias,
  readEventSchema,
  ready,
} from './routes/document.ts';
import { readImage } from './routes/image.ts';
import {
  cancelJob,
  createJob,
  exportTargets,
  listJobs,
  listTargets,
  pauseJob,
  readJob,
  resumeJob,
  retryJob,
} from './routes/job.ts';
import { createKey, deleteKey, listKeys } from './routes/key.ts';
import { drainNode, listNodes, readNode, resumeNode } from './routes/node.ts';
import {
  createSchedule,
  deleteSchedule,
  listSchedules,
  pauseSchedule,
  readSchedule,
  resumeSchedule,
} from './routes/schedule.ts';
import {
  ackEvents,
  changeSubscription,
  createSubscription,
  deleteSubscription,
  discardDeadLetters,
  extendEvents,
  listDeadLetters,
  listSubscriptions,
  nackEvents,
  pullEvents,
  readSubscription,
  replayDeadLetters,
} from './routes/subscription.ts';
import { readTimeline } from './routes/timeline.ts';
import {
  changeWebhook,
  createWebhook,
  deleteWebhook,
  disableWebhook,
  discardWebhookDeadLetters,
  enableWebhook,
  listWebhookDeadLetters,
  listWebhookDeliveries,
  listWebhooks,
  readWebhook,
  replayWebhookDeadLetters,
  rotateWebhookSecret,
  testWebhook,
} from './routes/webhook.ts';
import { EVENT_OPERATIONS, type EventConnections, type EventRouteParts, registerEventRoutes } from './stream.ts';

export interface Route extends DocumentedRoute {
  readonly operation: Operation | RawOperation;
}

export const ROUTES: readonly Route[] = [
  { method: 'ANY', path: '/v1/devices/:code/LAPI/*', operation: passThrough },
  { method: 'POST', path: '/v1/devices/:code/commands', operation: createCommand },
  { method: 'GET', path: '/v1/devices/:code/commands', operation: listCommands },
  { method: 'GET', path: '/v1/commands/:id', operation: readCommand },
  { method: 'DELETE', path: '/v1/commands/:id', operation: cancelCommand },
  { method: 'POST', path: '/v1/commands/:id/retry', operation: retryCommand },

  { method: 'GET', path: '/v1/jobs', operation: listJobs },
  { method: 'POST', path: '/v1/jobs', operation: createJob },
  { method: 'GET', path: '/v1/jobs/:id', operation: readJob },
  { method: 'POST', path: '/v1/jobs/:id/pause', operation: pauseJob },
  { method: 'POST', path: '/v1/jobs/:id/resume', operation: resumeJob },
  { method: 'POST', path: '/v1/jobs/:id/cancel', operation: cancelJob },
  { method: 'POST', path: '/v1/jobs/:id/retry-failed', operation: retryJob },
  { method: 'GET', path: '/v1/jobs/:id/targets', operation: listTargets },
  { method: 'GET', path: '/v1/jobs/:id/targets.csv', operation: exportTargets },

  { method: 'GET', path: '/v1/schedules', operation: listSchedules },
  { method: 'POST', path: '/v1/schedules', operation: createSchedule },
  { method: 'GET', path: '/v1/schedules/:id', operation: readSchedule },
  { method: 'DELETE', path: '/v1/schedules/:id', operation: deleteSchedule },
  { method: 'POST', path: '/v1/schedules/:id/pause', operation: pauseSchedule },
  { method: 'POST', path: '/v1/schedules/:id/resume', operation: resumeSchedule },

  { method: 'GET', path: '/v1/subscriptions', operation: listSubscriptions },
  { method: 'POST', path: '/v1/subscriptions', operation: createSubscription },
  { method: 'GET', path: '/v1/subscriptions/:name', operation: readSubscription },
  { method: 'PATCH', path: '/v1/subscriptions/:name', operation: changeSubscription },
  { method: 'DELETE', path: '/v1/subscriptions/:name', operation: deleteSubscription },
  { method: 'POST', path: '/v1/subscriptions/:name/pull', operation: pullEvents },
  { method: 'POST', path: '/v1/subscriptions/:name/ack', operation: ackEvents },
  { method: 'POST', path: '/v1/subscriptions/:name/nack', operation: nackEvents },
  { method: 'POST', path: '/v1/subscriptions/:name/extend', operation: extendEvents },
  { method: 'GET', path: '/v1/subscriptions/:name/dead-letters', operation: listDeadLetters },
  { method: 'POST', path: '/v1/subscriptions/:name/dead-letters/replay', operation: replayDeadLetters },
  { method: 'POST', path: '/v1/subscriptions/:name/dead-letters/discard', operation: discardDeadLetters },

  { method: 'GET', path: '/v1/webhooks', operation: listWebhooks },
  { method: 'POST', path: '/v1/webhooks', operation: createWebhook },
  { method: 'GET', path: '/v1/webhooks/:id', operation: readWebhook },
  { method: 'PATCH', path: '/v1/webhooks/:id', operation: changeWebhook },
  { method: 'DELETE', path: '/v1/webhooks/:id', operation: deleteWebhook },
  { method: 'POST', path: '/v1/webhooks/:id/enable', operation: enableWebhook },
  { method: 'POST', path: '/v1/webhooks/:id/disable', operation: disableWebhook },
  { method: 'POST', path: '/v1/webhooks/:id/rotate-secret', operation: rotateWebhookSecret },
  { method: 'POST', path: '/v1/webhooks/:id/test', operation: testWebhook },
  { method: 'GET', path: '/v1/webhooks/:id/deliveries', operation: listWebhookDeliveries },
  { method: 'GET', path: '/v1/webhooks/:id/dead-letters', operation: listWebhookDeadLetters },
  { method: 'POST', path: '/v1/webhooks/:id/dead-letters/replay', operation: replayWebhookDeadLetters },
  { method: 'POST', path: '/v1/webhooks/:id/dead-letters/discard', operation: discardWebhookDeadLetters },

  { method: 'GET', path: '/v1/devices', operation: listDevices },
  { method: 'GET', path: '/v1/devices/:code', operation: readDevice },
  { method: 'GET', path: '/v1/devices/:code/timeline', operation: readTimeline },
  { method: 'PUT', path: '/v1/devices/:code', operation: putDevice },
  { method: 'DELETE', path: '/v1/devices/:code', operation: removeDevice },
  { method: 'POST', path: '/v1/devices/:code/secret/promote', operation: promoteSecret },
  { method: 'POST', path: '/v1/devices/:code/disconnect', operation: disconnectDevice },

  { method: 'GET', path: '/v1/images/:id', operation: readImage },

  { method: 'GET', path: '/v1/nodes', operation: listNodes },
  { method: 'GET', path: '/v1/nodes/:node', operation: readNode },
  { method: 'POST', path: '/v1/nodes/:node/drain', operation: drainNode },
  { method: 'POST', path: '/v1/nodes/:node/resume', operation: resumeNode },

  { method: 'GET', path: '/v1/keys', operation: listKeys },
  { method: 'POST', path: '/v1/keys', operation: createKey },
  { method: 'DELETE', path: '/v1/keys/:id', operation: deleteKey },

  { method: 'GET', path: '/v1/openapi.json', operation: readDocument },
  { method: 'GET', path: '/openapi.json', operation: readDocumentAlias },
  { method: 'GET', path: '/v1/asyncapi.json', operation: readAsyncApi },
  { method: 'GET', path: '/v1/event.schema.json', operation: readEventSchema },
  { method: 'GET', path: '/docs', operation: readDocs },
  { method: 'GET', path: '/livez', operation: live },
  { method: 'GET', path: '/readyz', operation: ready },
];

/** What the OpenAPI document describes: the table, and the live ways out for events (stream.ts). */
export const DOCUMENTED: readonly DocumentedRoute[] = [...ROUTES, ...EVENT_OPERATIONS];

/** Headers that handlers read; the transport copies no others, because each costs time on the fast path. Upgrades have a list of their own. */
export const API_HEADERS: readonly string[] = [
  'accept',
  'authorization',
  'content-length',
  'transfer-encoding',
  'x-request-id',
  'x-lapi-timeout',
  'x-lapi-connect-timeout',
  'idempotency-key',
  'last-event-id',
  'range',
  'if-range',
  'if-none-match',
];

/** Mounts everything. The answer is the part of the process that looks after live event connections. */
export function registerApi(
  server: ServerBuilder,
  broker: Broker,
  observer: ApiObserver,
  events: Pick<EventRouteParts, 'feed' | 'clock'>,
): EventConnections {
  const connections = registerEventRoutes(server, { ...events, broker, observer });
  const exchangeRoute = (label: string, open: boolean): ExchangeRoute => ({
    label,
    open,
    count: (route, status) => observer.answered(route, status),
    newRequestId: () => observer.newRequestId(),
    leaving: () => observer.leaving(),
    onDefect: (error, requestId, route) => observer.defect(error, requestId, route),
  });
  for (const { method, path, operation } of ROUTES)
    server.route(method, path, serve(operation, exchangeRoute(path, operation.scope === undefined), broker));
  for (const [path, methods] of methodsByPath(ROUTES)) {
    if (methods.includes('ANY')) continue;
    const route = exchangeRoute(path, true);
    server.route('ANY', path, (request, response) => {
      const headers = [['Allow', methods.join(', ')]] as const;
      new Exchange(request, response, route).problem('method_not_allowed', `use ${methods.join(' or ')}`, { headers });
    });
  }
  const nowhere = exchangeRoute('none', true);
  server.otherwise((request, response) => {
    new Exchange(request, response, nowhere).problem('not_found', 'there is no such path; /openapi.json lists all');
  });
  return connections;
}

export function methodsByPath(routes: readonly Pick<Route, 'method' | 'path'>[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { method, path } of routes) found.set(path, [...(found.get(path) ?? []), method]);
  return found;
}

const NOTHING = Buffer.alloc(0);

function serve(operation: Operation | RawOperation, route: ExchangeRoute, broker: Broker): RequestHandler {
  if (operation.kind === 'raw') {
    return (request, response) => {
      const exchange = new Exchange(request, response, route);
      try {
        operation.serve(exchange, broker);
      } catch (error) {
        exchange.failed(error);
      }
    };
  }
  return async (request, response) => {
    const exchange = new Exchange(request, response, route);
    try {
      await run(operation, exchange, broker);
    } catch (error) {
      exchange.failed(error);
    }
  };
}

function bodyLimitOf(limit: Operation['bodyLimit'], broker: Broker): number {
  if (limit === 'job') return JOB_LIMITS.requestBytes;
  return limit === 'direct' ? broker.directBodyBytes : broker.apiBodyBytes;
}

async function run(operation: Operation, exchange: Exchange, broker: Broker): Promise<void> {
  const { scope, orScope, bodyLimit } = operation;
  const limitBytes = bodyLimitOf(bodyLimit, broker);
  const answering = scope === undefined ? undefined : broker.access.authenticate(exchange.request);
  if (answering !== undefined && !(answering instanceof Promise) && answering.status === 'refused')
    return exchange.refuse(answering);
  // The transport hands over a body only to those who ask in the first tick, so it is read beside the authentication.
  const reading =
    bodyLimit !== undefined && exchange.hasBody ? exchange.readBody(limitBytes, broker.bodies) : undefined;
  const caller = await answering;
  if (caller?.status === 'refused') return exchange.refuse(caller);
  if (caller !== undefined && scope !== undefined && !allows(caller, scope) && !allows(caller, orScope ?? scope))
    return exchange.refuse(missingScope(scope));
  const read = await reading;
  if (read === undefined || read.status === 'read') {
    return exchange.answer(await operation.run({ caller, bytes: read?.body ?? NOTHING, exchange }, broker));
  }
  exchange.refuseBody(read.status, limitBytes);
}
