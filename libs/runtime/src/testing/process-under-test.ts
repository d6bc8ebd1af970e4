/** A process for the tests of run-process.ts: prints one line per step, behaves as its first argument says. */
import { Lifecycle } from '../lifecycle.ts';
import { runProcess } from '../run-process.ts';

const behavior = process.argv[2] ?? 'plain';
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const log = {
  info: () => undefined,
  warn: (_facts: Record<string, unknown>, event: string) => say(`warn ${event}`),
  error: (_facts: Record<string, unknown>, event: string) => say(`error ${event}`),
  fatal: (facts: Record<string, unknown>, event: string) => say(`fatal ${event} ${String(facts.err)}`),
};
const never = (): Promise<void> => new Promise(() => undefined);
/** Stands for the sockets of a real process: keeps it alive until it is stopped. */
let keepAlive: NodeJS.Timeout | undefined;

const lifecycle = new Lifecycle(
  [
    {
      name: 'part',
      start: () => {
        if (behavior === 'start-fails') throw new Error('port in use');
        keepAlive = setInterval(() => undefined, 1000);
        if (behavior !== 'start-hangs') return undefined;
        say('starting');
        return never();
      },
      drain: () => {
        say('drain');
        return behavior === 'drain-hangs' || behavior === 'all-hangs' ? never() : undefined;
      },
      stop: () => {
        say('stop');
        if (behavior === 'all-hangs') return never();
        clearInterval(keepAlive);
        return undefined;
      },
    },
  ],
  log,
  { stopMs: behavior === 'all-hangs' ? 60_000 : 100 },
);

await runProcess(lifecycle, { log, drainMs: 60_000 });
say('running');
if (behavior === 'throws')
  setImmediate(() => {
    throw new Error('unexpected');
  });
if (behavior === 'rejects') void Promise.reject(new Error('forgotten'));
