/** What the edge counts. Labels have few values; a DeviceCode is never one (protocol S14). */

import type { Metrics } from '@lapi-broker/telemetry';

export type EdgeMetrics = ReturnType<typeof createEdgeMetrics>;

export function createEdgeMetrics(metrics: Metrics) {
  return {
    sessions: metrics.gauge('lapi_sessions', 'Open device sessions of this node.'),
    skew: metrics.gauge(
      'lapi_sessions_skew_ratio',
      'Sessions of this node divided by the mean of all nodes that live and serve.',
    ),
    rebalanced: metrics.counter(
      'lapi_rebalance_devices_total',
      'Devices that this node let go to even out the load, and those of them that came back to it.',
      ['result'],
    ),
    registrations: metrics.counter(
      'lapi_registrations_total',
      'Devices that got their 101, by the secret that verified them (protocol G7).',
      ['secret'],
    ),
    challenges: metrics.counter('lapi_challenges_total', 'First GETs answered with a nonce.'),
    registerRejected: metrics.counter(
      'lapi_register_rejected_total',
      'Registrations refused, by reason (protocol 2.6).',
      ['reason'],
    ),
    sessionIdSeen: metrics.counter(
      'lapi_register_session_id_total',
      'Registrations that carried a SessionID, which is ignored (protocol 2.5).',
    ),
    sessionClosed: metrics.counter('lapi_session_closed_total', 'Sessions ended, by reason.', ['reason']),
    frames: metrics.counter('lapi_device_frames_total', 'Frames from devices, by what they were.', ['type']),
    lateResponses: metrics.counter('lapi_late_responses_total', 'Responses whose Cseq no call waits for.'),
    commands: metrics.counter('lapi_edge_commands_total', 'Commands that reached this node, by outcome.', ['outcome']),
    events: metrics.counter('lapi_edge_events_total', 'Notifications, by class and by what became of them.', [
      'class',
      'result',
    ]),
    heldAnswers: metrics.counter(
      'lapi_register_held_total',
      'Answers held back: failing ones (protocol F13), and those to first GETs under load.',
      ['reason'],
    ),
    sendDropped: metrics.counter('lapi_send_dropped_total', 'Frames refused by a full send buffer; the session ends.'),
    fence: metrics.counter('lapi_fence_total', 'Times this node found its lease lapsed.'),
    isolationShed: metrics.counter(
      'lapi_isolation_shed_total',
      'Devices let go because this node alone had lost the store.',
    ),
    reclaims: metrics.counter('lapi_reclaims_total', 'Sessions re-claimed after a fence, by result.', ['result']),
    overRate: metrics.counter('lapi_device_over_rate_total', 'Requests of devices refused for their rate.'),
    laneBegins: metrics.counter('lapi_lane_begins_total', 'Commands asked for from lanes, by result.', ['result']),
    laneEnds: metrics.counter('lapi_lane_commands_total', 'Attempts of lane commands that ended here, by outcome.', [
      'outcome',
    ]),
    laneGiveBacks: metrics.counter(
      'lapi_lane_give_backs_total',
      'Lane commands that were begun and not written, by reason; they wait again.',
      ['reason'],
    ),
    laneUnheard: metrics.gauge('lapi_lane_unheard_ends', 'Ends of attempts that the store has not taken yet.'),
    laneForgotten: metrics.counter(
      'lapi_lane_forgotten_ends_total',
      'Ends of attempts that the store did not take in time; it gives those attempts up by itself.',
    ),
    pictures: metrics.counter('lapi_edge_images_total', 'Pictures taken out of events, by what became of them.', [
      'result',
    ]),
    pictureBytes: metrics.counter('lapi_edge_image_bytes_total', 'Bytes of pictures that the image store took.'),
    pictureSeconds: metrics.histogram(
      'lapi_edge_image_put_seconds',
      'From a picture taken out to its end: stored, refused or given up.',
    ),
    timeline: metrics.counter(
      'lapi_timeline_entries_total',
      'Entries for the timelines of devices, by what became of them.',
      ['result'],
    ),
    unstoredBytes: metrics.gauge(
      'lapi_unstored_event_bytes',
      'Events received and not yet stored, with their overhead.',
    ),
  };
}
