import { describe, expect, test } from 'vitest';
import { Lifecycle, type LifecycleLog, type Part } from './lifecycle.ts';

interface Trace {
  readonly steps: string[];
  readonly events: string[];
  readonly log: LifecycleLog;
}

function trace(): Trace {
  const events: string[] = [];
  const write =
    (level: string) =>
    (facts: Record<string, unknown>, event: string): void => {
      if (level !== 'info') events.push(`${level} ${event} ${String(facts.part)}`);
    };
  return { steps: [], events, log: { info: write('info'), warn: write('warn'), error: write('error') } };
}

function part(name: string, { steps }: Trace, overrides: Partial<Part> = {}): Part {
  return {
    name,
    start: () => void steps.push(`start ${name}`),
    drain: () => void steps.push(`drain ${name}`),
    stop: async () => {
      await Promise.resolve();
      steps.push(`stop ${name}`);
    },
    ...overrides,
  };
}

function deferred(): { readonly promise: Promise<void>; resolve(): void } {
  let resolve: () => void = () => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve: () => resolve() };
}

const never = (): Promise<void> => new Promise(() => undefined);

describe('order', () => {
  test('parts start in order, drain and stop in reverse order', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it), part('b', it), { name: 'plain' }, part('c', it)], it.log);
    await lifecycle.start();
    expect(lifecycle.state).toBe('running');
    await lifecycle.drain(1000);
    await lifecycle.stop();
    expect(it.steps).toEqual([
      'start a',
      'start b',
      'start c',
      'drain c',
      'drain b',
      'drain a',
      'stop c',
      'stop b',
      'stop a',
    ]);
    expect({ state: lifecycle.state, events: it.events }).toEqual({ state: 'stopped', events: [] });
  });

  test('a part starts only when the one before it has started', async () => {
    const it = trace();
    const gate = deferred();
    const lifecycle = new Lifecycle([part('a', it, { start: () => gate.promise }), part('b', it)], it.log);
    const started = lifecycle.start();
    await Promise.resolve();
    expect(it.steps).toEqual([]);
    gate.resolve();
    await started;
    expect(it.steps).toEqual(['start b']);
    await lifecycle.stop();
  });

  test('each method is idempotent: a second call joins the first', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it)], it.log);
    await Promise.all([lifecycle.start(), lifecycle.start()]);
    await Promise.all([lifecycle.drain(100), lifecycle.drain(1)]);
    await Promise.all([lifecycle.stop(), lifecycle.stop()]);
    await lifecycle.stop();
    await lifecycle.start();
    await lifecycle.drain(100);
    expect(it.steps).toEqual(['start a', 'drain a', 'stop a']);
  });
});

describe('failed start', () => {
  test('it is undone in reverse order, the failing part included, and the first error is thrown', async () => {
    const it = trace();
    const failing = part('b', it, {
      start: () => {
        it.steps.push('start b');
        throw new Error('port in use');
      },
    });
    const lifecycle = new Lifecycle([part('a', it), failing, part('c', it)], it.log);
    await expect(lifecycle.start()).rejects.toThrow('port in use');
    expect(it.steps).toEqual(['start a', 'start b', 'stop b', 'stop a']);
    expect(it.events).toEqual(['error part.start_failed b']);
    expect(lifecycle.state).toBe('stopped');
    await lifecycle.stop();
    await lifecycle.drain(10);
    expect(it.steps).toHaveLength(4);
  });

  test('an error while undoing does not hide the first one', async () => {
    const it = trace();
    const a = part('a', it, { stop: () => Promise.reject(new Error('second')) });
    const b = part('b', it, { start: () => Promise.reject(new Error('first')) });
    await expect(new Lifecycle([a, b], it.log).start()).rejects.toThrow('first');
    expect(it.events).toEqual(['error part.start_failed b', 'error part.stop_failed a']);
  });
});

describe('stop', () => {
  test('an error of one part is logged and the others still stop', async () => {
    const it = trace();
    const b = part('b', it, {
      stop: () => {
        throw new Error('broken');
      },
    });
    const lifecycle = new Lifecycle([part('a', it), b, part('c', it)], it.log);
    await lifecycle.start();
    await lifecycle.stop();
    expect(it.steps.slice(3)).toEqual(['stop c', 'stop a']);
    expect(it.events).toEqual(['error part.stop_failed b']);
  });

  test('a part that never stops is left behind after its deadline', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it), part('b', it, { stop: never })], it.log, { stopMs: 5 });
    await lifecycle.start();
    await lifecycle.stop();
    expect(it.steps.at(-1)).toBe('stop a');
    expect(it.events).toEqual(['error part.stop_overdue b']);
  });

  test('a part abandoned by its deadline may fail later without anyone hurt', async () => {
    const it = trace();
    const gate = deferred();
    const late = part('a', it, {
      stop: async () => {
        await gate.promise;
        throw new Error('late');
      },
    });
    const lifecycle = new Lifecycle([late], it.log, { stopMs: 5 });
    await lifecycle.start();
    await lifecycle.stop();
    gate.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    expect(it.events).toEqual(['error part.stop_overdue a']);
  });

  test('while starting: the part in progress is waited for, later ones never start, all started ones stop', async () => {
    const it = trace();
    const gate = deferred();
    const slow = part('b', it, {
      start: async () => {
        it.steps.push('start b');
        await gate.promise;
      },
    });
    const lifecycle = new Lifecycle([part('a', it), slow, part('c', it)], it.log);
    const started = expect(lifecycle.start()).rejects.toThrow('stopped while starting');
    await expect.poll(() => it.steps).toContain('start b');
    const stopped = lifecycle.stop();
    gate.resolve();
    await Promise.all([started, stopped]);
    expect(it.steps).toEqual(['start a', 'start b', 'stop b', 'stop a']);
  });

  test('while starting with a start that hangs: bounded all the same', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it), part('b', it, { start: never })], it.log, { stopMs: 5 });
    void lifecycle.start();
    await expect.poll(() => it.steps).toContain('start a');
    await lifecycle.stop();
    expect(it.steps).toEqual(['start a', 'stop b', 'stop a']);
  });

  test('before any start there is nothing to stop, and a later start is refused', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it)], it.log);
    await lifecycle.stop();
    await expect(lifecycle.start()).rejects.toThrow('cannot be started');
    expect(it.steps).toEqual([]);
  });
});

describe('drain', () => {
  test('all parts share one deadline: a slow one leaves less to those that follow', async () => {
    const it = trace();
    let nowMs = 0;
    const given: number[] = [];
    const drain = (takesMs: number) => (deadlineMs: number) => {
      given.push(deadlineMs);
      nowMs += takesMs;
    };
    const parts = [
      part('a', it, { drain: drain(0) }),
      part('b', it, { drain: drain(300) }),
      part('c', it, { drain: drain(700) }),
    ];
    const lifecycle = new Lifecycle(parts, it.log, { clock: { nowMs: () => nowMs, monotonicMs: () => nowMs } });
    await lifecycle.start();
    await lifecycle.drain(900);
    expect(given).toEqual([900, 200, 0]);
    await lifecycle.stop();
  });

  test('errors and overruns are logged, and the other parts still drain', async () => {
    const it = trace();
    const parts = [
      part('a', it),
      part('b', it, { drain: never }),
      part('c', it, { drain: () => Promise.reject(new Error('broken')) }),
    ];
    const lifecycle = new Lifecycle(parts, it.log);
    await lifecycle.start();
    await lifecycle.drain(10);
    expect(it.events).toEqual(['error part.drain_failed c', 'warn part.drain_overdue b']);
    expect(it.steps).toContain('drain a');
    await lifecycle.stop();
  });

  test('stop while draining does not wait for it', async () => {
    const it = trace();
    const gate = deferred();
    const lifecycle = new Lifecycle([part('a', it), part('b', it, { drain: () => gate.promise })], it.log);
    await lifecycle.start();
    const drained = lifecycle.drain(60_000);
    await lifecycle.stop();
    expect(it.steps.slice(2)).toEqual(['stop b', 'stop a']);
    gate.resolve();
    await drained;
    expect(it.steps).not.toContain('drain a');
  });

  test('before start it does nothing and does not stand in the way of a later drain', async () => {
    const it = trace();
    const lifecycle = new Lifecycle([part('a', it)], it.log);
    await lifecycle.drain(100);
    await lifecycle.start();
    await lifecycle.drain(100);
    await lifecycle.stop();
    expect(it.steps).toEqual(['start a', 'drain a', 'stop a']);
  });
});
