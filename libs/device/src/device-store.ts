/** Answers "is this device provisioned, with which secrets and which profile?"
 *  Written by the platform API, read by edges at registration. Every change raises `revision`, which the claim compares, so a cached copy
 *  can never register a device with a revoked secret. Secrets pass through here only as ciphertext (SecretVault).
 *  Store away: methods throw BrokerError `broker_unavailable`. */

import type { DeviceCode, NodeId } from '@lapi-broker/protocol';

/** What an operator sets. */
export interface Provisioning {
  readonly code: DeviceCode;
  readonly profile: string;
  /** nvr, ipc, radar, …: free text of the operator, for filters. Not the DeviceType the device announces. */
  readonly type: string;
  readonly tags: readonly string[];
  /** As the platform's inventory knows it, for filters; '' if it never said. Devices do not announce it when they register. */
  readonly firmware: string;
  readonly enabled: boolean;
  readonly revision: number;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

/** What an edge needs to verify a device: ciphertexts for SecretVault. */
export interface SealedSecrets {
  readonly current: Uint8Array;
  readonly next: Uint8Array | undefined;
}

export interface Credentials extends Provisioning {
  readonly secrets: SealedSecrets;
}

/** Absent members keep what is stored; `nextSecret: null` removes it. A new device needs `secret`. */
export interface ProvisioningChange {
  readonly secret?: Uint8Array;
  readonly nextSecret?: Uint8Array | null;
  readonly profile?: string;
  readonly type?: string;
  readonly tags?: readonly string[];
  readonly firmware?: string;
  readonly enabled?: boolean;
  /** Changes nothing (`changed`) if the device is no longer at this revision. */
  readonly ifRevision?: number;
}

/** Provisioning joined with what the registry row says about the session. */
export interface DeviceRow extends Provisioning {
  /** Named by the row; online only while the lease of this node lives (NodeDirectory). */
  readonly owner:
    | { readonly node: NodeId; readonly epoch: number; readonly session: string; readonly sinceMs: number }
    | undefined;
  /** From the last session; empty before the first. */
  readonly vendor: string;
  readonly deviceType: string;
  readonly address: string;
  /** What the node of the running session noted about its event subscription (protocol U6): JSON text, empty if nothing. */
  readonly subscription: string;
  readonly lastOffline: { readonly reason: string; readonly atMs: number } | undefined;
  /** Why and until when it was kept away last, and the addresses it came from; over once that time has passed. */
  readonly hold:
    | { readonly reason: string; readonly untilMs: number; readonly addresses: readonly string[] }
    | undefined;
  readonly hasNextSecret: boolean;
}

export interface ListQuery {
  /** Codes after this one, in byte order; empty = from the start. */
  readonly after: string;
  readonly limit: number;
  /** Narrows the index that is walked; further conditions are the caller's. */
  readonly tag?: string;
  readonly type?: string;
}

export interface DeviceStore {
  put(
    code: DeviceCode,
    change: ProvisioningChange,
  ): Promise<{ readonly status: 'created' | 'updated' | 'secret_required' | 'changed'; readonly revision: number }>;
  /** False if it was not there. The epoch stays for 30 days (I2). */
  remove(code: DeviceCode): Promise<boolean>;
  /** Everything an edge needs to verify, in one read; undefined if not provisioned. */
  credentials(code: DeviceCode): Promise<Credentials | undefined>;
  get(code: DeviceCode): Promise<DeviceRow | undefined>;
  /** In byte order of the code over all shards. A short answer means the end. */
  list(query: ListQuery): Promise<readonly DeviceRow[]>;
}
