/** What the command service counts. Labels have few values; a DeviceCode is never one (protocol S14). */

import type { Metrics } from '@lapi-broker/telemetry';
import type { DispatchMeter } from './dispatch/dispatch.ts';

export type CommandMetrics = ReturnType<typeof createCommandMetrics>;

export function createCommandMetrics(metrics: Metrics) {
  const commands = metrics.counter('lapi_commands_total', 'Direct commands ended, by outcome.', ['outcome']);
  const seconds = metrics.histogram('lapi_command_duration_seconds', 'From acceptance to the end of a direct command.');
  const located = metrics.counter('lapi_owner_lookups_total', 'Owners found, in memory or in the registry.', [
    'source',
  ]);
  const published = metrics.counter('lapi_command_publishes_total', 'Command frames given to the bus.');
  const retried = metrics.counter(
    'lapi_command_second_tries_total',
    'Commands looked up again because nothing was written.',
  );
  const late = metrics.counter('lapi_late_replies_total', 'Replies to commands that had ended.');
  const foreign = metrics.counter(
    'lapi_foreign_frames_total',
    'Frames on the reply channel that no version of ours wrote.',
  );
  const requests = metrics.counter('lapi_http_requests_total', 'Requests to the API, by route and status.', [
    'route',
    'status',
  ]);
  const meter: DispatchMeter = {
    ended(outcome, ms) {
      commands.inc({ outcome });
      seconds.observe(ms / 1000);
    },
    located: (source) => located.inc({ source }),
    published: () => published.inc(),
    retried: () => retried.inc(),
    lateReply: () => late.inc(),
    foreignFrame: () => foreign.inc(),
  };
  return {
    meter,
    answered: (route: string, status: number) => requests.inc({ route, status: String(status) }),
    reaped: metrics.counter('lapi_reaped_devices_total', 'Devices turned offline because their node died.'),
    directoryFailures: metrics.counter('lapi_directory_failures_total', 'Looks at the node directory that failed.'),
    trimFailures: metrics.counter(
      'lapi_event_trim_failures_total',
      'Looks at how much of a shard of the events is kept that failed.',
    ),
    imageHoursSwept: metrics.counter(
      'lapi_image_hours_swept_total',
      'Hours of pictures removed at the end of their time.',
    ),
    imageSweepFailures: metrics.counter('lapi_image_sweep_failures_total', 'Sweeps over the pictures that failed.'),
    defects: metrics.counter('lapi_defects_total', 'Requests answered `internal`; each is in the log.'),
  };
}
