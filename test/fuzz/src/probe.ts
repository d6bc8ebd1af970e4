/** Runs inside a service that is fuzzed (`node --import`), beside its code and without touching it. Says in its output, as JSON lines:
 *  - `fuzz.stall`: the event loop did not come round for long. `cpuMs` is what the thread itself computed meanwhile, so that a machine that is busy
 *    with other things is told from an input that is expensive; `wallMs` is the time that passed.
 *  - `fuzz.memory`, on SIGUSR2: what is left in use after a full collection, bytes. */

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

const TICK_MS = 10;
/** Less than what is judged, so that a report can show how near it came. */
const TOLD_MS = 50;

function say(fact: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(fact)}\n`);
}

function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

if (isMainThread) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let cpuMs = threadCpuMs();
  let wallMs = performance.now();
  const again = (): void => {
    cpuMs = threadCpuMs();
    wallMs = performance.now();
  };
  setInterval(() => {
    const usedMs = threadCpuMs() - cpuMs;
    const passedMs = performance.now() - wallMs - TICK_MS;
    if (passedMs >= TOLD_MS) {
      say({ event: 'fuzz.stall', cpuMs: Math.round(Math.min(usedMs, passedMs)), wallMs: Math.round(passedMs) });
    }
    again();
  }, TICK_MS).unref();
  process.on('SIGUSR2', () => {
    collect();
    const { heapUsed, external, arrayBuffers, rss } = process.memoryUsage();
    say({ event: 'fuzz.memory', usedBytes: heapUsed + external, arrayBuffers, rssBytes: rss });
    again();
  });
}
