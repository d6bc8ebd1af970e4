/** A process that takes one id from the queue `doomed` and never finishes it: `hanging-worker.ts <redis url> <key prefix>`. For tests. */

import { openWorkQueue } from '../work-queue.ts';

const [url = '', prefix = ''] = process.argv.slice(2);
const queue = openWorkQueue({
  redis: { url, commandTimeoutMs: 1_000 },
  name: 'doomed',
  prefix,
  concurrency: 1,
  lockMs: 900,
  handler: () => {
    process.stdout.write('handling\n');
    return new Promise(() => undefined);
  },
});
await queue.start();
await queue.add('fatal', { delayMs: 0 });
