/** The three kinds of equipment that can be simulated, and how their serial numbers look. */

export type ProfileName = 'nvr' | 'ipc' | 'radar';

export const PROFILE_NAMES: readonly ProfileName[] = ['nvr', 'ipc', 'radar'];

export interface Profile {
  readonly name: ProfileName;
  /** DeviceType told at registration. */
  readonly deviceType: string;
  readonly model: string;
  /** NVR channels count from 1, an IPC and a radar have channel 0 (protocol 12). */
  readonly firstChannel: number;
  readonly channels: number;
  readonly hasPtz: boolean;
  readonly hasDisk: boolean;
  /** Bit mask of event types told when a subscription is created (protocol 10.2). */
  readonly supportType: number;
  /** Marks the profile inside a simulated serial number. */
  readonly letter: string;
}

const CODE_LENGTH = 20;

/** `nvrChannels` counts for NVRs only. */
export function profileOf(name: ProfileName, nvrChannels = 8): Profile {
  switch (name) {
    case 'nvr':
      return {
        name,
        deviceType: 'NVR',
        model: `NVR-SIM-${nvrChannels}`,
        firstChannel: 1,
        channels: nvrChannels,
        hasPtz: true,
        hasDisk: true,
        supportType: 16_417,
        letter: 'N',
      };
    case 'ipc':
      return {
        name,
        deviceType: 'IPC',
        model: 'IPC-SIM',
        firstChannel: 0,
        channels: 1,
        hasPtz: true,
        hasDisk: false,
        supportType: 16_417,
        letter: 'I',
      };
    case 'radar':
      return {
        name,
        deviceType: 'RADAR',
        model: 'RADAR-SIM',
        firstChannel: 0,
        channels: 1,
        hasPtz: false,
        hasDisk: false,
        supportType: 133_153,
        letter: 'R',
      };
  }
}

/** 20 characters like a real serial number: prefix, profile letter, running number with leading zeros. */
export function deviceCode(prefix: string, profile: Profile, number: number): string {
  const head = prefix + profile.letter;
  return head + String(number).padStart(CODE_LENGTH - head.length, '0');
}

/** A stable address inside the site's network, as it appears in the URLs of a device that sits behind NAT. */
export function lanAddress(seed: number): string {
  return `10.${(seed >>> 16) & 255}.${(seed >>> 8) & 255}.${1 + (seed & 0x7f)}`;
}
