/** `npm run model -- [--steps 20000] [--seeds 20] [--seed 1] [--cluster]`: the model test of the lanes on a Redis, or a Cluster, of its own.
 *  Prints the seed and the shortest failing prefix of what fails; exit code 1 then.
 *  `npm run model -- --mutants [--only <part of a name>]`: damages one guard of the scripts after the other and says what noticed. */

import { parseArgs } from 'node:util';
import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { closeConnection, openConnection, ready } from '@lapi-broker/redis';
import { ModelFailure, runModel } from './model-run.ts';
import { copyScripts } from './model-scripts.ts';
import { MUTANTS, tryMutant } from './mutants.ts';

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '20000' },
    seeds: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    cluster: { type: 'boolean', default: false },
    mutants: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
  },
});
const [steps, seeds, firstSeed] = [values.steps, values.seeds, values.seed].map(Number) as [number, number, number];
if (![steps, seeds, firstSeed].every(Number.isSafeInteger))
  throw new RangeError('--steps, --seeds and --seed take numbers');
const AT_ONCE = 4;
const TRACE_LINES = 200;
const say = (line: string): void => void process.stdout.write(`${line}\n`);

const server = await (values.cluster ? startRedisCluster() : startRedis());
const connection = openConnection({ url: server.url, commandTimeoutMs: 10_000 }, 'state');
try {
  await ready(connection, 10_000);
  process.exitCode = values.mutants ? await tryMutants() : await trySeeds();
} finally {
  await closeConnection(connection);
  await server.stop();
}

async function trySeeds(): Promise<number> {
  const copy = await copyScripts();
  let failures = 0;
  try {
    const all = Array.from({ length: seeds }, (_, i) => firstSeed + i);
    const runOne = async (seed: number): Promise<void> => {
      const began = performance.now();
      try {
        const report = await runModel({ connection, scripts: copy.folder, prefix: `m${seed}`, seed, steps });
        const seconds = ((performance.now() - began) / 1000).toFixed(1);
        say(
          `seed ${seed}: ${report.steps} steps, ${report.commands} commands, ${report.written} written, ${seconds} s`,
        );
        if (seed === firstSeed)
          say(
            [...report.answers]
              .sort()
              .map(([answer, count]) => `  ${answer} ${count}`)
              .join('\n'),
          );
      } catch (error) {
        if (!(error instanceof ModelFailure)) throw error;
        failures++;
        say(`FAILED ${error.message}\n  ${lastOf(error.trace)}`);
      }
    };
    // Together they wait less for each other's answers.
    const workers = Array.from({ length: AT_ONCE }, async () => {
      for (let seed = all.shift(); seed !== undefined; seed = all.shift()) await runOne(seed);
    });
    await Promise.all(workers);
  } finally {
    await copy.remove();
  }
  say(failures === 0 ? `${seeds} seeds × ${steps} steps: no violation` : `${failures} of ${seeds} seeds failed`);
  return failures === 0 ? 0 : 1;
}

async function tryMutants(): Promise<number> {
  let unexplained = 0;
  for (const mutant of MUTANTS.filter(({ name }) => name.includes(values.only))) {
    const verdict = await tryMutant(connection, mutant, { steps: Math.min(steps, 4_000), seeds: Math.min(seeds, 5) });
    if (!verdict.isExplained) unexplained++;
    say(`${verdict.isExplained ? ' ' : '!'} ${mutant.name}: ${verdict.text}`);
  }
  say(unexplained === 0 ? 'every mutant is caught or explained' : `${unexplained} mutants are not`);
  return unexplained === 0 ? 0 : 1;
}

function lastOf(trace: readonly string[]): string {
  const earlier = trace.length - TRACE_LINES;
  const lines = trace.slice(-TRACE_LINES).join('\n  ');
  return earlier > 0 ? `… ${earlier} earlier lines\n  ${lines}` : lines;
}
