/** The shape of the answer about a device's last hours. */

import { z } from 'zod';
import { CommandView } from './command-schema.ts';

const time = z.iso.datetime();

const FrameView = z
  .object({
    at: time,
    direction: z.enum(['in', 'out']).describe('in: from the device.'),
    type: z.enum(['request', 'response', 'stray', 'malformed', 'binary']),
    bytes: z.number().int().describe('Of the message; of what we send, of its `Data`.'),
    method: z.string().optional(),
    url: z.string().optional().describe('What its query may hide is left out.'),
    responseCode: z.number().int().optional(),
    excerpt: z.string().optional().describe('Begin of `Data`, without secrets, tokens, pictures and long texts.'),
  })
  .meta({ id: 'TimelineFrame' });

const SessionView = z
  .object({
    type: z.literal('session'),
    at: time.describe('When it ended, or began if it is still open.'),
    session: z.string(),
    node: z.string(),
    epoch: z.number().int(),
    address: z.string(),
    openedAt: time,
    endedAt: time.optional().describe('Absent: still open.'),
    reason: z.string().optional().describe('Why it ended, as in `presence.offline`.'),
    secret: z.enum(['current', 'next']).optional().describe('Which of the two active secrets it registered with.'),
    previousNode: z.string().optional().describe('The node from which it took the device over.'),
    heardAt: time.optional().describe('Last sign of life.'),
    keepalives: z.number().int().optional(),
    frames: z
      .array(FrameView)
      .describe(
        'Its last messages, oldest first, without keepalives and without our upkeep of the event subscription.',
      ),
  })
  .meta({ id: 'TimelineSession' });

const RefusalView = z
  .object({
    type: z.literal('refused'),
    at: time.describe('Of the last.'),
    reason: z.string().describe('As in the log line `register.rejected`.'),
    address: z.string().describe('Of the last.'),
    node: z.string().describe('Name of the node that refused the last.'),
    firstAt: time,
    count: z.number().int().describe('Registrations refused for this reason, each within a minute of the one before.'),
  })
  .meta({ id: 'TimelineRefusal' });

export const TimelineView = z
  .object({
    code: z.string(),
    status: z.enum(['online', 'offline', 'not_provisioned']),
    since: time.optional(),
    reason: z
      .string()
      .optional()
      .describe(
        'Why it is not online, in one word: why its last registration was refused, else why its last session ended; disabled, never_registered, not_provisioned.',
      ),
    explanation: z.string().describe('The same for people.'),
    remedy: z.string().optional().describe('What to do about it.'),
    entries: z.array(z.discriminatedUnion('type', [SessionView, RefusalView])).describe('Newest first.'),
    commands: z.array(CommandView).describe('The last ones that were recorded, newest first, without answers.'),
  })
  .meta({ id: 'Timeline' });
