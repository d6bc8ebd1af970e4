/** The command `npm run fleet`: connects a run to this process's arguments, streams and signals. */

import { runCommand, type Terminal } from './cli/run.ts';

const INTERRUPTED_TWICE = 130;

const args = process.argv.slice(2);
const apiKey = process.env.LAPI_API_KEY;
const keyGiven = args.some((arg) => arg === '--key' || arg.startsWith('--key='));
// Arguments are shown to everybody on the machine, so a key can also come by the environment.
if (apiKey !== undefined && !keyGiven && args.some((arg) => /^--api(=|$)/.test(arg))) args.push('--key', apiKey);
/** The summary has stdout for itself. */
const liveStream = args.includes('--json') ? process.stderr : process.stdout;

const terminal: Terminal = {
  interactive: liveStream.isTTY === true,
  out: (line) => process.stdout.write(`${line}\n`),
  error: (line) => process.stderr.write(`${line}\n`),
  live: (line, transient) => {
    if (liveStream.isTTY)
      liveStream.write(`\r\u001b[2K${line.slice(0, liveStream.columns - 1)}${transient ? '' : '\n'}`);
    else liveStream.write(`${line}\n`);
  },
};

const interrupted = new Promise<void>((resolve) => {
  let asked = false;
  const ask = () => {
    if (asked) process.exit(INTERRUPTED_TWICE);
    asked = true;
    resolve();
  };
  process.on('SIGINT', ask);
  process.on('SIGTERM', ask);
  // Whoever read our lines is gone, as in `| head`.
  process.stdout.on('error', resolve);
  process.stderr.on('error', resolve);
});

process.exitCode = await runCommand(args, terminal, interrupted);
