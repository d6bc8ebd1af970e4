/** The one event model, as a schema: what every way out gives, and what GET /v1/event.schema.json describes. It describes and tests; what is
 *  sent is written by outgoing-event.ts, because the digits of `data` must not change (protocol E18). Members may be added one day, so
 *  readers leave unknown ones alone. Pure. */

import { COMMAND_STATES } from '@lapi-broker/lane';
import { z } from 'zod';

const time = z.iso.datetime();

/** Every kind there is, with its place in the tables of docs/platform/events.md. */
export const EVENT_KINDS: readonly { readonly kind: string; readonly means: string; readonly lossy?: true }[] = [
  { kind: 'alarm.<AlarmType>', means: '`Alarm`, such as alarm.MotionAlarmOn; bare `alarm` when it names no type' },
  { kind: 'structure', means: '`Structure`: persons, faces, vehicles with their pictures' },
  { kind: 'peoplecount.line', means: '`PeopleCount/LineRuleData`' },
  { kind: 'peoplecount.area', means: '`PeopleCount/AreaRuleData`' },
  { kind: 'objectrealtimedata', means: '`ObjectRealTimeData`: positions, many per second', lossy: true },
  ...[
    'MotionDetection',
    'PersonInfo',
    'PersonVerification',
    'VehicleEventInfo',
    'HealthData',
    'PassData',
    'RoadFlow',
    'TrafficFlow',
    'VehicleQueueLen',
    'RadarDetection',
    'OverFlow',
    'Pedestrian',
    'NonmotorList',
    'ParkingList',
    'OverSpeedsList',
    'LowSpeedsList',
    'RetrogradeList',
    'CongestionList',
    'LaneChangeList',
    'OccupancyEmergenctList',
    'RestrictedAreaList',
  ].map((name) => ({ kind: name.toLowerCase(), means: `\`${name}\`` })),
  { kind: 'notification', means: 'the unified form of V1.1, which names no kind' },
  { kind: 'notification.A.B', means: 'any other notification `A/B`' },
  { kind: 'radar.realtimeinfo', means: '`/LAPI/V1.0/System/Radar/Service/RealTimeInfo`', lossy: true },
  { kind: 'radar.A.B', means: '`/LAPI/V1.0/System/Radar/A/B`' },
  { kind: 'unhandled', means: 'a request that is no notification' },
  { kind: 'presence.online', means: 'the device registered: `{node, session, address}`' },
  { kind: 'presence.offline', means: 'its session ended: `{reason, node}`' },
  {
    kind: 'device.flapping',
    means:
      'its sessions replaced each other too often: `{takeOvers, windowSeconds, heldUntil, address, incumbentAddress, addresses}`',
  },
  { kind: 'device.conflict', means: 'as device.flapping, and several addresses took turns: two devices with one code' },
  {
    kind: 'device.quarantined',
    means: 'its sessions ended for misbehaviour too often: `{reason, ends, windowSeconds, heldUntil, address}`',
  },
  {
    kind: 'node.lost',
    means: 'a node died with so many devices, of which each goes offline: `{node, name, devices}`; `code` is empty',
  },
  { kind: 'node.left', means: 'a node was stopped on purpose: `{node, name}`; `code` is empty' },
  ...COMMAND_STATES.map((state) => ({
    kind: `command.${state}`,
    means: 'a queued command: `{id, state, lane, attempt, executed, reason, late, responseCode, job}`',
  })),
  { kind: 'job.*', means: 'a job changed: `{id, state, counts, …}`; `code` is empty' },
  { kind: 'schedule.fired', means: 'a schedule made its command or job; `code` is empty' },
  { kind: 'schedule.failed', means: 'it could not, or missed its moment; `code` is empty' },
  { kind: 'webhook.disabled', means: 'a webhook was switched off: `{id, name, reason}`; `code` is empty' },
  { kind: 'webhook.enabled', means: 'it was switched on again: `{id, name}`; `code` is empty' },
];

const KIND = /^[a-z]+(?:\.[A-Za-z0-9_-]+)*$/;

const imageFacts = {
  path: z
    .string()
    .describe('Where it was: a JSON Pointer (RFC 6901) into `data`.')
    .meta({ examples: ['/AlarmPicture/ImageList/0/Data'] }),
  contentType: z
    .string()
    .describe('As its first bytes say.')
    .meta({ examples: ['image/jpeg'] }),
  bytes: z.number().int().nonnegative().describe('Of the picture itself, not of its base64.'),
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .describe('Of the picture, hexadecimal.'),
};

export const EventImage = z
  .union([
    z
      .object({ ...imageFacts, url: z.string().describe('Of this API; needs a key with the scope `read`.') })
      .describe('Kept: `data` has this `url` in place of the base64.'),
    z
      .object({ ...imageFacts, imageDropped: z.literal(true) })
      .describe('Could not be kept: `data` has an empty string in place of the base64.'),
  ])
  .describe('A picture that was taken out of `data`.')
  .meta({ id: 'EventImage' });

export const EventView = z
  .object({
    id: z
      .string()
      .regex(/^\d{2,5}-\d{1,15}-\d{1,15}$/)
      .describe('Names this event: shard, milliseconds of the store, number in the shard. Unique in the installation.'),
    seq: z
      .number()
      .int()
      .nonnegative()
      .describe(
        'Counts the notifications of one session from 1, in the order in which they arrived; 0 for what the broker says itself. A jump means that one was not stored.',
      ),
    code: z
      .string()
      .describe(
        'The device, as authenticated; nothing inside a message changes it. Empty for nodes, jobs, schedules and webhooks.',
      ),
    kind: z
      .string()
      .regex(KIND)
      .max(128)
      .describe("Family, then the device's own word. All kinds are in `x-kinds`; new ones may come.")
      .meta({ examples: ['alarm.MotionAlarmOn', 'structure', 'presence.online'], 'x-kinds': EVENT_KINDS }),
    url: z.string().describe('The RequestURL that the device sent, or that of the command; empty for everything else.'),
    at: time.describe(
      "When it happened, by the device's own clock; as `receivedAt` where the device sent no time, or one that cannot be true.",
    ),
    receivedAt: time.describe(
      'When the broker received it. Presence, alarms of the broker and commands: when the store made the change.',
    ),
    epoch: z
      .number()
      .int()
      .nonnegative()
      .describe('Which session sent it. Grows with every registration of the device; 0 where there is no session.'),
    tags: z.array(z.string()).describe('The tags of the device when the event came.'),
    dedupKey: z
      .string()
      .nullable()
      .describe('Equal for two sendings of the same notification; null when the device sent nothing to count by.'),
    images: z.array(EventImage).describe('Pictures that were taken out of `data`.'),
    data: z
      .unknown()
      .describe(
        '`Data` of the notification: the JSON text of the device, every digit kept, so that integers may be larger than 2^53.',
      ),
  })
  .describe('One event. All members are always present, in this order.')
  .meta({ id: 'Event' });

export const EventGap = z
  .object({
    shard: z.number().int().nonnegative(),
    from: z.string().describe('Events after this place …'),
    to: z.string().describe('… and before this one are missing. In the form of event ids.'),
    count: z
      .number()
      .int()
      .nonnegative()
      .nullable()
      .describe(
        'How many they were, of all devices of the shard, whatever the filter; null when the reader began at a time of day that retention has passed.',
      ),
    reason: z
      .enum(['trimmed', 'rewound'])
      .describe(
        'trimmed: no longer stored. rewound: the store lost its last writes, and the shard is told again after `from`; what does not come again is gone.',
      ),
  })
  .describe('Events that cannot be given any more. Comes before what follows them.')
  .meta({ id: 'EventGap' });

/** The document of GET /v1/event.schema.json: JSON Schema 2020-12. */
export function eventJsonSchema(): object {
  const {
    $schema,
    id: _,
    ...schema
  } = z.toJSONSchema(EventView, { target: 'draft-2020-12', io: 'input', unrepresentable: 'any' });
  return { $schema, $id: 'urn:lapi-broker:schema:event', title: 'Event of the LAPI Broker', ...schema };
}
