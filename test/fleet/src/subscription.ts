/** The event subscriptions a device holds (protocol 10). They die with the socket (Q13) and expire when nobody renews them.
 *  Expiry is judged when somebody looks, so it needs no timer. Pure but for its own rows; time is a parameter. */

import { type Answer, type Json, numberOf } from './envelope.ts';

interface Subscription {
  readonly id: number;
  readonly type: number;
  /** Infinity for a Duration of 4294967295. */
  expiresAtMs: number;
}

const LIMIT = 16;
const FOR_EVER_S = 4_294_967_295;
const LONGEST_S = 3600;
/** 0 and 65535 both mean everything: NVR and IPC differ. */
const EVERYTHING: readonly number[] = [0, 65_535];

export class SubscriptionTable {
  readonly #rows = new Map<number, Subscription>();
  readonly #address: string;
  readonly #supportType: number;
  #nextId: number;

  constructor(address: string, supportType: number, firstId: number) {
    this.#address = address;
    this.#supportType = supportType;
    this.#nextId = firstId;
  }

  /** `clockMs` is what the device's own clock shows; expiry counts in real time. */
  create(data: Json, nowMs: number, clockMs: number): Answer {
    const durationS = validDuration(data);
    const type = data.Type === undefined ? 0 : numberOf(data.Type);
    if (durationS === undefined || type === undefined) return { code: 2 };
    this.#dropExpired(nowMs);
    if (this.#rows.size >= LIMIT) return { code: 1 };
    const id = this.#nextId;
    this.#nextId += 1;
    this.#rows.set(id, { id, type, expiresAtMs: expiry(durationS, nowMs) });
    return { code: 0, data: { ID: id, ...this.#times(id, durationS, clockMs), SupportType: this.#supportType } };
  }

  renew(id: number, data: Json, nowMs: number, clockMs: number): Answer {
    this.#dropExpired(nowMs);
    const row = this.#rows.get(id);
    const durationS = validDuration(data);
    if (row === undefined || durationS === undefined) return { code: 2 };
    row.expiresAtMs = expiry(durationS, nowMs);
    return { code: 0, data: this.#times(id, durationS, clockMs) };
  }

  remove(id: number, nowMs: number): Answer {
    this.#dropExpired(nowMs);
    return { code: this.#rows.delete(id) ? 0 : 2 };
  }

  capabilities(): Answer {
    return {
      code: 0,
      data: { SupportType: this.#supportType, MaxSubscriptionNum: LIMIT, DurationMin: 1, DurationMax: LONGEST_S },
    };
  }

  /** Ids that are alive. */
  active(nowMs: number): number[] {
    this.#dropExpired(nowMs);
    return [...this.#rows.keys()];
  }

  /** Whether somebody asked for events of this bit; undefined means a kind without a bit, which every subscription covers. */
  covers(bit: number | undefined, nowMs: number): boolean {
    this.#dropExpired(nowMs);
    for (const { type } of this.#rows.values()) {
      if (bit === undefined || EVERYTHING.includes(type) || Math.floor(type / 2 ** bit) % 2 === 1) return true;
    }
    return false;
  }

  /** As it stands in notifications; of the newest subscription, or of a made-up one when there is none (U5). */
  reference(): string {
    return this.#referenceOf([...this.#rows.keys()].at(-1) ?? 0);
  }

  clear(): void {
    this.#rows.clear();
  }

  #times(id: number, durationS: number, clockMs: number): Json {
    const currentTime = Math.floor(clockMs / 1000);
    const TerminationTime = durationS === FOR_EVER_S ? FOR_EVER_S : currentTime + Math.ceil(durationS);
    return { Reference: this.#referenceOf(id), CurrentTime: currentTime, TerminationTime };
  }

  #referenceOf(id: number): string {
    return `${this.#address}:80/Subscription/Subscribers/${id}`;
  }

  #dropExpired(nowMs: number): void {
    for (const { id, expiresAtMs } of this.#rows.values()) {
      if (expiresAtMs <= nowMs) this.#rows.delete(id);
    }
  }
}

function validDuration(data: Json): number | undefined {
  const durationS = numberOf(data.Duration);
  if (durationS === undefined || durationS <= 0) return undefined;
  return durationS <= LONGEST_S || durationS === FOR_EVER_S ? durationS : undefined;
}

function expiry(durationS: number, nowMs: number): number {
  return durationS === FOR_EVER_S ? Number.POSITIVE_INFINITY : nowMs + durationS * 1000;
}
