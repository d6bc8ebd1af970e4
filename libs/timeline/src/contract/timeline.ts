/** What every Timeline keeps to. */

import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import { beforeEach, describe, expect, test } from 'vitest';
import { ENTRY_BYTES, LIST_ENTRIES, REFUSAL_WINDOW_MS } from '../bounds.ts';
import { encodeSession } from '../entry-text.ts';
import type { FrameEntry, RefusalEntry, SessionEntry, Timeline } from '../timeline.ts';

export const CODE = '210235TEST0000000001' as DeviceCode;
const START_MS = 1_795_205_447_418;

export function sessionEntry(number: number, changes: Partial<SessionEntry> = {}): SessionEntry {
  return {
    type: 'session',
    code: CODE,
    session: `session-${number}` as SessionId,
    node: 'edge-1.0mwpez03r94bc9a' as NodeId,
    epoch: (START_MS * 1_000 + number) as Epoch,
    address: '192.0.2.17',
    openedAtMs: START_MS + number * 1_000,
    endedAtMs: START_MS + number * 1_000 + 500,
    reason: 'closed',
    secret: 'current',
    previous: undefined,
    heardAtMs: START_MS + number * 1_000 + 400,
    keepalives: 7,
    frames: [],
    ...changes,
  };
}

export function refusalEntry(atMs: number, changes: Partial<RefusalEntry> = {}): RefusalEntry {
  return {
    type: 'refused',
    code: CODE,
    reason: 'bad_sign',
    address: '192.0.2.18',
    node: 'edge-1',
    firstAtMs: START_MS + atMs,
    lastAtMs: START_MS + atMs,
    count: 1,
    ...changes,
  };
}

const FRAME: FrameEntry = {
  atMs: START_MS,
  direction: 'in',
  type: 'response',
  bytes: 1_234,
  method: undefined,
  url: '/LAPI/V1.0/System/DeviceInfo',
  responseCode: 0,
  excerpt: '{"DeviceName":"西门"}',
};

export function timelineContract(name: string, open: () => Promise<Timeline>): void {
  describe(`timeline, ${name}`, () => {
    let timeline: Timeline;
    beforeEach(async () => {
      timeline = await open();
    });

    test('a device without history has an empty one', async () => {
      expect(await timeline.read(CODE)).toEqual({ sessions: [], refusals: [] });
    });

    test('a session reads as it was written, with its frames, and the one that ended last comes first', async () => {
      const older = sessionEntry(1, { previous: 'edge-2.0mwpez03r94bc9b' as NodeId, secret: 'next' });
      const newer = sessionEntry(2, {
        frames: [FRAME, { ...FRAME, direction: 'out', type: 'request', method: 'GET' }],
      });
      expect(await timeline.append([newer, older])).toEqual([]);
      expect((await timeline.read(CODE)).sessions).toEqual([newer, older]);
    });

    test('a session that was written twice is read once', async () => {
      await timeline.append([sessionEntry(1)]);
      await timeline.append([sessionEntry(1)]);
      expect((await timeline.read(CODE)).sessions).toHaveLength(1);
    });

    test('of too many frames the last ones are kept, and an entry stays within its bound', async () => {
      const frames = Array.from({ length: 16 }, (_, i) => ({ ...FRAME, atMs: START_MS + i, excerpt: 'ä'.repeat(100) }));
      const entry = sessionEntry(1, { frames });
      expect(Buffer.byteLength(encodeSession(entry))).toBeLessThanOrEqual(ENTRY_BYTES);
      await timeline.append([entry]);
      const kept = (await timeline.read(CODE)).sessions[0]?.frames ?? [];
      expect(kept.length).toBeGreaterThan(3);
      expect(kept).toEqual(frames.slice(-kept.length));
    });

    test('refusals for one reason that follow each other closely are one entry with the last address', async () => {
      await timeline.append([refusalEntry(0), refusalEntry(1_000, { reason: 'nonce_expired' })]);
      await timeline.append([refusalEntry(REFUSAL_WINDOW_MS, { count: 3, address: '192.0.2.19', node: 'edge-2' })]);
      expect((await timeline.read(CODE)).refusals).toEqual([
        refusalEntry(0, {
          lastAtMs: START_MS + REFUSAL_WINDOW_MS,
          count: 4,
          address: '192.0.2.19',
          node: 'edge-2',
        }),
        refusalEntry(1_000, { reason: 'nonce_expired' }),
      ]);
    });

    test('a refusal that comes later is an entry of its own', async () => {
      await timeline.append([refusalEntry(0), refusalEntry(REFUSAL_WINDOW_MS + 1)]);
      expect((await timeline.read(CODE)).refusals).toEqual([refusalEntry(REFUSAL_WINDOW_MS + 1), refusalEntry(0)]);
    });

    test('each kind keeps its newest entries, and refusals never push a session out', async () => {
      await timeline.append([sessionEntry(1)]);
      const refusals = Array.from({ length: LIST_ENTRIES + 5 }, (_, i) => refusalEntry(i, { reason: `reason_${i}` }));
      await timeline.append(refusals);
      const read = await timeline.read(CODE);
      expect(read.sessions).toHaveLength(1);
      expect(read.refusals).toEqual(refusals.slice(-LIST_ENTRIES).reverse());
      await timeline.append(Array.from({ length: LIST_ENTRIES + 5 }, (_, i) => sessionEntry(i + 2)));
      const { sessions } = await timeline.read(CODE);
      expect(sessions.map(({ session }) => session)).toEqual(
        Array.from({ length: LIST_ENTRIES }, (_, i) => `session-${LIST_ENTRIES + 6 - i}`),
      );
    });

    test('devices do not see each other’s entries, many of which may come in one batch', async () => {
      const codes = Array.from({ length: 200 }, (_, i) => `device-${i}` as DeviceCode);
      expect(await timeline.append(codes.map((code) => sessionEntry(1, { code })))).toEqual([]);
      for (const code of codes.slice(0, 20))
        expect((await timeline.read(code)).sessions).toEqual([sessionEntry(1, { code })]);
    });
  });
}
