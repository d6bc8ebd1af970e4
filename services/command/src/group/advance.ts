/** How far a group may go on over a page that was read behind its place: what matched, what is missing, where it stands then. Pure.
 *  The number in an entry's id counts the entries of its shard without holes, so what retention took shows as a jump, and its size is exact. */

import type { StreamEntry } from '@lapi-broker/bus';
import type { EventFilter } from '../event/filter.ts';
import { formatPosition, justBehind, parsePosition } from '../event/position.ts';
import type { Advance } from './group-store.ts';

export interface Place {
  readonly id: string;
  readonly number: number;
}

/** `room`: goes no further than so many matches, because the rest is read when it is wanted. `last`: an entry that was there before the page
 *  was read, so an empty page says that everything up to it is gone. */
export function advanceOver(
  from: Place,
  page: readonly StreamEntry[],
  last: string,
  filter: Pick<EventFilter, 'matches'>,
  room: number,
): Advance {
  const [first] = page;
  if (first === undefined) {
    const end = parsePosition(last);
    // A gap ends before its `to`, and the last entry is missing too.
    const gap = { from: from.id, to: formatPosition(justBehind(end)), count: end.seq - from.number };
    return { from: from.id, to: last, number: end.seq, seen: false, gap, matched: [] };
  }
  const missing = parsePosition(first.id).seq - from.number - 1;
  const gap = missing > 0 ? { from: from.id, to: first.id, count: missing } : undefined;
  const matched: { member: string; code: string }[] = [];
  let to = first;
  for (const entry of page) {
    to = entry;
    if (filter.matches(entry.event)) matched.push({ member: entry.id, code: entry.event.code });
    if (matched.length >= room) break;
  }
  return { from: from.id, to: to.id, number: parsePosition(to.id).seq, seen: true, gap, matched };
}

/** Shares `permits` among shards that could use `wants[i]` each, as evenly as they allow. */
export function share(permits: number, wants: readonly number[]): readonly number[] {
  const given = wants.map(() => 0);
  let left = permits;
  let hungry = wants.map((want, i) => ({ i, want })).filter(({ want }) => want > 0);
  while (left > 0 && hungry.length > 0) {
    const each = Math.max(1, Math.floor(left / hungry.length));
    for (const { i, want } of hungry) {
      const more = Math.min(each, want - (given[i] as number), left);
      given[i] = (given[i] as number) + more;
      left -= more;
    }
    hungry = hungry.filter(({ i, want }) => (given[i] as number) < want);
  }
  return given;
}

/** The two ends of a gap as a member names them: `g<from>_<to>_<count>`. */
export function readGap(
  member: string,
): { readonly from: string; readonly to: string; readonly count: number | null } | undefined {
  if (!member.startsWith('g')) return undefined;
  const [from = '', to = '', count = ''] = member.slice(1).split('_');
  return { from, to, count: count === 'x' ? null : Number(count) };
}
