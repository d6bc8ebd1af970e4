import { describe, expect, test } from 'vitest';
import { EventRecorder } from '../event/history.ts';
import { Recorder } from '../history/history.ts';
import { planRun } from '../traffic/plan.ts';
import { checkEnough, type Seen } from './enough.ts';

type Without = 'acceptance' | 'success' | 'storing' | 'reading' | 'fault' | 'reach';

function seen(without?: Without): Seen {
  const plan = planRun({ seed: 1, commands: 4, devices: 1, edges: 1, loadMs: 1_000 });
  const commands = new Recorder(plan.commands);
  const events = new EventRecorder(new Map([['live', 'live']]), false);
  const devices = without === 'reach' ? [] : ['camera'];
  if (without !== 'fault') commands.log({ kind: 'disturb.begin', disturbance: 1, what: '', blurs: true, devices });
  for (const { marker } of without === 'acceptance' ? [] : plan.commands) {
    commands.log({ kind: 'submit.invoke', marker, call: 1 });
    const state = without === 'success' ? 'failed' : 'succeeded';
    const unknown = { attempts: 1, expiresAtMs: undefined, sentAtMs: undefined, endedAtMs: undefined };
    const view = { state, executed: 'yes', late: false, ...unknown };
    commands.log({ kind: 'submit.ok', marker, call: 1, id: marker, view });
  }
  events.log({ kind: 'send', device: 'sender', number: 1, hash: '' });
  events.log({ kind: 'answer', device: 'sender', number: 1, code: without === 'storing' ? 1 : 0 });
  const told = { by: '', id: '0-0-1', device: 'sender', hash: '', epoch: 1, seq: 1, attempt: 1 };
  const number = without === 'reading' ? undefined : 1;
  events.log({ kind: 'receive', reader: 'live', ...told, number, topic: '' });
  return { commands, events, unfinished: [], fault: { target: 'edge' } };
}

const found = (run: Seen): string[] => checkEnough(run).map(({ what }) => what);

describe('a run that saw nothing is no good run', () => {
  test('commands, events and a fault are enough; what needs no fault may go without', () => {
    expect(found(seen())).toEqual([]);
    expect(found({ ...seen('fault'), fault: { target: undefined } })).toEqual([]);
  });

  test.each([
    ['acceptance', 'only 0 of 4 commands were accepted'],
    ['success', 'only 0 of 4 commands succeeded'],
    ['storing', 'no event was stored'],
    ['reading', 'live received no event'],
    ['fault', 'the fault touched nobody'],
    ['reach', 'the fault touched nobody'],
  ] as const)('no %s', (without, what) => {
    expect(found(seen(without))).toContain(what);
  });

  test('a sender that could never have an event stored', () => {
    expect(found({ ...seen(), unfinished: ['sender'] })).toEqual(['sender could not have all its events stored']);
  });
});
