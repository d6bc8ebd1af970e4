/** The edge of the BullMQ loop: a worker takes the job of a call, asks the device, and returns its answer as the job's result. */

import { Worker } from 'bullmq';
import { answerAs } from '../worker/verbs.ts';
import type { LoopEdgePlan } from './bare-edge-main.ts';
import { type BullCall, queueOf } from './bullmq-queue.ts';
import { openDeviceSockets } from './device-sockets.ts';

/** Calls of one edge at once. */
const CONCURRENCY = 256;

async function start({ redisPort, edge }: LoopEdgePlan): Promise<number> {
  const sockets = await openDeviceSockets();
  const worker = new Worker<BullCall, string>(
    queueOf(edge),
    ({ data: { code, url } }) =>
      new Promise((resolve, reject) => {
        if (!sockets.call(code, url, (answer) => resolve(answer.toString()))) reject(new Error('offline'));
      }),
    {
      connection: { host: '127.0.0.1', port: redisPort, maxRetriesPerRequest: null },
      concurrency: CONCURRENCY,
      maxStalledCount: 0,
    },
  );
  await worker.waitUntilReady();
  return sockets.port;
}

answerAs({ start });
