import { expect, test } from 'vitest';
import { hashOf } from '../event/sender.ts';
import { CommandLedger } from './command-ledger.ts';
import { dataOf, EventLedger } from './event-ledger.ts';

type Receipt = Extract<Parameters<EventLedger['log']>[0], { readonly kind: 'receive' }>;

const CODE = 'CAMERA0000000001';

function receipt(number: number, more: Partial<Receipt> = {}): Receipt {
  return {
    kind: 'receive',
    reader: 'group',
    by: '1',
    id: `3-1000-${number}`,
    device: CODE,
    number,
    hash: hashOf(JSON.stringify(dataOf(CODE, number))),
    epoch: 1,
    seq: number,
    attempt: 1,
    ...more,
  } as Receipt;
}

/** Five numbers sent, stored and received, apart from what a test leaves out. */
function history({ unseen = [] as readonly number[], refused = [] as readonly number[] } = {}): EventLedger {
  const ledger = new EventLedger(['group', 'live']);
  for (let number = 1; number <= 5; number++) {
    ledger.sent(CODE, number, 0);
    ledger.answered(CODE, number, !refused.includes(number));
    ledger.log(receipt(number, { reader: 'live' }));
    if (!unseen.includes(number)) ledger.log(receipt(number));
  }
  return ledger;
}

test('events that every reader has leave nothing behind', () => {
  const ledger = history();
  expect(ledger.close()).toEqual({ group: { lost: 0, inGaps: 0 }, live: { lost: 0, inGaps: 0 } });
  expect(ledger.violations).toEqual([]);
  expect(ledger.overdue(1e9, 0)).toBe(0);
});

test('a stored event that a reader never got is lost to it', () => {
  const ledger = history({ unseen: [3] });
  expect(ledger.overdue(1e9, 0)).toBe(1);
  expect(ledger.close().group).toEqual({ lost: 1, inGaps: 0 });
  expect(ledger.violations).toEqual([expect.stringMatching(/^V7 group: CAMERA0000000001 3 /)]);
});

test('what its device was not told to be stored is lost to nobody', () => {
  const ledger = history({ unseen: [3], refused: [3] });
  expect(ledger.close().group).toEqual({ lost: 0, inGaps: 0 });
  expect(ledger.unstored).toBe(1);
});

test('a gap that was told to the reader covers what lies in it, and nothing else', () => {
  const gap = { kind: 'gap', by: '1', count: 1, reason: 'trimmed' } as const;
  const ledger = history({ unseen: [2, 4] });
  ledger.log({ ...gap, reader: 'group', from: '3-1000-1', to: '3-1000-3' });
  ledger.log({ ...gap, reader: 'live', from: '3-1000-3', to: '3-1000-5' });
  ledger.log({ ...gap, reader: 'group', from: '2-1000-3', to: '2-1000-5' });
  expect(ledger.close().group).toEqual({ lost: 1, inGaps: 1 });
  expect(ledger.violations).toEqual([expect.stringContaining(' 4 ')]);
});

test('a gap excuses as many numbers that no reader has seen as it counts, however often it is told', () => {
  const ledger = history();
  for (const number of [6, 7]) {
    ledger.sent(CODE, number, 0);
    ledger.answered(CODE, number, true);
  }
  for (const reader of ['group', 'live']) {
    const gap = { kind: 'gap', by: '1', count: 1, reason: 'trimmed', from: '3-1000-5', to: '3-1000-9' } as const;
    for (let i = 0; i < 2; i++) ledger.log({ ...gap, reader });
  }
  expect(ledger.close()).toEqual({ group: { lost: 1, inGaps: 1 }, live: { lost: 1, inGaps: 1 } });
});

test('a receipt that no device sent, one with other bytes, and one out of order are found', () => {
  const ledger = history({ unseen: [3, 4] });
  ledger.log(receipt(9));
  ledger.log(receipt(4, { hash: 'other' }));
  ledger.log(receipt(3, { epoch: 0 }));
  expect(ledger.violations).toEqual([
    expect.stringMatching(/^V8 .* 9 received, never sent/),
    expect.stringMatching(/^V8 .* 4 has other bytes/),
    // 5 came before both.
    expect.stringMatching(/^V9 .* 4 /),
    expect.stringMatching(/^V9 .* 3 /),
  ]);
});

test('an event that comes again is counted, and no violation', () => {
  const ledger = history();
  ledger.log(receipt(2));
  expect(ledger.counts.received.group).toEqual({ events: 6, again: 1, other: 0 });
  expect(ledger.violations).toEqual([]);
});

function commands(): { readonly ledger: CommandLedger; readonly n: number } {
  const ledger = new CommandLedger();
  return { ledger, n: ledger.submit() };
}

test('a command that was received, answered and told so is in order', () => {
  const { ledger, n } = commands();
  ledger.received(n);
  ledger.answered(n);
  ledger.ended(n, 'succeeded', '', undefined);
  ledger.close();
  expect(ledger.violations).toEqual([]);
  expect(ledger.counts).toMatchObject({ submitted: 1, succeeded: 1, violations: 0 });
});

test.each([
  ['V1', 'received twice', ({ ledger, n }) => [ledger.received(n), ledger.received(n), ledger.unsure(n)]],
  ['V3', 'never answered', ({ ledger, n }) => [ledger.received(n), ledger.ended(n, 'succeeded', '', undefined)]],
  ['V3', 'was received', ({ ledger, n }) => [ledger.ended(n, 'not executed', '', undefined), ledger.received(n)]],
  ['V3', 'never submitted', ({ ledger, n }) => [ledger.unsure(n), ledger.received(n + 1)]],
  ['V4', 'has no end', ({ ledger, n }) => [ledger.received(n)]],
  ['V4', 'not there', ({ ledger, n }) => [ledger.unsure(n), ledger.missing(n, 'not there')]],
  ['V5', 'without a cause', ({ ledger, n }) => [ledger.ended(n, 'maybe', '', undefined)]],
] satisfies [string, string, (scene: ReturnType<typeof commands>) => unknown][])(
  '%s: a command that %s is found',
  (check, what, happen) => {
    const scene = commands();
    happen(scene);
    scene.ledger.close();
    expect(scene.ledger.violations).toEqual([expect.stringMatching(new RegExp(`^${check} .*${what}`))]);
  },
);

test('an uncertain end with a cause is no violation', () => {
  const { ledger, n } = commands();
  ledger.ended(n, 'maybe', '', 'failover');
  ledger.close();
  expect(ledger.counts).toMatchObject({ maybe: 1, excused: 1, violations: 0 });
});
