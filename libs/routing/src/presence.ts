/** The text of presence events (protocol D5): what `data` of presence.online and presence.offline holds. The Lua files write the same members. */

import type { NodeId, SessionId } from '@lapi-broker/protocol';
import type { OfflineReason } from './owner-registry.ts';

export function onlineData(node: NodeId, session: SessionId, address: string): string {
  return JSON.stringify({ node, session, address });
}

export function offlineData(reason: OfflineReason, node: NodeId): string {
  return JSON.stringify({ reason, node });
}
