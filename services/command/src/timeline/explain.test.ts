import type { DeviceRow } from '@lapi-broker/device';
import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import type { RefusalEntry, SessionEntry } from '@lapi-broker/timeline';
import { expect, test } from 'vitest';
import { TimelineView } from '../http/timeline-schema.ts';
import { timelineView } from '../http/timeline-view.ts';
import { explain, type Situation } from './explain.ts';

const CODE = '210235TEST0000000001' as DeviceCode;
const AT_MS = Date.UTC(2026, 0, 31, 22);
const at = (s: number): string => new Date(AT_MS + s * 1_000).toISOString();

const OWNER: DeviceRow['owner'] = {
  node: 'edge-2.0m' as NodeId,
  epoch: 2,
  session: 'session-2',
  sinceMs: AT_MS + 10_000,
};

type Row = NonNullable<Situation['row']>;

function row(changes: Partial<Row> = {}): Row {
  return {
    owner: undefined,
    lastOffline: undefined,
    enabled: true,
    address: '192.0.2.17',
    vendor: 'Uniview',
    hold: undefined,
    ...changes,
  };
}

function refused(reason: string, s: number, changes: Partial<RefusalEntry> = {}): RefusalEntry {
  const lastAtMs = AT_MS + s * 1_000;
  return {
    type: 'refused',
    code: CODE,
    reason,
    address: '192.0.2.18',
    node: 'edge-1',
    firstAtMs: lastAtMs,
    lastAtMs,
    count: 1,
    ...changes,
  };
}

function ended(reason: string, s: number): SessionEntry {
  return {
    type: 'session',
    code: CODE,
    session: 'session-1' as SessionId,
    node: 'edge-1.0m' as NodeId,
    epoch: 1 as Epoch,
    address: '192.0.2.17',
    openedAtMs: AT_MS,
    endedAtMs: AT_MS + s * 1_000,
    reason,
    secret: 'current',
    previous: undefined,
    heardAtMs: AT_MS,
    keepalives: 3,
    frames: [],
  };
}

function situation(changes: Partial<Situation>): Situation {
  return { row: row(), online: false, timeline: { sessions: [], refusals: [] }, kept: true, ...changes };
}

test('a camera that fell silent and has not tried since: silent, and it does not reach the broker', () => {
  const lastOffline = { reason: 'liveness_timeout', atMs: AT_MS };
  const found = explain(situation({ row: row({ lastOffline }) }));
  expect(found).toMatchObject({ status: 'offline', sinceMs: AT_MS, reason: 'liveness_timeout', refusal: undefined });
  expect(found.text).toBe(
    `Offline since ${at(0)}: nothing came from the device for 2.5 times its keepalive interval, so it was taken for dead (liveness_timeout). No refused registration of it is known since then: it does not reach the broker, or has not tried yet.`,
  );
  expect(found.remedy).toContain('network');
});

test('a camera with a wrong secret: why it went, and why it does not come back', () => {
  const lastOffline = { reason: 'closed', atMs: AT_MS };
  const refusals = [refused('bad_sign', 60, { count: 4, firstAtMs: AT_MS + 5_000 })];
  const found = explain(situation({ row: row({ lastOffline }), timeline: { sessions: [], refusals } }));
  expect(found.reason).toBe('bad_sign');
  expect(found.text).toContain('(closed). A registration under its code was refused at');
  expect(found.text).toContain(`at ${at(60)} from 192.0.2.18, 4 times since ${at(5)}: it signs with another secret`);
  expect(found.remedy).toContain('Set the same secret');
});

test('a refusal before the last session says nothing about now', () => {
  const lastOffline = { reason: 'closed', atMs: AT_MS };
  const refusals = [refused('bad_sign', -60)];
  const found = explain(situation({ row: row({ lastOffline }), timeline: { sessions: [], refusals } }));
  expect(found).toMatchObject({ reason: 'closed', refusal: undefined });
  expect(found.text).not.toContain('bad_sign');
});

test('a camera that was superseded: online, and where its session before went', () => {
  const timeline = { sessions: [ended('superseded', 10)], refusals: [] };
  const found = explain(situation({ row: row({ owner: OWNER }), online: true, timeline }));
  expect(found).toMatchObject({ status: 'online', sinceMs: OWNER?.sinceMs, reason: undefined, remedy: undefined });
  expect(found.text).toBe(
    `Online since ${at(10)} on edge-2.0m, from 192.0.2.17. Its session before ended at ${at(10)}: the device registered again, and the new session replaced the old one (superseded).`,
  );
});

test('two cameras with one code: the session that stays, and the addresses that take turns', () => {
  const hold = { reason: 'conflict', untilMs: AT_MS + 80_000, addresses: ['192.0.2.17', '192.0.2.18'] };
  const timeline = { sessions: [ended('superseded', 10)], refusals: [refused('hold_down', 20)] };
  const found = explain(situation({ row: row({ owner: OWNER, hold }), online: true, timeline }));
  expect(found.status).toBe('online');
  expect(found.text).toContain('(hold_down); two devices seem to use this code, from 192.0.2.17, 192.0.2.18.');
  expect(found.remedy).toContain('two devices with one code');
});

test.each([
  ['never registered', situation({}), 'never_registered', 'It has never registered.'],
  ['disabled', situation({ row: row({ enabled: false }) }), 'disabled', 'no registration of it is taken'],
  ['on a node that has just died', situation({ row: row({ owner: OWNER }) }), 'node_lost', 'died (node_lost)'],
  [
    'not provisioned, but knocking',
    situation({ row: undefined, timeline: { sessions: [], refusals: [refused('unknown_device', 1)] } }),
    'not_provisioned',
    'was refused at',
  ],
  [
    'refused for a reason of another version',
    situation({ timeline: { sessions: [], refusals: [refused('too_blue', 1)] } }),
    'too_blue',
    'it was not let in (too_blue)',
  ],
  [
    'ended for a reason of another version',
    situation({ row: row({ lastOffline: { reason: 'too_red', atMs: AT_MS } }) }),
    'too_red',
    'its session ended (too_red)',
  ],
])('a camera %s says so', (_name, given, reason, text) => {
  const found = explain(given);
  expect(found.reason).toBe(reason);
  expect(found.text).toContain(text);
});

test('where no timelines are kept, silence is not taken for absence', () => {
  expect(explain(situation({ kept: false })).text).toBe('It has never registered.');
});

test('the answer fits its schema, newest first, the open session before all', () => {
  const open = { ...ended('closed', 0), session: 'session-2' as SessionId, endedAtMs: undefined, reason: undefined };
  const frame = { atMs: AT_MS, direction: 'in', type: 'binary', bytes: 3 } as const;
  const absent = { method: undefined, url: undefined, responseCode: undefined, excerpt: undefined };
  const timeline = {
    sessions: [{ ...ended('closed', 10), frames: [{ ...frame, ...absent }] }, ended('closed', 5)],
    refusals: [refused('bad_sign', 7)],
  };
  const explanation = explain(situation({ timeline }));
  const json: unknown = JSON.parse(
    JSON.stringify(timelineView({ code: CODE, explanation, timeline, open, commands: [] })),
  );
  const view = TimelineView.parse(json);
  expect(view).toEqual(json);
  expect(view.entries.map((entry) => entry.at)).toEqual([at(0), at(10), at(7), at(5)]);
  // It was written while it was asked for.
  const both = timelineView({ code: CODE, explanation, timeline, open: ended('closed', 0), commands: [] });
  expect(both.entries).toHaveLength(2);
});
