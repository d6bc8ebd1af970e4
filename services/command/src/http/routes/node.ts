/** The edge nodes over HTTP, as the node directory has them at this moment. */

import { nodeNameOf } from '@lapi-broker/protocol';
import { json, operation } from '../operation.ts';
import { NodeList } from '../schema.ts';

export const listNodes = operation({
  id: 'listNodes',
  tag: 'Nodes',
  summary: 'List edge nodes',
  scope: 'read',
  responses: {
    200: {
      description: 'All nodes that live, and dead ones until their devices have been turned offline.',
      schema: NodeList,
      example: {
        items: [
          {
            node: 'edge-0.0m3k9x1y2a4f7',
            name: 'edge-0',
            phase: 'serving',
            address: 'ws://10.0.0.5:8090',
            version: '0.1.0',
            startedAt: '2025-01-01T00:00:00.000Z',
            lastBeatAt: '2025-01-01T00:10:00.000Z',
            sessions: 4711,
            registrationsPerSecond: 0.5,
            loopLagMs: 1.2,
          },
        ],
      },
    },
  },
  async handle(_call, broker) {
    const nodes = await broker.directory.list();
    const items = nodes.map((view) => ({
      node: view.node,
      name: nodeNameOf(view.node),
      phase: view.alive ? view.phase : 'dead',
      address: view.address,
      version: view.version,
      // The record of a dead node went with its lease.
      ...(view.startedAtMs > 0 ? { startedAt: new Date(view.startedAtMs).toISOString() } : {}),
      lastBeatAt: new Date(view.lastBeatMs).toISOString(),
      sessions: view.sessions,
      registrationsPerSecond: view.registrations,
      loopLagMs: view.loopLagMs,
    }));
    return json(200, { items });
  },
});
