/** Answers "who calls, and may they?" for every request: API key → caller with scopes, rate limit included.
 *  A known key is answered from memory for at most `keyCacheMs`; so a revoked one works that much longer, never more, also while Redis
 *  is away (then unknown keys get `broker_unavailable`, not a guess). Plain keys are hashed on arrival and kept nowhere.
 *  Bounded: entries of the cache, look-ups under way. What a path needs is decided by the routes and by policy.ts. */

import { hash } from 'node:crypto';
import type { RequestSnapshot } from '@lapi-broker/http';
import { BrokerError, type ErrorCode } from '@lapi-broker/protocol';
import type { ApiKey, ApiKeyStore, Scope } from './api-key.ts';
import type { RateLimit } from './rate-limit.ts';

export interface Caller {
  readonly status: 'caller';
  readonly keyId: string;
  readonly scopes: ReadonlySet<Scope>;
}

export interface Refusal {
  readonly status: 'refused';
  readonly error: Extract<ErrorCode, 'unauthenticated' | 'forbidden' | 'rate_limited' | 'broker_unavailable'>;
  readonly detail: string;
  readonly retryAfterMs?: number;
}

export interface AccessLimits {
  readonly keyCacheMs: number;
  readonly keyCacheEntries: number;
  readonly keyLookUps: number;
}

interface Remembered {
  readonly caller: Caller;
  readonly untilMs: number;
}

const BEARER = /^bearer +([A-Za-z0-9._~+/=-]{1,256})$/i;

/** admin implies the others. */
export function allows(caller: Caller, scope: Scope): boolean {
  return caller.scopes.has(scope) || caller.scopes.has('admin');
}

export function missingScope(scope: Scope): Refusal {
  return { status: 'refused', error: 'forbidden', detail: `this needs the scope "${scope}"` };
}

export class Access {
  readonly #store: ApiKeyStore;
  readonly #rate: RateLimit;
  readonly #limits: AccessLimits;
  readonly #monotonicMs: () => number;
  readonly #known = new Map<string, Remembered>();
  #lookUps = 0;

  constructor(store: ApiKeyStore, rate: RateLimit, limits: AccessLimits, monotonicMs: () => number) {
    this.#store = store;
    this.#rate = rate;
    this.#limits = limits;
    this.#monotonicMs = monotonicMs;
  }

  /** The answer at once where memory has it, else a promise of it. Never rejects. Counts one request against the key's rate. */
  authenticate(request: Pick<RequestSnapshot, 'header'>): Caller | Refusal | Promise<Caller | Refusal> {
    const plain = BEARER.exec(request.header('authorization'))?.[1];
    if (plain === undefined)
      return { status: 'refused', error: 'unauthenticated', detail: 'no `Authorization: Bearer <key>` header' };
    const sha256 = hash('sha256', plain, 'hex');
    const nowMs = this.#monotonicMs();
    const remembered = this.#known.get(sha256);
    if (remembered !== undefined && remembered.untilMs > nowMs) return this.#admit(remembered.caller, nowMs);
    return this.#lookUp(sha256);
  }

  /** Forgets a key that this process has just revoked; other processes follow within the cache time. */
  forget(keyId: string): void {
    for (const [sha256, { caller }] of this.#known) {
      if (caller.keyId === keyId) this.#known.delete(sha256);
    }
  }

  #admit(caller: Caller, nowMs: number): Caller | Refusal {
    const waitMs = this.#rate.take(caller.keyId, nowMs);
    if (waitMs === 0) return caller;
    return {
      status: 'refused',
      error: 'rate_limited',
      detail: 'requests per second of this API key',
      retryAfterMs: waitMs,
    };
  }

  async #lookUp(sha256: string): Promise<Caller | Refusal> {
    if (this.#lookUps >= this.#limits.keyLookUps) {
      return { status: 'refused', error: 'rate_limited', detail: 'too many keys are being looked up at once' };
    }
    this.#lookUps += 1;
    try {
      const key = await this.#store.byHash(sha256);
      if (key === undefined) {
        this.#known.delete(sha256);
        return { status: 'refused', error: 'unauthenticated', detail: 'the API key is unknown or revoked' };
      }
      return this.#admit(this.#remember(sha256, key), this.#monotonicMs());
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      return { status: 'refused', error: 'broker_unavailable', detail: 'the API key cannot be checked now' };
    } finally {
      this.#lookUps -= 1;
    }
  }

  #remember(sha256: string, key: ApiKey): Caller {
    const caller: Caller = { status: 'caller', keyId: key.id, scopes: new Set(key.scopes) };
    // Re-inserted, so that the map's order is the order of expiry and the first entry is the oldest.
    this.#known.delete(sha256);
    this.#known.set(sha256, { caller, untilMs: this.#monotonicMs() + this.#limits.keyCacheMs });
    if (this.#known.size > this.#limits.keyCacheEntries) {
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest);
        break;
      }
    }
    return caller;
  }
}
