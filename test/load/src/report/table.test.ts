import { expect, test } from 'vitest';
import { goalTable, shown, tableOf } from './table.ts';

test('columns line up, the first to the left and the others to the right', () => {
  expect(
    tableOf(
      ['what', 'µs'],
      [
        ['ours', '30.1'],
        ['bare loop', '9'],
      ],
    ),
  ).toBe(['what         µs', '---------  ----', 'ours       30.1', 'bare loop     9'].join('\n'));
});

test('a spread is shown where there is one', () => {
  expect(shown({ median: 2, min: 1, max: 3.25 })).toBe('2.0 (1.0–3.3)');
  expect(shown({ median: 2, min: 2, max: 2 }, 0)).toBe('2');
});

test('a goal that is not reached says so', () => {
  const goal = { name: 'P1', measured: 1.4, limit: 1.35, sense: 'at most', unit: ' ×' } as const;
  expect(goalTable([goal])).toContain('MISSED');
  expect(goalTable([{ ...goal, measured: 1.35 }])).toContain('met');
  expect(goalTable([{ ...goal, sense: 'at least' }])).toContain('met');
});
