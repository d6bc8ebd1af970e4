/** Time and work that survive the process that asked for them. The only home of BullMQ. */

export { openWorkQueue, type WorkQueue, type WorkQueueOptions } from './work-queue.ts';
