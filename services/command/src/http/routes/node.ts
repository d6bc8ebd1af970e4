/** The edge nodes over HTTP, as the node directory has them at this moment, and what an operator asks of them. A node hears of it with its next
 *  beat, so what was asked survives a lost message; it ends with the incarnation of which it was asked. */

import { type NodeId, nodeNameOf } from '@lapi-broker/protocol';
import type { NodeAsk, NodeView } from '@lapi-broker/routing';
import type { z } from 'zod';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import { json, operation, problem } from '../operation.ts';
import { DrainRequest, NodeList, NodePath, NodeShown } from '../schema.ts';

const EXAMPLE = {
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
} as const;

const DRAINING = {
  ...EXAMPLE,
  phase: 'draining',
  sessions: 1200,
  drain: {
    startedAt: '2025-01-01T00:09:50.000Z',
    endsAt: '2025-01-01T00:10:10.000Z',
    devices: 4711,
    left: 1200,
  },
} as const;

const iso = (ms: number): string => new Date(ms).toISOString();

function toView(view: NodeView): z.output<typeof NodeShown> {
  const { drain } = view;
  return {
    node: view.node,
    name: nodeNameOf(view.node),
    phase: view.alive ? view.phase : 'dead',
    address: view.address,
    version: view.version,
    // The record of a dead node went with its lease.
    ...(view.startedAtMs > 0 ? { startedAt: iso(view.startedAtMs) } : {}),
    lastBeatAt: iso(view.lastBeatMs),
    sessions: view.sessions,
    registrationsPerSecond: view.registrations,
    loopLagMs: view.loopLagMs,
    ...(drain === undefined
      ? {}
      : {
          drain: {
            startedAt: iso(drain.startedAtMs),
            endsAt: iso(drain.endsAtMs),
            devices: drain.devices,
            left: drain.left,
          },
        }),
  };
}

export const listNodes = operation({
  id: 'listNodes',
  tag: 'Nodes',
  summary: 'List edge nodes',
  scope: 'read',
  responses: {
    200: {
      description: 'All nodes that live, and dead ones until their devices have been turned offline.',
      schema: NodeList,
      example: { items: [EXAMPLE] },
    },
  },
  async handle(_call, broker) {
    return json(200, { items: (await broker.directory.list()).map(toView) });
  },
});

/** By incarnation, or by name: then the one that lives, else the one that was seen last. */
async function find(wanted: string, broker: Broker): Promise<NodeView | undefined> {
  const named = (await broker.directory.list())
    .filter(({ node }) => node === wanted || nodeNameOf(node) === wanted)
    .sort((a, b) => Number(b.alive) - Number(a.alive) || b.lastBeatMs - a.lastBeatMs);
  return named[0];
}

const noNode = (wanted: string): Answer => problem('not_found', `there is no node ${wanted}`);
const goneNode = (node: NodeId): Answer => problem('conflict', `the lease of ${node} has ended`);

async function ask(wanted: string, what: NodeAsk, broker: Broker): Promise<Answer> {
  const view = await find(wanted, broker);
  if (view === undefined) return noNode(wanted);
  if (!view.alive || (await broker.directory.ask(view.node, what)) === 'gone') return goneNode(view.node);
  return json(202, toView(view));
}

export const readNode = operation({
  id: 'readNode',
  tag: 'Nodes',
  summary: 'Read an edge node',
  scope: 'read',
  params: NodePath,
  responses: { 200: { description: 'The node.', schema: NodeShown, example: DRAINING } },
  errors: ['not_found'],
  async handle({ params: { node: wanted } }, broker) {
    const view = await find(wanted, broker);
    return view === undefined ? noNode(wanted) : json(200, toView(view));
  },
});

export const drainNode = operation({
  id: 'drainNode',
  tag: 'Nodes',
  summary: 'Take the devices off an edge node',
  description:
    'The node is not ready any more, waits for balancers to hear that, refuses registrations, finishes what is out and sends its devices elsewhere, spread over the time. Then it stays up without devices until it is resumed or ended. `drain` of GET /v1/nodes/{node} shows how far it is. Asked again, it goes on with the new time. It holds for this run of the process: a restarted one serves.',
  scope: 'admin',
  params: NodePath,
  body: DrainRequest.optional(),
  bodyOptional: true,
  bodyExample: { seconds: 60 },
  responses: {
    202: {
      description: 'The node hears of it within two seconds; this is how it was before.',
      schema: NodeShown,
      example: EXAMPLE,
    },
  },
  errors: ['not_found', 'conflict'],
  handle({ params: { node }, body }, broker) {
    return ask(node, { ask: 'drain', seconds: body?.seconds }, broker);
  },
});

export const resumeNode = operation({
  id: 'resumeNode',
  tag: 'Nodes',
  summary: 'Let an edge node serve again',
  description:
    'Takes a drain back: devices that have had their turn go, the others stay, and new ones are taken. A node that was told to drain by a signal ends all the same.',
  scope: 'admin',
  params: NodePath,
  responses: {
    202: {
      description: 'The node hears of it within two seconds; this is how it was before.',
      schema: NodeShown,
      example: DRAINING,
    },
  },
  errors: ['not_found', 'conflict'],
  handle({ params: { node } }, broker) {
    return ask(node, { ask: 'resume' }, broker);
  },
});
