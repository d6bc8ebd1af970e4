import { expect, test } from 'vitest';
import { type SoakResult, verdictsOf } from './report.ts';

const RECEIVED = { events: 18_000, again: 0, other: 0 };

function result(more: Partial<SoakResult> = {}): SoakResult {
  return {
    minutes: 1,
    options: { devices: 10, commandsPerSecond: 50, eventsPerSecond: 300 },
    windows: [],
    events: {
      sent: 18_000,
      stored: 18_000,
      refused: 0,
      gaps: 0,
      violations: 0,
      received: { group: RECEIVED, live: RECEIVED },
      notSent: 0,
      unstored: 0,
      arrival: { group: { lost: 0, inGaps: 0 }, live: { lost: 0, inGaps: 0 } },
    },
    commands: {
      submitted: 3_000,
      succeeded: 2_990,
      notExecuted: 10,
      maybe: 0,
      unsure: 0,
      open: 0,
      excused: 0,
      violations: 0,
      untrue: 0,
      notSubmitted: 0,
    },
    rest: { lag: 0, waiting: 0, inFlight: 0, deadLetters: 0 },
    presence: { online: 10, missing: 0, wrong: 0 },
    answers: { 'calm direct 200 succeeded': 2_990, 'calm direct 503 device_offline': 10 },
    latencies: {},
    ends: {},
    wrong: [],
    lines: [],
    violations: [],
    ...more,
  };
}

const bad = (of: SoakResult): string[] => verdictsOf(of).flatMap(({ what, isGood }) => (isGood ? [] : [what]));

test('a run in which all went well is good', () => {
  expect(bad(result())).toEqual([]);
});

test('a run that had nothing to judge is not', () => {
  const { commands, events } = result();
  expect(bad(result({ commands: { ...commands, submitted: 0, succeeded: 0 } }))).toEqual(['load of commands']);
  expect(bad(result({ commands: { ...commands, succeeded: 0, notExecuted: 3_000 } }))).toEqual(['load of commands']);
  expect(bad(result({ events: { ...events, stored: 0 } }))).toEqual(['load of events']);
  const received = { group: RECEIVED, live: { ...RECEIVED, events: 0 } };
  expect(bad(result({ events: { ...events, received } }))).toEqual(['load of events']);
  expect(bad(result({ answers: {} }))).toEqual(['errors while calm']);
  expect(bad(result({ presence: { online: 0, missing: 0, wrong: 0 } }))).toEqual(['online set']);
  expect(bad(result({ minutes: 60 }))).toEqual(['load of commands', 'load of events', 'what grows']);
});

test('devices that are there are not said to be away, and gaps are no place to lose events', () => {
  const answers = { 'calm direct 200 succeeded': 2_900, 'calm direct 503 device_offline': 100 };
  expect(bad(result({ answers }))).toEqual(['devices said to be away']);
  const { events } = result();
  const arrival = { ...events.arrival, group: { lost: 0, inGaps: 100 } };
  expect(bad(result({ events: { ...events, arrival } }))).toEqual(['events lost']);
});
