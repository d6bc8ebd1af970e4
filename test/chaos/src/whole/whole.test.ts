/** The checkers of what a run leaves behind are checked. */

import { describe, expect, test } from 'vitest';
import { EventRecorder } from '../event/history.ts';
import { Recorder } from '../history/history.ts';
import { counted, judge, standing } from '../judge.ts';
import { planRun } from '../traffic/plan.ts';
import { Canaries } from './canary.ts';
import { checkFootprint, type Footprint, kindOf, type Load } from './footprint.ts';
import { checkServed, servedIn } from './others.ts';

const MEBIBYTE = 1024 * 1024;
const LOAD: Load = { devices: 10, commands: 100, events: 100, eventBytes: 0, edges: 2, shards: 4 };
const BEFORE: Footprint = {
  edges: { descriptors: 80, bytes: 200 * MEBIBYTE },
  commands: { descriptors: 120, bytes: 250 * MEBIBYTE },
  keys: { device: 10, secret: 10, owned: 8, node: 2 },
  storeBytes: 5 * MEBIBYTE,
};

describe('V12', () => {
  test('records of commands stay, and nothing else', () => {
    const keys = { ...BEFORE.keys, command: 100, history: 10, idem: 30, nonce: 200 };
    expect(checkFootprint(BEFORE, { ...BEFORE, keys }, LOAD)).toEqual([]);
  });

  test.each([
    ['descriptors', { edges: { ...BEFORE.edges, descriptors: 160 } }, /descriptors of edges: 160/],
    ['memory', { commands: { ...BEFORE.commands, bytes: 900 * MEBIBYTE } }, /memory of commands/],
    ['a lane', { keys: { ...BEFORE.keys, lane: 1 } }, /keys of lane: 1, at most 0/],
    ['records beyond the commands', { keys: { ...BEFORE.keys, command: 150 } }, /keys of command: 150, at most 100/],
    ['what a dead node owned', { keys: { ...BEFORE.keys, owned: 12 } }, /keys of owned: 12, at most 8/],
    ['keys of a kind that nobody knows', { keys: { ...BEFORE.keys, other: 50 } }, /keys of other/],
    ['memory of Redis', { storeBytes: 500 * MEBIBYTE }, /memory of Redis/],
  ])('%s that stays is found', (_, change, what) => {
    const violations = checkFootprint(BEFORE, { ...BEFORE, ...change }, LOAD);
    expect(violations).toHaveLength(1);
    expect(violations[0]?.what).toMatch(what);
  });

  test('keys are told apart by what they are', () => {
    expect(kindOf('t1:{s07}:command:abc', 't1')).toBe('command');
    expect(kindOf('t1:{s07}:group:k:out', 't1')).toBe('out');
    expect(kindOf('t1:{groups}:group:name', 't1')).toBe('group');
    expect(kindOf('t1:node:edge-1', 't1')).toBe('node');
    expect(kindOf('t1:{queue:lane}:lane:meta', 't1')).toBe('queue');
  });
});

describe('V14', () => {
  test('a secret is found as it is, as hex and as base64, once per place', () => {
    const canaries = new Canaries();
    canaries.add('a secret', 'correct horse battery');
    canaries.look('a log', 'nothing');
    expect(canaries.leaks).toEqual([]);
    for (let i = 0; i < 2; i++) canaries.look('a log', 'x correct horse battery y');
    canaries.look('Redis', Buffer.from('correct horse battery').toString('hex'));
    canaries.look('an answer', Buffer.from('correct horse battery staple').toString('base64'));
    expect(canaries.leaks.map(({ what }) => what)).toEqual([
      'a secret stands in a log',
      'a secret as hex stands in Redis',
      'a secret as base64 stands in an answer',
    ]);
  });
});

describe('V13', () => {
  test('counts direct calls to devices that the fault does not touch, without the time of the device', () => {
    const plan = planRun({
      seed: 1,
      commands: 40,
      devices: 2,
      edges: 2,
      loadMs: 1_000,
      mix: { direct: 1, late: 0, silent: 0 },
    });
    const [touched, other] = plan.devices.map(({ code }) => code);
    const recorder = new Recorder(plan.commands);
    for (const device of [touched, other])
      recorder.log({ kind: 'socket.open', device: device ?? '', socket: 1, edge: 0 });
    recorder.log({ kind: 'disturb.begin', disturbance: 1, what: 'a fault', blurs: true, devices: [touched ?? ''] });
    const calls = plan.commands.filter(({ device }) => device === other);
    for (const [i, { marker }] of plan.commands.entries()) {
      recorder.log({ kind: 'submit.invoke', marker, call: i });
      if (i % 2 === 0) recorder.log({ kind: 'submit.ok', marker, call: i, id: marker, view: undefined });
      else recorder.log({ kind: 'submit.fail', marker, call: i, why: '503' });
    }
    recorder.log({ kind: 'disturb.end', disturbance: 1 });
    const { before, during } = servedIn(recorder);
    expect(before.calls).toBe(0);
    expect(during.calls).toBe(calls.length);
    expect(during.errors).toBe(plan.commands.filter(({ device }, i) => device === other && i % 2 === 1).length);
  });

  test('a call whose device is said not to have answered is an error, whatever its status, and is judged', () => {
    const plan = planRun({
      seed: 1,
      commands: 20,
      devices: 1,
      edges: 1,
      loadMs: 1,
      mix: { direct: 1, late: 0, silent: 0 },
    });
    const recorder = new Recorder(plan.commands);
    recorder.log({ kind: 'socket.open', device: plan.devices[0]?.code ?? '', socket: 1, edge: 0 });
    recorder.log({ kind: 'disturb.begin', disturbance: 1, what: 'a fault', blurs: true, devices: ['another'] });
    const end = { attempts: undefined, expiresAtMs: undefined, sentAtMs: undefined, endedAtMs: undefined, late: false };
    for (const { marker } of plan.commands) {
      recorder.log({ kind: 'submit.invoke', marker, call: 1 });
      const view = { ...end, state: 'timed_out', executed: 'maybe' };
      recorder.log({ kind: 'submit.ok', marker, call: 1, id: marker, view });
    }
    // What began before the fault and ended in it is no measure of the time before.
    expect(servedIn(recorder)).toMatchObject({ before: { calls: 0 }, during: { calls: 20, errors: 20 } });
    expect(checkServed(recorder)).toMatchObject([{ check: 'V13' }]);
  });
});

describe('what is found counts', () => {
  const whole = ['V12', 'V14', 'alive'].map((check) => ({ check, what: '' }));
  const commands = new Recorder([]);
  const events = new EventRecorder(new Map([['live', 'live']]), false);
  events.log({ kind: 'send', device: 'sender', number: 1, hash: '' });
  events.log({ kind: 'answer', device: 'sender', number: 1, code: 0 });
  const findings = { commands, events, presence: [], whole };
  const names = (list: ReturnType<typeof judge>): string[] => list.map(({ check }) => check);

  test('also when the store failed over unasked, or a fault is beyond the promises: what that cannot explain', () => {
    expect(names(judge(findings))).toEqual(['V7', 'V12', 'V14', 'alive']);
    expect(names(standing(findings))).toEqual(['V14']);
    expect(names([...counted(judge(findings), true)])).toEqual(['V12', 'V14', 'alive']);
    expect(names([...counted(judge(findings), false)])).toHaveLength(4);
  });
});
