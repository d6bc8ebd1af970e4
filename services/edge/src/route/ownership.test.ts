import type { Profile } from '@lapi-broker/device';
import type { Socket } from '@lapi-broker/http';
import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import { RedisClock } from '@lapi-broker/redis';
import { type HeardAsk, MemoryNodeDirectory, MemoryOwnerRegistry, type NodeStatus } from '@lapi-broker/routing';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { expect, test, vi } from 'vitest';
import { Session, type SessionHost } from '../device/session.ts';
import { SessionTable } from '../device/session-table.ts';
import { Wheel } from '../device/wheel.ts';
import { createEdgeMetrics } from '../metrics.ts';
import { FrameLog } from '../timeline/frame-log.ts';
import { Ownership } from './ownership.ts';

const CODE = '210235TEST0000000001' as DeviceCode;
const PROFILE = { firstRequestDelayMs: 1_000, inflight: 8, waiting: 64 } as Profile;
const FACTS = { vendor: 'Uniview', deviceType: 'NVR', algorithm: '', address: '192.0.2.1' };
const START_MS = 1_000_000;

/** A node on memory stores whose clock stands until it is moved; the beat is the one of `announce`. */
async function node() {
  let nowMs = START_MS;
  const lane = { busy: false };
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const registry = new MemoryOwnerRegistry({
    provisioning: () => ({ revision: 1, enabled: true, tags: [] }),
    append: () => undefined,
    nowMs: clock.nowMs,
    laneBusy: () => lane.busy,
  });
  const sessions = new SessionTable();
  const looked: SessionId[] = [];
  const heard: HeardAsk[] = [];
  const directory = new MemoryNodeDirectory(clock.nowMs);
  const state: { status: NodeStatus } = {
    status: { sessions: 0, registrations: 0, loopLagMs: 0, phase: 'serving' },
  };
  const metrics = createEdgeMetrics(createMetrics('edge'));
  const ownership: Ownership = new Ownership({
    nodeName: 'edge-1',
    address: () => '',
    version: '1',
    registry,
    directory,
    redisClock: new RedisClock(clock.monotonicMs),
    clock,
    sessions,
    metrics,
    log: createLog({ service: 'edge', level: 'silent' }),
    status: () => state.status,
    asked: (ask) => heard.push(ask),
    checkProvisioning: () => Promise.resolve(),
    lookAtLanes: (session) => looked.push(session.id),
    tellSuperseded: () => Promise.resolve(true),
    listenAs: () => Promise.resolve(),
  });
  const host: SessionHost = {
    frames: new FrameLog(0),
    wheel: new Wheel<Session>(50, nowMs),
    metrics,
    livenessFloorMs: 90_000,
    monotonicMs: clock.monotonicMs,
    mayWrite: (session) => ownership.mayWrite(session),
    sessionEnded: (session, reason) => {
      sessions.leave(session);
      if (reason !== 'superseded' && reason !== 'fenced') void ownership.release(session, reason);
    },
  };
  await ownership.start();
  const claim = async (session: SessionId) => {
    const claimed = await registry.claim({
      code: CODE,
      node: ownership.node,
      session,
      facts: FACTS,
      nonce: session,
      nonceTtlMs: 1_000,
      revision: 1,
      notAfterMs: nowMs,
    });
    if (claimed.status !== 'claimed') throw new Error(claimed.status);
    return claimed.epoch;
  };
  return {
    registry,
    sessions,
    ownership,
    lane,
    looked,
    heard,
    directory,
    state,
    claim,
    pass: (ms: number) => {
      nowMs += ms;
    },
    open: (id: SessionId, epoch: Epoch, at: NodeId): Session => {
      const session = new Session(host, {
        code: CODE,
        id,
        node: at,
        epoch,
        profile: PROFILE,
        tags: [],
        secretFingerprint: '',
        secret: 'current',
        previous: undefined,
        keepaliveS: 60,
        address: '',
        acknowledgement: undefined,
      });
      session.opened({
        session,
        send: () => 1,
        ping: () => 1,
        end: () => session.ended('closed'),
        close: () => session.ended('closed'),
        cork: (work) => work(),
        getBufferedAmount: () => 0,
      } satisfies Socket<Session>);
      sessions.enter(session);
      return session;
    },
  };
}

test('a claim without an answer is looked up only when it can no longer happen, and released then (D7, H7)', async () => {
  const { registry, ownership, claim, pass } = await node();
  ownership.claimUncertain(CODE, 'late' as SessionId, START_MS + 5_000);
  pass(2_000);
  await ownership.announce();
  pass(1_000);
  await claim('late' as SessionId);
  await ownership.announce();
  expect((await registry.lookUp(CODE)).owner).toBeDefined();
  pass(2_100);
  await ownership.announce();
  expect((await registry.lookUp(CODE)).owner).toBeUndefined();
  await ownership.stop();
});

test('a node hears with its beat what was asked of it, and goes on draining under a new incarnation', async () => {
  const { ownership, directory, heard, state, pass } = await node();
  await directory.ask(ownership.node, { ask: 'drain', seconds: 30 });
  await ownership.announce();
  expect(heard).toMatchObject([{ ask: 'drain', seconds: 30 }]);
  const drain = { startedAtMs: START_MS, endsAtMs: START_MS + 30_000, devices: 9, left: 4 };
  state.status = { sessions: 4, registrations: 0, loopLagMs: 0, phase: 'draining', drain };
  const before = ownership.node;
  pass(11_000);
  await ownership.announce();
  expect(ownership.node).not.toBe(before);
  const view = (await directory.list()).find((each) => each.node === ownership.node);
  expect(view).toMatchObject({ phase: 'draining', drain, sessions: 4 });
  await ownership.stop();
});

test('a session that ends while it is claimed again leaves no ownership behind (D4)', async () => {
  const { registry, ownership, claim, open } = await node();
  const epoch = await claim('one' as SessionId);
  const session = open('one' as SessionId, epoch, ownership.node);
  await registry.reap(ownership.node, 10);
  const reclaim = registry.reclaim.bind(registry);
  vi.spyOn(registry, 'reclaim').mockImplementation(async (request) => {
    const result = await reclaim(request);
    session.drop('closed');
    return result;
  });
  await ownership.checkSessions();
  await ownership.settled();
  expect((await registry.lookUp(CODE)).owner).toBeUndefined();
  await ownership.stop();
});

test('a session that is leaving and was released is not claimed again by a check (D4)', async () => {
  const { registry, ownership, claim, open } = await node();
  const session = open('one' as SessionId, await claim('one' as SessionId), ownership.node);
  session.leaving = true;
  await ownership.release(session, 'draining');
  await ownership.checkSessions();
  expect((await registry.lookUp(CODE)).owner).toBeUndefined();
  session.drop('draining');
  await ownership.settled();
  await ownership.stop();
});

test('a stop repeats every release that the store did not take, not only a batch of them (I8)', async () => {
  const { registry, ownership } = await node();
  const release = vi.spyOn(registry, 'release').mockRejectedValue(new Error('store away'));
  const epoch = 1 as Epoch;
  const codes = Array.from({ length: 450 }, (_, i) => `D${i}` as DeviceCode);
  await Promise.all(
    codes.map((code) => ownership.releaseClaim({ code, node: ownership.node, epoch, reason: 'draining' })),
  );
  release.mockReset().mockResolvedValue({ status: 'released' });
  await ownership.stop();
  expect(new Set(release.mock.calls.map(([{ code }]) => code))).toEqual(new Set(codes));
});

test('a session is written to only under the incarnation that claimed it (I3)', async () => {
  const { ownership, claim, open } = await node();
  const session = open('one' as SessionId, await claim('one' as SessionId), ownership.node);
  expect(ownership.mayWrite(session)).toBe(true);
  session.node = 'edge-1.0earlier00' as NodeId;
  expect(ownership.mayWrite(session)).toBe(false);
  await ownership.stop();
});

test('after a gap in the inbox, and after a re-claim, the lanes of devices for which commands wait are looked at (D9, 3.3)', async () => {
  const { registry, ownership, claim, open, lane, looked } = await node();
  const session = open('one' as SessionId, await claim('one' as SessionId), ownership.node);
  await ownership.checkSessions();
  expect(looked).toEqual([]);
  lane.busy = true;
  await ownership.checkSessions();
  expect(looked).toEqual(['one']);
  await registry.reap(ownership.node, 10);
  await ownership.checkSessions();
  expect(looked).toEqual(['one', 'one']);
  session.drop('closed');
  await ownership.settled();
  await ownership.stop();
});
