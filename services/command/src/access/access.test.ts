import { BrokerError } from '@lapi-broker/protocol';
import { describe, expect, it } from 'vitest';
import { Access, allows, type Caller, type Refusal } from './access.ts';
import { type ApiKey, type ApiKeyStore, hashKey, newPlainKey } from './api-key.ts';
import { RateLimit } from './rate-limit.ts';

class MemoryKeys implements ApiKeyStore {
  readonly keys = new Map<string, ApiKey>();
  reads = 0;
  away: boolean = false;
  gate: Promise<void> = Promise.resolve();

  async byHash(sha256: string): Promise<ApiKey | undefined> {
    this.reads += 1;
    await this.gate;
    if (this.away) throw new BrokerError('broker_unavailable', 'store away');
    return this.keys.get(sha256);
  }
  list = async (): Promise<readonly ApiKey[]> => [...this.keys.values()];
  async put(sha256: string, key: ApiKey): Promise<boolean> {
    this.keys.set(sha256, key);
    return true;
  }
  async remove(): Promise<boolean> {
    this.keys.clear();
    return true;
  }
}

const LIMITS = { keyCacheMs: 5000, keyCacheEntries: 2, keyLookUps: 3 };

function fixture(perSecond = 0) {
  const store = new MemoryKeys();
  const clock = { nowMs: 0 };
  const access = new Access(store, new RateLimit(perSecond, perSecond, 10), LIMITS, () => clock.nowMs);
  const key = async (scopes: ApiKey['scopes'] = ['read']): Promise<string> => {
    const plain = newPlainKey();
    await store.put(hashKey(plain), { id: plain.slice(-4), name: '', scopes, createdAtMs: 0 });
    return plain;
  };
  const ask = (header: string): Caller | Refusal | Promise<Caller | Refusal> =>
    access.authenticate({ header: (name) => (name === 'authorization' ? header : '') });
  return { store, clock, access, key, ask };
}

describe('access', () => {
  it('a request without a well-formed bearer key is refused before the store is asked', async () => {
    const { ask, store } = fixture();
    for (const header of [
      '',
      'Basic abc',
      'Bearer',
      'Bearer ',
      `Bearer ${'x'.repeat(257)}`,
      'Bearer a b',
      'Bearer é',
    ]) {
      expect(await ask(header)).toMatchObject({ status: 'refused', error: 'unauthenticated' });
    }
    expect(store.reads).toBe(0);
  });

  it('a known key is answered from memory, and looked up again when the cache time is over', async () => {
    const { ask, key, store, clock } = fixture();
    const plain = await key();
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ status: 'caller' });
    expect(ask(`Bearer ${plain}`)).toMatchObject({ status: 'caller' });
    expect(store.reads).toBe(1);
    clock.nowMs = 5000;
    expect(await ask(`bearer ${plain}`)).toMatchObject({ status: 'caller' });
    expect(store.reads).toBe(2);
  });

  it('a revoked key stops working within the cache time', async () => {
    const { ask, key, store, clock } = fixture();
    const plain = await key();
    await ask(`Bearer ${plain}`);
    await store.remove();
    clock.nowMs = 4999;
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ status: 'caller' });
    clock.nowMs = 5000;
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ error: 'unauthenticated' });
  });

  it('a key revoked by this process stops working at once', async () => {
    const { ask, key, store, access } = fixture();
    const plain = await key();
    const caller = (await ask(`Bearer ${plain}`)) as Caller;
    await store.remove();
    access.forget(caller.keyId);
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ error: 'unauthenticated' });
  });

  it('while the store is away an unknown key is refused as unavailable, not as unknown', async () => {
    const { ask, key, store } = fixture();
    store.away = true;
    expect(await ask(`Bearer ${await key()}`)).toMatchObject({ error: 'broker_unavailable' });
  });

  it('a flood of unknown keys is refused beyond the bound instead of piling up', async () => {
    const { ask, store } = fixture();
    let open = (): void => undefined;
    store.gate = new Promise((resolve) => {
      open = resolve;
    });
    const answers = Array.from({ length: 10 }, (_, i) => ask(`Bearer unknown${i}`));
    open();
    const errors = (await Promise.all(answers)).map((answer) => (answer.status === 'refused' ? answer.error : ''));
    expect(errors.filter((error) => error === 'rate_limited')).toHaveLength(7);
    expect(store.reads).toBe(3);
  });

  it('a key over its rate is told when to come back', async () => {
    const { ask, key, clock } = fixture(1);
    const plain = await key();
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ status: 'caller' });
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ error: 'rate_limited', retryAfterMs: 1000 });
    clock.nowMs = 1000;
    expect(await ask(`Bearer ${plain}`)).toMatchObject({ status: 'caller' });
  });

  it('admin implies every scope; read and call imply nothing', async () => {
    const { ask, key } = fixture();
    const caller = async (scope: 'read' | 'call' | 'admin'): Promise<Caller> =>
      (await ask(`Bearer ${await key([scope])}`)) as Caller;
    const [read, call, admin] = [await caller('read'), await caller('call'), await caller('admin')];
    expect([allows(read, 'read'), allows(read, 'call'), allows(read, 'admin')]).toEqual([true, false, false]);
    expect([allows(call, 'read'), allows(call, 'call'), allows(call, 'admin')]).toEqual([false, true, false]);
    expect([allows(admin, 'read'), allows(admin, 'call'), allows(admin, 'admin')]).toEqual([true, true, true]);
  });

  it('memory of keys is bounded', async () => {
    const { ask, key, store } = fixture();
    const [a, b, c] = [await key(), await key(), await key()];
    for (const plain of [a, b, c, b, c]) await ask(`Bearer ${plain}`);
    expect(store.reads).toBe(3);
    await ask(`Bearer ${a}`);
    expect(store.reads).toBe(4);
  });
});
