/** What happens to lanes, counted. */

import type { Metrics } from '@lapi-broker/telemetry';

export function createLaneMetrics(metrics: Metrics) {
  return {
    submitted: metrics.counter(
      'lapi_commands_submitted_total',
      'Commands given to be recorded, by what became of it.',
      ['result'],
    ),
    tended: metrics.counter('lapi_lanes_tended_total', 'Looks at a lane by a timer, a sweep, or on request.', ['by']),
    endedByTime: metrics.counter('lapi_lane_ends_total', 'Commands that such a look ended, by state.', ['state']),
    failedSweeps: metrics.counter('lapi_lane_sweep_failures_total', 'Sweeps over a shard that failed.'),
  };
}
