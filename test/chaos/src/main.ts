/** `npm run chaos -- <fault|commands|events|all|list> [options]`: breaks a broker under load. Commands: compares what its devices received with
 *  what its API said. Events: compares what readers received with what devices were told. Everything runs on this machine. Exit code 1 when a
 *  promise was broken. */

import { parseArgs } from 'node:util';
import type { EventFault } from './event/fault.ts';
import { EVENT_FAULTS } from './event/faults.ts';
import {
  type EventNumbers,
  eventNumbersOf,
  eventTable,
  sumOf,
  tellEventViolations,
  writeEventReport,
} from './event/report.ts';
import { type EventRound, runEventFault } from './event/run.ts';
import type { Fault } from './fault/fault.ts';
import { FAULTS } from './fault/faults.ts';
import { type Numbers, numbersOf, table, tellViolations, writeReport } from './report.ts';
import { runFault } from './run.ts';

const told = ({ name, about }: { readonly name: string; readonly about: string }): string =>
  `  ${name.padEnd(22)} ${about}`;

const HELP = `Usage: npm run chaos -- <fault|commands|events|all|list> [options]

Commands:
${FAULTS.map(told).join('\n')}

  --commands N   default 300
  --devices N    default 24
  --direct       only direct commands

Events, to durable subscriptions and a live stream:
${EVENT_FAULTS.map(told).join('\n')}

  --rounds N     default 1
  --events N     numbered events of a round, over all devices; default 5000
  --devices N    default 10; each sends up to 50 a second
  --no-repeats   devices do not send again what was not answered with success

  --seed N       of the load and of the fault; default 1

Results go to test/chaos/result as JSON; with the whole history when a promise was broken.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function countOf(text: string | undefined, fallback: number): number | undefined {
  if (text === undefined) return fallback;
  const value = Number(text);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}

interface Settings {
  readonly seed: number;
  readonly commands: number;
  readonly devices: number | undefined;
  readonly direct: boolean;
  readonly rounds: number;
  readonly events: number;
  readonly repeats: boolean;
  readonly signal: AbortSignal;
}

async function runCommands(chosen: readonly Fault[], settings: Settings): Promise<boolean> {
  const { seed, commands, devices = 24, direct, signal } = settings;
  const rows: Numbers[] = [];
  for (const fault of chosen) {
    const mix = direct ? { direct: 1 } : {};
    const result = await runFault({ fault, seed, commands, devices, mix, signal });
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
  return rows.every(({ violations }) => violations === 0);
}

async function runEvents(chosen: readonly EventFault[], settings: Settings): Promise<boolean> {
  const { seed, rounds, events, devices = 10, repeats, signal } = settings;
  const rows: EventNumbers[] = [];
  for (const fault of chosen) {
    const each: EventNumbers[] = [];
    let broken: EventRound | undefined;
    const onRound = (result: EventRound): void => {
      const numbers = eventNumbersOf(`${fault.name} ${result.round}`, result);
      each.push(numbers);
      say(eventTable([numbers]));
      if (result.violations.length === 0) return;
      broken ??= result;
      const { history, violations } = result;
      say(`${violations.length} violations with --seed ${seed}:\n${tellEventViolations(history, violations)}`);
    };
    await runEventFault({ fault, rounds, events, devices, seed, repeats, onRound, signal });
    const total = sumOf(fault.name, each);
    rows.push(total);
    await writeEventReport(total, each, broken);
  }
  if (chosen.length > 0) say(`\n${eventTable(rows)}`);
  return rows.every(({ violations }) => violations === 0);
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
      rounds: { type: 'string' },
      events: { type: 'string' },
      'no-repeats': { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  const [what, ...more] = positionals;
  if (values.help === true || what === 'list') {
    say(HELP);
    return 0;
  }
  const ofCommands = FAULTS.filter(({ name }) => what === 'all' || what === 'commands' || what === name);
  const ofEvents = EVENT_FAULTS.filter(({ name }) => what === 'all' || what === 'events' || what === name);
  const seed = countOf(values.seed, 1);
  const commands = countOf(values.commands, 300);
  const rounds = countOf(values.rounds, 1);
  const events = countOf(values.events, 5_000);
  const devices = values.devices === undefined ? undefined : countOf(values.devices, 1);
  const isWrong =
    more.length > 0 ||
    ofCommands.length + ofEvents.length === 0 ||
    (values.devices !== undefined && devices === undefined);
  if (isWrong || seed === undefined || commands === undefined || rounds === undefined || events === undefined) {
    process.stderr.write(HELP);
    return 2;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
  const settings: Settings = {
    seed,
    commands,
    devices,
    direct: values.direct === true,
    rounds,
    events,
    repeats: values['no-repeats'] !== true,
    signal: stopping.signal,
  };
  const good = [await runCommands(ofCommands, settings), await runEvents(ofEvents, settings)];
  return good.every(Boolean) ? 0 : 1;
}

process.exitCode = await run(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
});
