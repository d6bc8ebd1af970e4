import type { NodeId } from '@lapi-broker/protocol';
import type { NodeView } from '@lapi-broker/routing';
import { describe, expect, it } from 'vitest';
import { NodeWatch } from './node-watch.ts';

const view = (node: string, alive = true): NodeView => ({
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

function fixture() {
  const clock = { nowMs: 0 };
  const reads: { resolve: (nodes: readonly NodeView[]) => void; reject: (error: unknown) => void }[] = [];
  const watch = new NodeWatch({
    directory: { list: () => new Promise((resolve, reject) => reads.push({ resolve, reject })) },
    intervalMs: 1000,
    staleMs: 15_000,
    monotonicMs: () => clock.nowMs,
    random: () => 0.5,
  });
  return { clock, reads, watch };
}

const a = 'a.1' as NodeId;

describe('node watch', () => {
  it('a node is unknown before the first look, then alive or dead as listed', async () => {
    const { watch, reads } = fixture();
    expect(watch.liveness(a)).toBe('unknown');
    const looking = watch.refresh();
    reads[0]?.resolve([view('a.1'), view('b.1', false)]);
    await looking;
    expect(watch.liveness(a)).toBe('alive');
    expect(watch.liveness('b.1' as NodeId)).toBe('dead');
    expect(watch.liveness('c.1' as NodeId)).toBe('unknown');
  });

  it('a refresh never joins a read that began before it, and callers share the next one', async () => {
    const { watch, reads } = fixture();
    const first = watch.refresh();
    const second = watch.refresh();
    const third = watch.refresh();
    expect(reads).toHaveLength(1);
    reads[0]?.resolve([]);
    await first;
    await expect.poll(() => reads.length).toBe(2);
    reads[1]?.resolve([view('a.1')]);
    await Promise.all([second, third]);
    expect(reads).toHaveLength(2);
    expect(watch.liveness(a)).toBe('alive');
  });

  it('a failed read is told to its callers, and the next one works', async () => {
    const { watch, reads } = fixture();
    const first = watch.refresh();
    const second = watch.refresh();
    reads[0]?.reject(new Error('away'));
    await expect(first).rejects.toThrow('away');
    await expect.poll(() => reads.length).toBe(2);
    reads[1]?.resolve([view('a.1')]);
    await second;
    expect(watch.liveness(a)).toBe('alive');
  });

  it('an old view calls nobody alive any more, but the dead stay dead', async () => {
    const { watch, reads, clock } = fixture();
    const looking = watch.refresh();
    reads[0]?.resolve([view('a.1'), view('b.1', false)]);
    await looking;
    clock.nowMs = 15_001;
    expect(watch.liveness(a)).toBe('unknown');
    expect(watch.liveness('b.1' as NodeId)).toBe('dead');
  });
});
