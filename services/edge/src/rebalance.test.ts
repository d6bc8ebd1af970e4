import type { DeviceCode, NodeId } from '@lapi-broker/protocol';
import { MemoryNodeDirectory, type NodePhase, type NodeView } from '@lapi-broker/routing';
import { createLog } from '@lapi-broker/telemetry';
import { expect, test } from 'vitest';
import { idlest, judgeBalance, Rebalance } from './rebalance.ts';
import { callTo, FakeNode } from './testing/fake-node.ts';

const OWN = 'edge-1.1' as NodeId;
const LONG_MS = 1e9;

const view = (node: string, sessions: number, over: Partial<NodeView> = {}): NodeView => ({
  node: node as NodeId,
  address: '',
  version: '',
  startedAtMs: 0,
  sessions,
  registrations: 0,
  loopLagMs: 0,
  phase: 'serving',
  alive: true,
  lastBeatMs: 0,
  ...over,
});

/** All nodes have been known for long. */
function judge(own: number, nodes: readonly NodeView[]) {
  return judgeBalance(OWN, own, nodes, new Map(nodes.map(({ node }) => [node, 0])), 60_000);
}

test('the surplus is what is above the mean and its tolerance of a tenth, or of fifty devices', () => {
  expect(judge(6_000, [view(OWN, 0), view('edge-2.1', 0)])).toEqual({ skew: 2, surplus: 2_700 });
  expect(judge(3_300, [view(OWN, 0), view('edge-2.1', 2_700)])).toEqual({ skew: 1.1, surplus: 0 });
  expect(judge(200, [view(OWN, 0), view('edge-2.1', 0)])).toEqual({ skew: 2, surplus: 50 });
  expect(judge(150, [view(OWN, 0), view('edge-2.1', 51)]).surplus).toBe(0);
});

test('a node that has less than its share, or is alone, has no surplus', () => {
  expect(judge(1_000, [view(OWN, 0), view('edge-2.1', 9_000)])).toEqual({ skew: 0.2, surplus: 0 });
  expect(judge(9_000, [view(OWN, 0)])).toEqual({ skew: 1, surplus: 0 });
  expect(judge(0, [view(OWN, 0), view('edge-2.1', 0)])).toEqual({ skew: 1, surplus: 0 });
});

test('nothing is a surplus while the fleet moves: a node is young, has died, or drains and still has devices', () => {
  const full = [view(OWN, 0), view('edge-2.1', 0)];
  for (const other of [view('edge-3.1', 0, { alive: false }), view('edge-3.1', 1, { phase: 'draining' })])
    expect(judge(6_000, [...full, other])).toMatchObject({ skew: 2, surplus: 0 });
  expect(judgeBalance(OWN, 6_000, full, new Map([[OWN, 0]]), 60_000).surplus).toBe(0);
  const since = new Map(full.map(({ node }) => [node, 30_001]));
  expect(judgeBalance(OWN, 6_000, full, since, 60_000).surplus).toBe(0);
  // An empty one may stay drained for days.
  expect(judge(6_000, [...full, view('edge-3.1', 0, { phase: 'draining' })]).surplus).toBe(2_700);
});

test('nothing is a surplus in a storm: while more than a hundredth of all devices arrive per second', () => {
  const arriving = (registrations: number): number =>
    judge(6_000, [view(OWN, 0), view('edge-2.1', 0, { registrations })]).surplus;
  expect([arriving(60), arriving(61)]).toEqual([2_700, 0]);
  const few = (registrations: number): number =>
    judge(200, [view(OWN, 0, { registrations }), view('edge-2.1', 0)]).surplus;
  expect([few(20), few(21)]).toEqual([50, 0]);
});

test('a node that drains, or is not in the list, lets go of nobody', () => {
  expect(judge(6_000, [view(OWN, 0, { phase: 'draining' }), view('edge-2.1', 0)]).surplus).toBe(0);
  expect(judge(6_000, [view('edge-2.1', 0)]).surplus).toBe(0);
});

test('those idle for longest go first, and none with a call, a waiting call or an un-stored event', () => {
  const node = new FakeNode();
  const sessions = [5, 3, 4, 1, 2, 0].map((usedMs) => Object.assign(node.open(), { usedMs }));
  const [, , , called, storing, leaving] = sessions as [never, never, never, ...typeof sessions];
  called?.submit(callTo());
  Object.assign(storing ?? {}, { unstoredEvents: 1 });
  Object.assign(leaving ?? {}, { leaving: true });
  const used = (count: number): number[] => idlest(sessions, count).map(({ usedMs }) => usedMs);
  expect(used(2)).toEqual([3, 4]);
  expect(used(9)).toEqual([3, 4, 5]);
  expect(idlest([], 3)).toEqual([]);
});

/** Two nodes: this one with devices, the other joins empty. */
async function cluster(devices: number, back: (code: DeviceCode) => boolean = () => false) {
  const node = new FakeNode();
  const { sessions, departures, metrics, monotonicMs } = node;
  const directory = new MemoryNodeDirectory(monotonicMs);
  for (let i = 0; i < devices; i++) node.open();
  const status = { sessions: 0, registrations: 0, loopLagMs: 0, phase: 'serving' } as const;
  const other = 'edge-2.1' as NodeId;
  const record = { address: '', version: '', startedAtMs: 0 };
  await directory.join({ ...record, node: OWN }, LONG_MS, { ...status, sessions: devices });
  await directory.join({ ...record, node: other }, LONG_MS, status);
  const state = { mayShed: true, elsewhere: 0, otherPhase: 'serving' as NodePhase };
  const rebalance = new Rebalance({
    directory,
    sessions,
    departures,
    node: () => OWN,
    mayShed: () => state.mayShed,
    monotonicMs,
    random: () => 0.5,
    metrics,
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  let seen = 0;
  const look = (nowMs: number): void => {
    departures.look(nowMs, Number.POSITIVE_INFINITY);
    rebalance.look(nowMs);
    for (; seen < node.closed.length; seen++) {
      const code = node.closed[seen]?.code as DeviceCode;
      if (back(code)) node.open(code);
      else state.elsewhere++;
    }
    void directory.renew(other, { ...status, phase: state.otherPhase, sessions: state.elsewhere }, LONG_MS, LONG_MS);
  };
  return { node, state, pass: (ms: number) => node.pass(ms, look) };
}

test('after a node came, only the surplus moves, slowly, closed with 1001 and the reason', async () => {
  const { node, state, pass } = await cluster(400);
  await pass(30_000);
  expect(node.closed).toEqual([]);
  await pass(70_000);
  // One a second.
  expect(node.closed.length).toBeGreaterThan(40);
  expect(node.closed.length).toBeLessThan(75);
  await pass(200_000);
  // To the mean of 200 and the tolerance of 50; not one more, however long it goes on.
  expect(node.sessions.size).toBe(250);
  expect(state.elsewhere).toBe(150);
  await pass(200_000);
  expect(node.sessions.size).toBe(250);
  expect(new Set(node.closed.map(({ frame, reason }) => `${frame} ${reason}`))).toEqual(new Set(['1001 rebalanced']));
});

test('a device that was called after it had been chosen stays', async () => {
  const { node, pass } = await cluster(400);
  await pass(41_000);
  const outcomes: string[] = [];
  const called = [...node.sessions.values()].filter(({ leaving }) => !leaving).slice(0, 300);
  for (const session of called) session.submit(callTo((it) => outcomes.push(it)));
  await pass(120_000);
  expect(outcomes).toEqual([]);
  expect(called.every(({ isOpen }) => isOpen)).toBe(true);
});

test('when most devices come back to this node it rests for ten minutes, then tries again', async () => {
  const { node, pass } = await cluster(400, () => true);
  await pass(120_000);
  const shed = node.closed.length;
  expect(shed).toBeGreaterThan(20);
  expect(shed).toBeLessThan(90);
  await pass(540_000);
  expect(node.closed.length).toBe(shed);
  await pass(120_000);
  expect(node.closed.length).toBeGreaterThan(shed);
});

test('a node that was resumed is left the time to be heard of by balancers, like one that came', async () => {
  const { node, state, pass } = await cluster(400);
  state.otherPhase = 'draining';
  await pass(120_000);
  state.otherPhase = 'serving';
  await pass(30_000);
  expect(node.closed).toEqual([]);
  await pass(60_000);
  expect(node.closed.length).toBeGreaterThan(20);
});

test('nobody moves while it is switched off, the lease is not confirmed, or the node drains', async () => {
  const { node, state, pass } = await cluster(400);
  await pass(60_000);
  const shed = node.closed.length;
  expect(shed).toBeGreaterThan(0);
  state.mayShed = false;
  await pass(100_000);
  expect(node.closed.length).toBeLessThanOrEqual(shed + 1);
});
