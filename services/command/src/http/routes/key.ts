/** API keys over HTTP, for admins. A plain key leaves the broker once, in the answer that creates it. */

import { nanoid } from 'nanoid';
import type { z } from 'zod';
import { type ApiKey, hashKey, newPlainKey } from '../../access/api-key.ts';
import { LIMITS } from '../../limits.ts';
import { json, operation, problem } from '../operation.ts';
import { KeyList, KeyPath, KeyRequest, type KeyView, NewKey } from '../schema.ts';

const EXAMPLE_KEY = {
  id: 'Uakgb_J5m9g-0JDMbcJqL',
  name: 'vms',
  scopes: ['read', 'call'],
  createdAt: '2025-01-01T00:00:00.000Z',
};

function toView({ id, name, scopes, createdAtMs }: ApiKey): z.output<typeof KeyView> {
  return { id, name, scopes: [...scopes], createdAt: new Date(createdAtMs).toISOString() };
}

export const listKeys = operation({
  id: 'listKeys',
  tag: 'Keys',
  summary: 'List API keys',
  scope: 'admin',
  responses: {
    200: {
      description: 'All keys, oldest first, without the keys themselves.',
      schema: KeyList,
      example: { items: [EXAMPLE_KEY] },
    },
  },
  async handle(_call, broker) {
    return json(200, { items: (await broker.keys.list()).map(toView) });
  },
});

export const createKey = operation({
  id: 'createKey',
  tag: 'Keys',
  summary: 'Create an API key',
  scope: 'admin',
  body: KeyRequest,
  bodyExample: { name: 'vms', scopes: ['read', 'call'] },
  responses: {
    201: {
      description: 'The key. It is shown this one time; only its hash is kept.',
      schema: NewKey,
      example: { ...EXAMPLE_KEY, key: 'lapi_…' },
    },
  },
  errors: ['conflict'],
  async handle({ body }, broker) {
    const plain = newPlainKey();
    const key: ApiKey = {
      id: nanoid(),
      name: body.name,
      scopes: [...new Set(body.scopes)],
      createdAtMs: broker.nowMs(),
    };
    if (!(await broker.keys.put(hashKey(plain), key))) {
      return problem('conflict', `there are ${LIMITS.apiKeys} keys already; delete one first`);
    }
    return json(201, { ...toView(key), key: plain }, [['Cache-Control', 'no-store']]);
  },
});

export const deleteKey = operation({
  id: 'deleteKey',
  tag: 'Keys',
  summary: 'Revoke an API key',
  description: `Takes effect within ${LIMITS.keyCacheMs / 1000} s in all processes. A key that comes from LAPI_API_KEY is stored again at the next start.`,
  scope: 'admin',
  params: KeyPath,
  responses: { 204: { description: 'Revoked.' } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    if (!(await broker.keys.remove(id))) return problem('not_found', `there is no key ${id}`);
    broker.access.forget(id);
    return { kind: 'empty', status: 204 };
  },
});
