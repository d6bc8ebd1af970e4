import { createLog } from '@lapi-broker/telemetry';
import { expect, test } from 'vitest';
import type { Session } from './device/session.ts';
import { Drain, drainPace, planDrain } from './drain.ts';
import { callTo, FakeNode } from './testing/fake-node.ts';

function node({ delayMs = 0, spanMs = 20_000 } = {}) {
  const fake = new FakeNode();
  const { sessions, departures, closed, released, monotonicMs } = fake;
  const state = { registering: 0, announced: 0 };
  const drain = new Drain({
    sessions,
    departures,
    registering: () => state.registering,
    announce: () => {
      state.announced++;
    },
    delayMs,
    spanMs,
    monotonicMs,
    redisMs: () => fake.nowMs + 1_700_000_000_000,
    random: () => 0.5,
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  const look = (nowMs: number): void => {
    departures.look(nowMs, drain.endsMs);
    drain.look(nowMs);
  };
  return {
    drain,
    sessions,
    closed,
    released,
    state,
    nowMs: fake.nowMs,
    open: () => fake.open(),
    pass: (ms: number) => fake.pass(ms, look),
    pause: (ms: number) => {
      fake.nowMs += ms;
    },
  };
}

const answer = { success: true } as Parameters<Session['answered']>[1];

test('the pace fits the devices into what is left of the time, and is never below fifty a second', () => {
  const plan = planDrain(0, 20_000, 5_000);
  expect(plan).toEqual({ listensUntilMs: 5_000, lastTurnMs: 13_000, endsMs: 20_000 });
  expect(drainPace(8_000, plan, 5_000)).toBe(1_000);
  expect(drainPace(4_000, plan, 9_000)).toBe(1_000);
  expect(drainPace(100, plan, 5_000)).toBe(50);
  // Late: all that are left within one step.
  expect(drainPace(4_000, plan, 14_000)).toBe(80_000);
});

test('the balancer gets at most half of the time, and the devices at least half of the rest', () => {
  expect(planDrain(0, 4_000, 60_000)).toEqual({ listensUntilMs: 2_000, lastTurnMs: 3_000, endsMs: 4_000 });
  expect(planDrain(0, 100_000, 5_000)).toEqual({ listensUntilMs: 5_000, lastTurnMs: 93_000, endsMs: 100_000 });
});

test('a drain is announced first, registrations are accepted until balancers have heard of it, and refused then (F16)', async () => {
  const { drain, open, pass, closed, state } = node({ delayMs: 5_000 });
  open();
  const leaving = drain.leave(20_000);
  expect(drain.phase).toBe('draining');
  expect(state.announced).toBe(1);
  await pass(4_950);
  open();
  expect(drain.refuses).toBe(false);
  expect(closed).toEqual([]);
  await pass(100);
  expect(drain.refuses).toBe(true);
  await pass(100);
  expect(closed).toHaveLength(2);
  await leaving;
});

test('devices leave spread over the time, in random order, released first, closed with 1001 and the reason', async () => {
  const { drain, open, pass, closed, released } = node({ spanMs: 10_000 });
  for (let i = 0; i < 1_000; i++) open();
  drain.hear({ ask: 'drain', seconds: undefined, number: 1 });
  await pass(1_000);
  // 1,000 in 5 s.
  expect(closed.length).toBeGreaterThan(150);
  expect(closed.length).toBeLessThan(250);
  expect(closed.map(({ code }) => code)).not.toEqual(Array.from({ length: closed.length }, (_, i) => `CAM-${i}`));
  await pass(4_500);
  expect(closed).toHaveLength(1_000);
  expect(released).toEqual(closed.map(({ code }) => code));
  expect(new Set(closed.map(({ frame }) => frame))).toEqual(new Set([1001]));
  expect(new Set(closed.map(({ reason }) => reason))).toEqual(new Set(['draining']));
});

test('after a pause of the process devices go on leaving one after the other, in what is left of the time', async () => {
  const { drain, open, pass, pause, closed } = node({ spanMs: 60_000 });
  for (let i = 0; i < 1_000; i++) open();
  drain.hear({ ask: 'drain', seconds: undefined, number: 1 });
  await pass(2_000);
  const before = closed.length;
  pause(14_000);
  await pass(100);
  expect(closed.length - before).toBeLessThan(100);
  await pass(44_000);
  expect(closed).toHaveLength(1_000);
});

test('a device with a call out takes no further call, is closed after its answer, and after five seconds without one', async () => {
  const { drain, open, pass, closed } = node();
  const [quick, mute] = [open(), open()];
  const outcomes: string[] = [];
  quick.submit(callTo((outcome) => outcomes.push(`quick ${outcome}`)));
  mute.submit(callTo((outcome) => outcomes.push(`mute ${outcome}`)));
  void drain.leave(20_000);
  await pass(500);
  expect([quick.leaving, mute.leaving]).toEqual([true, true]);
  expect(closed).toEqual([]);
  quick.answered(1, answer);
  await pass(100);
  expect(closed.map(({ code }) => code)).toEqual([quick.code]);
  await pass(4_200);
  expect(mute.isOpen).toBe(true);
  await pass(500);
  expect(mute.isOpen).toBe(false);
  expect(outcomes).toEqual(['quick answered', 'mute outcome_unknown']);
});

test('a device whose event is being stored is closed when it is stored', async () => {
  const { drain, open, pass } = node();
  const session = open();
  session.unstoredEvents = 1;
  void drain.leave(20_000);
  await pass(1_000);
  expect(session.isOpen).toBe(true);
  session.unstoredEvents = 0;
  await pass(100);
  expect(session.isOpen).toBe(false);
});

test('at the end of its time a drain waits for nobody', async () => {
  const { drain, open, pass, sessions } = node();
  for (let i = 0; i < 40; i++) open().submit(callTo(() => undefined));
  const leaving = drain.leave(1_000);
  await pass(900);
  expect(sessions.size).toBe(40);
  await pass(150);
  expect(sessions.size).toBe(0);
  await leaving;
});

test('a registration that was under way when they began to be refused is waited for, and its device sent on', async () => {
  const { drain, open, pass, state, sessions } = node();
  state.registering = 1;
  let left = false;
  void drain.leave(20_000).then(() => {
    left = true;
  });
  await pass(500);
  expect(left).toBe(false);
  open();
  state.registering = 0;
  await pass(200);
  expect(sessions.size).toBe(0);
  expect(left).toBe(true);
});

test('progress says when it began, when it ends, how many devices it is about and how many are left', async () => {
  const { drain, open, pass, nowMs } = node();
  for (let i = 0; i < 100; i++) open();
  expect(drain.progress).toBeUndefined();
  drain.hear({ ask: 'drain', seconds: 30, number: 1 });
  const startedAtMs = nowMs + 1_700_000_000_000;
  expect(drain.progress).toEqual({ startedAtMs, endsAtMs: startedAtMs + 30_000, devices: 100, left: 100 });
  await pass(1_000);
  const { left = 0, devices } = drain.progress ?? {};
  expect(left).toBeGreaterThan(30);
  expect(left).toBeLessThan(70);
  expect(devices).toBe(100);
  await pass(2_000);
  expect(drain.progress).toMatchObject({ devices: 100, left: 0 });
});

test('an event that comes while the subscription is being ended is stored and answered as well', async () => {
  const { drain, open, pass, released } = node();
  const session = open();
  let ended: () => void = () => undefined;
  const remove = (): Promise<void> =>
    new Promise((resolve) => {
      ended = resolve;
    });
  session.subscription = { remove, look: () => Number.POSITIVE_INFINITY } as Partial<
    NonNullable<Session['subscription']>
  > as NonNullable<Session['subscription']>;
  void drain.leave(20_000);
  await pass(500);
  session.unstoredEvents = 1;
  ended();
  await pass(1_000);
  expect([session.isOpen, released]).toEqual([true, []]);
  session.unstoredEvents = 0;
  await pass(100);
  expect([session.isOpen, released]).toEqual([false, [session.code]]);
});

test('a drained node stays drained until it is told to resume; then it serves and can be drained again', async () => {
  const { drain, open, pass, state, sessions } = node();
  open();
  drain.hear({ ask: 'drain', seconds: undefined, number: 7 });
  await pass(60_000);
  expect([drain.phase, drain.refuses, sessions.size]).toEqual(['draining', true, 0]);
  const announced = state.announced;
  drain.hear({ ask: 'resume', number: 8 });
  expect([drain.phase, drain.refuses, drain.progress]).toEqual(['serving', false, undefined]);
  expect(state.announced).toBe(announced + 1);
  open();
  // The directory repeats the last word with every beat.
  drain.hear({ ask: 'resume', number: 8 });
  drain.hear({ ask: 'drain', seconds: undefined, number: 7 });
  await pass(1_000);
  expect(sessions.size).toBe(1);
  drain.hear({ ask: 'drain', seconds: 1, number: 9 });
  await pass(1_100);
  expect(drain.progress).toMatchObject({ devices: 1, left: 0 });
});

test('what is asked after a failover counts, though the clock of the store went back', () => {
  const { drain, open } = node();
  open();
  drain.hear({ ask: 'drain', seconds: undefined, number: 1_000 });
  drain.hear({ ask: 'resume', number: 900 });
  expect(drain.phase).toBe('serving');
  drain.hear({ ask: 'drain', seconds: undefined, number: 1_000 });
  expect(drain.phase).toBe('serving');
});

test('a drain that is taken back leaves those that had no turn where they are', async () => {
  const { drain, open, pass, sessions } = node();
  for (let i = 0; i < 200; i++) open();
  drain.hear({ ask: 'drain', seconds: undefined, number: 1 });
  await pass(1_000);
  drain.hear({ ask: 'resume', number: 2 });
  await pass(100);
  const stayed = sessions.size;
  expect(stayed).toBeGreaterThan(100);
  await pass(30_000);
  expect(sessions.size).toBe(stayed);
  expect([...sessions.values()].some(({ leaving }) => leaving)).toBe(false);
});

test('a drain that is asked for again goes on with the new time', async () => {
  const { drain, open, pass, sessions } = node({ delayMs: 5_000 });
  for (let i = 0; i < 3_000; i++) open();
  drain.hear({ ask: 'drain', seconds: 600, number: 1 });
  await pass(6_000);
  drain.hear({ ask: 'drain', seconds: 4, number: 2 });
  // What balancers were told once is not waited for again.
  await pass(2_200);
  expect(sessions.size).toBe(0);
});

test('a signal ends the node whatever the API says before and afterwards', async () => {
  const { drain, open, pass, sessions } = node({ delayMs: 5_000 });
  for (let i = 0; i < 10; i++) open();
  drain.hear({ ask: 'drain', seconds: 3_600, number: 1 });
  await pass(6_000);
  const leaving = drain.leave(10_000);
  drain.hear({ ask: 'resume', number: 2 });
  expect(drain.phase).toBe('draining');
  await pass(500);
  expect(sessions.size).toBe(0);
  await leaving;
});

test('a drain that is stopped waits no longer and refuses registrations', async () => {
  const { drain, open } = node({ delayMs: 5_000 });
  open();
  const leaving = drain.leave(20_000);
  drain.stop();
  await leaving;
  expect(drain.refuses).toBe(true);
});
