/** Answers "which of these devices have a session now?" for jobs: owner rows joined with the leases of their nodes, as everywhere. May be a
 *  second old. Bounded by its callers, who ask for some hundreds at a time. Store away: rejects with `broker_unavailable`. */

import type { DeviceCode, NodeId } from '@lapi-broker/protocol';
import type { OwnerRegistry } from '@lapi-broker/routing';
import type { NodeWatch } from '../node/node-watch.ts';

export interface Presence {
  readonly known: boolean;
  readonly online: boolean;
}

export interface PresenceParts {
  readonly registry: Pick<OwnerRegistry, 'lookUp'>;
  readonly nodes: Pick<NodeWatch, 'liveness' | 'refresh'>;
}

/** In the order asked. */
export async function lookUpAll(
  { registry, nodes }: PresenceParts,
  codes: readonly DeviceCode[],
): Promise<readonly Presence[]> {
  const rows = await Promise.all(codes.map((code) => registry.lookUp(code)));
  await refreshFor(
    nodes,
    rows.map(({ owner }) => owner?.node),
  );
  return rows.map(({ provisioned, owner }) => ({
    known: provisioned,
    online: owner !== undefined && nodes.liveness(owner.node) === 'alive',
  }));
}

/** A node that joined a moment ago must not be taken for dead. */
export async function refreshFor(
  nodes: PresenceParts['nodes'],
  owners: readonly (NodeId | undefined)[],
): Promise<void> {
  if (owners.some((node) => node !== undefined && nodes.liveness(node) === 'unknown')) await nodes.refresh();
}
