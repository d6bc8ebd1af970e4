/** `npm run chaos -- <fault|all|list> [--seed N] [--commands N] [--devices N]`: breaks a broker under load and compares what its devices
 *  received with what its API said. Everything runs on this machine. Exit code 1 when a promise was broken. */

import { parseArgs } from 'node:util';
import type { Fault } from './fault/fault.ts';
import { FAULTS } from './fault/faults.ts';
import { type Numbers, numbersOf, table, tellViolations, writeReport } from './report.ts';
import { runFault } from './run.ts';

const HELP = `Usage: npm run chaos -- <fault|all|list> [--seed N] [--commands N] [--devices N]

${FAULTS.map(({ name, about }) => `  ${name.padEnd(17)} ${about}`).join('\n')}

  --seed N       of the load and of the fault; default 1
  --commands N   default 300
  --devices N    default 24
  --direct       only direct commands

Results go to test/chaos/result as JSON; with the whole history when a promise was broken.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function countOf(text: string | undefined, fallback: number): number | undefined {
  if (text === undefined) return fallback;
  const value = Number(text);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}

async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      seed: { type: 'string' },
      commands: { type: 'string' },
      devices: { type: 'string' },
      direct: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  const [what, ...more] = positionals;
  const seed = countOf(values.seed, 1);
  const commands = countOf(values.commands, 300);
  const devices = countOf(values.devices, 24);
  const chosen: readonly Fault[] = what === 'all' ? FAULTS : FAULTS.filter(({ name }) => name === what);
  if (values.help === true || what === 'list') {
    say(HELP);
    return 0;
  }
  if (chosen.length === 0 || more.length > 0 || seed === undefined || commands === undefined || devices === undefined) {
    process.stderr.write(HELP);
    return 2;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
  const mix = values.direct === true ? { direct: 1 } : {};
  const rows: Numbers[] = [];
  for (const fault of chosen) {
    const result = await runFault({ fault, seed, commands, devices, mix, signal: stopping.signal });
    const numbers = numbersOf(fault.name, seed, result);
    rows.push(numbers);
    await writeReport(numbers, result);
    say(table([numbers]));
    if (result.violations.length > 0) {
      say(
        `${result.violations.length} violations with --seed ${seed}:\n${tellViolations(result.history, result.violations)}`,
      );
    }
  }
  if (rows.length > 1) say(`\n${table(rows)}`);
  return rows.every(({ violations }) => violations === 0) ? 0 : 1;
}

process.exitCode = await run(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
});
