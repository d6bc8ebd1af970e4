/** `npm run fuzz -- [target …|list] [options]`: sends a broker what nobody should send it, from every side, and judges what it does. Starts an edge,
 *  a command service and a Redis of its own. Exit code 1 when something was found. */

import { parseArgs } from 'node:util';
import { Arena } from './arena.ts';
import { table, tellFindings, writeReport } from './report.ts';
import { type RunResult, runTarget } from './run.ts';
import { TARGETS } from './targets.ts';

const HELP = `Usage: npm run fuzz -- [target …|list] [options]

${TARGETS.map(({ name, about, inputs }) => `  ${name.padEnd(10)} ${about} (${inputs})`).join('\n')}

  --inputs N   of each target; default: the number behind it
  --seed N     default 1; the same seed makes the same inputs
  --first N    number of the first input, to make one again

Results go to test/fuzz/result as JSON.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function countOf(text: string | undefined, fallback: number | undefined): number | undefined {
  if (text === undefined) return fallback;
  const value = Number(text);
  return Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      inputs: { type: 'string' },
      seed: { type: 'string' },
      first: { type: 'string' },
      help: { type: 'boolean' },
    },
  });
  if (values.help === true || positionals.includes('list')) {
    say(HELP);
    return 0;
  }
  const chosen =
    positionals.length === 0 || positionals.includes('all')
      ? TARGETS
      : TARGETS.filter(({ name }) => positionals.includes(name));
  const seed = countOf(values.seed, 1);
  const first = countOf(values.first, 0);
  const inputs = countOf(values.inputs, 0);
  if (chosen.length === 0 || seed === undefined || first === undefined || inputs === undefined) {
    process.stderr.write(HELP);
    return 2;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
  const { arena, stop } = await Arena.start();
  const results: RunResult[] = [];
  try {
    for (const target of chosen) {
      if (stopping.signal.aborted || arena.hasDied) break;
      const count = inputs === 0 ? target.inputs : inputs;
      const result = await runTarget({
        target,
        arena,
        seed,
        first,
        inputs: count,
        probed: true,
        signal: stopping.signal,
      });
      results.push(result);
      say(table([result]));
      if (result.findings.length > 0) say(tellFindings(result));
    }
  } finally {
    await stop();
  }
  say(`\n${table(results)}\n\n${await writeReport(results)}`);
  return results.every(({ findings }) => findings.length === 0) ? 0 : 1;
}

process.exitCode = await run(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
});
