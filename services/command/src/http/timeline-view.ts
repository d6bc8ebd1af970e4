/** What people see of a timeline. Members without a value are left out of the JSON. Pure. */

import type { CommandRecord } from '@lapi-broker/lane';
import type { DeviceCode } from '@lapi-broker/protocol';
import type { DeviceTimeline, FrameEntry, RefusalEntry, SessionEntry } from '@lapi-broker/timeline';
import type { Explanation } from '../timeline/explain.ts';
import { commandView } from './command-view.ts';

export interface Shown {
  readonly code: DeviceCode;
  readonly explanation: Explanation;
  readonly timeline: DeviceTimeline;
  /** The session that is open, if there is one. */
  readonly open: SessionEntry | undefined;
  readonly commands: readonly CommandRecord[];
}

type EntryView = Record<string, unknown> & { readonly at: string | undefined };

export function timelineView({ code, explanation, timeline, open, commands }: Shown): Record<string, unknown> {
  const { status, sinceMs, reason, text, remedy } = explanation;
  return {
    code,
    status,
    since: timeOf(sinceMs),
    reason,
    explanation: text,
    remedy,
    entries: entriesOf(timeline, open),
    commands: commands.map(commandView),
  };
}

function entriesOf({ sessions, refusals }: DeviceTimeline, open: SessionEntry | undefined): EntryView[] {
  // The open one may have ended, and have been written, since it was asked for.
  const past = sessions.filter(({ session }) => session !== open?.session).map(sessionView);
  const entries = [...past, ...refusals.map(refusalView)].sort((a, b) => ((a.at ?? '') < (b.at ?? '') ? 1 : -1));
  return open === undefined ? entries : [sessionView(open), ...entries];
}

function sessionView(entry: SessionEntry): EntryView {
  const { openedAtMs, endedAtMs } = entry;
  return {
    type: 'session',
    at: timeOf(endedAtMs ?? openedAtMs),
    session: entry.session,
    node: entry.node,
    epoch: entry.epoch,
    address: entry.address,
    openedAt: timeOf(openedAtMs),
    endedAt: timeOf(endedAtMs),
    reason: entry.reason,
    secret: entry.secret,
    previousNode: entry.previous,
    heardAt: timeOf(entry.heardAtMs),
    keepalives: entry.keepalives,
    frames: entry.frames.map(frameView),
  };
}

function frameView({ atMs, ...frame }: FrameEntry): EntryView {
  return { at: timeOf(atMs), ...frame };
}

function refusalView({ reason, address, node, firstAtMs, lastAtMs, count }: RefusalEntry): EntryView {
  return { type: 'refused', at: timeOf(lastAtMs), reason, address, node, firstAt: timeOf(firstAtMs), count };
}

function timeOf(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : new Date(ms).toISOString();
}
