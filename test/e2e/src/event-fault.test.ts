/** Events while processes die, the store fails over and consumers stay away, judged by what devices were told and what readers got. Two short
 *  rounds; all faults one by one, with thousands of events: `npm run chaos -- events`. */

import {
  EVENT_FAULTS,
  type EventFault,
  type EventRound,
  eventNumbersOf,
  failOver,
  killCommandOf,
  killEdgeOf,
  runEventFault,
  tellEventViolations,
} from '@lapi-broker/chaos';
import { expect, test } from 'vitest';

const EVENTS = 400;
const DEVICES = 5;
const DEADLINE_MS = 150_000;
const ROUND_MS = 120_000;

function named(name: string): EventFault {
  const fault = EVENT_FAULTS.find((each) => each.name === name);
  if (fault === undefined) throw new TypeError(`no fault ${name}`);
  return fault;
}

const away = named('event-away');
const deaths: EventFault = {
  ...away,
  name: 'deaths',
  async run(stage) {
    stage.allow(0.6);
    await stage.untilSent(stage.between(0.1, 0.2));
    await stage.leave();
    await stage.untilSent(stage.between(0.3, 0.5));
    await killEdgeOf(stage);
    stage.allow(1);
    await stage.untilSent(stage.between(0.7, 0.9));
    await killCommandOf(stage);
    stage.comeBack();
  },
};

const failover: EventFault = {
  ...named('event-redis-failover'),
  async run(stage) {
    await stage.untilSent(stage.between(0.2, 0.8));
    await failOver(stage);
  },
};

async function run(fault: EventFault): Promise<EventRound> {
  const rounds: EventRound[] = [];
  const signal = AbortSignal.timeout(ROUND_MS);
  const onRound = (round: EventRound): void => void rounds.push(round);
  await runEventFault({ fault, rounds: 1, events: EVENTS, devices: DEVICES, seed: 1, repeats: true, onRound, signal });
  const [round] = rounds;
  if (round === undefined) throw new Error('there was no round');
  expect(tellEventViolations(round.history, round.violations)).toBe('');
  const { events, stored } = eventNumbersOf(fault.name, round);
  expect([events, stored]).toEqual([EVENTS, EVENTS]);
  return round;
}

test.concurrent(
  'an edge and a command service die, a subscription is away for longer than events are kept: every stored event arrives, or is counted in a gap (I5)',
  async () => {
    const { gaps, missing } = eventNumbersOf(deaths.name, await run(deaths));
    expect(gaps).toBeGreaterThan(0);
    expect(missing).toBeGreaterThan(EVENTS / 4);
  },
  DEADLINE_MS,
);

test.concurrent(
  'a failover of the store forgets no event that a device was told to be stored (I5)',
  async () => {
    const { history } = await run(failover);
    // The live stream may have shown what the old master had not given to a replica yet; it says so, and it is nobody's answer.
    const gaps = history.entries.filter(
      (entry) => entry.kind === 'gap' && history.readers.get(entry.reader) !== 'live',
    );
    expect(gaps).toEqual([]);
  },
  DEADLINE_MS,
);
