/** What happens to webhooks, counted. */

import type { Metrics } from '@lapi-broker/telemetry';

export function createWebhookMetrics(metrics: Metrics) {
  return {
    deliveries: metrics.counter(
      'lapi_webhook_deliveries_total',
      'Requests of webhooks, by what came of them: delivered, answered (with another status than 2xx), or why there was no answer.',
      ['result'],
    ),
    seconds: metrics.histogram(
      'lapi_webhook_delivery_seconds',
      'From the look-up of the name to the end of the answer.',
    ),
    webhooks: metrics.gauge('lapi_webhooks', 'Webhooks of the installation, by state.', ['state']),
    disabled: metrics.counter('lapi_webhooks_disabled_total', 'Webhooks switched off by this process.', ['reason']),
    failures: metrics.counter(
      'lapi_webhook_turn_failures_total',
      'Turns of webhooks, or looks for them, that failed inside the broker; each comes again.',
    ),
  };
}
