/** What runs say in the end: a table for people, JSON for tools. */

import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { RunResult } from './run.ts';
import { mebibytes } from './watch.ts';

const RESULT_DIR = fileURLToPath(new URL('../result/', import.meta.url));
const COLUMNS = [
  'target',
  'seed',
  'inputs',
  'seconds',
  'p99 control',
  'p99',
  'stall edge',
  'stall command',
  'grown edge',
  'grown command',
  'findings',
] as const;

function cells({
  target,
  seed,
  inputs,
  seconds,
  findings,
  control,
  latency,
  stalls,
  before,
  after,
}: RunResult): string[] {
  const [edge, command] = Object.values(stalls);
  const grown = after.map(({ memory }, i) => {
    const earlier = before[i]?.memory;
    return memory === undefined || earlier === undefined
      ? '–'
      : `${mebibytes(memory.usedBytes - earlier.usedBytes)} MiB`;
  });
  return [
    target,
    String(seed),
    String(inputs),
    String(seconds),
    `${Math.round(control.p99Ms)} ms`,
    `${Math.round(latency.p99Ms)} ms`,
    `${edge?.cpuMs ?? 0} ms`,
    `${command?.cpuMs ?? 0} ms`,
    grown[0] ?? '–',
    grown[1] ?? '–',
    String(findings.length),
  ];
}

export function table(results: readonly RunResult[]): string {
  const rows = [[...COLUMNS], ...results.map(cells)];
  const widths = COLUMNS.map((_, i) => Math.max(...rows.map((row) => (row[i] ?? '').length)));
  const [head = '', ...rest] = rows.map(
    (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`,
  );
  return [head, `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rest].join('\n');
}

/** Each finding, with the command that makes its input again. */
export function tellFindings({ findings }: RunResult): string {
  return findings
    .map(
      ({ target, seed, index, what, input }) =>
        `${what}\n  again: npm run fuzz -- ${target} --seed ${seed} --first ${index} --inputs 1${input === undefined ? '   (or some before it)' : `\n  input: ${input}`}`,
    )
    .join('\n');
}

export async function writeReport(results: readonly RunResult[]): Promise<string> {
  await mkdir(RESULT_DIR, { recursive: true });
  const at = new Date().toISOString();
  const file = `${RESULT_DIR}fuzz-${at.replace(/[:.]/g, '-')}.json`;
  const machine = { cores: cpus().length, cpu: cpus()[0]?.model, node: process.version, commit: commit() };
  await writeFile(file, JSON.stringify({ at, machine, results }, null, 2));
  return file;
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return 'unknown';
  }
}
