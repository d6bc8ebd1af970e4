/** Lines up what a measurement found, for a terminal. Pure. */

import type { Spread } from '../measure/spread.ts';

/** The first column is left-aligned, the others to the right. */
export function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]): string =>
    widths
      .map((width, column) => {
        const cell = row[column] ?? '';
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd();
  return [line(head), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}

/** `28.4 (27.9–31.0)`; without digits when there is no spread to show. */
export function shown({ median, min, max }: Spread, digits = 1): string {
  const text = median.toFixed(digits);
  return min === max ? text : `${text} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}

export interface Goal {
  readonly name: string;
  readonly measured: number;
  readonly limit: number;
  readonly sense: 'at most' | 'at least';
  readonly unit: string;
}

export function isMet({ measured, limit, sense }: Goal): boolean {
  return sense === 'at most' ? measured <= limit : measured >= limit;
}

export function goalTable(goals: readonly Goal[]): string {
  return tableOf(
    ['goal', 'measured', 'wanted', ''],
    goals.map((goal) => [
      goal.name,
      `${Number(goal.measured.toPrecision(3))}${goal.unit}`,
      `${goal.sense} ${goal.limit}${goal.unit}`,
      isMet(goal) ? 'met' : 'MISSED',
    ]),
  );
}
