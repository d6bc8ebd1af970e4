/** Readers of events that are slow or away. */

import type { Fault } from './fault.ts';

const SLOW_MS = 15_000;
/** The least that can be set. */
const RETENTION_BYTES = 1024 * 1024;
const RETENTION_SECONDS = 60;
/** Of the bytes of all events of a run to those that one shard keeps: what is sent while somebody is away passes twice of it. */
const OVERFLOW = 6;
const AWAY_MS = 12_000;

export const READER_FAULTS: readonly Fault[] = [
  {
    name: 'slow-subscriber',
    about: 'the live stream is not read for 15 s, and the consumers of a subscription are away',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'reader',
    lengthMs: SLOW_MS + 2_000,
    leaves: true,
    async run(stage) {
      await stage.leave();
      stage.holdLive(true);
      await stage.pause(SLOW_MS);
      stage.holdLive(false);
      stage.comeBack();
    },
  },
  {
    name: 'reader-away',
    about: 'the consumers of a subscription are away until twice the bytes of the retention have passed',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'reader',
    lengthMs: AWAY_MS + 2_000,
    needs: { env: { LAPI_SHARDS: '1', LAPI_EVENT_RETENTION_BYTES: String(RETENTION_BYTES) } },
    leaves: true,
    dataBytes: (events) => Math.ceil((OVERFLOW * RETENTION_BYTES) / events),
    async run(stage) {
      await stage.leave();
      await stage.pause(AWAY_MS);
      stage.comeBack();
    },
  },
  {
    name: 'reader-away-long',
    about: 'the consumers of a subscription are away for twice the time of the retention (2 minutes)',
    stores: ['standalone'],
    target: 'reader',
    lengthMs: 2 * RETENTION_SECONDS * 1_000 + 2_000,
    needs: { env: { LAPI_EVENT_RETENTION_SECONDS: String(RETENTION_SECONDS) } },
    leaves: true,
    async run(stage) {
      await stage.leave();
      await stage.pause(2 * RETENTION_SECONDS * 1_000);
      stage.comeBack();
    },
  },
];
