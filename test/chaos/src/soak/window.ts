/** When something was done to the broker on purpose. A window begins with the fault and ends some time after it, so that what it causes is not held
 *  against calm hours. Pure but for what it is told. */

export type Weather = 'calm' | 'drain' | 'failover';

/** How long after a fault its consequences may show. */
export const RECOVERY_MS = 30_000;

export interface Window {
  readonly what: Exclude<Weather, 'calm'>;
  readonly about: string;
  readonly fromMs: number;
  /** Undefined while it is under way; recovery is not in it. */
  toMs: number | undefined;
}

export class Windows {
  readonly all: Window[] = [];

  begin(what: Window['what'], about: string, nowMs: number): Window {
    const window: Window = { what, about, fromMs: nowMs, toMs: undefined };
    this.all.push(window);
    return window;
  }

  /** The worst that is going on. */
  at(nowMs: number): Weather {
    const open = this.all.filter((window) => touches(window, nowMs, nowMs));
    return open.some(({ what }) => what === 'failover') ? 'failover' : (open[0]?.what ?? 'calm');
  }

  /** A store that may forget its last writes makes honest ends uncertain; leaving on purpose does not. */
  blurs(fromMs: number, toMs: number): boolean {
    return this.all.some((window) => window.what === 'failover' && touches(window, fromMs, toMs));
  }
}

function touches({ fromMs, toMs }: Window, since: number, until: number): boolean {
  return fromMs <= until && (toMs === undefined || toMs + RECOVERY_MS >= since);
}
