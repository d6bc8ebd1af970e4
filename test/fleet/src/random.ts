/** Repeatable chance: the same seed gives the same fleet, the same jitter and the same events.
 *  Not for secrets: nonces and keys come from node:crypto. */

/** A number in [0, 1). */
export type Random = () => number;

/** 32-bit FNV-1a of the text, so that "seed + code" gives each device its own stream. */
export function seedOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}

/** mulberry32: four bytes of state, because there is one per device. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A value in [value × (1 − share), value × (1 + share)). */
export function jittered(value: number, share: number, random: Random): number {
  return value * (1 - share + 2 * share * random());
}

export function pick<T>(list: readonly [T, ...T[]], random: Random): T {
  return list[Math.floor(random() * list.length)] ?? list[0];
}
