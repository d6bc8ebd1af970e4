import { expect, test } from 'vitest';
import { timetable } from './disturb.ts';
import { judge, type Line } from './judge.ts';
import type { ProcessSample, Sample } from './sample.ts';
import { Windows } from './window.ts';

const MiB = 2 ** 20;
const MINUTE_MS = 60_000;
const OPTIONS = { warmUpMs: 20 * MINUTE_MS, settleMs: 3 * MINUTE_MS, leastMs: 20 * MINUTE_MS };

/** Two hours, a sample a minute, a fault every 20 minutes from the tenth on. */
function run(processOf: (minute: number) => Partial<ProcessSample>, minutes = 120): Sample[] {
  return Array.from({ length: minutes }, (_, minute) => {
    const sinceFault = (minute + 10) % 20;
    const base = { name: 'command-1', role: 'command', pid: 7, rssBytes: 200 * MiB, fds: 60, cpuMs: 0 } as const;
    return {
      atMs: minute * MINUTE_MS,
      weather: sinceFault < 1 ? 'drain' : 'calm',
      stretch: Math.floor((minute + 10) / 20),
      calmMs: sinceFault * MINUTE_MS,
      processes: [{ ...base, ...processOf(minute) }],
      store: { port: 1, keys: 30_000, dataBytes: 50 * MiB, usedBytes: 60 * MiB, clients: 20 },
      lag: 0,
      online: 100,
      commandsOut: 0,
    };
  });
}

function lineOf(lines: readonly Line[], what: string): Line {
  const line = lines.find((each) => each.what === what);
  if (line === undefined) throw new RangeError(`no line ${what}`);
  return line;
}

test('what stays the same is flat, whatever it did while the run warmed up or right after a fault', () => {
  const lines = judge(
    run((minute) => ({ rssBytes: (minute < 20 ? 100 + minute : (minute + 10) % 20 < 3 ? 300 : 200) * MiB })),
    OPTIONS,
  );
  expect(lineOf(lines, 'command-1 resident')).toMatchObject({ verdict: 'flat', perHour: 0, mean: 200 });
  expect(lineOf(lines, 'store keys').verdict).toBe('flat');
});

test('a process that leaks is found, with the slope', () => {
  const line = lineOf(
    judge(
      run((minute) => ({ rssBytes: (200 + minute / 10) * MiB })),
      OPTIONS,
    ),
    'command-1 resident',
  );
  expect(line.perHour).toBeCloseTo(6);
  expect(line.verdict).toBe('grows');
});

test('descriptors of an edge are counted without those of its devices', () => {
  const lines = judge(
    run((minute) => ({ name: 'edge-1', role: 'edge', fds: 60 + 40 * minute, sessions: 40 * minute })),
    OPTIONS,
  );
  expect(lineOf(lines, 'edge-1 descriptors')).toMatchObject({ verdict: 'flat', mean: 60 });
});

test('an edge that is another process with another load after each drain is judged by its quiet stretches', () => {
  const level = (minute: number): number => 100 + 50 * Math.floor((minute + 10) / 20);
  const edge = (growth: number) =>
    judge(
      run((minute) => ({ name: 'edge-1', role: 'edge', rssBytes: (level(minute) + minute * growth) * MiB })),
      OPTIONS,
    );
  expect(lineOf(edge(0), 'edge-1 resident').verdict).toBe('flat');
  expect(lineOf(edge(0.2), 'edge-1 resident')).toMatchObject({ verdict: 'grows', perHour: expect.closeTo(12) });
});

test('a short run is shown and not judged', () => {
  const lines = judge(
    run((minute) => ({ rssBytes: (200 + minute) * MiB }), 40),
    OPTIONS,
  );
  expect(lineOf(lines, 'command-1 resident').verdict).toBe('too short');
});

test('drains and failovers of two hours stay apart', () => {
  const deeds = timetable(120 * MINUTE_MS, 20 * MINUTE_MS, 30 * MINUTE_MS);
  const at = (what: string): number[] => deeds.filter((deed) => deed.what === what).map(({ atMs }) => atMs / MINUTE_MS);
  expect(at('drain')).toEqual([10, 30, 50, 70, 90, 110]);
  expect(at('failover')).toEqual([15, 45, 75, 105]);
});

test('a failover blurs until its recovery is over, a drain never does', () => {
  const windows = new Windows();
  windows.begin('drain', '', 0).toMs = 10_000;
  windows.begin('failover', '', 100_000).toMs = 105_000;
  expect([5_000, 39_000, 41_000, 102_000, 134_000, 136_000].map((ms) => windows.at(ms))).toEqual([
    'drain',
    'drain',
    'calm',
    'failover',
    'failover',
    'calm',
  ]);
  expect(windows.blurs(0, 50_000)).toBe(false);
  expect(windows.blurs(50_000, 100_000)).toBe(true);
  expect(windows.blurs(136_000, 140_000)).toBe(false);
});
