/** What every OwnerRegistry promises, as tests. A test names the guarantee and the rule; the harness hides where rows and events are kept. */

import { waitFor } from '@lapi-broker/fixture';
import type { DeviceCode, Epoch, EventRecord, NodeId, SessionId } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { FlapGuard } from '../flap-guard.ts';
import { MemoryOwnerRegistry } from '../memory/owner-registry.ts';
import type { ClaimRequest, ClaimResult, Hold, OfflineReason, Owner, OwnerRegistry } from '../owner-registry.ts';
import { QUARANTINE, type Quarantine } from '../quarantine.ts';

export interface OwnerRegistryHarness {
  readonly registry: OwnerRegistry;
  /** Writes what the device store writes, but leaves a time to live to the claim. */
  provision(code: DeviceCode, revision: number, facts?: { tags?: readonly string[]; enabled?: boolean }): Promise<void>;
  /** Takes the provisioning away and leaves the rest, as the device store does. */
  unprovision(code: DeviceCode): Promise<void>;
  raiseEpoch(code: DeviceCode, epoch: number): Promise<void>;
  /** Leaves a command in a lane of the device. */
  fillLane(code: DeviceCode): Promise<void>;
  /** What the registry told of this device, oldest first; the empty code: of nodes. */
  events(code: DeviceCode): Promise<readonly EventRecord[]>;
  /** Index of one incarnation, in any order. */
  owned(node: NodeId): Promise<readonly DeviceCode[]>;
  /** What is noted about the subscription of the running session; empty if nothing. */
  subscription(code: DeviceCode): Promise<string>;
  /** Why the row says the device is offline. */
  offlineReason(code: DeviceCode): Promise<string | undefined>;
  /** Why and until when the row says the device is kept away, also if that is over. */
  hold(code: DeviceCode): Promise<Hold | undefined>;
  /** Does the row have a time to live? */
  expires(code: DeviceCode): Promise<boolean>;
  /** The clock of the registry. */
  nowMs(): Promise<number>;
  close(): Promise<void>;
}

export type OpenOwnerRegistry = (flap: Partial<FlapGuard>, quarantine?: Quarantine) => Promise<OwnerRegistryHarness>;

const FACTS = { vendor: 'Uniview', deviceType: 'NVR', algorithm: 'HMAC-SHA256', address: '10.0.0.9' };
const FOREVER_MS = 8.64e15;

let names = 0;
/** A device that no other test uses. */
function newCode(): DeviceCode {
  return `DEVICE-${++names}` as DeviceCode;
}
/** An incarnation that no other test uses. */
function newNode(name = 'edge'): NodeId {
  return `${name}.${String(++names).padStart(9, '0')}` as NodeId;
}
function newSession(): SessionId {
  return `session-${++names}` as SessionId;
}

function request(code: DeviceCode, node: NodeId, change: Partial<ClaimRequest> = {}): ClaimRequest {
  return {
    code,
    node,
    session: newSession(),
    facts: FACTS,
    nonce: `nonce${++names}`,
    nonceTtlMs: 60_000,
    revision: 1,
    notAfterMs: FOREVER_MS,
    ...change,
  };
}

function claimed(result: ClaimResult): Epoch {
  if (result.status !== 'claimed') throw new Error(`expected a claim, got ${result.status}`);
  return result.epoch;
}

const NODES = '' as DeviceCode;

const dataOf = (event: EventRecord): Record<string, unknown> =>
  JSON.parse(Buffer.from(event.data).toString()) as Record<string, unknown>;
const reasonOf = (event: EventRecord): unknown => dataOf(event).reason;
const summary = (events: readonly EventRecord[]): string[] =>
  events.map((event) => [event.kind, event.epoch, reasonOf(event) ?? event.session].join(' '));

export function ownerRegistryContract(name: string, open: OpenOwnerRegistry): void {
  describe(`OwnerRegistry: ${name}`, () => {
    let at: OwnerRegistryHarness;
    let registry: OwnerRegistry;
    beforeAll(async () => {
      at = await open({});
      registry = at.registry;
    });
    afterAll(async () => {
      await at.close();
    });

    /** A provisioned device, owned by nobody. */
    const device = async (tags: readonly string[] = []): Promise<DeviceCode> => {
      const code = newCode();
      await at.provision(code, 1, { tags });
      return code;
    };
    const ownerOf = async (code: DeviceCode): Promise<Owner | undefined> => (await registry.lookUp(code)).owner;

    test('concurrent claims of one device get distinct epochs, and the highest of them owns it (I1, I2)', async () => {
      const code = await device();
      const flapFree = await open({ limit: 60 });
      await flapFree.provision(code, 1);
      const nodes = Array.from({ length: 40 }, () => newNode());
      const epochs = (await Promise.all(nodes.map((node) => flapFree.registry.claim(request(code, node))))).map(
        claimed,
      );
      expect(new Set(epochs).size).toBe(40);
      const highest = Math.max(...epochs);
      const { owner } = await flapFree.registry.lookUp(code);
      expect(owner?.epoch).toBe(highest);
      expect(owner?.node).toBe(nodes[epochs.indexOf(highest as Epoch)]);
      await flapFree.close();
    });

    test('the newest claim wins at once and is told whom it replaced (protocol D3)', async () => {
      const code = await device();
      const [first, second] = [request(code, newNode()), request(code, newNode())];
      expect(await registry.claim(first)).toMatchObject({ status: 'claimed', previous: undefined });
      const owner = await ownerOf(code);
      const result = await registry.claim(second);
      expect(result).toMatchObject({ status: 'claimed', previous: { node: first.node, session: first.session } });
      expect(result).toHaveProperty('previous', owner);
      expect(await ownerOf(code)).toMatchObject({ node: second.node, session: second.session, epoch: claimed(result) });
    });

    test('who claims or holds a device is told whether a command waits in its lanes (3.2)', async () => {
      const [idle, busy, from, to] = [await device(), await device(), newNode(), newNode()];
      await at.fillLane(busy);
      for (const [code, laneBusy] of [
        [idle, false],
        [busy, true],
      ] as const) {
        const first = request(code, from);
        expect(await registry.claim(first)).toMatchObject({ status: 'claimed', previous: undefined, laneBusy });
        const second = request(code, from);
        const result = await registry.claim(second);
        expect(result).toMatchObject({ status: 'claimed', previous: { session: first.session }, laneBusy });
        const again = { code, from, to, epoch: claimed(result), session: second.session };
        // The second time it is its own already.
        for (const _ of [1, 2]) expect(await registry.reclaim(again)).toMatchObject({ status: 'reclaimed', laneBusy });
        expect(await registry.laneBusy(code)).toBe(laneBusy);
      }
    });

    test('an epoch is the time of the claim in microseconds (I2)', async () => {
      const code = await device();
      const before = await at.nowMs();
      const epoch = claimed(await registry.claim(request(code, newNode())));
      const after = await at.nowMs();
      expect(epoch).toBeGreaterThanOrEqual(before * 1000);
      expect(epoch).toBeLessThanOrEqual((after + 1) * 1000);
      expect((await ownerOf(code))?.sinceMs).toBe(Math.floor(epoch / 1000));
    });

    test('epochs grow when the last one lies ahead of the clock (I2)', async () => {
      const code = await device();
      const ahead = ((await at.nowMs()) + 3_600_000) * 1000;
      await at.raiseEpoch(code, ahead);
      const node = newNode();
      const first = claimed(await registry.claim(request(code, node)));
      expect(first).toBe(ahead + 1);
      expect(claimed(await registry.claim(request(code, newNode())))).toBe(ahead + 2);
      expect(summary(await at.events(code)).at(-1)).toContain(` ${ahead + 2} `);
    });

    test('epochs grow over release, removal and a new provisioning (I2)', async () => {
      const code = await device();
      const node = newNode();
      await at.raiseEpoch(code, ((await at.nowMs()) + 3_600_000) * 1000);
      const first = claimed(await registry.claim(request(code, node)));
      await registry.release({ code, node, epoch: first, reason: 'closed' });
      await at.unprovision(code);
      await at.provision(code, 1);
      expect(claimed(await registry.claim(request(code, node)))).toBe(first + 1);
    });

    test('a claim refuses to share an epoch when no higher one is left (I1)', async () => {
      const code = await device();
      await at.raiseEpoch(code, 2 ** 53);
      await expect(registry.claim(request(code, newNode()))).rejects.toThrow();
      expect(await ownerOf(code)).toBeUndefined();
    });

    test('a claimed or reclaimed row lives for ever (I2)', async () => {
      const code = await device();
      claimed(await registry.claim(request(code, newNode())));
      await at.unprovision(code);
      await at.provision(code, 2);
      claimed(await registry.claim(request(code, newNode(), { revision: 2 })));
      expect(await at.expires(code)).toBe(false);
      const [from, to] = [newNode(), newNode()];
      const { session, ...rest } = request(code, from, { revision: 2 });
      const epoch = claimed(await registry.claim({ session, ...rest }));
      await at.unprovision(code);
      await at.provision(code, 3);
      expect(await registry.reclaim({ code, from, epoch, to, session })).toMatchObject({ status: 'reclaimed' });
      expect(await at.expires(code)).toBe(false);
    });

    test('a nonce serves once per DeviceCode (protocol F9)', async () => {
      const code = await device();
      const other = await device();
      const nonce = `nonce${++names}`;
      const [first, second] = [request(code, newNode(), { nonce }), request(code, newNode(), { nonce })];
      const results = await Promise.all([registry.claim(first), registry.claim(second)]);
      expect(results.map((result) => result.status).sort()).toEqual(['claimed', 'replayed']);
      expect((await registry.claim(request(other, newNode(), { nonce }))).status).toBe('claimed');
      expect(await at.events(code)).toHaveLength(1);
    });

    test('a nonce is forgotten after its time', async () => {
      const code = await device();
      const nonce = `nonce${++names}`;
      claimed(await registry.claim(request(code, newNode(), { nonce, nonceTtlMs: 20 })));
      await waitFor(async () => (await registry.claim(request(code, newNode(), { nonce }))).status === 'claimed', {
        deadlineMs: 5_000,
        what: 'the nonce to be forgotten',
      });
    });

    test('a claim after notAfterMs changes nothing (D7)', async () => {
      const code = await device();
      const late = request(code, newNode(), { notAfterMs: (await at.nowMs()) - 1000 });
      expect(await registry.claim(late)).toEqual({ status: 'late' });
      expect(await ownerOf(code)).toBeUndefined();
      expect(await at.events(code)).toEqual([]);
      expect(await at.owned(late.node)).toEqual([]);
      expect((await registry.claim({ ...late, notAfterMs: FOREVER_MS })).status).toBe('claimed');
    });

    test('a Sign verified against another revision claims nothing and keeps its nonce', async () => {
      const code = await device();
      const stale = request(code, newNode());
      await at.provision(code, 2);
      expect(await registry.claim(stale)).toEqual({ status: 'stale_provisioning' });
      expect(await registry.claim({ ...stale, revision: 3 })).toEqual({ status: 'stale_provisioning' });
      expect(await ownerOf(code)).toBeUndefined();
      expect(await at.owned(stale.node)).toEqual([]);
      expect((await registry.claim({ ...stale, revision: 2 })).status).toBe('claimed');
    });

    test('a device that is unknown, removed or disabled cannot be claimed', async () => {
      const unknown = newCode();
      expect(await registry.claim(request(unknown, newNode()))).toEqual({ status: 'stale_provisioning' });
      expect(await registry.lookUp(unknown)).toEqual({ provisioned: false, owner: undefined });
      const removed = await device();
      await at.unprovision(removed);
      expect(await registry.claim(request(removed, newNode()))).toEqual({ status: 'stale_provisioning' });
      const disabled = await device();
      await at.provision(disabled, 1, { enabled: false });
      expect(await registry.claim(request(disabled, newNode()))).toEqual({ status: 'stale_provisioning' });
      expect(await registry.lookUp(disabled)).toEqual({ provisioned: true, owner: undefined });
    });

    test('a release ends exactly the ownership it names and says why', async () => {
      const code = await device();
      const { node, session, ...rest } = request(code, newNode());
      const epoch = claimed(await registry.claim({ node, session, ...rest }));
      expect(await at.owned(node)).toEqual([code]);
      expect(await registry.release({ code, node, epoch, reason: 'liveness_timeout' })).toEqual({ status: 'released' });
      expect(await registry.lookUp(code)).toEqual({ provisioned: true, owner: undefined });
      expect(await at.owned(node)).toEqual([]);
      expect(await registry.release({ code, node, epoch, reason: 'closed' })).toEqual({ status: 'stale' });
      expect(summary(await at.events(code))).toEqual([
        `presence.online ${epoch} ${session}`,
        `presence.offline ${epoch} liveness_timeout`,
      ]);
    });

    test('a stale release never ends a newer session of another node, and forgets the caller’s own entry (I3, protocol D4)', async () => {
      const code = await device();
      const [old, next] = [newNode(), newNode()];
      const oldEpoch = claimed(await registry.claim(request(code, old)));
      const newEpoch = claimed(await registry.claim(request(code, next)));
      expect(await at.owned(old)).toEqual([code]);
      expect(await registry.release({ code, node: old, epoch: oldEpoch, reason: 'closed' })).toEqual({
        status: 'stale',
      });
      expect(await ownerOf(code)).toMatchObject({ node: next, epoch: newEpoch });
      expect(await at.owned(old)).toEqual([]);
      expect(await at.owned(next)).toEqual([code]);
      expect(await at.events(code)).toHaveLength(3);
    });

    test('a stale release never ends a newer session of the same node, nor takes it out of the index (I3)', async () => {
      const code = await device();
      const node = newNode();
      const oldEpoch = claimed(await registry.claim(request(code, node)));
      const newEpoch = claimed(await registry.claim(request(code, node)));
      expect(await registry.release({ code, node, epoch: oldEpoch, reason: 'closed' })).toEqual({ status: 'stale' });
      expect(await ownerOf(code)).toMatchObject({ node, epoch: newEpoch });
      expect(await at.owned(node)).toEqual([code]);
    });

    test('a release with the right epoch but another incarnation changes nothing (I3)', async () => {
      const code = await device();
      const node = newNode();
      const epoch = claimed(await registry.claim(request(code, node)));
      expect(await registry.release({ code, node: newNode(), epoch, reason: 'closed' })).toEqual({ status: 'stale' });
      expect(await ownerOf(code)).toMatchObject({ node, epoch });
    });

    test('a release of an unknown device creates nothing', async () => {
      const code = newCode();
      expect(await registry.release({ code, node: newNode(), epoch: 1 as Epoch, reason: 'closed' })).toEqual({
        status: 'stale',
      });
      expect(await registry.lookUp(code)).toEqual({ provisioned: false, owner: undefined });
      expect(await at.events(code)).toEqual([]);
    });

    test('a removed device stays owned until its node releases it, and that is announced', async () => {
      const code = await device(['gate']);
      const node = newNode();
      const epoch = claimed(await registry.claim(request(code, node)));
      await at.unprovision(code);
      expect(await registry.lookUp(code)).toMatchObject({ provisioned: false, owner: { node, epoch } });
      expect(await registry.release({ code, node, epoch, reason: 'revoked' })).toEqual({ status: 'released' });
      expect(summary(await at.events(code)).at(-1)).toBe(`presence.offline ${epoch} revoked`);
    });

    test('a reclaim keeps the session under a higher epoch and ends the old one as fenced (protocol D5)', async () => {
      const code = await device();
      const [from, to] = [newNode(), newNode()];
      const { session, ...rest } = request(code, from);
      const epoch = claimed(await registry.claim({ session, ...rest }));
      const result = await registry.reclaim({ code, from, epoch, to, session });
      expect(result).toMatchObject({ status: 'reclaimed' });
      const owner = await ownerOf(code);
      expect(owner).toMatchObject({ node: to, session });
      expect(owner?.epoch).toBeGreaterThan(epoch);
      expect(await at.owned(from)).toEqual([]);
      expect(await at.owned(to)).toEqual([code]);
      const events = await at.events(code);
      expect(summary(events)).toEqual([
        `presence.online ${epoch} ${session}`,
        `presence.offline ${epoch} fenced`,
        `presence.online ${owner?.epoch} ${session}`,
      ]);
      expect(JSON.parse(Buffer.from(events[2]?.data ?? []).toString())).toEqual({
        node: to,
        session,
        address: FACTS.address,
      });
    });

    test('a reclaim after the reaper writes no second offline for its epoch (protocol D5)', async () => {
      const code = await device();
      const [from, to] = [newNode(), newNode()];
      const { session, ...rest } = request(code, from);
      const epoch = claimed(await registry.claim({ session, ...rest }));
      expect(await registry.reap(from, 10)).toEqual({ offline: 1, done: true });
      expect(await registry.reclaim({ code, from, epoch, to, session })).toMatchObject({ status: 'reclaimed' });
      const events = summary(await at.events(code));
      expect(events.slice(0, 2)).toEqual([
        `presence.online ${epoch} ${session}`,
        `presence.offline ${epoch} node_lost`,
      ]);
      expect(events).toHaveLength(3);
    });

    test('a reclaim takes nothing from a newer claim, not even after that one ended (I3)', async () => {
      const code = await device();
      const [from, to, newer] = [newNode(), newNode(), newNode()];
      const { session, ...rest } = request(code, from);
      const epoch = claimed(await registry.claim({ session, ...rest }));
      const newerEpoch = claimed(await registry.claim(request(code, newer)));
      expect(await registry.reclaim({ code, from, epoch, to, session })).toEqual({ status: 'lost' });
      expect(await ownerOf(code)).toMatchObject({ node: newer, epoch: newerEpoch });
      await registry.release({ code, node: newer, epoch: newerEpoch, reason: 'closed' });
      expect(await registry.reclaim({ code, from, epoch, to, session })).toEqual({ status: 'lost' });
      expect(await ownerOf(code)).toBeUndefined();
      expect(await at.owned(to)).toEqual([]);
    });

    test('a reclaim needs the incarnation that held the epoch (D1)', async () => {
      const code = await device();
      const node = newNode();
      const epoch = claimed(await registry.claim(request(code, node)));
      const session = newSession();
      expect(await registry.reclaim({ code, from: newNode(), epoch, to: newNode(), session })).toEqual({
        status: 'lost',
      });
      expect(await ownerOf(code)).toMatchObject({ node, epoch });
    });

    test('a reclaim asked again for the same session answers the same epoch', async () => {
      const code = await device();
      const [from, to] = [newNode(), newNode()];
      const { session, ...rest } = request(code, from);
      const epoch = claimed(await registry.claim({ session, ...rest }));
      const first = await registry.reclaim({ code, from, epoch, to, session });
      expect(await registry.reclaim({ code, from, epoch, to, session })).toEqual(first);
      expect(await at.events(code)).toHaveLength(3);
    });

    test('a device removed or disabled while its node was away cannot be reclaimed', async () => {
      const [from, to] = [newNode(), newNode()];
      for (const change of [
        (code: DeviceCode) => at.unprovision(code),
        (code: DeviceCode) => at.provision(code, 2, { enabled: false }),
      ]) {
        const code = await device();
        const { session, ...rest } = request(code, from);
        const epoch = claimed(await registry.claim({ session, ...rest }));
        await change(code);
        expect(await registry.reclaim({ code, from, epoch, to, session })).toEqual({ status: 'lost' });
        expect(await ownerOf(code)).toMatchObject({ node: from, epoch });
      }
    });

    test('the reaper turns exactly the devices of the dead incarnation offline, in batches (I3)', async () => {
      const [dead, alive] = [newNode(), newNode()];
      const codes = await Promise.all(Array.from({ length: 60 }, () => device()));
      const epochs = new Map<DeviceCode, Epoch>();
      for (const code of codes) epochs.set(code, claimed(await registry.claim(request(code, dead))));
      const moved = codes.slice(0, 20);
      for (const code of moved) epochs.set(code, claimed(await registry.claim(request(code, alive))));

      let offline = 0;
      let calls = 0;
      for (let done = false; !done; calls++) {
        const result = await registry.reap(dead, 2);
        offline += result.offline;
        done = result.done;
      }
      expect(offline).toBe(40);
      expect(calls).toBeGreaterThan(1);
      expect(await at.owned(dead)).toEqual([]);
      for (const code of moved) expect(await ownerOf(code)).toMatchObject({ node: alive, epoch: epochs.get(code) });
      for (const code of codes.slice(20)) {
        expect(await ownerOf(code)).toBeUndefined();
        expect(summary(await at.events(code)).at(-1)).toBe(`presence.offline ${epochs.get(code)} node_lost`);
      }
      expect(await registry.reap(dead, 2)).toEqual({ offline: 0, done: true });
    });

    test('reapers working at once count each device once and announce it once (protocol D5)', async () => {
      const dead = newNode();
      const codes = await Promise.all(Array.from({ length: 30 }, () => device()));
      for (const code of codes) claimed(await registry.claim(request(code, dead)));
      const results = await Promise.all(Array.from({ length: 4 }, () => registry.reap(dead, 100)));
      expect(results.reduce((sum, each) => sum + each.offline, 0)).toBe(30);
      for (const code of codes) expect(await at.events(code)).toHaveLength(2);
    });

    test('epochs grow after the reaper (I2)', async () => {
      const code = await device();
      const node = newNode();
      await at.raiseEpoch(code, ((await at.nowMs()) + 3_600_000) * 1000);
      const epoch = claimed(await registry.claim(request(code, node)));
      await registry.reap(node, 10);
      expect(claimed(await registry.claim(request(code, newNode())))).toBe(epoch + 1);
    });

    test('presence events carry code, kind, time, epoch, session, tags and who it was (protocol D5)', async () => {
      const code = await device(['gate', 'north "1"', 'größe/2']);
      const [first, second] = [request(code, newNode()), request(code, newNode())];
      const before = await at.nowMs();
      const firstEpoch = claimed(await registry.claim(first));
      const secondEpoch = claimed(await registry.claim(second));
      const events = await at.events(code);
      expect(
        events.map(({ data, at: _at, receivedAt: _receivedAt, ...event }) => ({
          ...event,
          data: JSON.parse(Buffer.from(data).toString()) as unknown,
        })),
      ).toEqual(
        [
          [
            'presence.online',
            firstEpoch,
            first.session,
            { node: first.node, session: first.session, address: FACTS.address },
          ],
          ['presence.offline', firstEpoch, first.session, { reason: 'superseded', node: first.node }],
          [
            'presence.online',
            secondEpoch,
            second.session,
            { node: second.node, session: second.session, address: FACTS.address },
          ],
        ].map(([kind, epoch, session, data]) => ({
          code,
          kind,
          url: '',
          epoch,
          session,
          seq: 0,
          tags: ['gate', 'north "1"', 'größe/2'],
          dedupKey: '',
          images: '',
          data,
        })),
      );
      for (const { at: time, receivedAt } of events) {
        expect(time).toBeGreaterThanOrEqual(Math.floor(before));
        expect(receivedAt).toBe(time);
      }
    });

    test('a session notes the state of its subscription, and the note ends with it (protocol U6)', async () => {
      const code = await device();
      const ends: ((node: NodeId, epoch: Epoch) => Promise<unknown>)[] = [
        (node, epoch) => registry.release({ code, node, epoch, reason: 'closed' }),
        (node) => registry.reap(node, 10),
        () => registry.claim(request(code, newNode())),
      ];
      for (const end of ends) {
        const node = newNode();
        const epoch = claimed(await registry.claim(request(code, node)));
        expect(await at.subscription(code)).toBe('');
        expect(await registry.annotate(code, node, epoch, '{"state":"active"}')).toEqual({ status: 'noted' });
        expect(await at.subscription(code)).toBe('{"state":"active"}');
        await end(node, epoch);
        expect(await at.subscription(code)).toBe('');
      }
    });

    test('a note of an earlier session or of another incarnation is refused (I3)', async () => {
      const code = await device();
      const node = newNode();
      const old = claimed(await registry.claim(request(code, node)));
      const epoch = claimed(await registry.claim(request(code, node)));
      expect(await registry.annotate(code, node, old, '{}')).toEqual({ status: 'stale' });
      expect(await registry.annotate(code, newNode(), epoch, '{}')).toEqual({ status: 'stale' });
      expect(await registry.annotate(newCode(), node, epoch, '{}')).toEqual({ status: 'stale' });
      expect(await at.subscription(code)).toBe('');
    });

    test('a note survives a reclaim, because its session does', async () => {
      const code = await device();
      const [from, to] = [newNode(), newNode()];
      const { session, ...rest } = request(code, from);
      const epoch = claimed(await registry.claim({ session, ...rest }));
      await registry.annotate(code, from, epoch, '{}');
      await registry.reclaim({ code, from, epoch, to, session });
      expect(await at.subscription(code)).toBe('{}');
    });

    test('a note has a bound', async () => {
      const code = await device();
      const node = newNode();
      const epoch = claimed(await registry.claim(request(code, node)));
      expect(await registry.annotate(code, node, epoch, 'x'.repeat(4096))).toEqual({ status: 'noted' });
      await expect(registry.annotate(code, node, epoch, 'x'.repeat(4097))).rejects.toThrow(/4096/);
    });

    describe('flapping (protocol D8)', () => {
      const flapping = async (
        flap: Partial<FlapGuard>,
      ): Promise<{ harness: OwnerRegistryHarness; code: DeviceCode }> => {
        const harness = await open(flap);
        const code = newCode();
        await harness.provision(code, 1);
        return { harness, code };
      };

      test('five take-overs in a minute pass, the sixth is held down and the current session stays', async () => {
        const { harness, code } = await flapping({});
        let epoch = claimed(await harness.registry.claim(request(code, newNode())));
        for (let i = 0; i < 5; i++) epoch = claimed(await harness.registry.claim(request(code, newNode())));
        const sixth = request(code, newNode());
        const result = await harness.registry.claim(sixth);
        expect(result).toEqual({ status: 'held_down', reason: 'flapping', retryAfterMs: 60_000 });
        expect(await harness.registry.claim(request(code, newNode()))).toMatchObject({ status: 'held_down' });
        const { owner } = await harness.registry.lookUp(code);
        expect(owner?.epoch).toBe(epoch);
        expect(await harness.owned(sixth.node)).toEqual([]);
        expect((await harness.events(code)).filter((event) => event.kind === 'presence.online')).toHaveLength(6);
        await harness.close();
      });

      test('a held-down claim keeps its nonce and passes once the current session is gone', async () => {
        const { harness, code } = await flapping({ limit: 1 });
        claimed(await harness.registry.claim(request(code, newNode())));
        const current = request(code, newNode());
        const epoch = claimed(await harness.registry.claim(current));
        const held = request(code, newNode());
        expect((await harness.registry.claim(held)).status).toBe('held_down');
        await harness.registry.release({ code, node: current.node, epoch, reason: 'closed' });
        expect((await harness.registry.claim(held)).status).toBe('claimed');
        await harness.close();
      });

      test('a device that goes and comes back is never held down', async () => {
        const { harness, code } = await flapping({ limit: 1 });
        for (let i = 0; i < 10; i++) {
          const { node, ...rest } = request(code, newNode());
          const epoch = claimed(await harness.registry.claim({ node, ...rest }));
          await harness.registry.release({ code, node, epoch, reason: 'closed' });
        }
        await harness.close();
      });

      test('a hold-down ends after its time', async () => {
        const { harness, code } = await flapping({ limit: 1, windowMs: 60_000, holdMs: 30 });
        claimed(await harness.registry.claim(request(code, newNode())));
        claimed(await harness.registry.claim(request(code, newNode())));
        expect((await harness.registry.claim(request(code, newNode()))).status).toBe('held_down');
        await waitFor(async () => (await harness.registry.claim(request(code, newNode()))).status === 'claimed', {
          deadlineMs: 5_000,
          what: 'the end of the hold-down',
        });
        await harness.close();
      });

      test('take-overs further apart than the window do not add up', async () => {
        const windowMs = 30;
        const { harness, code } = await flapping({ limit: 1, windowMs });
        for (let i = 0; i < 4; i++) {
          claimed(await harness.registry.claim(request(code, newNode())));
          const end = (await harness.nowMs()) + windowMs + 1;
          await waitFor(async () => (await harness.nowMs()) > end, {
            deadlineMs: 5_000,
            what: 'the end of the window',
          });
        }
        await harness.close();
      });

      test('the window slides: a take-over counts for its whole length, wherever a minute would begin', async () => {
        const windowMs = 2_000;
        const { harness, code } = await flapping({ limit: 2, windowMs });
        claimed(await harness.registry.claim(request(code, newNode())));
        const start = await harness.nowMs();
        const until = (ms: number): Promise<unknown> =>
          waitFor(async () => (await harness.nowMs()) > start + ms, { deadlineMs: 10_000, what: `${ms} ms to pass` });
        claimed(await harness.registry.claim(request(code, newNode())));
        await until(windowMs * 0.8);
        claimed(await harness.registry.claim(request(code, newNode())));
        await until(windowMs + 50);
        claimed(await harness.registry.claim(request(code, newNode())));
        expect((await harness.registry.claim(request(code, newNode()))).status).toBe('held_down');
        await harness.close();
      });

      test('a replayed nonce counts as no take-over', async () => {
        const { harness, code } = await flapping({ limit: 1 });
        const first = request(code, newNode());
        claimed(await harness.registry.claim(first));
        for (let i = 0; i < 5; i++) expect((await harness.registry.claim(first)).status).toBe('replayed');
        expect((await harness.registry.claim(request(code, newNode()))).status).toBe('claimed');
        await harness.close();
      });
    });

    describe('alarms', () => {
      const from = (address: string): Partial<ClaimRequest> => ({ facts: { ...FACTS, address } });
      const takeTurns = async (
        harness: OwnerRegistryHarness,
        code: DeviceCode,
        addresses: readonly string[],
      ): Promise<{ epoch: Epoch; session: SessionId; result: ClaimResult }> => {
        let [epoch, session, result] = [0 as Epoch, '' as SessionId, { status: 'late' } as ClaimResult];
        for (const address of addresses) {
          const asked = request(code, newNode(), from(address));
          result = await harness.registry.claim(asked);
          if (result.status === 'claimed') ({ epoch, session } = { epoch: result.epoch, session: asked.session });
        }
        return { epoch, session, result };
      };

      test.each([
        ['flapping', ['10.0.0.1', '10.0.0.1', '10.0.0.1', '10.0.0.1'], ['10.0.0.1']],
        ['flapping', ['10.0.0.1', '10.0.0.1', '10.0.0.1', '2001:db8::2'], ['10.0.0.1', '2001:db8::2']],
        ['conflict', ['10.0.0.1', '2001:db8::2', '10.0.0.1', '2001:db8::2'], ['2001:db8::2', '10.0.0.1']],
      ] as const)(
        'a hold-down raises one alarm, device.%s, and names who came and who stays (protocol D8)',
        async (reason, addresses, named) => {
          const harness = await open({ limit: 2 });
          const code = newCode();
          await harness.provision(code, 1, { tags: ['gate'] });
          const { epoch, session, result } = await takeTurns(harness, code, addresses);
          expect(result).toEqual({ status: 'held_down', reason, retryAfterMs: 60_000 });
          // The rest of the hold-down is told nowhere.
          const { result: again } = await takeTurns(harness, code, ['10.0.0.7', '10.0.0.8']);
          expect(again).toMatchObject({ status: 'held_down', reason });
          const alarms = (await harness.events(code)).filter(({ kind }) => kind.startsWith('device.'));
          expect(alarms).toHaveLength(1);
          const alarm = alarms[0] as EventRecord;
          expect(alarm).toMatchObject({ kind: `device.${reason}`, url: '', epoch, session, seq: 0, tags: ['gate'] });
          const untilMs = alarm.at + 60_000;
          expect(dataOf(alarm)).toEqual({
            takeOvers: 3,
            windowSeconds: 60,
            heldUntil: new Date(untilMs).toISOString(),
            address: addresses.at(-1),
            incumbentAddress: addresses.at(-2),
            addresses: named,
          });
          expect(await harness.hold(code)).toEqual({ reason, untilMs, addresses: named });
          await harness.close();
        },
      );

      test('each hold-down raises an alarm of its own, and the claim after it forgets it', async () => {
        const harness = await open({ limit: 1, holdMs: 20 });
        const code = newCode();
        await harness.provision(code, 1);
        for (const _ of [1, 2]) claimed(await harness.registry.claim(request(code, newNode())));
        for (const times of [1, 2]) {
          expect((await harness.registry.claim(request(code, newNode()))).status).toBe('held_down');
          expect((await harness.events(code)).filter(({ kind }) => kind === 'device.flapping')).toHaveLength(times);
          const { untilMs } = (await harness.hold(code)) as Hold;
          await waitFor(async () => (await harness.nowMs()) > untilMs, { deadlineMs: 5_000, what: 'its end' });
          claimed(await harness.registry.claim(request(code, newNode())));
          expect(await harness.hold(code)).toBeUndefined();
        }
        await harness.close();
      });
    });

    describe('quarantine', () => {
      const quarantining = async (
        quarantine: Partial<Quarantine> = {},
      ): Promise<{
        harness: OwnerRegistryHarness;
        code: DeviceCode;
        end: (reason: OfflineReason) => Promise<string>;
      }> => {
        const harness = await open({}, { ...QUARANTINE, ...quarantine });
        const code = newCode();
        await harness.provision(code, 1, { tags: ['gate'] });
        const end = async (reason: OfflineReason): Promise<string> => {
          const { node, ...rest } = request(code, newNode());
          const epoch = claimed(await harness.registry.claim({ node, ...rest }));
          return (await harness.registry.release({ code, node, epoch, reason })).status;
        };
        return { harness, code, end };
      };

      test('a device whose sessions end for misbehaviour five times in a minute goes on; after the sixth it is kept away and said to be', async () => {
        const { harness, code, end } = await quarantining();
        const reasons = ['overflow', 'too_big', 'bad_utf8', 'bad_frame', 'bad_json'] as const;
        for (const reason of reasons) expect(await end(reason)).toBe('released');
        expect(await harness.offlineReason(code)).toBe('bad_json');
        expect(await end('unmasked')).toBe('quarantined');
        expect(await harness.offlineReason(code)).toBe('quarantined');
        const events = await harness.events(code);
        expect(events.filter(({ kind }) => kind.startsWith('device.'))).toHaveLength(1);
        const [offline, alarm] = events.slice(-2) as [EventRecord, EventRecord];
        expect(offline.kind).toBe('presence.offline');
        expect(reasonOf(offline)).toBe('quarantined');
        const { epoch, session } = offline;
        expect(alarm).toMatchObject({ kind: 'device.quarantined', url: '', epoch, session, seq: 0, tags: ['gate'] });
        const untilMs = alarm.at + 60_000;
        expect(dataOf(alarm)).toEqual({
          reason: 'unmasked',
          ends: 6,
          windowSeconds: 60,
          heldUntil: new Date(untilMs).toISOString(),
          address: FACTS.address,
        });
        expect(await harness.hold(code)).toEqual({ reason: 'quarantined', untilMs, addresses: [FACTS.address] });

        const refused = request(code, newNode());
        const held = await harness.registry.claim(refused);
        expect(held).toMatchObject({ status: 'held_down', reason: 'quarantined' });
        if (held.status === 'held_down') expect(held.retryAfterMs).toBeGreaterThan(30_000);
        expect((await harness.registry.lookUp(code)).owner).toBeUndefined();
        expect(await harness.owned(refused.node)).toEqual([]);
        expect(await harness.events(code)).toHaveLength(events.length);
        await harness.close();
      });

      test('ends for any other reason never add up', async () => {
        const { harness, end } = await quarantining({ limit: 1 });
        for (const reason of [
          'closed',
          'liveness_timeout',
          'draining',
          'rebalanced',
          'revoked',
          'disconnected',
        ] as const)
          expect(await end(reason)).toBe('released');
        expect(await end('overflow')).toBe('released');
        expect(await end('closed')).toBe('released');
        expect(await end('overflow')).toBe('quarantined');
        await harness.close();
      });

      test('ends further apart than the window do not add up', async () => {
        const windowMs = 20;
        const { harness, end } = await quarantining({ limit: 1, windowMs });
        for (let i = 0; i < 4; i++) {
          expect(await end('overflow')).toBe('released');
          const over = (await harness.nowMs()) + windowMs + 1;
          await waitFor(async () => (await harness.nowMs()) > over, {
            deadlineMs: 5_000,
            what: 'the end of the window',
          });
        }
        await harness.close();
      });

      test('a quarantine ends after its time, and the device begins anew', async () => {
        const { harness, code, end } = await quarantining({ limit: 1, holdMs: 20 });
        expect(await end('overflow')).toBe('released');
        expect(await end('overflow')).toBe('quarantined');
        const back = request(code, newNode());
        const { untilMs } = (await harness.hold(code)) as Hold;
        await waitFor(async () => (await harness.nowMs()) > untilMs, { deadlineMs: 5_000, what: 'its end' });
        const epoch = claimed(await harness.registry.claim(back));
        expect(await harness.hold(code)).toBeUndefined();
        await harness.registry.release({ code, node: back.node, epoch, reason: 'closed' });
        expect(await end('overflow')).toBe('released');
        await harness.close();
      });

      test('a session whose end began a quarantine is not claimed again by a re-claim that was on its way', async () => {
        const { harness, code, end } = await quarantining({ limit: 1 });
        await end('overflow');
        const { node, ...rest } = request(code, newNode());
        const epoch = claimed(await harness.registry.claim({ node, ...rest }));
        expect(await harness.registry.release({ code, node, epoch, reason: 'bad_frame' })).toEqual({
          status: 'quarantined',
        });
        const again = { code, from: node, epoch, to: newNode(), session: rest.session };
        expect(await harness.registry.reclaim(again)).toEqual({ status: 'lost' });
        expect(await harness.offlineReason(code)).toBe('quarantined');
        await harness.close();
      });

      test('a stale release counts for nothing', async () => {
        const { harness, code, end } = await quarantining({ limit: 1 });
        const old = request(code, newNode());
        const epoch = claimed(await harness.registry.claim(old));
        const { node, ...rest } = request(code, newNode());
        const current = claimed(await harness.registry.claim({ node, ...rest }));
        for (let i = 0; i < 3; i++) {
          const late = { code, node: old.node, epoch, reason: 'overflow' } as const;
          expect(await harness.registry.release(late)).toEqual({ status: 'stale' });
        }
        await harness.registry.release({ code, node, epoch: current, reason: 'closed' });
        expect(await end('overflow')).toBe('released');
        await harness.close();
      });
    });

    describe('the end of a node', () => {
      const told = async (node: NodeId): Promise<unknown[]> =>
        (await at.events(NODES))
          .filter((event) => dataOf(event).node === node)
          .map((event) => ({ kind: event.kind, epoch: event.epoch, session: event.session, data: dataOf(event) }));

      test('a lost node is announced once, with the devices it held, before each of them goes offline', async () => {
        const [dead, alive] = [newNode('lost'), newNode()];
        const codes = await Promise.all(Array.from({ length: 5 }, () => device()));
        for (const code of codes) claimed(await registry.claim(request(code, dead)));
        for (const code of codes.slice(0, 2)) claimed(await registry.claim(request(code, alive)));
        expect(await registry.announceEnd(dead, 'lost')).toEqual({ status: 'announced', devices: 3 });
        const data = { node: dead, name: 'lost', devices: 3 };
        expect(await told(dead)).toEqual([{ kind: 'node.lost', epoch: 0, session: '', data }]);
        expect(await registry.reap(dead, 10)).toEqual({ offline: 3, done: true });
        for (let i = 0; i < 3; i++) expect(await registry.announceEnd(dead, 'lost')).toEqual({ status: 'known' });
        expect(await told(dead)).toHaveLength(1);
      });

      test('of many who announce at once one does', async () => {
        const node = newNode();
        const results = await Promise.all(Array.from({ length: 8 }, () => registry.announceEnd(node, 'lost')));
        expect(results.filter(({ status }) => status === 'announced')).toHaveLength(1);
        expect(await told(node)).toHaveLength(1);
      });

      test('a node that said goodbye is never lost; another incarnation of its name is another node', async () => {
        const [left, next] = [newNode('edge'), newNode('edge')];
        expect(await registry.announceEnd(left, 'left')).toEqual({ status: 'announced', devices: 0 });
        expect(await registry.announceEnd(left, 'lost')).toEqual({ status: 'known' });
        expect(await told(left)).toEqual([
          { kind: 'node.left', epoch: 0, session: '', data: { node: left, name: 'edge' } },
        ]);
        expect(await registry.announceEnd(next, 'lost')).toMatchObject({ status: 'announced' });
      });
    });

    test('any interleaving gives the same answers and rows as the model, one online and one offline per epoch, and the last event of a device equals its row (I1–I3, protocol D5)', async () => {
      const quarantine = { ...QUARANTINE, limit: 2 };
      const harness = await open({ limit: 3 }, quarantine);
      const model = openModel({ limit: 3 }, quarantine);
      await fc.assert(
        fc.asyncProperty(fc.array(anyStep, { minLength: 10, maxLength: 60 }), async (steps) => {
          await runInLockStep(harness, model, steps);
        }),
        { numRuns: 40, interruptAfterTimeLimit: 15_000, endOnFailure: false },
      );
      await harness.close();
    }, 60_000);
  });
}

/** The memory implementation with a store of its own: the model that others are compared with, and the harness for its own run. */
export function openModel(flap: Partial<FlapGuard>, quarantine: Quarantine = QUARANTINE): OwnerRegistryHarness {
  const known = new Map<DeviceCode, { revision: number; enabled: boolean; tags: readonly string[] }>();
  const events: EventRecord[] = [];
  const filled = new Set<DeviceCode>();
  const registry = new MemoryOwnerRegistry({
    provisioning: (code) => known.get(code),
    append: (event) => events.push(event),
    nowMs: Date.now,
    flap,
    quarantine,
    laneBusy: (code) => filled.has(code),
  });
  return {
    registry,
    async provision(code, revision, { tags = [], enabled = true } = {}) {
      known.set(code, { revision, enabled, tags });
    },
    async unprovision(code) {
      known.delete(code);
    },
    raiseEpoch: async (code, epoch) => registry.raiseEpoch(code, epoch as Epoch),
    async fillLane(code) {
      filled.add(code);
    },
    events: async (code) => events.filter((event) => event.code === code),
    owned: async (node) => registry.owned(node),
    subscription: async (code) => registry.sessionOf(code)?.subscription ?? '',
    offlineReason: async (code) => registry.sessionOf(code)?.lastOffline?.reason,
    hold: async (code) => registry.sessionOf(code)?.hold,
    expires: async () => false,
    nowMs: async () => Date.now(),
    close: async () => undefined,
  };
}

/** One step of an interleaving. Numbers pick among two devices, three incarnations, four nonces, and the epochs handed out so far. */
type Step =
  | { type: 'claim'; device: number; node: number; nonce: number; revision: 'current' | 'old'; late: boolean }
  | { type: 'reclaim'; device: number; from: number; to: number; past: number }
  | { type: 'release'; device: number; node: number; past: number; reason: OfflineReason }
  | { type: 'end'; node: number; left: boolean }
  | { type: 'reap'; node: number }
  | { type: 'change'; device: number; enabled: boolean }
  | { type: 'remove'; device: number };

const pick = (count: number): fc.Arbitrary<number> => fc.integer({ min: 0, max: count - 1 });
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constant('claim' as const),
      device: pick(2),
      node: pick(3),
      nonce: pick(40),
      revision: fc.oneof(
        { weight: 9, arbitrary: fc.constant('current' as const) },
        { weight: 1, arbitrary: fc.constant('old' as const) },
      ),
      late: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
    }),
  },
  // `past` counts back from the latest epoch, so that most steps meet the current one and some an old one.
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('reclaim' as const),
      device: pick(2),
      from: pick(3),
      to: pick(3),
      past: pick(3),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('release' as const),
      device: pick(2),
      node: pick(3),
      past: pick(3),
      reason: fc.constantFrom<OfflineReason>('closed', 'liveness_timeout', 'draining', 'overflow', 'bad_json'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('end' as const), node: pick(3), left: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('reap' as const), node: pick(3) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('change' as const), device: pick(2), enabled: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('remove' as const), device: pick(2) }) },
);

/** Runs the steps on both and compares each answer. Epochs differ in value, so they are compared by the order in which they were handed out. */
async function runInLockStep(
  harness: OwnerRegistryHarness,
  model: OwnerRegistryHarness,
  steps: readonly Step[],
): Promise<void> {
  const run = ++names;
  const codes = [newCode(), newCode()] as const;
  const nodes = [newNode('a'), newNode('a'), newNode('b')] as const;
  const sides = [new Side(harness), new Side(model)] as const;
  const revisions = new Map(codes.map((code) => [code, 1]));
  /** What happened at the last ownership of each device: a session is reclaimed, never made up. */
  const sessions: SessionId[] = [];
  for (const side of sides) for (const code of codes) await side.at.provision(code, 1, { tags: ['a', 'b'] });

  for (const [i, step] of steps.entries()) {
    const code = 'device' in step ? (codes[step.device] as DeviceCode) : codes[0];
    const session = `session-${run}-${i}` as SessionId;
    sessions.push(session);
    if (step.type === 'change' || step.type === 'remove') revisions.set(code, (revisions.get(code) ?? 0) + 1);
    const revision = revisions.get(code) ?? 0;
    const answers: unknown[] = [];
    for (const side of sides) answers.push(await side.take(step, { code, nodes, session, revision, run }));
    expect(answers[0], `answer of step ${i}: ${JSON.stringify(step)}`).toEqual(answers[1]);
    for (const each of codes) {
      const [left, right] = [await sides[0].lookUp(each), await sides[1].lookUp(each)];
      expect(left, `row after step ${i}: ${JSON.stringify(step)}`).toEqual(right);
    }
  }
  for (const code of codes) {
    const [left, right] = [await sides[0].presence(code), await sides[1].presence(code)];
    expect(left).toEqual(right);
    await sides[0].checkPresence(code);
    await sides[1].checkPresence(code);
  }
  for (const node of nodes) {
    expect([...(await harness.owned(node))].sort()).toEqual([...(await model.owned(node))].sort());
  }
}

class Side {
  readonly at: OwnerRegistryHarness;
  readonly #epochs = new Map<DeviceCode, Epoch[]>();

  constructor(at: OwnerRegistryHarness) {
    this.at = at;
  }

  async take(
    step: Step,
    {
      code,
      nodes,
      session,
      revision,
      run,
    }: { code: DeviceCode; nodes: readonly NodeId[]; session: SessionId; revision: number; run: number },
  ): Promise<unknown> {
    const { registry } = this.at;
    const node = (index: number): NodeId => nodes[index] as NodeId;
    switch (step.type) {
      case 'claim': {
        const result = await registry.claim(
          request(code, node(step.node), {
            session,
            nonce: `run${run}-${step.nonce}`,
            revision: step.revision === 'current' ? revision : revision - 1,
            notAfterMs: step.late ? 0 : FOREVER_MS,
          }),
        );
        if (result.status === 'held_down') return { status: result.status, reason: result.reason };
        if (result.status !== 'claimed') return result;
        const previous = result.previous && this.#plain(code, result.previous);
        return { ...result, epoch: this.#issued(code, result.epoch), previous };
      }
      case 'reclaim': {
        const result = await registry.reclaim({
          code,
          from: node(step.from),
          to: node(step.to),
          epoch: this.#past(code, step.past),
          session,
        });
        return result.status === 'reclaimed' ? { ...result, epoch: this.#issued(code, result.epoch) } : result;
      }
      case 'release':
        return await registry.release({
          code,
          node: node(step.node),
          epoch: this.#past(code, step.past),
          reason: step.reason,
        });
      case 'end':
        return await registry.announceEnd(node(step.node), step.left ? 'left' : 'lost');
      case 'reap':
        return await registry.reap(node(step.node), 10);
      case 'change':
        return await this.at.provision(code, revision, { tags: ['a', 'b'], enabled: step.enabled });
      case 'remove':
        return await this.at.unprovision(code);
    }
  }

  async lookUp(code: DeviceCode): Promise<unknown> {
    const { provisioned, owner } = await this.at.registry.lookUp(code);
    const hold = await this.at.hold(code);
    return {
      provisioned,
      owner: owner && this.#plain(code, owner),
      offlineReason: await this.at.offlineReason(code),
      hold: hold && { reason: hold.reason, addresses: hold.addresses },
    };
  }

  async presence(code: DeviceCode): Promise<unknown> {
    return (await this.at.events(code)).map((event) => {
      const { at: _at, receivedAt: _receivedAt, epoch, ...rest } = event;
      const { heldUntil: _heldUntil, ...data } = dataOf(event);
      return { ...rest, epoch: this.#order(code, epoch), data };
    });
  }

  /** Exactly one online per epoch, in growing order; exactly one offline per epoch, except the one that still owns the device. What was said
   *  last is what the row says. */
  async checkPresence(code: DeviceCode): Promise<void> {
    const events = await this.at.events(code);
    const epochs = this.#epochs.get(code) ?? [];
    const { owner } = await this.at.registry.lookUp(code);
    const of = (kind: string): Epoch[] => events.filter((event) => event.kind === kind).map((event) => event.epoch);
    expect(of('presence.online')).toEqual(epochs);
    expect([...of('presence.offline')].sort((a, b) => a - b)).toEqual(epochs.filter((epoch) => epoch !== owner?.epoch));
    const last = events.findLast(({ kind }) => kind.startsWith('presence.'));
    if (last === undefined) return;
    if (owner === undefined) {
      expect([last.kind, reasonOf(last)]).toEqual(['presence.offline', await this.at.offlineReason(code)]);
    } else {
      expect([last.kind, last.epoch, last.session]).toEqual(['presence.online', owner.epoch, owner.session]);
    }
  }

  #issued(code: DeviceCode, epoch: Epoch): number {
    const epochs = this.#epochs.get(code) ?? [];
    expect(epoch, 'an epoch is above all earlier ones (I2)').toBeGreaterThan(epochs.at(-1) ?? 0);
    this.#epochs.set(code, [...epochs, epoch]);
    return epochs.length;
  }

  #past(code: DeviceCode, back: number): Epoch {
    return this.#epochs.get(code)?.at(-1 - back) ?? (1 as Epoch);
  }

  #order(code: DeviceCode, epoch: Epoch): number {
    return (this.#epochs.get(code) ?? []).indexOf(epoch);
  }

  #plain(code: DeviceCode, owner: Owner): unknown {
    return { node: owner.node, session: owner.session, epoch: this.#order(code, owner.epoch) };
  }
}
