/** Guards what is concluded from the numbers of entries: how many are gone, and that a store has lost what a reader had seen. */

import type { StreamBounds } from '@lapi-broker/bus';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isSameHistory, missingBefore } from './page-reader.ts';
import { beforeTime, comparePositions, formatPosition, justBefore, ORIGIN, type Position } from './position.ts';

const steps = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 30 });

/** Entries numbered from 1; several may bear the same ms. */
function historyOf(waits: readonly number[], from: readonly Position[] = []): Position[] {
  const all = [...from];
  for (const wait of waits) all.push({ ms: (all.at(-1)?.ms ?? 1_000) + wait, seq: all.length + 1 });
  return all;
}

/** What the store answers when the oldest `trimmed` entries are gone. */
function boundsOf(history: readonly Position[], trimmed: number): StreamBounds {
  const kept = history.slice(trimmed);
  return {
    last: formatPosition(history.at(-1) ?? ORIGIN),
    first: kept[0] && formatPosition(kept[0]),
    added: history.length,
    length: kept.length,
  };
}

const nextAfter = (kept: readonly Position[], place: Position): Position | undefined =>
  kept.find((entry) => comparePositions(entry, place) > 0);

describe('what lies before a page', () => {
  it('is counted exactly, from any place that has a number, whatever retention took', () => {
    fc.assert(
      fc.property(steps, fc.nat(), fc.nat(), fc.nat(), (waits, a, b, c) => {
        const history = historyOf(waits);
        const trimmed = a % (history.length + 1);
        const places = [ORIGIN, ...history, ...history.slice(trimmed).map(justBefore)];
        const after = places[b % places.length] as Position;
        const known = history[c % history.length] as Position;
        const next = nextAfter(history.slice(trimmed), after);
        const found = missingBefore(next, after, known, boundsOf(history, trimmed));
        const end = next?.seq ?? known.seq + 1;
        const gone = Math.max(0, end - after.seq - 1);
        if (gone === 0) expect(found).toBeUndefined();
        else expect(found).toEqual({ from: after, to: next ?? { ms: known.ms, seq: known.seq + 1 } });
      }),
    );
  });

  it('is announced for a time of day when anything of that time may have been taken, and not otherwise', () => {
    fc.assert(
      fc.property(steps, fc.nat(), fc.integer({ min: 990, max: 1_100 }), (waits, a, ms) => {
        const history = historyOf(waits);
        const trimmed = a % (history.length + 1);
        const after = beforeTime(ms);
        const next = nextAfter(history.slice(trimmed), after);
        const found = missingBefore(next, after, history.at(-1) as Position, boundsOf(history, trimmed));
        const lost = history.slice(0, trimmed).some((entry) => comparePositions(entry, after) > 0);
        if (lost) expect(found).toMatchObject({ from: after });
        if (trimmed === 0) expect(found).toBeUndefined();
      }),
    );
  });
});

describe('a store that fell back', () => {
  const forks = fc.tuple(steps, steps, steps).map(([shared, lost, instead]) => {
    const common = historyOf(shared);
    return { common, old: historyOf(lost, common), other: historyOf(instead, common) };
  });

  it('is found by every place brought along that the store has not, as long as the store keeps its number', () => {
    fc.assert(
      fc.property(forks, fc.nat(), ({ common, old, other }, a) => {
        const place = old[a % old.length] as Position;
        const answer = isSameHistory(place, nextAfter(other, justBefore(place)), boundsOf(other, 0));
        const isThere = other.some((entry) => comparePositions(entry, place) === 0);
        if (place.seq <= common.length) expect(answer).toBe(true);
        // A place between two entries bears the time of the second; nothing tells it from an entry of the lost history that bore the same time.
        else if (!isThere && !other.some((entry) => comparePositions(justBefore(entry), place) === 0))
          expect(answer).toBe(false);
      }),
    );
  });

  it('never lets a page go on over entries that it has not given', () => {
    fc.assert(
      fc.property(forks, fc.nat(), ({ old, other }, a) => {
        const after = old[a % old.length] as Position;
        const last = other.at(-1) as Position;
        const next = nextAfter(other, after);
        const found = missingBefore(next, after, last, boundsOf(other, 0));
        // Nothing was trimmed, so a gap would be a lie.
        expect(found === undefined || found === 'fell_back').toBe(true);
        if (found === undefined && next !== undefined) expect(next.seq).toBe(after.seq + 1);
      }),
    );
  });
});
