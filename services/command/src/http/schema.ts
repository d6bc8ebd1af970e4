/** The shapes of the API: what is accepted (closed schemas: an unknown member is an error, reliability T8) and what is answered.
 *  They validate requests and make the OpenAPI document. Times are RFC 3339 in UTC. No answer ever holds a secret (protocol S3). */

import { COMMAND_STATES } from '@lapi-broker/lane';
import { type DeviceCode, ERRORS, isDeviceCode } from '@lapi-broker/protocol';
import { z } from 'zod';
import { SCOPES } from '../access/api-key.ts';
import { LIMITS } from '../limits.ts';

const time = z.iso.datetime();
const CODE = /^[A-Za-z0-9._:-]{1,64}$/;

/** A path or query parameter; `isDeviceCode` is the same rule, here as a type guard. */
export const DeviceCodeText = z
  .string()
  .regex(CODE, 'must be 1–64 of A–Z a–z 0–9 . _ : -')
  .transform((text) => asCode(text))
  .describe('DeviceCode, case-sensitive.')
  .meta({ examples: ['210235TEST0000000001'] });

function asCode(text: string): DeviceCode {
  if (!isDeviceCode(text)) throw new TypeError('checked by the pattern before');
  return text;
}

export const DevicePath = z.object({ code: DeviceCodeText });

const secret = z
  .string()
  .min(1)
  .refine((text) => text.isWellFormed(), 'must be valid Unicode: no device could sign with it')
  .refine(
    (text) => Buffer.byteLength(text) <= LIMITS.secretBytes,
    `must be at most ${LIMITS.secretBytes} bytes of UTF-8`,
  );

const tag = z
  .string()
  .regex(/^[^,\p{Cc}\p{Cs}]{1,64}$/u, 'must be 1–64 characters without commas and control characters')
  .meta({ examples: ['site-7'] });

export const DeviceChange = z
  .strictObject({
    secret: secret
      .optional()
      .describe('The secret that is set in the device. Required for a new device. Never returned.'),
    nextSecret: secret
      .nullable()
      .optional()
      .describe('A second secret that also verifies, for rotation; null removes it. Never returned.'),
    profile: z.string().min(1).max(64).optional().describe('Name of the device profile; a new device gets `default`.'),
    type: z
      .string()
      .regex(/^[^,\p{Cc}\p{Cs}]{0,64}$/u, 'must be at most 64 characters without commas and control characters')
      .optional()
      .describe('Free text for filters: nvr, ipc, radar, …'),
    tags: z
      .array(tag)
      .max(LIMITS.tags)
      .refine((tags) => new Set(tags).size === tags.length, 'must not hold a tag twice')
      .optional()
      .describe('Replaces all tags.'),
    firmware: z
      .string()
      .regex(/^[^,\p{Cc}\p{Cs}]{0,64}$/u, 'must be at most 64 characters without commas and control characters')
      .optional()
      .describe('As your inventory knows it, for filters. The broker does not ask the device.'),
    enabled: z.boolean().optional().describe('False closes the session and refuses registrations.'),
  })
  .describe('Absent members keep what is stored.')
  .meta({ id: 'DeviceChange' });

/** As the node of the session noted it (protocol U6). */
export const SubscriptionView = z
  .object({
    state: z.enum(['none', 'active', 'retrying', 'unsupported']),
    supportType: z.number().int().optional().describe('Bit mask of the device.'),
    terminationTime: z.number().int().optional().describe("Unix seconds by the device's clock."),
  })
  .meta({ id: 'Subscription' });

export const HoldView = z
  .object({
    reason: z
      .enum(['flapping', 'conflict', 'quarantined'])
      .describe(
        'flapping: its sessions replaced each other too often. conflict: so did those of several addresses that took turns. quarantined: its sessions ended for misbehaviour too often.',
      ),
    until: time,
    addresses: z.array(z.string()).describe('From where it came, the earliest first.'),
  })
  .meta({ id: 'Hold' });

export const DeviceView = z
  .object({
    code: z.string(),
    online: z.boolean().describe('Has it a session on a living node? May be one second old.'),
    node: z.string().optional().describe('Node and incarnation that hold the session.'),
    epoch: z.number().int().optional().describe('Fencing number of the ownership.'),
    session: z.string().optional(),
    since: time.optional().describe('Begin of the session.'),
    subscription: SubscriptionView.optional().describe(
      'The event subscription that the broker keeps in the device; absent before its first answer.',
    ),
    vendor: z.string().describe('As announced at the last registration; empty before the first.'),
    deviceType: z.string().describe('As announced at the last registration.'),
    address: z.string().describe('Remote address of the last registration.'),
    lastOffline: z
      .object({ reason: z.string(), at: time })
      .optional()
      .describe('Why the last session ended that nobody took over.'),
    held: HoldView.optional().describe(
      'Present while registrations are refused: beside the running session; quarantined, while there is none.',
    ),
    type: z.string(),
    profile: z.string(),
    tags: z.array(z.string()),
    firmware: z.string().describe('As provisioned.'),
    enabled: z.boolean(),
    hasNextSecret: z.boolean().describe('Is a rotation under way?'),
    revision: z.number().int().describe('Raised by each change of the provisioning.'),
    createdAt: time,
    updatedAt: time,
  })
  .meta({ id: 'Device' });

export const DeviceList = z
  .object({
    items: z.array(DeviceView),
    cursor: z
      .string()
      .optional()
      .describe('Begin of the next page. Present while there may be more, also when this page is short or empty.'),
  })
  .meta({ id: 'DeviceList' });

export const DeviceListQuery = z.strictObject({
  limit: z.coerce
    .number(`must be a whole number from ${LIMITS.pageSize.min} to ${LIMITS.pageSize.max}`)
    .int()
    .min(LIMITS.pageSize.min)
    .max(LIMITS.pageSize.max)
    .default(LIMITS.pageSize.default)
    .describe('Devices per page.'),
  cursor: z.string().optional().describe('From the page before, with the same filters.'),
  online: z.enum(['true', 'false']).optional().describe('Only devices with, or without, a session.'),
  type: z.string().max(64).optional().describe('Only devices with this `type`.'),
  tag: z.string().max(64).optional().describe('Only devices with this tag.'),
  firmware: z
    .string()
    .max(65)
    .optional()
    .describe('Only devices with this `firmware`; with `*` at its end, those whose firmware begins so.'),
  node: z.string().max(128).optional().describe('Only devices on this node: its name, or its name and incarnation.'),
});

/** Of the pass-through route; header values are text. */
export const CallHeaders = z.object({
  'X-LAPI-Timeout': z.coerce
    .number(`must be whole milliseconds from ${LIMITS.timeoutMs.min} to ${LIMITS.timeoutMs.max}`)
    .int()
    .min(LIMITS.timeoutMs.min)
    .max(LIMITS.timeoutMs.max)
    .default(LIMITS.timeoutMs.default)
    .describe('How long the device may take to answer, in ms.'),
  'X-LAPI-Connect-Timeout': z.coerce
    .number(`must be whole milliseconds from ${LIMITS.connectTimeoutMs.min} to ${LIMITS.connectTimeoutMs.max}`)
    .int()
    .min(LIMITS.connectTimeoutMs.min)
    .max(LIMITS.connectTimeoutMs.max)
    .default(LIMITS.connectTimeoutMs.default)
    .describe('How long to wait for an offline device to come, in ms. 0 = answer at once.'),
});

export const DeviceAnswer = z
  .looseObject({
    source: z.literal('device').describe('Tells an answer of the device from one of the broker.'),
    ResponseCode: z.number().int().optional(),
    ResponseString: z.string().optional(),
    StatusCode: z.union([z.number().int(), z.string()]).optional(),
    Data: z.unknown().optional(),
  })
  .describe("The device's own answer with all its members as it sent them, and `source`.")
  .meta({ id: 'DeviceAnswer' });

export const CommandOutcome = z
  .object({
    id: z.string(),
    state: z
      .enum(['succeeded', 'failed'])
      .describe('succeeded: the device answered success. failed: it answered something else.'),
    executed: z
      .literal('yes')
      .describe('The device processed the request; whether the action happened is its own statement.'),
    source: z.literal('device'),
    response: z.unknown().describe("The device's answer, as it sent it."),
  })
  .meta({ id: 'CommandOutcome' });

export const NodeShown = z
  .object({
    node: z.string().describe('Name and incarnation.'),
    name: z.string(),
    phase: z
      .enum(['serving', 'draining', 'dead'])
      .describe(
        'draining: it gets rid of its devices, or has none any more and waits. dead: its lease ended and its devices are being turned offline.',
      ),
    address: z.string(),
    version: z.string(),
    startedAt: time.optional(),
    lastBeatAt: time,
    sessions: z.number().int(),
    registrationsPerSecond: z.number(),
    loopLagMs: z.number(),
    drain: z
      .object({
        startedAt: time,
        endsAt: time.describe('By when the last device is told to go.'),
        devices: z.number().int().describe('That the drain is about: those that went and those that are left.'),
        left: z.number().int(),
      })
      .optional()
      .describe('How far it is, while it drains and for as long as it stays empty afterwards; as of its last beat.'),
  })
  .meta({ id: 'Node' });

export const NodeList = z.object({ items: z.array(NodeShown) }).meta({ id: 'NodeList' });

export const NodePath = z.object({
  node: z
    .string()
    .regex(/^[A-Za-z0-9-]{1,63}([.][A-Za-z0-9]{1,32})?$/, 'must be the name of a node, or its name and incarnation')
    .describe('Name of a node, for the incarnation that lives now; or its name and incarnation, as listed.'),
});

export const DrainRequest = z.strictObject({
  seconds: z
    .number()
    .int()
    .min(1)
    .max(3_600)
    .optional()
    .describe('How long it may take until no device is left. Default: LAPI_DRAIN_SECONDS of the node.'),
});

export const KeyPath = z.object({
  id: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,64}$/, 'must be the id of a key')
    .describe('Id of the key, as listed.'),
});

export const KeyRequest = z
  .strictObject({
    name: z.string().min(1).max(64).describe('For people, to know whose key it is.'),
    scopes: z
      .array(z.enum(SCOPES))
      .min(1)
      .max(SCOPES.length)
      .describe(
        'read: devices, nodes, events, consuming subscriptions. call: LAPI calls on open paths, making subscriptions. admin: everything.',
      ),
  })
  .meta({ id: 'KeyRequest' });

export const KeyView = z
  .object({ id: z.string(), name: z.string(), scopes: z.array(z.enum(SCOPES)), createdAt: time })
  .meta({ id: 'Key' });

export const KeyList = z.object({ items: z.array(KeyView) }).meta({ id: 'KeyList' });

export const NewKey = KeyView.extend({ key: z.string().describe('The key itself. Shown this one time.') }).meta({
  id: 'NewKey',
});

export const Status = z.object({ status: z.string(), reason: z.string().optional() }).meta({ id: 'Status' });

export const Provisioned = z
  .object({ code: z.string(), status: z.enum(['created', 'updated']), revision: z.number().int() })
  .meta({ id: 'Provisioned' });

export const ProblemDocument = z
  .object({
    type: z.string().describe('`urn:lapi-broker:error:<code>`'),
    title: z.string(),
    status: z.number().int(),
    detail: z.string().describe('What is wrong in this case.'),
    code: z.enum(Object.keys(ERRORS) as [string, ...string[]]).describe('Stable; decide by this, never by a text.'),
    error: z.string().describe('The same as `code`.'),
    source: z.literal('broker').describe('Tells a problem of the broker from an answer of the device.'),
    retryable: z.boolean().describe('May the same call be made again without risk?'),
    written: z.boolean().describe("Did, or may, bytes of the command have reached the device's socket?"),
    executed: z.enum(['yes', 'no', 'maybe']).optional().describe('Commands only. maybe: the device may have acted.'),
    id: z.string().optional().describe('Of the command, where it has one.'),
    state: z.enum(COMMAND_STATES).optional().describe('Of the command, where it has one.'),
    cause: z.string().describe('What this code means.'),
    remedy: z.string().describe('What the caller can do.'),
    errors: z
      .array(z.object({ path: z.string(), problem: z.string() }))
      .optional()
      .describe('Each wrong part of the request.'),
    requestId: z.string(),
  })
  .meta({ id: 'Problem' });
