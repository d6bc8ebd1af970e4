/** What a device remembers between calls: presets, where its cameras look, running streams, its clock, its subscriptions.
 *  Presets and the clock survive a reconnect and a reboot; subscriptions end with the socket, streams with a reboot.
 *  Channels get their memory when first touched, because most devices of a large fleet are never asked for anything. */

import { lanAddress, type Profile } from './profile.ts';
import { HOME, type PtzState, type View } from './ptz.ts';
import { seedOf } from './random.ts';
import { SubscriptionTable } from './subscription.ts';

export interface Preset {
  readonly name: string;
  readonly view: View;
}

export interface Stream {
  readonly stream: number;
  /** 0 playback, 1 live. */
  readonly type: number;
}

export class ChannelMemory {
  readonly presets = new Map<number, Preset>();
  readonly streams = new Map<string, Stream>();
  ptz: PtzState = HOME;
}

export class Equipment {
  readonly code: string;
  readonly profile: Profile;
  readonly address: string;
  readonly subscriptions: SubscriptionTable;
  /** How far the clock was set away from real time. */
  clockOffsetMs = 0;
  readonly #channels = new Map<number, ChannelMemory>();

  constructor(code: string, profile: Profile) {
    const seed = seedOf(code);
    this.code = code;
    this.profile = profile;
    this.address = lanAddress(seed);
    this.subscriptions = new SubscriptionTable(this.address, profile.supportType, 100 + (seed % 900));
  }

  get name(): string {
    return `${this.profile.deviceType} ${this.code.slice(-6)}`;
  }

  /** Undefined when the device has no such channel. */
  channel(id: number): ChannelMemory | undefined {
    const index = id - this.profile.firstChannel;
    if (!Number.isInteger(id) || index < 0 || index >= this.profile.channels) return undefined;
    let memory = this.#channels.get(id);
    if (memory === undefined) {
      memory = new ChannelMemory();
      this.#channels.set(id, memory);
    }
    return memory;
  }

  channelName(id: number): string {
    return this.profile.channels === 1 ? this.name : `Camera ${String(id).padStart(2, '0')}`;
  }

  channelIds(): number[] {
    return Array.from({ length: this.profile.channels }, (_, index) => this.profile.firstChannel + index);
  }

  clockMs(nowMs: number): number {
    return nowMs + this.clockOffsetMs;
  }

  /** What is gone after a power cycle. */
  restart(): void {
    this.subscriptions.clear();
    for (const memory of this.#channels.values()) {
      memory.streams.clear();
      memory.ptz = HOME;
    }
  }
}
