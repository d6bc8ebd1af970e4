/** `npm run soak -- [options]`: a broker under a steady load for hours, with drains and failovers by a timetable. Tells what was lost, untrue or grew.
 *  Everything runs on this machine. Exit code 1 when a promise was broken. */

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { tell, verdictsOf } from './report.ts';
import { runSoak } from './run.ts';

const HELP = `Usage: npm run soak -- [options]

  --minutes N            of load; default 120
  --devices N            default 5000
  --churn N              devices that come and go, in percent a minute; default 1
  --commands N           a second, half direct and half queued; default 50
  --events N             a second, to a durable subscription and a live stream; default 300
  --drain-every N        minutes; default 20, in runs below an hour a third of the run
  --failover-every N     minutes; default 30, in runs below an hour half of the run
  --sample N             seconds between samples; default 10
  --seed N               default 1
  --out DIR              default test/chaos/result/soak

Writes result.json, samples.jsonl and warnings.log. SIGINT ends the load and judges what there is.
`;

const RESULTS = fileURLToPath(new URL('../../result/soak/', import.meta.url));
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** NaN for what is no positive number. */
function numberOf(text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  return value > 0 && Number.isFinite(value) ? value : Number.NaN;
}

async function run(args: readonly string[]): Promise<number> {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: text,
      devices: text,
      churn: text,
      commands: text,
      events: text,
      'drain-every': text,
      'failover-every': text,
      sample: text,
      seed: text,
      out: text,
      help: { type: 'boolean' },
    },
  });
  if (values.help === true) {
    say(HELP);
    return 0;
  }
  const minutes = numberOf(values.minutes, 120);
  const devices = numberOf(values.devices, 5_000);
  const numbers = {
    minutes,
    devices,
    churnPerMinute: (numberOf(values.churn, 1) / 100) * devices,
    commandsPerSecond: numberOf(values.commands, 50),
    eventsPerSecond: numberOf(values.events, 300),
    drainEveryMs: 60_000 * numberOf(values['drain-every'], minutes < 60 ? minutes / 3 : 20),
    failoverEveryMs: 60_000 * numberOf(values['failover-every'], minutes < 60 ? minutes / 2 : 30),
    sampleMs: 1_000 * numberOf(values.sample, 10),
    seed: numberOf(values.seed, 1),
  };
  if (Object.values(numbers).some(Number.isNaN)) {
    process.stderr.write(HELP);
    return 2;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopping.abort());
  const dir = values.out ?? RESULTS;
  const result = await runSoak({ ...numbers, dir, say, signal: stopping.signal });
  const verdicts = verdictsOf(result);
  await writeFile(path.join(dir, 'result.json'), `${JSON.stringify({ verdicts, ...result }, undefined, 1)}\n`);
  say(tell(result));
  return verdicts.every(({ isGood }) => isGood) ? 0 : 1;
}

process.exitCode = await run(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
});
