import type { NodeId } from '@lapi-broker/protocol';
import type { NodeView } from '@lapi-broker/routing';
import { expect, it } from 'vitest';
import { Reaper, type ReaperOptions } from './reaper.ts';

const view = (node: string, alive: boolean): NodeView => ({
  node: node as NodeId,
  address: '',
  version: '',
  startedAtMs: 0,
  sessions: 0,
  registrations: 0,
  loopLagMs: 0,
  phase: 'serving',
  alive,
  lastBeatMs: 0,
});

function fixture(over: Partial<ReaperOptions> = {}) {
  const calls: string[] = [];
  const clock = { nowMs: 0 };
  let left = 3;
  const reaper = new Reaper({
    registry: {
      announceEnd: async () => ({ status: 'known' }),
      reap: async (node) => {
        calls.push(`reap ${node}`);
        left -= 1;
        return { offline: left >= 0 ? 10 : 0, done: left <= 0 };
      },
    },
    directory: {
      forget: async (node) => {
        calls.push(`forget ${node}`);
        return true;
      },
    },
    lock: async () => true,
    confirmed: async () => true,
    unlock: async (node) => {
      calls.push(`unlock ${node}`);
    },
    batch: 10,
    monotonicMs: () => clock.nowMs,
    onLost: (node, devices) => calls.push(`lost ${node} ${devices}`),
    onReaped: (node, offline) => calls.push(`offline ${node} ${offline}`),
    onFailure: (node) => calls.push(`failed ${node}`),
    ...over,
  });
  /** One look, with all it started finished. */
  const look = async (nodes: readonly NodeView[]): Promise<void> => {
    reaper.look(nodes);
    await reaper.idle();
  };
  return { reaper, calls, clock, look };
}

const dead = [view('dead.1', false)];

it('a dead node is reaped to the end; living ones are left alone', async () => {
  const { calls, look } = fixture();
  await look([view('alive.1', true), ...dead]);
  expect(calls).toEqual(['reap dead.1', 'reap dead.1', 'reap dead.1', 'offline dead.1 30', 'unlock dead.1']);
});

it('where no replica takes the lock nothing is reaped: the master may have been replaced without knowing', async () => {
  const { calls, look } = fixture({ confirmed: async () => false });
  await look(dead);
  expect(calls).toEqual(['unlock dead.1']);
});

it('the death of a node is announced before its devices go offline, by whoever is the first', async () => {
  const known = new Set<NodeId>();
  const { calls, clock, look } = fixture({
    registry: {
      announceEnd: async (node) => {
        if (known.has(node)) return { status: 'known' };
        known.add(node);
        return { status: 'announced', devices: 7 };
      },
      reap: async (node) => {
        calls.push(`reap ${node}`);
        return { offline: 7, done: true };
      },
    },
  });
  await look(dead);
  expect(calls).toEqual(['lost dead.1 7', 'reap dead.1', 'offline dead.1 7', 'unlock dead.1']);
  clock.nowMs = 10_000;
  await look(dead);
  expect(calls.filter((call) => call.startsWith('lost'))).toHaveLength(1);
});

it('no device goes offline before the death could be announced', async () => {
  let announcements = 0;
  const { calls, look } = fixture({
    registry: {
      announceEnd: async () => {
        announcements += 1;
        if (announcements === 1) throw new Error('away');
        return { status: 'announced', devices: 1 };
      },
      reap: async (node) => {
        calls.push(`reap ${node}`);
        return { offline: 1, done: true };
      },
    },
  });
  await look(dead);
  expect(calls).toEqual(['failed dead.1']);
  await look(dead);
  expect(calls).toEqual(['failed dead.1', 'lost dead.1 1', 'reap dead.1', 'offline dead.1 1', 'unlock dead.1']);
});

it('a node is forgotten after a second pass only, when no late claim of it can come any more', async () => {
  const { calls, clock, look } = fixture();
  await look(dead);
  calls.length = 0;
  clock.nowMs = 9_999;
  await look(dead);
  expect(calls).toEqual([]);
  clock.nowMs = 10_000;
  await look(dead);
  expect(calls).toEqual(['reap dead.1', 'forget dead.1', 'offline dead.1 0', 'unlock dead.1']);
});

it('a node that another process reaps is not touched', async () => {
  const { calls, look } = fixture({ lock: async () => false });
  await look(dead);
  expect(calls).toEqual([]);
});

it('a node is reaped once at a time, and again at a later look after a failure', async () => {
  let reaps = 0;
  const { reaper, calls, look } = fixture({
    registry: {
      announceEnd: async () => ({ status: 'known' }),
      reap: async () => {
        reaps += 1;
        if (reaps === 1) throw new Error('away');
        return { offline: 1, done: true };
      },
    },
  });
  reaper.look(dead);
  await look(dead);
  expect(reaps).toBe(1);
  expect(calls).toEqual(['failed dead.1']);
  await look(dead);
  expect(calls).toContain('offline dead.1 1');
});

it('after stop nothing new begins', async () => {
  const { reaper, calls, look } = fixture();
  await reaper.stop();
  await look(dead);
  expect(calls).toEqual([]);
});
