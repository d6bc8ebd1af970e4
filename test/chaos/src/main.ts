/** `npm run chaos -- [fault|a+b|all|list] [options]`: breaks a broker under load and compares what its devices and readers received with what they
 *  and the API were told. Everything runs on this machine. Exit code 1 when a promise was broken, or a run could not be made. */

import { parseArgs } from 'node:util';
import { FAULTS, faultNamed } from './fault/faults.ts';
import { counted } from './judge.ts';
import { matrixOf, type PlannedRun, runOf, STORES } from './matrix.ts';
import { type Numbers, numbersOf, RESULTS, table, tellViolations, writeMatrix, writeReport } from './report.ts';
import type { StoreKind } from './rig.ts';
import { type Load, MachineTooBusy, runFault, USUAL } from './run.ts';

const PAIRS = 4;
/** Of a run, if a busy machine spoils it. */
const TRIES = 3;

const HELP = `Usage: npm run chaos -- [fault|a+b|all|list] [options]

Without a fault, the seed decides which one, and on which store. a+b: both, overlapping.

${FAULTS.map(({ name, about, stores, beyond }) => `  ${name.padEnd(18)} ${about} (${stores.join(', ')}${beyond === true ? '; beyond the promises: most is told, not judged' : ''})`).join('\n')}

  --store S          standalone, sentinel, cluster or all; default the first where the fault makes sense
  --seed N           of the load and of the fault; default 1
  --runs N           so many seeds from there on; default 1
  --full             every fault on every store, or on --store, with pairs
  --pairs N          pairs per store and seed in it; default ${PAIRS}
  --commands N       per second, of all devices that take commands; default ${USUAL.commandsPerSecond}
  --devices N        that take commands; default ${USUAL.devices}
  --senders N        devices that send events; default ${USUAL.senders}
  --events N         per second and sender, up to 32; default ${USUAL.eventsPerSecond}
  --direct           only direct commands

Results go to test/chaos/result as JSON, with the whole history when a promise was broken.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

interface Settings {
  readonly load: Load;
  readonly direct: boolean;
  readonly signal: AbortSignal;
}

/** Undefined: it could not be run to its end; the reason was said. */
async function runOne(run: PlannedRun, settings: Settings, tries = TRIES): Promise<Numbers | undefined> {
  const { fault, store, seed } = run;
  const { load, direct, signal } = settings;
  const again = `npm run chaos -- ${fault.name} --store ${store} --seed ${seed}`;
  try {
    const result = await runFault({ fault, store, seed, load, mix: direct ? { direct: 1 } : {}, signal });
    const numbers = numbersOf(fault.name, store, seed, result);
    await writeReport(numbers, result);
    if (result.violations.length > 0) {
      const counts = fault.beyond === true ? ' (beyond the promises; only what the store cannot explain counts)' : '';
      say(`${result.violations.length} violations${counts}; again: ${again}\n${tellViolations(result)}`);
    }
    return { ...numbers, violations: counted(result.violations, fault.beyond === true).length };
  } catch (error) {
    if (error instanceof MachineTooBusy && tries > 1 && !signal.aborted) {
      say(`once more, the machine was too busy: ${error.message}`);
      return await runOne(run, settings, tries - 1);
    }
    say(`no result; again: ${again}\n${error instanceof Error ? error.stack : String(error)}`);
    return undefined;
  }
}

async function runAll(runs: readonly PlannedRun[], name: string, settings: Settings): Promise<boolean> {
  const rows: Numbers[] = [];
  const failures: string[] = [];
  for (const run of runs) {
    if (settings.signal.aborted) break;
    const { fault, store, seed } = run;
    const reason = await fault.skip?.();
    if (reason !== undefined) {
      say(`${fault.name} skipped: ${reason}`);
      continue;
    }
    const numbers = await runOne(run, settings);
    if (numbers === undefined) failures.push(`${fault.name} ${store} ${seed}`);
    else {
      rows.push(numbers);
      say(table([numbers]));
    }
    if (runs.length > 1) await writeMatrix(name, rows, failures);
  }
  if (runs.length > 1) {
    say(`\n${table(rows)}\n${rows.length} runs, ${failures.length} without a result: ${failures.join(', ')}`);
    say(`${RESULTS}${name}.md`);
  }
  // A matrix that was stopped has not been run.
  return !settings.signal.aborted && failures.length === 0 && rows.every(({ violations }) => violations === 0);
}

/** Undefined for what is no number above 0. */
function countOf(text: string | undefined, fallback: number): number | undefined {
  if (text === undefined) return fallback;
  const value = Number(text);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}

interface Wanted {
  readonly what: string | undefined;
  readonly store: string | undefined;
  readonly seeds: readonly number[];
  readonly pairs: number;
  readonly full: boolean;
}

/** Undefined when nothing is called so. */
function plan({ what, store, seeds, pairs, full }: Wanted): readonly PlannedRun[] | undefined {
  const isWanted = (kind: StoreKind): boolean => store === undefined || store === 'all' || store === kind;
  if (store !== undefined && store !== 'all' && !STORES.some((kind) => kind === store)) return undefined;
  if (full) return matrixOf({ faults: FAULTS, seeds, pairs }).filter((run) => isWanted(run.store));
  if (what === undefined) return seeds.map((seed) => runOf(FAULTS, seed));
  const faults = what === 'all' ? FAULTS : [faultNamed(what)].filter((fault) => fault !== undefined);
  if (faults.length === 0) return undefined;
  return seeds.flatMap((seed) =>
    faults.flatMap((fault) => {
      const stores = store === undefined ? fault.stores.slice(0, 1) : fault.stores.filter(isWanted);
      return stores.map((each) => ({ fault, store: each, seed }));
    }),
  );
}

async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      store: { type: 'string' },
      seed: { type: 'string' },
      runs: { type: 'string' },
      full: { type: 'boolean' },
      pairs: { type: 'string' },
      commands: { type: 'string' },
      devices: { type: 'string' },
      senders: { type: 'string' },
      events: { type: 'string' },
      direct: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  const [what, ...more] = positionals;
  if (values.help === true || what === 'list') {
    say(HELP);
    return 0;
  }
  const full = values.full === true;
  const seed = countOf(values.seed, 1);
  const runs = countOf(values.runs, 1);
  const pairs = countOf(values.pairs, PAIRS);
  const commandsPerSecond = countOf(values.commands, USUAL.commandsPerSecond);
  const devices = countOf(values.devices, USUAL.devices);
  const senders = countOf(values.senders, USUAL.senders);
  const eventsPerSecond = countOf(values.events, USUAL.eventsPerSecond);
  const isComplete = [commandsPerSecond, devices, senders, eventsPerSecond, seed, runs, pairs].every(
    (each) => each !== undefined,
  );
  const seeds = Array.from({ length: runs ?? 0 }, (_, i) => (seed ?? 0) + i);
  const planned =
    isComplete && more.length === 0 ? plan({ what, store: values.store, seeds, pairs: pairs ?? 0, full }) : undefined;
  if (
    planned === undefined ||
    commandsPerSecond === undefined ||
    devices === undefined ||
    senders === undefined ||
    eventsPerSecond === undefined
  ) {
    process.stderr.write(HELP);
    return 2;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
  const load: Load = { commandsPerSecond, devices, senders, eventsPerSecond };
  const name = values.store === undefined ? 'matrix' : `matrix-${values.store}`;
  return (await runAll(planned, name, { load, direct: values.direct === true, signal: stopping.signal })) ? 0 : 1;
}

process.exitCode = await run(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
});
