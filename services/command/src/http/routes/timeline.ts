/** The black box of a device: its state and why, its last sessions with their last messages, refused registrations, last commands. For people
 *  and for tools that help them; nothing here is a truth that decides (GET device and the events are). */

import type { DeviceRow } from '@lapi-broker/device';
import type { DeviceCode } from '@lapi-broker/protocol';
import type { SessionEntry } from '@lapi-broker/timeline';
import type { z } from 'zod';
import { explain } from '../../timeline/explain.ts';
import type { Broker } from '../broker.ts';
import { json, operation, problem } from '../operation.ts';
import { DevicePath } from '../schema.ts';
import { TimelineView } from '../timeline-schema.ts';
import { timelineView } from '../timeline-view.ts';

const SHOWN_COMMANDS = 10;

const EXAMPLE: z.output<typeof TimelineView> = {
  code: '210235TEST0000000001',
  status: 'offline',
  since: '2026-01-31T22:04:31.120Z',
  reason: 'bad_sign',
  explanation:
    'Offline since 2026-01-31T22:04:31.120Z: nothing came from the device for 2.5 times its keepalive interval, so it was taken for dead (liveness_timeout). A registration under its code was refused at 2026-01-31T22:09:12.004Z from 192.0.2.17, 4 times since 2026-01-31T22:07:42.871Z: it signs with another secret than the one that is provisioned (bad_sign).',
  remedy: 'Set the same secret here and in the device; a blank at its end is a different secret.',
  entries: [
    {
      type: 'refused',
      at: '2026-01-31T22:09:12.004Z',
      reason: 'bad_sign',
      address: '192.0.2.17',
      node: 'edge-1',
      firstAt: '2026-01-31T22:07:42.871Z',
      count: 4,
    },
    {
      type: 'session',
      at: '2026-01-31T22:04:31.120Z',
      session: 'V1StGXR8_Z5j',
      node: 'edge-1.0m3k9x1y2a4f7',
      epoch: 1769896800123456,
      address: '192.0.2.17',
      openedAt: '2026-01-31T22:00:00.123Z',
      endedAt: '2026-01-31T22:04:31.120Z',
      reason: 'liveness_timeout',
      secret: 'current',
      heardAt: '2026-01-31T22:02:01.101Z',
      keepalives: 2,
      frames: [
        {
          at: '2026-01-31T22:01:12.310Z',
          direction: 'out',
          type: 'request',
          bytes: 0,
          method: 'GET',
          url: '/LAPI/V1.0/System/DeviceInfo',
        },
        {
          at: '2026-01-31T22:01:12.344Z',
          direction: 'in',
          type: 'response',
          bytes: 214,
          url: '/LAPI/V1.0/System/DeviceInfo',
          responseCode: 0,
          excerpt: '{"DeviceName":"NVR 2","FirmwareVersion":"B3221P5"}',
        },
      ],
    },
  ],
  commands: [],
};

export const readTimeline = operation({
  id: 'readTimeline',
  tag: 'Devices',
  summary: 'Why is this device offline?',
  description:
    'What the broker knows of the last hours of a device: its state and the reason in words, its last sessions, each with its end and its last messages, the registrations that were refused, and the last commands. Written with the best effort and kept for a day after the last entry unless the installation says otherwise. A code that is not provisioned and tried to register within the last hour has a timeline too.',
  scope: 'read',
  params: DevicePath,
  responses: { 200: { description: 'The timeline.', schema: TimelineView, example: EXAMPLE } },
  errors: ['device_unknown'],
  async handle({ params: { code } }, broker) {
    const [row, timeline, commands] = await Promise.all([
      broker.devices.get(code),
      broker.timeline.read(code),
      broker.lanes.history(code, undefined, SHOWN_COMMANDS),
    ]);
    if (row === undefined && timeline.sessions.length + timeline.refusals.length === 0)
      return problem('device_unknown', `no device ${code} is provisioned`);
    const online = row?.owner !== undefined && (await lives(row.owner.node, broker));
    const open = online ? await openSession(code, row, broker) : undefined;
    const explanation = explain({ row, online, timeline, kept: broker.keepsTimeline });
    return json(200, timelineView({ code, explanation, timeline, open, commands: commands.items }));
  },
});

async function lives(node: NonNullable<DeviceRow['owner']>['node'], broker: Broker): Promise<boolean> {
  if (broker.nodes.liveness(node) === 'unknown') await broker.nodes.refresh();
  return broker.nodes.liveness(node) === 'alive';
}

/** As its node tells it; from the row, if that does not answer. */
async function openSession(code: DeviceCode, row: DeviceRow, broker: Broker): Promise<SessionEntry | undefined> {
  const { owner, address } = row;
  if (owner === undefined) return undefined;
  const shown = await broker.liveSessions.show(owner.node, code);
  if (shown !== undefined && shown.session === owner.session) return shown;
  return {
    type: 'session',
    code,
    session: owner.session as SessionEntry['session'],
    node: owner.node,
    epoch: owner.epoch as SessionEntry['epoch'],
    address,
    openedAtMs: owner.sinceMs,
    endedAtMs: undefined,
    reason: undefined,
    secret: undefined,
    previous: undefined,
    heardAtMs: undefined,
    keepalives: undefined,
    frames: [],
  };
}
