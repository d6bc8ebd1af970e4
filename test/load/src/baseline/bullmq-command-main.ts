/** The command side of the BullMQ loop: one job per call, its result by `waitUntilFinished`, which is how BullMQ answers a caller. */

import { Queue, QueueEvents } from 'bullmq';
import { answerAs } from '../worker/verbs.ts';
import type { LoopCommandPlan } from './bare-command-main.ts';
import { type BullCall, queueOf } from './bullmq-queue.ts';
import { openHttpFront } from './http-front.ts';

const TIMEOUT_MS = 10_000;
/** A job that is removed at once may be gone before its caller listens for its end, and then counts as failed. */
const KEPT_JOBS = 1_000;

async function start({ redisPort, edges }: LoopCommandPlan): Promise<number> {
  const connection = { host: '127.0.0.1', port: redisPort };
  const routes = new Map<number, { readonly queue: Queue<BullCall, string>; readonly events: QueueEvents }>();
  for (const edge of new Set(edges.values())) {
    const queue = new Queue<BullCall, string>(queueOf(edge), {
      connection,
      defaultJobOptions: { attempts: 1, removeOnComplete: KEPT_JOBS, removeOnFail: KEPT_JOBS },
    });
    const events = new QueueEvents(queueOf(edge), { connection });
    // Each call in progress listens to both.
    queue.setMaxListeners(0);
    events.setMaxListeners(0);
    await Promise.all([queue.waitUntilReady(), events.waitUntilReady()]);
    routes.set(edge, { queue, events });
  }
  const call = async (code: string, url: string): Promise<string | undefined> => {
    const route = routes.get(edges.get(code) ?? -1);
    if (route === undefined) return undefined;
    const job = await route.queue.add('call', { code, url });
    return await job.waitUntilFinished(route.events, TIMEOUT_MS);
  };
  return await openHttpFront((code, url, done) => {
    call(code, url).then(done, () => done(undefined));
  });
}

answerAs({ start });
