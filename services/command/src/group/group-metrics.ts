/** How far each group is, as metrics: of what the watch last saw, so only the process that has the turn shows anything. */

import type { Metrics } from '@lapi-broker/telemetry';
import type { SeenGroup } from './group-watch.ts';

/** `nowMs`: the time of day, for ages. */
export function showGroups(metrics: Metrics, seen: () => readonly SeenGroup[], nowMs: () => number): void {
  const show = (name: string, help: string, pick: (seen: SeenGroup) => number): void =>
    metrics.observedEach(name, `${help} Per subscription, told by one process at a time.`, ['subscription'], () =>
      seen().map((each) => [{ subscription: each.group.name }, pick(each)] as const),
    );
  show('lapi_subscription_lag', 'Events that it has not looked at yet.', ({ progress }) => progress.lag);
  show('lapi_subscription_waiting', 'Events that wait to be handed out.', ({ progress }) => progress.waiting);
  show('lapi_subscription_in_flight', 'Events that are out with consumers.', ({ progress }) => progress.inFlight);
  show('lapi_subscription_dead_letters', 'Dead letters kept.', ({ progress }) => progress.deadLetters);
  show('lapi_subscription_oldest_seconds', 'Age of the oldest event that is not settled.', ({ progress }) =>
    progress.oldestAtMs === undefined ? 0 : Math.max(0, (nowMs() - progress.oldestAtMs) / 1_000),
  );
}
