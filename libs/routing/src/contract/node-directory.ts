/** What every NodeDirectory promises, as tests. Leases are real time; tests wait for their end, they do not sleep. */

import { waitFor } from '@lapi-broker/fixture';
import type { NodeId } from '@lapi-broker/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NodeDirectory, NodeRecord, NodeStatus, NodeView } from '../node-directory.ts';

export interface NodeDirectoryHarness {
  readonly directory: NodeDirectory;
  close(): Promise<void>;
}

const LOAD: NodeStatus = { sessions: 1234, registrations: 2.5, loopLagMs: 7.25, phase: 'serving' };
const DRAINING: NodeStatus = {
  ...LOAD,
  phase: 'draining',
  drain: { startedAtMs: 1_700_000_000_000, endsAtMs: 1_700_000_020_000, devices: 1300, left: 1234 },
};
const LONG_MS = 60_000;
const SHORT_MS = 40;
const FOREVER_MS = 8.64e15;

let names = 0;
const newName = (): string => `edge-${++names}`;
const incarnation = (name: string): NodeId => `${name}.${String(++names).padStart(9, '0')}` as NodeId;
const newNode = (): NodeId => incarnation(newName());
const record = (node: NodeId): NodeRecord => ({
  node,
  address: '10.0.0.1:8443',
  version: '1.2.3',
  startedAtMs: 1_700_000_000_000,
});

export function nodeDirectoryContract(name: string, open: () => Promise<NodeDirectoryHarness>): void {
  describe(`NodeDirectory: ${name}`, () => {
    let harness: NodeDirectoryHarness;
    let directory: NodeDirectory;
    beforeAll(async () => {
      harness = await open();
      directory = harness.directory;
    });
    afterAll(async () => {
      await harness.close();
    });

    const viewOf = async (node: NodeId): Promise<NodeView | undefined> =>
      (await directory.list()).find((view) => view.node === node);
    const dies = async (node: NodeId): Promise<void> => {
      await waitFor(async () => (await viewOf(node))?.alive === false, {
        deadlineMs: 5_000,
        what: `the lease of ${node} to end`,
      });
    };

    test('a node that joined lives and shows its record', async () => {
      const node = newNode();
      const { redisTimeMs } = await directory.join(record(node), LONG_MS);
      expect(Math.abs(redisTimeMs - Date.now())).toBeLessThan(5_000);
      expect(await viewOf(node)).toEqual({
        ...record(node),
        sessions: 0,
        registrations: 0,
        loopLagMs: 0,
        phase: 'serving',
        alive: true,
        lastBeatMs: redisTimeMs,
      });
    });

    test('a renewal lengthens the lease and shows load, phase and how far a drain is', async () => {
      const node = newNode();
      await directory.join(record(node), SHORT_MS * 50);
      const result = await directory.renew(node, DRAINING, LONG_MS, FOREVER_MS);
      expect(result).toMatchObject({ status: 'renewed' });
      const { redisTimeMs = 0 } = result as { redisTimeMs?: number };
      await waitFor(async () => (await viewOf(node))?.lastBeatMs === redisTimeMs, {
        deadlineMs: 5_000,
        what: 'the beat to show',
      });
      expect(await viewOf(node)).toEqual({
        ...record(node),
        ...DRAINING,
        alive: true,
        lastBeatMs: redisTimeMs,
      });
    });

    test('a lease ends without renewals, and the dead incarnation stays listed', async () => {
      const node = newNode();
      await directory.join(record(node), SHORT_MS);
      await dies(node);
      expect(await viewOf(node)).toMatchObject({ node, alive: false, sessions: 0 });
    });

    test('a lease that is renewed outlives its first length', async () => {
      const node = newNode();
      const { redisTimeMs: joinedAt } = await directory.join(record(node), 2_000);
      await waitFor(
        async () => {
          const result = await directory.renew(node, LOAD, 2_000, FOREVER_MS);
          if (result.status !== 'renewed') throw new Error(`the lease was lost: ${result.status}`);
          return result.redisTimeMs > joinedAt + 2_500;
        },
        { deadlineMs: 10_000, what: 'the first lease to have ended', intervalMs: 100 },
      );
      expect(await viewOf(node)).toMatchObject({ alive: true });
    });

    test('a lapsed lease is never renewed (I3)', async () => {
      const node = newNode();
      await directory.join(record(node), SHORT_MS);
      await dies(node);
      expect(await directory.renew(node, LOAD, LONG_MS, FOREVER_MS)).toEqual({ status: 'lapsed' });
      expect(await viewOf(node)).toMatchObject({ alive: false });
    });

    test('a renewal of a node that never joined creates nothing', async () => {
      const node = newNode();
      expect(await directory.renew(node, LOAD, LONG_MS, FOREVER_MS)).toEqual({ status: 'lapsed' });
      expect(await viewOf(node)).toBeUndefined();
    });

    test('a renewal after notAfterMs does not count (D7)', async () => {
      const node = newNode();
      const { redisTimeMs } = await directory.join(record(node), 300);
      expect(await directory.renew(node, DRAINING, LONG_MS, redisTimeMs - 1)).toEqual({ status: 'late' });
      expect(await viewOf(node)).toMatchObject({ sessions: 0, phase: 'serving', lastBeatMs: redisTimeMs });
      await dies(node);
    });

    test('a lapsed node hears so even when it is late', async () => {
      expect(await directory.renew(newNode(), LOAD, LONG_MS, 0)).toEqual({ status: 'lapsed' });
    });

    test('a new incarnation takes the lease of its name; the old one finds itself lapsed and ends nothing (I3)', async () => {
      const name = newName();
      const [old, next] = [incarnation(name), incarnation(name)];
      await directory.join(record(old), LONG_MS);
      await directory.renew(old, DRAINING, LONG_MS, FOREVER_MS);
      await directory.join(record(next), LONG_MS);
      expect(await directory.renew(old, LOAD, LONG_MS, FOREVER_MS)).toEqual({ status: 'lapsed' });
      await directory.leave(old);
      expect(await viewOf(old)).toMatchObject({ alive: false });
      expect(await viewOf(next)).toMatchObject({ alive: true, sessions: 0, phase: 'serving' });
      expect(await directory.renew(next, LOAD, LONG_MS, FOREVER_MS)).toMatchObject({ status: 'renewed' });
    });

    test('what is asked of a node is told with its renewals, under a number that only grows', async () => {
      const node = newNode();
      await directory.join(record(node), LONG_MS);
      expect(await directory.renew(node, LOAD, LONG_MS, FOREVER_MS)).not.toHaveProperty('asked');
      const numbers: number[] = [];
      for (const ask of [
        { ask: 'drain', seconds: 30 },
        { ask: 'drain', seconds: undefined },
        { ask: 'resume' },
        { ask: 'resume' },
      ] as const) {
        expect(await directory.ask(node, ask)).toBe('asked');
        const heard = { asked: { ...ask, number: expect.any(Number) } };
        const renewed = await directory.renew(node, LOAD, LONG_MS, FOREVER_MS);
        expect(renewed).toMatchObject(heard);
        expect(await directory.renew(node, DRAINING, LONG_MS, FOREVER_MS)).toMatchObject(heard);
        numbers.push((renewed as { asked: { number: number } }).asked.number);
      }
      expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    });

    test('a word is for one incarnation: a dead one cannot be asked, and the next does not hear it', async () => {
      const name = newName();
      const [old, next] = [incarnation(name), incarnation(name)];
      expect(await directory.ask(old, { ask: 'drain', seconds: 1 })).toBe('gone');
      await directory.join(record(old), LONG_MS);
      expect(await directory.ask(old, { ask: 'drain', seconds: 1 })).toBe('asked');
      await directory.join(record(next), LONG_MS);
      expect(await directory.renew(next, LOAD, LONG_MS, FOREVER_MS)).not.toHaveProperty('asked');
      expect(await directory.ask(old, { ask: 'resume' })).toBe('gone');
      await directory.leave(next);
      expect(await directory.ask(next, { ask: 'resume' })).toBe('gone');
    });

    test('a process that takes a new incarnation while it drains goes on draining', async () => {
      const node = newNode();
      const { redisTimeMs } = await directory.join(record(node), LONG_MS, DRAINING);
      expect(await viewOf(node)).toEqual({
        ...record(node),
        ...DRAINING,
        alive: true,
        lastBeatMs: redisTimeMs,
      });
    });

    test('a node that left is dead at once and stays listed until it is forgotten', async () => {
      const node = newNode();
      await directory.join(record(node), LONG_MS);
      await directory.leave(node);
      await directory.leave(node);
      expect(await viewOf(node)).toMatchObject({ alive: false });
      expect(await directory.forget(node)).toBe(true);
      expect(await viewOf(node)).toBeUndefined();
      expect(await directory.forget(node)).toBe(true);
    });

    test('a living node is not forgotten', async () => {
      const node = newNode();
      await directory.join(record(node), LONG_MS);
      expect(await directory.forget(node)).toBe(false);
      expect(await viewOf(node)).toMatchObject({ alive: true });
    });

    test('forgetting an old incarnation leaves its living successor listed', async () => {
      const name = newName();
      const [old, next] = [incarnation(name), incarnation(name)];
      await directory.join(record(old), LONG_MS);
      await directory.join(record(next), LONG_MS);
      expect(await directory.forget(old)).toBe(true);
      expect(await viewOf(old)).toBeUndefined();
      expect(await viewOf(next)).toMatchObject({ alive: true });
    });
  });
}
