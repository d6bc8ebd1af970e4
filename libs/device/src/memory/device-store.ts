/** DeviceStore in this process: for tests and for a broker of one process without Redis. Each change is one synchronous step.
 *  What a session adds to a row is asked from `sessionOf` (MemoryOwnerRegistry has it). Grows with the provisioned devices. */

import type { DeviceCode } from '@lapi-broker/protocol';
import type {
  Credentials,
  DeviceRow,
  DeviceStore,
  ListQuery,
  Provisioning,
  ProvisioningChange,
  SealedSecrets,
} from '../device-store.ts';
import { byCode, checkChange, checkLimit, isAsked, isOutdated, settingsAfter } from '../provisioning.ts';

/** What the owner registry knows about a device. */
export interface DeviceSession {
  readonly owner: DeviceRow['owner'];
  readonly facts: { readonly vendor: string; readonly deviceType: string; readonly address: string } | undefined;
  readonly lastOffline: DeviceRow['lastOffline'];
  readonly hold: DeviceRow['hold'];
  readonly subscription: string;
}

export interface MemoryDeviceStoreOptions {
  readonly nowMs: () => number;
  readonly sessionOf?: (code: DeviceCode) => DeviceSession | undefined;
}

interface Entry {
  readonly provisioning: Provisioning;
  readonly secrets: SealedSecrets;
}

export class MemoryDeviceStore implements DeviceStore {
  readonly #nowMs: () => number;
  readonly #sessionOf: (code: DeviceCode) => DeviceSession | undefined;
  readonly #entries = new Map<DeviceCode, Entry>();
  /** Above every revision ever given, so that a device that comes back never repeats one. */
  #lastRevision = 0;

  constructor({ nowMs, sessionOf = () => undefined }: MemoryDeviceStoreOptions) {
    this.#nowMs = nowMs;
    this.#sessionOf = sessionOf;
  }

  async put(code: DeviceCode, change: ProvisioningChange): ReturnType<DeviceStore['put']> {
    checkChange(change);
    const stored = this.#entries.get(code);
    if (isOutdated(stored?.provisioning, change)) return { status: 'changed', revision: 0 };
    const settings = settingsAfter(stored?.provisioning, change);
    if (settings === undefined) return { status: 'secret_required', revision: 0 };
    const nowMs = Math.floor(this.#nowMs());
    const current = change.secret ?? stored?.secrets.current;
    if (current === undefined) return { status: 'secret_required', revision: 0 };
    const next = change.nextSecret === undefined ? stored?.secrets.next : (change.nextSecret ?? undefined);
    const revision = Math.max(this.#lastRevision + 1, nowMs);
    this.#lastRevision = revision;
    const createdAtMs = stored?.provisioning.createdAtMs ?? nowMs;
    this.#entries.set(code, {
      provisioning: { code, ...settings, revision, createdAtMs, updatedAtMs: nowMs },
      // Copies: the caller may wipe its own.
      secrets: { current: Uint8Array.from(current), next: next && Uint8Array.from(next) },
    });
    return { status: stored === undefined ? 'created' : 'updated', revision };
  }

  async remove(code: DeviceCode): Promise<boolean> {
    return this.#entries.delete(code);
  }

  async credentials(code: DeviceCode): Promise<Credentials | undefined> {
    const entry = this.#entries.get(code);
    return entry && { ...entry.provisioning, secrets: entry.secrets };
  }

  async get(code: DeviceCode): Promise<DeviceRow | undefined> {
    const entry = this.#entries.get(code);
    return entry && this.#row(entry);
  }

  async list(query: ListQuery): Promise<readonly DeviceRow[]> {
    checkLimit(query.limit);
    return [...this.#entries.values()]
      .sort((a, b) => byCode(a.provisioning.code, b.provisioning.code))
      .filter(({ provisioning }) => provisioning.code > query.after)
      .map((entry) => this.#row(entry))
      .filter((row) => isAsked(row, query))
      .slice(0, query.limit);
  }

  /** What MemoryOwnerRegistry reads. */
  provisioningOf(code: DeviceCode): Provisioning | undefined {
    return this.#entries.get(code)?.provisioning;
  }

  #row({ provisioning, secrets }: Entry): DeviceRow {
    const session = this.#sessionOf(provisioning.code);
    return {
      ...provisioning,
      owner: session?.owner,
      vendor: session?.facts?.vendor ?? '',
      deviceType: session?.facts?.deviceType ?? '',
      address: session?.facts?.address ?? '',
      subscription: session?.subscription ?? '',
      lastOffline: session?.lastOffline,
      hold: session?.hold,
      hasNextSecret: secrets.next !== undefined,
    };
  }
}
