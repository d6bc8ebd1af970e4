/** Two faults of one run, the second beginning while the first is at work. They act on different parties, else one would only undo the other. */

import { Chance } from '../random.ts';
import { mergeNeeds, type StoreKind } from '../rig.ts';
import type { Fault } from './fault.ts';

const LATER_MS = { from: 0, to: 5_000 };

export function pairOf(a: Fault, b: Fault): Fault | undefined {
  const stores = a.stores.filter((store) => b.stores.includes(store));
  const [first, ...more] = stores;
  if (first === undefined || a.target === undefined || b.target === undefined || a.target === b.target)
    return undefined;
  if (a.beyond === true || b.beyond === true) return undefined;
  if (a.needs?.ground !== undefined && b.needs?.ground !== undefined) return undefined;
  const dataBytes = a.dataBytes ?? b.dataBytes;
  return {
    name: `${a.name}+${b.name}`,
    about: `${a.about}; meanwhile: ${b.about}`,
    stores: [first, ...more],
    target: undefined,
    lengthMs: Math.max(a.lengthMs, LATER_MS.to + b.lengthMs),
    needs: mergeNeeds(a.needs, b.needs),
    mix: { ...a.mix, ...b.mix },
    mutes: Math.max(a.mutes ?? 0, b.mutes ?? 0),
    rewinds: a.rewinds === true || b.rewinds === true,
    leaves: a.leaves === true || b.leaves === true,
    ...(dataBytes === undefined ? {} : { dataBytes }),
    skip: async () => (await a.skip?.()) ?? (await b.skip?.()),
    async run(stage) {
      const second = async (): Promise<void> => {
        await stage.pause(stage.chance.between(LATER_MS.from, LATER_MS.to));
        await b.run(stage);
      };
      await Promise.all([a.run(stage), second()]);
    },
  };
}

/** So many different pairs of these faults that can run on this store, drawn from the seed. */
export function drawPairs(faults: readonly Fault[], store: StoreKind, pairs: number, seed: number): readonly Fault[] {
  const possible = faults
    .flatMap((a, i) => faults.slice(i + 1).flatMap((b) => pairOf(a, b) ?? []))
    .filter(({ stores }) => stores.includes(store));
  const chance = new Chance(seed);
  const drawn: Fault[] = [];
  while (drawn.length < pairs && possible.length > 0) {
    drawn.push(...possible.splice(chance.between(0, possible.length - 1), 1));
  }
  return drawn;
}
