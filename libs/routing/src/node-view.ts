/** The parts of a node list that do not depend on where the nodes are kept. */

import type { NodeId } from '@lapi-broker/protocol';
import type { NodeStatus, NodeView } from './node-directory.ts';

export const IDLE: NodeStatus = { sessions: 0, registrations: 0, loopLagMs: 0, phase: 'serving' };

/** What is left of an incarnation whose lease ended: its record went with the lease. */
export function deadNode(node: NodeId, lastBeatMs: number): NodeView {
  return { node, address: '', version: '', startedAtMs: 0, ...IDLE, alive: false, lastBeatMs };
}

export function byNode(a: NodeView, b: NodeView): number {
  return a.node < b.node ? -1 : 1;
}
