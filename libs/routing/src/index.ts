/** Which node owns which device, and which nodes live: two ports, each in memory and on Redis. */

export { DEFAULT_FLAP_GUARD, type FlapGuard } from './flap-guard.ts';
export { MemoryNodeDirectory } from './memory/node-directory.ts';
export { type KnownProvisioning, MemoryOwnerRegistry, type SessionRow } from './memory/owner-registry.ts';
export type * from './node-directory.ts';
export type * from './owner-registry.ts';
export { QUARANTINE, type Quarantine } from './quarantine.ts';
export { RedisNodeDirectory } from './redis/node-directory.ts';
export { RedisOwnerRegistry } from './redis/owner-registry.ts';
