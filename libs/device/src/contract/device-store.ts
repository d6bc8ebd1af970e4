/** What every DeviceStore promises, as tests. The harness adds what other writers of the same rows do: sessions come and go there. */

import type { DeviceCode } from '@lapi-broker/protocol';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DeviceRow, DeviceStore, ListQuery } from '../device-store.ts';

export interface DeviceStoreHarness {
  readonly store: DeviceStore;
  /** Writes what a claim writes. */
  connect(code: DeviceCode): Promise<void>;
  /** Writes what a release writes. */
  disconnect(code: DeviceCode): Promise<void>;
  /** Last epoch of the row, if it still has one. */
  epoch(code: DeviceCode): Promise<number | undefined>;
  /** Is the device in the index of this tag? */
  isIndexed(code: DeviceCode, tag: string): Promise<boolean>;
  /** Seconds until what a removal left ends, -1 = never; absent where the store does not keep it. */
  endsInS?(code: DeviceCode): Promise<number>;
  close(): Promise<void>;
}

export const SESSION = {
  owner: { node: 'edge.000000001', epoch: 1_700_000_000_000_001, session: 'session-1', sinceMs: 1_700_000_000_000 },
  facts: { vendor: 'Uniview', deviceType: 'NVR', address: '10.0.0.9' },
  lastOffline: { reason: 'closed', atMs: 1_700_000_000_500 },
  subscription: '{"state":"active"}',
  hold: { reason: 'conflict', untilMs: 1_700_000_060_000, addresses: ['10.0.0.9', '2001:db8::2'] },
} as const;

const SECRET = Uint8Array.from([1, 0, 255, 128, 10, 13]);
const NEXT = Uint8Array.from([1, 200, 0, 0]);

/** I2: a device that comes back within this time finds its epoch. */
const KEPT_S = 30 * 24 * 3600;

let names = 0;
const newCode = (): DeviceCode => `DEVICE-${String(++names).padStart(4, '0')}` as DeviceCode;
const codesOf = (rows: readonly DeviceRow[]): string[] => rows.map((row) => row.code);

export function deviceStoreContract(name: string, open: () => Promise<DeviceStoreHarness>): void {
  describe(`DeviceStore: ${name}`, () => {
    let at: DeviceStoreHarness;
    let store: DeviceStore;
    beforeAll(async () => {
      at = await open();
      store = at.store;
    });
    afterAll(async () => {
      await at.close();
    });

    test('a new device needs a secret; without one nothing is written', async () => {
      const code = newCode();
      expect(await store.put(code, { tags: ['gate'] })).toEqual({ status: 'secret_required', revision: 0 });
      expect(await store.get(code)).toBeUndefined();
      expect(await store.credentials(code)).toBeUndefined();
      expect(codesOf(await store.list({ after: '', limit: 1000 }))).not.toContain(code);
    });

    test('a device that is there is read back as it was put, with defaults for the rest', async () => {
      const code = newCode();
      const before = Date.now();
      const { status, revision } = await store.put(code, { secret: SECRET });
      expect(status).toBe('created');
      const row = await store.get(code);
      expect(row).toEqual({
        code,
        profile: 'default',
        type: '',
        tags: [],
        firmware: '',
        enabled: true,
        revision,
        createdAtMs: expect.any(Number) as number,
        updatedAtMs: row?.createdAtMs,
        owner: undefined,
        vendor: '',
        deviceType: '',
        address: '',
        subscription: '',
        lastOffline: undefined,
        hold: undefined,
        hasNextSecret: false,
      });
      expect(Math.abs((row?.createdAtMs ?? 0) - before)).toBeLessThan(5_000);
    });

    test('a change keeps what it does not name, and createdAtMs', async () => {
      const code = newCode();
      await store.put(code, {
        secret: SECRET,
        profile: 'nvr',
        type: 'nvr',
        tags: ['gate', 'north'],
        firmware: 'B3221P5',
        enabled: false,
      });
      const created = await store.get(code);
      expect(await store.put(code, { enabled: true })).toMatchObject({ status: 'updated' });
      expect(await store.get(code)).toMatchObject({
        profile: 'nvr',
        type: 'nvr',
        tags: ['gate', 'north'],
        firmware: 'B3221P5',
        enabled: true,
        createdAtMs: created?.createdAtMs,
      });
    });

    test('tags come out sorted, once each, with any letters', async () => {
      const code = newCode();
      await store.put(code, { secret: SECRET, tags: ['north "1"', 'größe/2', 'a', 'a', '{b}'] });
      expect((await store.get(code))?.tags).toEqual(['a', 'größe/2', 'north "1"', '{b}'].sort());
      for (const tag of ['größe/2', 'north "1"', '{b}'])
        expect(codesOf(await store.list({ after: '', limit: 10, tag }))).toEqual([code]);
      await store.remove(code);
    });

    test('each change raises the revision, at the same time as well', async () => {
      const code = newCode();
      const created = await store.put(code, { secret: SECRET });
      const changes = await Promise.all(Array.from({ length: 5 }, (_, i) => store.put(code, { type: `type${i}` })));
      const revisions = changes.map((change) => change.revision);
      expect(new Set(revisions).size).toBe(5);
      expect(Math.min(...revisions)).toBeGreaterThan(created.revision);
      expect((await store.get(code))?.revision).toBe(Math.max(...revisions));
      const { type = '' } = (await store.get(code)) ?? {};
      for (let i = 0; i < 5; i++) {
        const listed = codesOf(await store.list({ after: '', limit: 10, type: `type${i}` }));
        expect(listed).toEqual(type === `type${i}` ? [code] : []);
      }
    });

    test('of many who create one device at once, one creates and the others change', async () => {
      const code = newCode();
      const results = await Promise.all(Array.from({ length: 5 }, () => store.put(code, { secret: SECRET })));
      expect(results.filter((result) => result.status === 'created')).toHaveLength(1);
      expect(new Set(results.map((result) => result.revision)).size).toBe(5);
    });

    test('a device that comes back after its removal never repeats a revision', async () => {
      const code = newCode();
      let last = 0;
      for (let i = 0; i < 20; i++) {
        const created = await store.put(code, { secret: SECRET });
        const updated = await store.put(code, { enabled: true });
        expect(created.revision).toBeGreaterThan(last);
        expect(updated.revision).toBeGreaterThan(created.revision);
        last = updated.revision;
        await store.remove(code);
      }
    });

    test('secrets are read back byte by byte, under the revision that wrote them', async () => {
      const code = newCode();
      const { revision } = await store.put(code, { secret: SECRET, profile: 'ipc' });
      const credentials = await store.credentials(code);
      expect(credentials).toMatchObject({ code, revision, profile: 'ipc', enabled: true });
      expect([...(credentials?.secrets.current ?? [])]).toEqual([...SECRET]);
      expect(credentials?.secrets.next).toBeUndefined();
    });

    test('a next secret is added, kept over other changes, promoted and removed (protocol G7)', async () => {
      const code = newCode();
      await store.put(code, { secret: SECRET, nextSecret: NEXT });
      await store.put(code, { tags: ['x'] });
      expect([...((await store.credentials(code))?.secrets.next ?? [])]).toEqual([...NEXT]);
      expect((await store.get(code))?.hasNextSecret).toBe(true);
      await store.put(code, { secret: NEXT, nextSecret: null });
      const promoted = await store.credentials(code);
      expect([...(promoted?.secrets.current ?? [])]).toEqual([...NEXT]);
      expect(promoted?.secrets.next).toBeUndefined();
      expect((await store.get(code))?.hasNextSecret).toBe(false);
    });

    test('a change for a revision that is no longer there changes nothing', async () => {
      const code = newCode();
      const first = await store.put(code, { secret: SECRET });
      const second = await store.put(code, { nextSecret: NEXT });
      const outdated = await store.put(code, { nextSecret: SECRET, ifRevision: first.revision });
      expect(outdated.status).toBe('changed');
      const promoted = await store.put(code, {
        secret: NEXT,
        nextSecret: null,
        ifRevision: second.revision,
      });
      expect(promoted.status).toBe('updated');
      expect((await store.put(newCode(), { ifRevision: 7 })).status).toBe('changed');
    });

    test('credentials never pair a secret with the revision of another, whatever is written meanwhile', async () => {
      const code = newCode();
      await store.put(code, { secret: Uint8Array.from([1]) });
      const secretOf = new Map<number, number>();
      let writing = true;
      const writer = (async () => {
        for (let i = 2; i <= 200; i++)
          secretOf.set((await store.put(code, { secret: Uint8Array.from([i]) })).revision, i);
        writing = false;
      })();
      const seen: [revision: number, secret: number][] = [];
      while (writing) {
        const credentials = await store.credentials(code);
        if (credentials !== undefined) seen.push([credentials.revision, credentials.secrets.current[0] ?? -1]);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await writer;
      const known = seen.filter(([revision]) => secretOf.has(revision));
      expect(known.length).toBeGreaterThan(0);
      for (const [revision, secret] of known) expect(secret).toBe(secretOf.get(revision));
    });

    test('a session shows in the row, and a change of the provisioning leaves it alone', async () => {
      const code = newCode();
      await store.put(code, { secret: SECRET });
      await at.connect(code);
      const { owner, facts, lastOffline, subscription } = SESSION;
      const shown = { owner, ...facts, lastOffline, subscription };
      expect(await store.get(code)).toMatchObject(shown);
      await store.put(code, { type: 'nvr' });
      expect(await store.get(code)).toMatchObject({ ...shown, type: 'nvr' });
      expect(await store.list({ after: '', limit: 10, type: 'nvr' })).toContainEqual(await store.get(code));
      await at.disconnect(code);
      expect(await store.get(code)).toMatchObject({ owner: undefined, ...facts, lastOffline });
    });

    test('a removed device is gone from every answer, and its epoch stays for 30 days (I2)', async () => {
      const code = newCode();
      await store.put(code, { secret: SECRET, nextSecret: NEXT, tags: ['removed'], type: 'removed' });
      await at.connect(code);
      expect(await store.remove(code)).toBe(true);
      expect(await store.remove(code)).toBe(false);
      expect(await store.get(code)).toBeUndefined();
      expect(await store.credentials(code)).toBeUndefined();
      for (const query of [{}, { tag: 'removed' }, { type: 'removed' }]) {
        expect(codesOf(await store.list({ after: '', limit: 1000, ...query }))).not.toContain(code);
      }
      expect(await at.epoch(code)).toBe(SESSION.owner.epoch);
      const endsInS = (await at.endsInS?.(code)) ?? KEPT_S;
      expect(endsInS).toBeGreaterThan(KEPT_S - 60);
      expect(endsInS).toBeLessThanOrEqual(KEPT_S);
      expect(await store.put(code, {})).toMatchObject({ status: 'secret_required' });
    });

    test('a device that comes back lives for ever again, keeps its owner and epoch, and has no old secret or tag', async () => {
      const code = newCode();
      await store.put(code, { secret: SECRET, nextSecret: NEXT, tags: ['old'] });
      await at.connect(code);
      await store.remove(code);
      expect(await store.put(code, { secret: NEXT })).toMatchObject({ status: 'created' });
      expect((await at.endsInS?.(code)) ?? -1).toBe(-1);
      expect(await at.epoch(code)).toBe(SESSION.owner.epoch);
      expect(await store.get(code)).toMatchObject({ tags: [], hasNextSecret: false, owner: SESSION.owner });
      expect([...((await store.credentials(code))?.secrets.current ?? [])]).toEqual([...NEXT]);
      expect(codesOf(await store.list({ after: '', limit: 10, tag: 'old' }))).not.toContain(code);
    });

    test('removing and changing at the same time leaves no entry of a device that is gone', async () => {
      const code = newCode();
      for (let i = 0; i < 100; i++) {
        await store.put(code, { secret: SECRET, tags: [`kept${i}`] });
        const [, removed] = await Promise.all([store.put(code, { tags: [`changed${i}`] }), store.remove(code)]);
        expect(removed).toBe(true);
        const row = await store.get(code);
        expect(row).toBeUndefined();
        for (const tag of [`kept${i}`, `changed${i}`]) {
          expect(codesOf(await store.list({ after: '', limit: 10, tag }))).toEqual([]);
          expect(await at.isIndexed(code, tag)).toBe(false);
        }
      }
    });

    test.each([
      ['a tag with a comma', { tags: ['a,b'] }],
      ['an empty tag', { tags: [''] }],
      ['a tag with a control character', { tags: ['a\nb'] }],
      ['a tag that is too long', { tags: ['x'.repeat(65)] }],
      ['too many tags', { tags: Array.from({ length: 33 }, (_, i) => `t${i}`) }],
      ['a type with a comma', { type: 'a,b' }],
      ['an empty profile', { profile: '' }],
      ['an empty secret', { secret: new Uint8Array() }],
      ['a secret that is too long', { nextSecret: new Uint8Array(1025) }],
    ])('%s is refused and changes nothing', async (_, change) => {
      const code = newCode();
      await store.put(code, { secret: SECRET });
      const before = await store.get(code);
      await expect(store.put(code, change)).rejects.toMatchObject({ code: 'invalid_request' });
      expect(await store.get(code)).toEqual(before);
    });

    describe('list', () => {
      let listing: DeviceStoreHarness;
      beforeEach(async () => {
        listing = await open();
      });

      const fill = async (count: number): Promise<string[]> => {
        const codes = Array.from(
          { length: count },
          (_, i) => `${'aZ9._:-'[i % 7]}${(i * 7919) % 10_007}` as DeviceCode,
        );
        await Promise.all(
          codes.map((code, i) =>
            listing.store.put(code, {
              secret: SECRET,
              tags: i % 3 === 0 ? ['third'] : ['rest'],
              type: i % 2 === 0 ? 'ipc' : '',
            }),
          ),
        );
        return codes;
      };
      const byBytes = (codes: readonly string[]): string[] =>
        [...codes].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
      const pages = async (query: Omit<ListQuery, 'after'>): Promise<string[][]> => {
        const found: string[][] = [];
        for (let after = ''; ; after = found.at(-1)?.at(-1) ?? '') {
          found.push(codesOf(await listing.store.list({ ...query, after })));
          if ((found.at(-1)?.length ?? 0) < query.limit) return found;
        }
      };

      test('pages go through all shards in byte order, each device once', async () => {
        const codes = await fill(150);
        const found = await pages({ limit: 40 });
        expect(found.map((page) => page.length)).toEqual([40, 40, 40, 30]);
        expect(found.flat()).toEqual(byBytes(codes));
        await listing.close();
      });

      test('a tag, a type, or both narrow the list', async () => {
        const codes = await fill(150);
        const third = codes.filter((_, i) => i % 3 === 0);
        const ipc = codes.filter((_, i) => i % 2 === 0);
        const both = codes.filter((_, i) => i % 6 === 0);
        expect((await pages({ limit: 20, tag: 'third' })).flat()).toEqual(byBytes(third));
        expect((await pages({ limit: 20, type: 'ipc' })).flat()).toEqual(byBytes(ipc));
        expect((await pages({ limit: 20, tag: 'third', type: 'ipc' })).flat()).toEqual(byBytes(both));
        expect(await listing.store.list({ after: '', limit: 10, tag: 'nothing' })).toEqual([]);
        await listing.close();
      });

      test('a device moves between indexes with its tags and type', async () => {
        const code = newCode();
        await listing.store.put(code, { secret: SECRET, tags: ['a', 'b'], type: 'one' });
        await listing.store.put(code, { tags: ['b', 'c'], type: 'two' });
        const listed = async (query: Partial<ListQuery>): Promise<boolean> =>
          (await listing.store.list({ after: '', limit: 10, ...query })).length === 1;
        expect(
          await Promise.all([{ tag: 'a' }, { tag: 'b' }, { tag: 'c' }, { type: 'one' }, { type: 'two' }].map(listed)),
        ).toEqual([false, true, true, false, true]);
        await listing.close();
      });

      test.each([0, -1, 1.5, 1001, Number.NaN])('a limit of %s is refused', async (limit) => {
        await expect(listing.store.list({ after: '', limit })).rejects.toMatchObject({ code: 'invalid_request' });
        await listing.close();
      });
    });
  });
}
