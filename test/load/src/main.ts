/** `npm run load -- <what> [--quick]`: measures what the broker costs, beside what it is compared with, and prints one table.
 *  Everything runs on this machine, on loopback, bounded in count and time. */

import { measureCommand } from './measurement/command.ts';
import { measureDrain } from './measurement/drain.ts';
import { measureEvent } from './measurement/event.ts';
import { measureOverload } from './measurement/event-overload.ts';
import { measureIdle } from './measurement/idle.ts';
import { measureIsolation } from './measurement/isolation.ts';
import { measureJob } from './measurement/job.ts';
import { measureLane } from './measurement/lane.ts';
import { measureRegister } from './measurement/register.ts';
import { measureStorm } from './measurement/storm.ts';

const HELP = `Usage: npm run load -- <what> [--quick]

  command    CPU and latency of a direct command, beside a bare loop, BullMQ and Socket.IO
  register   CPU of a registration, beside a bare handshake and Socket.IO; 10,000 devices cut off and back
  lane       CPU and latency of a queued command, beside the direct path and BullMQ
  job        a job over thousands of devices: making it, devices per second, how soon a pause holds
  event      events stored and delivered per second, latency, a further subscriber, events with pictures
  storm      10,000 devices behind a balancer cut off, back without regard to Retry-After; what others notice
  drain      drains, the death of an edge and Redis away, under calls: what is lost, how long devices are away
  isolation  one slow or hostile peer after the other: what the others notice, memory, what the broker does about it
  idle       memory, Redis and CPU of devices that do nothing

  --quick    fewer and shorter rounds: shows that it works, not how fast it is
  --core     command: ours and the bare loop only
  --overload event: memory of every process while devices send more than can be stored, for 10 minutes or
             --minutes=<n>
  --only     isolation: --only=<part of a name>

Results go to test/load/result as JSON. Linux only: CPU and memory are read from /proc.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

const KNOWN = /^--(?:quick|core|help|overload|minutes=\d{1,3}(?:\.\d)?|only=.+)$/;

function minutesOf(args: readonly string[]): number {
  const given = args.find((arg) => arg.startsWith('--minutes='));
  return given === undefined ? 10 : Number(given.slice('--minutes='.length));
}

function onlyOf(args: readonly string[]): string {
  return args.find((arg) => arg.startsWith('--only='))?.slice('--only='.length) ?? '';
}

async function run(args: readonly string[]): Promise<number> {
  const options = { quick: args.includes('--quick'), core: args.includes('--core'), say };
  const words = args.filter((arg) => !arg.startsWith('--'));
  const unknown = args.filter((arg) => arg.startsWith('--') && !KNOWN.test(arg));
  if (args.includes('--help')) {
    say(HELP);
    return 0;
  }
  switch (unknown.length === 0 && words.length === 1 ? words[0] : undefined) {
    case 'command':
      await measureCommand(options);
      return 0;
    case 'register':
      await measureRegister(options);
      return 0;
    case 'lane':
      await measureLane(options);
      return 0;
    case 'job':
      await measureJob(options);
      return 0;
    case 'event':
      if (args.includes('--overload')) await measureOverload({ minutes: minutesOf(args), say });
      else await measureEvent(options);
      return 0;
    case 'storm':
      return (await measureStorm(options)) ? 0 : 1;
    case 'drain':
      return (await measureDrain(options)) ? 0 : 1;
    case 'isolation':
      await measureIsolation({ ...options, only: onlyOf(args) });
      return 0;
    case 'idle':
      await measureIdle(options);
      return 0;
    default:
      process.stderr.write(HELP);
      return 2;
  }
}

process.exitCode = await run(process.argv.slice(2));
