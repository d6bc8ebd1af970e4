/** Answers "how many per second, of late?" over the last seconds. Pure; time is a parameter and only grows. */

const WINDOW_MS = 10_000;
const STEP_MS = 500;

export class RateMeter {
  readonly #steps: { readonly atMs: number; readonly count: number }[] = [];
  #count = 0;

  add(count: number, nowMs: number): void {
    const last = this.#steps.at(-1);
    if (last === undefined || nowMs - last.atMs >= STEP_MS) this.#steps.push({ atMs: nowMs, count: this.#count });
    this.#count += count;
    while (this.#steps.length > 1 && nowMs - (this.#steps[0]?.atMs ?? nowMs) > WINDOW_MS) this.#steps.shift();
  }

  /** 0 before the first second has passed. */
  perSecond(nowMs: number): number {
    const first = this.#steps[0];
    if (first === undefined || nowMs - first.atMs < 1_000) return 0;
    return ((this.#count - first.count) * 1_000) / (nowMs - first.atMs);
  }
}
