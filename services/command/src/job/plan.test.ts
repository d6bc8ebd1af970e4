import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { JobPace, JobProgress, JobRecord } from './job.ts';
import { type OpenTarget, type Plan, type PlannedJob, plan, quietMs, waveSize } from './plan.ts';

interface Device extends OpenTarget {
  readonly name: string;
}

const BOUNDS = { starts: 100, lookUps: 500, ends: 500 };
const NOW = 1_000_000;
const FAR = NOW + 3_600_000;

const device = (name: string, over: Partial<OpenTarget> = {}): Device => ({
  name,
  groups: [],
  online: true,
  freshUntilMs: FAR,
  notBeforeMs: 0,
  ...over,
});
const devices = (count: number, over: Partial<OpenTarget> = {}): Device[] =>
  Array.from({ length: count }, (_, i) => device(`d${i}`, over));

const PROGRESS: JobProgress = {
  state: 'running',
  stopTo: undefined,
  reason: '',
  wave: 0,
  waveStarted: 0,
  roundEnded: 0,
  roundFailed: 0,
  tokens: 1,
  tokensAtMs: NOW,
  retry: [],
};

function job(
  pace: Partial<JobPace> = {},
  progress: Partial<JobProgress> = {},
  over: Partial<PlannedJob> = {},
): PlannedJob {
  return {
    pace: { concurrency: 10, offline: 'wait', ...pace },
    progress: { ...PROGRESS, ...progress },
    notBeforeMs: 0,
    deadlineMs: FAR,
    ...over,
  };
}

function go(planned: Plan<Device>): Extract<Plan<Device>, { kind: 'go' }> {
  if (planned.kind !== 'go') throw new Error(`the plan is ${planned.kind}`);
  return planned;
}
const names = (list: readonly Device[]): string[] => list.map(({ name }) => name);

describe('what starts', () => {
  it('devices start in order, up to the concurrency, and those that are out count', () => {
    const all = devices(30);
    expect(names(go(plan(job(), { todo: all, out: [] }, BOUNDS, NOW)).start)).toEqual(names(all.slice(0, 10)));
    const next = go(plan(job(), { todo: all.slice(7), out: all.slice(0, 7) }, BOUNDS, NOW));
    expect(names(next.start)).toEqual(['d7', 'd8', 'd9']);
  });

  it('a device without a session holds up nobody and starts when it is there', () => {
    const away = device('away', { online: false, freshUntilMs: NOW + 3_000 });
    const planned = go(plan(job({ concurrency: 1 }), { todo: [away, device('here')], out: [] }, BOUNDS, NOW));
    expect(names(planned.start)).toEqual(['here']);
    const alone = go(plan(job(), { todo: [away], out: [] }, BOUNDS, NOW));
    expect(alone).toMatchObject({ start: [], lookUp: [], nextMs: NOW + 3_000 });
    expect(names(go(plan(job(), { todo: [away], out: [] }, BOUNDS, NOW + 3_000)).lookUp)).toEqual(['away']);
  });

  it('nobody starts whose presence is not known, and only as many are looked up as may start soon', () => {
    const planned = go(
      plan(job({ concurrency: 5 }), { todo: devices(500, { freshUntilMs: 0 }), out: [] }, BOUNDS, NOW),
    );
    expect(planned.start).toEqual([]);
    expect(planned.lookUp.length).toBeGreaterThan(4);
    expect(planned.lookUp.length).toBeLessThan(50);
  });

  it('with offline "fail" a device without a session has failed, and nothing else has', () => {
    const away = device('away', { online: false });
    const planned = go(plan(job({ offline: 'fail' }), { todo: [away, device('here')], out: [] }, BOUNDS, NOW));
    expect(names(planned.end)).toEqual(['away']);
    expect(planned.endAs).toEqual({ state: 'failed', reason: 'device_offline' });
    expect(names(planned.start)).toEqual(['here']);
  });

  it('a device whose lane was full waits, also with offline "fail"', () => {
    const full = device('full', { notBeforeMs: NOW + 5_000 });
    expect(go(plan(job({ offline: 'fail' }), { todo: [full], out: [] }, BOUNDS, NOW))).toMatchObject({
      start: [],
      end: [],
      nextMs: NOW + 5_000,
    });
  });

  it('devices of a group that is full let others pass', () => {
    const at = (name: string, ...groups: string[]): Device => device(name, { groups });
    const todo = [at('a1', 'site-a'), at('a2', 'site-a'), at('ab', 'site-a', 'site-b'), at('b1', 'site-b'), at('c1')];
    const planned = go(plan(job({ perTag: { prefix: 'site-', limit: 1 } }), { todo, out: [] }, BOUNDS, NOW));
    expect(names(planned.start)).toEqual(['a1', 'b1', 'c1']);
  });

  it('nothing starts before the window, while paused, or after the deadline', () => {
    const todo = devices(3);
    const early = go(plan(job({}, {}, { notBeforeMs: NOW + 60_000 }), { todo, out: [] }, BOUNDS, NOW));
    expect(early).toMatchObject({ start: [], end: [], takeBack: false, nextMs: NOW + 60_000 });
    const paused = go(plan(job({}, { state: 'paused' }), { todo, out: [] }, BOUNDS, NOW));
    expect(paused).toMatchObject({ start: [], end: [], takeBack: true, nextMs: FAR });
    const late = go(plan(job(), { todo, out: [] }, BOUNDS, FAR));
    expect(late).toMatchObject({ start: [], endAs: { state: 'expired' } });
    expect(late.end).toHaveLength(3);
  });

  it('a paused job expires too', () => {
    expect(go(plan(job({}, { state: 'paused' }), { todo: devices(1), out: [] }, BOUNDS, FAR)).end).toHaveLength(1);
  });
});

describe('waves', () => {
  const waves = { first: 3, growth: 2 };

  it('the canary is the first wave, and the next begins when all of it have ended', () => {
    const all = devices(20);
    const canary = go(plan(job({ waves }), { todo: all, out: [] }, BOUNDS, NOW));
    expect(canary).toMatchObject({ wave: 1, waveStarted: 3 });
    expect(names(canary.start)).toEqual(['d0', 'd1', 'd2']);
    const progress = { wave: 1, waveStarted: 3, roundEnded: 2 };
    expect(go(plan(job({ waves }, progress), { todo: all.slice(3), out: all.slice(2, 3) }, BOUNDS, NOW)).start).toEqual(
      [],
    );
    const second = go(
      plan(job({ waves }, { ...progress, roundEnded: 3 }), { todo: all.slice(3), out: [] }, BOUNDS, NOW),
    );
    expect(second).toMatchObject({ wave: 2, waveStarted: 6 });
  });

  it('offline devices are not counted, so a canary is as large as it was meant', () => {
    const away = devices(5, { online: false });
    const planned = go(plan(job({ waves }), { todo: [...away, ...devices(5)], out: [] }, BOUNDS, NOW));
    expect(planned.start).toHaveLength(3);
  });

  it('too many failures in the canary end the job although few have ended', () => {
    const rule = { failurePercent: 20, afterEnded: 100 };
    const ended = { wave: 1, waveStarted: 3, roundEnded: 3, roundFailed: 1 };
    const planned = plan(job({ waves, abort: rule }, ended), { todo: devices(5), out: [] }, BOUNDS, NOW);
    expect(planned).toEqual({ kind: 'abort', reason: '1 of 3 devices failed, allowed are 20 %' });
    const tolerant = job({ waves, abort: { ...rule, failurePercent: 40 } }, ended);
    expect(plan(tolerant, { todo: devices(5), out: [] }, BOUNDS, NOW).kind).toBe('go');
  });

  it('sizes grow by the factor, also by a broken one, and never overflow', () => {
    expect([1, 2, 3, 4].map((n) => waveSize({ first: 3, growth: 1.5 }, n))).toEqual([3, 4, 6, 10]);
    expect(waveSize({ first: 10_000, growth: 100 }, 1_000)).toBe(Number.MAX_SAFE_INTEGER);
  });
});

describe('the end', () => {
  it('an absolute number of failures ends the job at once, the share from its minimum on', () => {
    const count = job({ abort: { failures: 2, afterEnded: 10 } }, { roundEnded: 3, roundFailed: 3 });
    expect(plan(count, { todo: devices(1), out: [] }, BOUNDS, NOW).kind).toBe('abort');
    const share = (roundEnded: number): PlannedJob =>
      job({ abort: { failurePercent: 10, afterEnded: 10 } }, { roundEnded, roundFailed: 2 });
    expect(plan(share(9), { todo: devices(1), out: [] }, BOUNDS, NOW).kind).toBe('go');
    expect(plan(share(10), { todo: devices(1), out: [] }, BOUNDS, NOW).kind).toBe('abort');
    expect(plan(share(20), { todo: devices(1), out: [] }, BOUNDS, NOW).kind).toBe('go');
  });

  it('a job that stops ends what has not begun, takes back what waits, and lets the rest end', () => {
    const stopping = (stopTo: 'cancelled' | 'aborted'): PlannedJob => job({}, { state: 'stopping', stopTo });
    const open = { todo: devices(2), out: devices(1) };
    expect(go(plan(stopping('cancelled'), open, BOUNDS, NOW))).toMatchObject({
      takeBack: true,
      endAs: { state: 'cancelled' },
    });
    expect(go(plan(stopping('aborted'), open, BOUNDS, NOW))).toMatchObject({
      end: open.todo,
      endAs: { state: 'skipped' },
    });
    expect(go(plan(stopping('aborted'), { todo: [], out: devices(1) }, BOUNDS, NOW)).start).toEqual([]);
  });

  it('a job has finished when nothing is open, in any state', () => {
    for (const state of ['running', 'paused', 'stopping'] as const)
      expect(plan(job({}, { state }), { todo: [], out: [] }, BOUNDS, NOW)).toEqual({ kind: 'finish' });
  });
});

describe('the rate', () => {
  it('starts never exceed rate × time plus the bucket, and reach the rate', () => {
    let progress = PROGRESS;
    let started = 0;
    for (let nowMs = NOW; nowMs < NOW + 10_000; nowMs += 37) {
      const planned = go(
        plan(job({ ratePerSecond: 20, concurrency: 1_000 }, progress), { todo: devices(200), out: [] }, BOUNDS, nowMs),
      );
      started += planned.start.length;
      progress = { ...progress, tokens: planned.tokens, tokensAtMs: planned.tokensAtMs };
      expect(started).toBeLessThanOrEqual(5 + (20 * (nowMs - NOW)) / 1_000 + 1);
    }
    expect(started).toBeGreaterThan(190);
  });

  it('a rate below one per second says when the next may start', () => {
    const slow = job({ ratePerSecond: 0.5 }, { tokens: 0 });
    expect(go(plan(slow, { todo: devices(2), out: [] }, BOUNDS, NOW))).toMatchObject({
      start: [],
      nextMs: NOW + 2_000,
    });
    expect(go(plan(slow, { todo: devices(2), out: [] }, BOUNDS, NOW + 2_000)).start).toHaveLength(1);
  });
});

describe('a job that nobody needs to look at', () => {
  const counts = {
    todo: 3,
    starting: 0,
    active: 0,
    succeeded: 0,
    failed: 0,
    timed_out: 0,
    unknown: 0,
    expired: 0,
    cancelled: 0,
    skipped: 0,
  };
  const record = (progress: Partial<JobProgress>, over: Partial<JobRecord> = {}): JobRecord => ({
    id: 'j',
    name: '',
    command: {
      method: 'GET',
      url: '/LAPI/V1.0/System/Time',
      lane: 'normal',
      timeoutMs: 1,
      maxAttempts: 1,
      backoffMs: 1,
      repeatable: true,
    },
    pace: { concurrency: 1, offline: 'wait' },
    keyId: 'k',
    total: 3,
    counts,
    progress: { ...PROGRESS, ...progress },
    notBeforeMs: 0,
    deadlineMs: FAR,
    createdAtMs: NOW,
    startedAtMs: undefined,
    endedAtMs: undefined,
    rate: undefined,
    ...over,
  });

  it('is one that waits for its window, or is paused with nothing out', () => {
    expect(quietMs(record({}, { notBeforeMs: NOW + 5_000 }), NOW)).toBe(5_000);
    expect(quietMs(record({ state: 'paused' }), NOW)).toBe(FAR - NOW);
  });

  it('is never one with something to do', () => {
    expect(quietMs(record({}), NOW)).toBeUndefined();
    expect(quietMs(record({ state: 'paused' }, { counts: { ...counts, active: 1 } }), NOW)).toBeUndefined();
    expect(quietMs(record({ state: 'paused' }, { counts: { ...counts, todo: 0 } }), NOW)).toBeUndefined();
    expect(quietMs(record({ state: 'paused' }), FAR)).toBeUndefined();
    expect(quietMs(record({ state: 'paused', retry: ['failed'] }), NOW)).toBeUndefined();
    expect(quietMs(record({ state: 'stopping' }, { notBeforeMs: NOW + 5_000 }), NOW)).toBeUndefined();
  });
});

/** A whole job, carried out by the planner alone with devices that answer, fail, go and come at random. */
interface World {
  readonly pace: JobPace;
  readonly fleet: readonly { readonly online: boolean; readonly groups: readonly string[]; readonly fails: boolean }[];
  readonly seed: number;
}

const worlds: fc.Arbitrary<World> = fc.record({
  seed: fc.integer({ min: 1, max: 1e9 }),
  pace: fc.record({
    concurrency: fc.integer({ min: 1, max: 12 }),
    offline: fc.constantFrom('wait' as const, 'fail' as const),
    ratePerSecond: fc.option(fc.integer({ min: 1, max: 200 }), { nil: undefined }),
    perTag: fc.option(fc.record({ prefix: fc.constant('s'), limit: fc.integer({ min: 1, max: 3 }) }), {
      nil: undefined,
    }),
    waves: fc.option(fc.record({ first: fc.integer({ min: 1, max: 5 }), growth: fc.constantFrom(1, 1.5, 2, 10) }), {
      nil: undefined,
    }),
    abort: fc.option(
      fc.record({
        failures: fc.option(fc.integer({ min: 0, max: 10 }), { nil: undefined }),
        failurePercent: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined }),
        afterEnded: fc.integer({ min: 1, max: 20 }),
      }),
      { nil: undefined },
    ),
  }) as fc.Arbitrary<JobPace>,
  fleet: fc.array(
    fc.record({
      online: fc.boolean(),
      groups: fc.subarray(['s1', 's2', 's3'], { minLength: 0, maxLength: 2 }),
      fails: fc.boolean(),
    }),
    { minLength: 1, maxLength: 60 },
  ),
});

function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

describe('any job', () => {
  it('keeps every limit at every moment, starts nobody twice, and ends', () => {
    fc.assert(
      fc.property(worlds, ({ pace, fleet, seed }) => {
        const draw = random(seed);
        type Member = Device & { online: boolean; freshUntilMs: number; readonly fails: boolean };
        let todo: Member[] = fleet.map((each, i) => ({ ...device(`d${i}`), ...each, freshUntilMs: 0 }));
        let out: Member[] = [];
        const ended = new Set<string>();
        const started = new Set<string>();
        let progress = PROGRESS;
        let nowMs = NOW;
        const end = (members: readonly Member[]): void => {
          for (const { name } of members) {
            expect(ended.has(name)).toBe(false);
            ended.add(name);
          }
        };
        for (let step = 0; step < 20_000; step++) {
          const planned = plan({ ...job(), pace, progress }, { todo, out }, { starts: 7, lookUps: 9, ends: 11 }, nowMs);
          if (planned.kind === 'finish') {
            expect(ended.size).toBe(fleet.length);
            return;
          }
          if (planned.kind === 'abort') {
            progress = { ...progress, state: 'stopping', stopTo: 'aborted', reason: planned.reason };
            continue;
          }
          for (const member of planned.lookUp) {
            member.online = draw() < 0.7;
            member.freshUntilMs = nowMs + 2_000;
          }
          end(planned.end);
          for (const { name } of planned.start) {
            expect(started.has(name)).toBe(false);
            started.add(name);
          }
          const leaving = new Set([...planned.start, ...planned.end]);
          todo = todo.filter((member) => !leaving.has(member));
          out = [...out, ...planned.start];
          const { wave, waveStarted, tokens, tokensAtMs } = planned;
          if (planned.start.length > 0) progress = { ...progress, wave, waveStarted, tokens, tokensAtMs };

          expect(out.length).toBeLessThanOrEqual(pace.concurrency);
          if (pace.waves !== undefined && progress.wave > 0)
            expect(progress.waveStarted).toBeLessThanOrEqual(waveSize(pace.waves, progress.wave));
          for (const group of ['s1', 's2', 's3'])
            if (pace.perTag !== undefined)
              expect(out.filter(({ groups }) => groups.includes(group)).length).toBeLessThanOrEqual(pace.perTag.limit);

          const done = out.filter(() => draw() < 0.4);
          out = out.filter((member) => !done.includes(member));
          end(done);
          const failed = done.filter(({ fails }) => fails).length;
          const { roundEnded, roundFailed } = progress;
          progress = { ...progress, roundEnded: roundEnded + done.length, roundFailed: roundFailed + failed };
          nowMs += Math.floor(draw() * 400);
        }
        throw new Error('it never ends');
      }),
      { numRuns: 300 },
    );
  });
});
