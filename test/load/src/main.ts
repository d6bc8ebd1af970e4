/** `npm run load -- <what> [--quick]`: measures what the broker costs, beside what it is compared with, and prints one table.
 *  Everything runs on this machine, on loopback, bounded in count and time. */

import { measureCommand } from './measurement/command.ts';
import { measureIdle } from './measurement/idle.ts';
import { measureJob } from './measurement/job.ts';
import { measureLane } from './measurement/lane.ts';
import { measureRegister } from './measurement/register.ts';

const HELP = `Usage: npm run load -- <what> [--quick]

  command    CPU and latency of a direct command, beside a bare loop, BullMQ and Socket.IO
  register   CPU of a registration, beside a bare handshake and Socket.IO; 10,000 devices cut off and back
  lane       CPU and latency of a queued command, beside the direct path and BullMQ
  job        a job over thousands of devices: making it, devices per second, how soon a pause holds
  idle       memory, Redis and CPU of devices that do nothing

  --quick    fewer and shorter rounds: shows that it works, not how fast it is
  --core     command: ours and the bare loop only

Results go to test/load/result as JSON. Linux only: CPU and memory are read from /proc.
`;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

async function run(args: readonly string[]): Promise<number> {
  const options = { quick: args.includes('--quick'), core: args.includes('--core'), say };
  const words = args.filter((arg) => !arg.startsWith('--'));
  const unknown = args.filter((arg) => arg.startsWith('--') && !['--quick', '--core', '--help'].includes(arg));
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
    case 'idle':
      await measureIdle(options);
      return 0;
    default:
      process.stderr.write(HELP);
      return 2;
  }
}

process.exitCode = await run(process.argv.slice(2));
