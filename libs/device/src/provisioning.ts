/** Decides what a change makes of a device's provisioning. Pure; both stores write what it answers. Bounds and shapes are checked here too,
 *  because tags and types become parts of keys and of the comma-joined tags of events. */

import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import type { DeviceRow, ListQuery, Provisioning, ProvisioningChange } from './device-store.ts';

export const MAX_TAGS = 32;
/** Devices per answer of `list`. */
export const MAX_LIST = 1000;
const MAX_SEALED_BYTES = 1024;

/** What an operator sets, without what the store adds. */
export type Settings = Pick<Provisioning, 'profile' | 'type' | 'tags' | 'firmware' | 'enabled'>;

const DEFAULTS: Settings = { profile: 'default', type: '', tags: [], firmware: '', enabled: true };

/** Undefined: a new device without a secret. Tags come out sorted and once each. */
export function settingsAfter(stored: Settings | undefined, change: ProvisioningChange): Settings | undefined {
  if (stored === undefined && change.secret === undefined) return undefined;
  const { profile, type, tags, firmware, enabled } = stored ?? DEFAULTS;
  return {
    profile: change.profile ?? profile,
    type: change.type ?? type,
    tags: [...new Set(change.tags ?? tags)].sort(),
    firmware: change.firmware ?? firmware,
    enabled: change.enabled ?? enabled,
  };
}

// Commas part the tags of an event. Control characters have no place in names that people read.
const LABEL = /^[^,\p{Cc}]{1,64}$/u;

/** Throws `invalid_request` for what must not be stored. */
export function checkChange({ profile, type, tags, firmware, secret, nextSecret }: ProvisioningChange): void {
  if (profile !== undefined && !LABEL.test(profile)) refuse('profile', profile);
  if (type !== undefined && type !== '' && !LABEL.test(type)) refuse('type', type);
  if (firmware !== undefined && firmware !== '' && !LABEL.test(firmware)) refuse('firmware', firmware);
  if (tags !== undefined && tags.length > MAX_TAGS)
    throw new BrokerError('invalid_request', `tags: at most ${MAX_TAGS}`);
  for (const tag of tags ?? []) if (!LABEL.test(tag)) refuse('tag', tag);
  for (const sealed of [secret, nextSecret]) {
    if (sealed instanceof Uint8Array && (sealed.length === 0 || sealed.length > MAX_SEALED_BYTES)) {
      throw new BrokerError(
        'invalid_request',
        `a sealed secret has 1 to ${MAX_SEALED_BYTES} bytes, not ${sealed.length}`,
      );
    }
  }
}

/** Did the device change since the caller read it? */
export function isOutdated(stored: Provisioning | undefined, { ifRevision }: ProvisioningChange): boolean {
  return ifRevision !== undefined && stored?.revision !== ifRevision;
}

function refuse(what: string, text: string): never {
  const shown = JSON.stringify(text.slice(0, 80));
  throw new BrokerError(
    'invalid_request',
    `${what} ${shown}: 1 to 64 characters without commas and control characters`,
  );
}

export function checkLimit(limit: number): void {
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIST) {
    throw new BrokerError('invalid_request', `limit: a whole number from 1 to ${MAX_LIST}`);
  }
}

/** Both conditions, also where only one of them narrowed the walk. */
export function isAsked(row: DeviceRow, { tag, type }: ListQuery): boolean {
  return (tag === undefined || row.tags.includes(tag)) && (type === undefined || row.type === type);
}

/** `wished` with `*` at its end asks for everything that begins so. */
export function matchesFirmware(firmware: string, wished: string): boolean {
  return wished.endsWith('*') ? firmware.startsWith(wished.slice(0, -1)) : firmware === wished;
}

/** Codes are ASCII, so the order of UTF-16 units is the order of bytes. */
export function byCode(a: DeviceCode, b: DeviceCode): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
