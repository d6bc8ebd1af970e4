import type { TendResult } from '@lapi-broker/lane';
import { BrokerError, type DeviceCode, type Epoch, isDeviceCode, type NodeId } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LaneHints } from './hints.ts';
import { decodeTimer, encodeTimer, Tender } from './tender.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const CAM = '0123' as DeviceCode;
const NOTHING: TendResult = { owner: undefined, startable: false, timerAtMs: undefined, ended: [] };

function fixture() {
  const due: DeviceCode[][] = [[], []];
  const tended: DeviceCode[] = [];
  const timers: { id: string; delayMs: number }[] = [];
  const woken: boolean[] = [];
  const state = { nowMs: 1_000, away: false, result: NOTHING, failures: 0, atOnce: 0, most: 0, damaged: '' };
  const tender = new Tender({
    intake: {
      due: async (shard, limit) => {
        if (state.away) throw new BrokerError('broker_unavailable', 'away');
        return (due[shard] ?? []).splice(0, limit);
      },
      tend: async (code) => {
        state.atOnce += 1;
        state.most = Math.max(state.most, state.atOnce);
        await Promise.resolve();
        state.atOnce -= 1;
        if (state.damaged.includes(code)) throw new Error('damaged');
        tended.push(code);
        return state.result;
      },
    },
    shards: 2,
    hints: {
      send: (_code: DeviceCode, _result: TendResult, wake: boolean) => woken.push(wake),
    } as unknown as LaneHints, // the one method it uses
    addTimer: async (id, { delayMs }) => {
      if (state.away) throw new BrokerError('broker_unavailable', 'away');
      timers.push({ id, delayMs });
    },
    time: { known: true, nowMs: () => state.nowMs },
    random: () => 0.5,
    limits: { sweepMs: 2_000, batch: 5, concurrency: 2, pendingTimers: 3 },
    onTended: () => undefined,
    onFailure: () => {
      state.failures += 1;
    },
  });
  return { due, tended, timers, woken, state, tender };
}

describe('the sweep', () => {
  it('tends what is due in all shards, a bounded number at once', async () => {
    const { due, tended, state, tender } = fixture();
    due[0]?.push(...(['a', 'b', 'c', 'd', 'e', 'f'] as DeviceCode[]));
    due[1]?.push('g' as DeviceCode);
    tender.start();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(tended).toEqual(['a', 'b', 'c', 'd', 'e', 'g']);
    expect(state.most).toBe(2);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(tended).toHaveLength(7);
    await tender.stop();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('wakes the owner where something could start, and only there', async () => {
    const { due, woken, state, tender } = fixture();
    due[0]?.push(CAM);
    await tender.sweep();
    state.result = { ...NOTHING, owner: { node: 'e.1' as NodeId, epoch: 1 as Epoch }, startable: true };
    due[0]?.push(CAM);
    await tender.sweep();
    expect(woken).toEqual([false, true]);
  });

  it('a lane that cannot be tended does not cost the others behind it their turn', async () => {
    const { due, tended, state, tender } = fixture();
    due[0]?.push(...(['a', 'b', 'c', 'd'] as DeviceCode[]));
    state.damaged = 'a';
    await tender.sweep();
    expect(tended).toEqual(['b', 'c', 'd']);
    expect(state.failures).toBe(1);
    state.damaged = 'ab';
    due[0]?.push(...(['a', 'b', 'c', 'd'] as DeviceCode[]));
    tended.length = 0;
    await tender.sweep();
    expect(tended).toEqual([]);
  });

  it('goes on after the store was away', async () => {
    const { due, tended, state, tender } = fixture();
    due[0]?.push(CAM);
    state.away = true;
    tender.start();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(state.failures).toBe(2);
    state.away = false;
    await vi.advanceTimersByTimeAsync(2_000);
    expect(tended).toEqual([CAM]);
    await tender.stop();
  });
});

describe('timers', () => {
  it('are asked for by the time of the store, at most so many at once, and never fail the caller', async () => {
    const { timers, state, tender } = fixture();
    tender.ask(CAM, 6_000);
    expect(timers).toEqual([{ id: '6000.0.0123', delayMs: 5_010 }]);
    for (let i = 0; i < 10; i++) tender.ask(CAM, 7_000);
    expect(timers).toHaveLength(3);
    state.away = true;
    await vi.advanceTimersByTimeAsync(0);
    tender.ask(CAM, 7_000);
    await vi.advanceTimersByTimeAsync(0);
    expect(timers).toHaveLength(3);
  });

  it('in time they tend; early by the time of the store they are set again, under another id', async () => {
    const { tended, timers, state, tender } = fixture();
    await tender.onTimer('6000.0.0123');
    expect(tended).toEqual([]);
    expect(timers).toEqual([{ id: '6000.1.0123', delayMs: 5_010 }]);
    state.nowMs = 6_010;
    await tender.onTimer('6000.1.0123');
    await tender.onTimer('6000.1.0123');
    expect(tended).toEqual([CAM, CAM]);
  });

  it('what no version of ours wrote does nothing', async () => {
    const { tended, timers, tender } = fixture();
    for (const id of ['', '6000', '6000.0.', '6000.0.no good', 'x.0.CAM']) await tender.onTimer(id);
    expect(tended).toEqual([]);
    expect(timers).toEqual([]);
  });

  it('every DeviceCode comes back as it was', () => {
    const code = fc
      .string({ unit: fc.constantFrom(...'aZ09._:-'), minLength: 1, maxLength: 64 })
      .filter((text): text is DeviceCode => isDeviceCode(text));
    fc.assert(
      fc.property(code, fc.nat(), fc.nat(999), (each, atMs, tries) => {
        expect(decodeTimer(encodeTimer({ code: each, atMs, tries }))).toEqual({ code: each, atMs, tries });
      }),
    );
  });
});
