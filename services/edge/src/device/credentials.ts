/** Answers "with which secrets does this device sign?" Opened secrets are kept for a few minutes, because a fleet that was cut off
 *  registers again at once; a copy can be stale only until the claim, which compares the revision, and a failed Sign is always tried again
 *  with a fresh copy. Unknown devices are not remembered. Store away: throws BrokerError `broker_unavailable`. */

import { hash } from 'node:crypto';
import type { DeviceStore, SecretVault } from '@lapi-broker/device';
import type { DeviceCode } from '@lapi-broker/protocol';
import { CREDENTIALS_CACHE_MS, MAX_CACHED_CREDENTIALS } from '../limits.ts';

export interface DeviceCredentials {
  readonly secrets: readonly string[];
  readonly profile: string;
  readonly tags: readonly string[];
  readonly enabled: boolean;
  readonly revision: number;
}

interface Cached {
  readonly credentials: DeviceCredentials;
  readonly readMs: number;
}

/** Tells whether a session's secret is still active, without keeping the secret in the session. */
export function fingerprint(secret: string): string {
  return hash('sha256', secret, 'base64url').slice(0, 16);
}

export class CredentialCache {
  private readonly store: DeviceStore;
  private readonly vault: SecretVault;
  private readonly cached = new Map<DeviceCode, Cached>();

  constructor(store: DeviceStore, vault: SecretVault) {
    this.store = store;
    this.vault = vault;
  }

  remembered(code: DeviceCode, nowMs: number): DeviceCredentials | undefined {
    const entry = this.cached.get(code);
    if (entry === undefined || nowMs - entry.readMs > CREDENTIALS_CACHE_MS) return undefined;
    return entry.credentials;
  }

  async read(code: DeviceCode, nowMs: number): Promise<DeviceCredentials | undefined> {
    const found = await this.store.credentials(code);
    this.cached.delete(code);
    if (found === undefined) return undefined;
    const sealed =
      found.secrets.next === undefined ? [found.secrets.current] : [found.secrets.current, found.secrets.next];
    const credentials: DeviceCredentials = {
      secrets: sealed.map((secret) => this.vault.open(code, secret)),
      profile: found.profile,
      tags: found.tags,
      enabled: found.enabled,
      revision: found.revision,
    };
    if (this.cached.size >= MAX_CACHED_CREDENTIALS) {
      const oldest = this.cached.keys().next();
      if (!oldest.done) this.cached.delete(oldest.value);
    }
    this.cached.set(code, { credentials, readMs: nowMs });
    return credentials;
  }

  forget(code: DeviceCode): void {
    this.cached.delete(code);
  }
}
