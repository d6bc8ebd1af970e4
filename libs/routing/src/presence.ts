/** The text of the events that the registry writes: what `data` of presence, device and node events holds. The Lua files write the same
 *  members. */

import { type NodeId, nodeNameOf, type SessionId } from '@lapi-broker/protocol';
import type { FlapGuard } from './flap-guard.ts';
import type { Hold, NodeEnd, OfflineReason } from './owner-registry.ts';
import type { Quarantine } from './quarantine.ts';

export function onlineData(node: NodeId, session: SessionId, address: string): string {
  return JSON.stringify({ node, session, address });
}

export function offlineData(reason: OfflineReason, node: NodeId): string {
  return JSON.stringify({ reason, node });
}

/** `address`: of the newcomer that was refused. `incumbentAddress`: of the session that stays. */
export function holdData(hold: Hold, guard: FlapGuard, address: string, incumbentAddress: string): string {
  return JSON.stringify({
    takeOvers: guard.limit + 1,
    windowSeconds: guard.windowMs / 1000,
    heldUntil: new Date(hold.untilMs).toISOString(),
    address,
    incumbentAddress,
    addresses: hold.addresses,
  });
}

export function quarantineData(
  reason: OfflineReason,
  { limit, windowMs }: Quarantine,
  untilMs: number,
  address: string,
): string {
  return JSON.stringify({
    reason,
    ends: limit + 1,
    windowSeconds: windowMs / 1000,
    heldUntil: new Date(untilMs).toISOString(),
    address,
  });
}

export function nodeEndData(node: NodeId, end: NodeEnd, devices: number): string {
  return JSON.stringify({ node, name: nodeNameOf(node), ...(end === 'lost' ? { devices } : {}) });
}
