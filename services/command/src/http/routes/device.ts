/** The fleet over HTTP: list, read, provision, rotate, remove, disconnect. Secrets go in and never come out (protocol S3); weak ones are
 *  refused unless the installation allows them (G8). The node that holds the device is told of a change by a hint; the claim script compares
 *  the revision, so a lost hint lets no removed device register again. */

import { checkSecretStrength, type DeviceRow, matchesFirmware, type ProvisioningChange } from '@lapi-broker/device';
import {
  type ControlMessage,
  type DeviceCode,
  encodeControlFrame,
  type NodeId,
  nodeNameOf,
} from '@lapi-broker/protocol';
import type { z } from 'zod';
import { LIMITS } from '../../limits.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import { decodeListCursor, encodeListCursor } from '../cursor.ts';
import { invalid, json, operation, problem } from '../operation.ts';
import type { Fault } from '../problem.ts';
import {
  DeviceChange,
  DeviceList,
  DeviceListQuery,
  DevicePath,
  DeviceView,
  HoldView,
  Provisioned,
  SubscriptionView,
} from '../schema.ts';

const EXAMPLE_DEVICE = {
  code: '210235TEST0000000001',
  online: true,
  node: 'edge-0.0m3k9x1y2a4f7',
  epoch: 1735689600123456,
  session: 'V1StGXR8_Z5jdHi6B-myT',
  since: '2025-01-01T00:00:00.123Z',
  subscription: { state: 'active', supportType: 16_417, terminationTime: 1_735_690_200 },
  vendor: 'Uniview',
  deviceType: 'NVR',
  address: '192.0.2.17',
  type: 'nvr',
  profile: 'nvr',
  tags: ['site-7'],
  firmware: 'B3221P5',
  enabled: true,
  hasNextSecret: false,
  revision: 3,
  createdAt: '2024-11-02T09:12:44.000Z',
  updatedAt: '2024-12-20T16:03:10.000Z',
};

const unknown = (code: DeviceCode): Answer => problem('device_unknown', `no device ${code} is provisioned`);
const iso = (ms: number): string => new Date(ms).toISOString();

export const listDevices = operation({
  id: 'listDevices',
  tag: 'Devices',
  summary: 'List devices',
  description:
    'In byte order of the DeviceCode. A page may be short, or empty, while `cursor` is present: then there may be more.',
  scope: 'read',
  query: DeviceListQuery,
  responses: {
    200: {
      description: 'A page.',
      schema: DeviceList,
      example: { items: [EXAMPLE_DEVICE], cursor: 'MTIxMDIzNVRFU1QwMDAwMDAwMDAx' },
    },
  },
  async handle({ query }, broker) {
    const after = query.cursor === undefined ? '' : decodeListCursor(query.cursor);
    if (after === undefined) return invalid([{ path: 'query.cursor', problem: 'not a cursor of this listing' }]);
    // Fresh, so that a node that joined a moment ago is not taken for dead.
    await broker.nodes.refresh();
    const page = await readPage(query, after, broker);
    return json(200, {
      items: page.items,
      ...(page.last === undefined ? {} : { cursor: encodeListCursor(page.last) }),
    });
  },
});

type Query = z.output<typeof DeviceListQuery>;
type View = z.output<typeof DeviceView>;

/** Walks until the page is full, the list ends, or the bound on rows is reached. `last`: where the next page begins, if there may be one. */
async function readPage(
  query: Query,
  from: string,
  broker: Broker,
): Promise<{ items: View[]; last: DeviceCode | undefined }> {
  const items: View[] = [];
  const { tag, type } = query;
  const narrowing = { ...(tag === undefined ? {} : { tag }), ...(type === undefined ? {} : { type }) };
  // Conditions of the session are not indexed, so most rows may fall through: read more of them at a time.
  const batch =
    query.online === undefined && query.node === undefined && query.firmware === undefined
      ? query.limit
      : LIMITS.scannedBatch;
  let after = from;
  let last: DeviceCode | undefined;
  for (let scanned = 0; scanned < LIMITS.scannedRows; ) {
    const rows = await broker.devices.list({ after, limit: batch, ...narrowing });
    for (const row of rows) {
      last = row.code;
      after = row.code;
      const view = toView(row, broker);
      if (!wanted(view, query)) continue;
      items.push(view);
      if (items.length === query.limit) return { items, last };
    }
    if (rows.length < batch) return { items, last: undefined };
    scanned += rows.length;
  }
  return { items, last };
}

/** What the store does not select. */
function wanted(view: View, { online, node, firmware }: Query): boolean {
  if (firmware !== undefined && !matchesFirmware(view.firmware, firmware)) return false;
  if (online !== undefined && view.online !== (online === 'true')) return false;
  if (node === undefined) return true;
  return view.node !== undefined && (view.node === node || nodeNameOf(view.node as NodeId) === node);
}

function toView(row: DeviceRow, broker: Broker): View {
  const { owner } = row;
  const online = owner !== undefined && broker.nodes.liveness(owner.node) === 'alive';
  const lastOffline = lostWith(owner?.node, broker) ?? row.lastOffline;
  const session = online
    ? {
        node: owner.node,
        epoch: owner.epoch,
        session: owner.session,
        since: iso(owner.sinceMs),
        ...subscriptionOf(row.subscription),
      }
    : undefined;
  return {
    code: row.code,
    online,
    ...session,
    vendor: row.vendor,
    deviceType: row.deviceType,
    address: row.address,
    ...(lastOffline === undefined ? {} : { lastOffline: { reason: lastOffline.reason, at: iso(lastOffline.atMs) } }),
    ...heldNow(row.hold, broker),
    type: row.type,
    profile: row.profile,
    tags: [...row.tags],
    firmware: row.firmware,
    enabled: row.enabled,
    hasNextSecret: row.hasNextSecret,
    revision: row.revision,
    createdAt: iso(row.createdAtMs),
    updatedAt: iso(row.updatedAtMs),
  };
}

/** What the row will say once the device of a dead node has been turned offline. */
function lostWith(node: NodeId | undefined, broker: Broker): DeviceRow['lastOffline'] {
  if (node === undefined || broker.nodes.liveness(node) !== 'dead') return undefined;
  const view = broker.nodes.nodes.find((each) => each.node === node);
  return { reason: 'node_lost', atMs: view?.lastBeatMs ?? broker.nowMs() };
}

function heldNow(hold: DeviceRow['hold'], broker: Broker): Pick<View, 'held'> {
  if (hold === undefined || hold.untilMs <= broker.nowMs()) return {};
  const { success, data } = HoldView.safeParse({ ...hold, until: iso(hold.untilMs) });
  return success ? { held: data } : {};
}

/** A note that a newer edge wrote in another form is left out rather than shown half. */
function subscriptionOf(note: string): Pick<View, 'subscription'> {
  if (note === '') return {};
  const { success, data } = SubscriptionView.safeParse(JSON.parse(note));
  return success ? { subscription: data } : {};
}

export const readDevice = operation({
  id: 'readDevice',
  tag: 'Devices',
  summary: 'Read a device',
  scope: 'read',
  params: DevicePath,
  responses: { 200: { description: 'The device.', schema: DeviceView, example: EXAMPLE_DEVICE } },
  errors: ['device_unknown'],
  async handle({ params: { code } }, broker) {
    const row = await broker.devices.get(code);
    if (row === undefined) return unknown(code);
    if (row.owner !== undefined && broker.nodes.liveness(row.owner.node) === 'unknown') await broker.nodes.refresh();
    return json(200, toView(row, broker));
  },
});

export const putDevice = operation({
  id: 'putDevice',
  tag: 'Devices',
  summary: 'Provision or change a device',
  description:
    'Creates the device, or changes the members that are given. A change of the secret closes a session that used a secret which is no longer active.',
  scope: 'admin',
  params: DevicePath,
  body: DeviceChange,
  bodyExample: { secret: 'k9!Zr7_pQ2wX4vLm', type: 'nvr', profile: 'nvr', tags: ['site-7'] },
  responses: {
    201: {
      description: 'Created.',
      schema: Provisioned,
      example: { code: EXAMPLE_DEVICE.code, status: 'created', revision: 1 },
    },
    200: {
      description: 'Changed.',
      schema: Provisioned,
      example: { code: EXAMPLE_DEVICE.code, status: 'updated', revision: 2 },
    },
  },
  async handle({ params: { code }, body }, broker) {
    const faults = faultsOfChange(body, broker);
    if (faults.length > 0) return invalid(faults);
    const { secret, nextSecret, profile, type, tags, firmware, enabled } = body;
    const change: ProvisioningChange = {
      ...(secret === undefined ? {} : { secret: broker.vault.seal(code, secret) }),
      ...(nextSecret === undefined
        ? {}
        : { nextSecret: nextSecret === null ? null : broker.vault.seal(code, nextSecret) }),
      ...(profile === undefined ? {} : { profile }),
      ...(type === undefined ? {} : { type }),
      ...(tags === undefined ? {} : { tags }),
      ...(firmware === undefined ? {} : { firmware }),
      ...(enabled === undefined ? {} : { enabled }),
    };
    const { status, revision } = await broker.devices.put(code, change);
    if (status === 'secret_required') {
      return invalid([{ path: 'body.secret', problem: `required, because no device ${code} is provisioned yet` }]);
    }
    if (status === 'updated') await tellOwner({ type: 'provisioning_changed', code }, broker);
    return json(status === 'created' ? 201 : 200, { code, status, revision });
  },
});

function faultsOfChange({ secret, nextSecret, profile }: z.output<typeof DeviceChange>, broker: Broker): Fault[] {
  const faults: Fault[] = [];
  if (!broker.allowWeakSecrets) {
    for (const [name, value] of [
      ['secret', secret],
      ['nextSecret', nextSecret],
    ] as const) {
      const weakness = typeof value === 'string' ? checkSecretStrength(value) : undefined;
      if (weakness === undefined) continue;
      faults.push({
        path: `body.${name}`,
        problem: `too weak: ${weakness}. Use at least 12 random characters; LAPI_ALLOW_WEAK_SECRETS=true accepts any, for tests`,
      });
    }
  }
  if (profile !== undefined && !broker.profiles.includes(profile)) {
    faults.push({ path: 'body.profile', problem: `no such profile; there are ${broker.profiles.join(', ')}` });
  }
  return faults;
}

export const removeDevice = operation({
  id: 'removeDevice',
  tag: 'Devices',
  summary: 'Remove a device',
  description:
    'Its session is closed; further registrations are refused like those of an unknown device. Commands that wait for it end `cancelled`, reason `device_removed`.',
  scope: 'admin',
  params: DevicePath,
  responses: { 204: { description: 'Removed.' } },
  errors: ['device_unknown'],
  async handle({ params: { code } }, broker) {
    // Before the removal, which may take the owner out of the row.
    const owner = await ownerOf(code, broker);
    if (!(await broker.devices.remove(code))) return unknown(code);
    if (owner !== undefined) await send(owner, { type: 'provisioning_changed', code }, broker);
    // Before the answer: whoever provisions the same code next must not inherit what waits.
    await broker.lanes.tend(code);
    return { kind: 'empty', status: 204 };
  },
});

export const promoteSecret = operation({
  id: 'promoteSecret',
  tag: 'Devices',
  summary: 'Make the next secret the current one',
  description:
    'Last step of a rotation (protocol G7): put `nextSecret`, set it in the device, wait for a registration with it, promote. A session that used the old secret is closed.',
  scope: 'admin',
  params: DevicePath,
  responses: {
    200: {
      description: 'Promoted.',
      schema: Provisioned,
      example: { code: EXAMPLE_DEVICE.code, status: 'updated', revision: 4 },
    },
  },
  errors: ['device_unknown', 'conflict'],
  async handle({ params: { code } }, broker) {
    const credentials = await broker.devices.credentials(code);
    if (credentials === undefined) return unknown(code);
    const { next } = credentials.secrets;
    if (next === undefined) return problem('conflict', 'the device has no next secret; put `nextSecret` first');
    const { status, revision } = await broker.devices.put(code, {
      secret: next,
      nextSecret: null,
      ifRevision: credentials.revision,
    });
    if (status !== 'updated') return problem('conflict', 'the device was changed at the same time; try again');
    await tellOwner({ type: 'provisioning_changed', code }, broker);
    return json(200, { code, status, revision });
  },
});

export const disconnectDevice = operation({
  id: 'disconnectDevice',
  tag: 'Devices',
  summary: 'End the session of a device',
  description: 'The device may register again at once. To keep it away, set `enabled` to false.',
  scope: 'admin',
  params: DevicePath,
  responses: { 202: { description: 'The node of the device was told.', schema: Provisioned.pick({ code: true }) } },
  errors: ['device_unknown', 'conflict'],
  async handle({ params: { code } }, broker) {
    const { provisioned, owner } = await broker.registry.lookUp(code);
    if (!provisioned) return unknown(code);
    if (owner === undefined || !(await lives(owner.node, broker)))
      return problem('conflict', 'the device has no session');
    if (!(await send(owner.node, { type: 'disconnect', code }, broker))) {
      return problem('broker_unavailable', 'the node of the device does not listen');
    }
    return json(202, { code });
  },
});

async function lives(node: NodeId, broker: Broker): Promise<boolean> {
  if (broker.nodes.liveness(node) === 'unknown') await broker.nodes.refresh();
  return broker.nodes.liveness(node) === 'alive';
}

async function ownerOf(code: DeviceCode, broker: Broker): Promise<NodeId | undefined> {
  return (await broker.registry.lookUp(code)).owner?.node;
}

async function tellOwner(message: ControlMessage, broker: Broker): Promise<void> {
  const node = await ownerOf(message.code, broker);
  if (node !== undefined) await send(node, message, broker);
}

/** A hint. False when it certainly reached nobody. */
async function send(node: NodeId, message: ControlMessage, broker: Broker): Promise<boolean> {
  const result = await broker.pubsub.publish(broker.keyspace.inbox(node), encodeControlFrame(message));
  return result.status === 'unknown' || (result.status === 'published' && result.receivers > 0);
}
