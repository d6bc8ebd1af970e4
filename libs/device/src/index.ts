/** Which devices are provisioned, with which secrets and which profile: a port in memory and on Redis, the sealing of secrets, the profiles. */

export type * from './device-store.ts';
export { type DeviceSession, MemoryDeviceStore, type MemoryDeviceStoreOptions } from './memory/device-store.ts';
export { createProfiles, type Profile, type Profiles, type Subscription } from './profiles.ts';
export { MAX_LIST, MAX_TAGS, matchesFirmware } from './provisioning.ts';
export { RedisDeviceStore } from './redis/device-store.ts';
export { checkSecretStrength } from './secret-strength.ts';
export { createSecretVault, type MasterKeys, type SecretOwner, type SecretVault } from './secret-vault.ts';
