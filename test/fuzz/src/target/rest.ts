/** Fuzzes the API: every operation of its OpenAPI document with every kind of credential; parameters, headers and bodies made from the schemas, odd and
 *  damaged. A status must be one that the operation documents, no credential opens more than it may, problems are problem documents, and nothing is
 *  an internal error. Webhook URLs lead to addresses that nobody has. What was created is deleted again, so that limits do not answer for the rest. */

import type { Arena } from '../arena.ts';
import { SessionPool } from '../arena.ts';
import type { Chance } from '../chance.ts';
import { type Json, mutateBytes, mutateJson, mutateText } from '../mutate.ts';
import { type Schema, SchemaValues } from '../schema.ts';
import type { Target, TargetRun, Verdict } from '../target.ts';
import { type Answer, type Reply, requestBytes, Wire } from '../wire.ts';

/** A pull or a wait may take 30 s. */
const ANSWER_MS = 45_000;
const SILENCE_MS = 300;
const KEPT_RESOURCES = 12;
/** Of the transport itself, before any operation. */
const TRANSPORT_STATUSES: ReadonlySet<number> = new Set([400, 404, 405, 413, 429, 431, 505]);

interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly schema: Schema;
}

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly scope: string | undefined;
  readonly parameters: readonly Parameter[];
  readonly body: { readonly schema: Schema; readonly example: Json | undefined } | undefined;
  readonly statuses: ReadonlySet<string>;
}

type Credential = 'none' | 'malformed' | 'unknown' | 'revoked' | 'read' | 'call' | 'admin';

interface Attempt {
  readonly operation: Operation;
  readonly credential: Credential;
  readonly target: string;
  readonly bytes: Buffer;
  /** Neither path nor HTTP were damaged: the answer is that of the operation. */
  readonly exact: boolean;
}

class RestRun implements TargetRun {
  readonly #arena: Arena;
  readonly #operations: readonly Operation[];
  readonly #values: SchemaValues;
  readonly #keys: Readonly<Record<'read' | 'call' | 'admin' | 'revoked', string>>;
  readonly #devices: readonly string[];
  readonly #online: string;
  readonly #pool: SessionPool;
  /** Paths of what was created, by collection, oldest first. */
  readonly #created = new Map<string, string[]>();
  readonly #wires: Wire[] = [];

  constructor(parts: {
    readonly arena: Arena;
    readonly operations: readonly Operation[];
    readonly values: SchemaValues;
    readonly keys: Readonly<Record<'read' | 'call' | 'admin' | 'revoked', string>>;
    readonly devices: readonly string[];
    readonly online: string;
    readonly pool: SessionPool;
  }) {
    this.#arena = parts.arena;
    this.#operations = parts.operations;
    this.#values = parts.values;
    this.#keys = parts.keys;
    this.#devices = parts.devices;
    this.#online = parts.online;
    this.#pool = parts.pool;
  }

  async send(chance: Chance): Promise<Verdict> {
    const attempt = this.#attempt(chance);
    const { operation, bytes, credential, exact } = attempt;
    const waitMs = exact ? ANSWER_MS : SILENCE_MS;
    const used = this.#wires.pop();
    let wire = used ?? (await this.#connect());
    let reply = await wire.ask(bytes, waitMs);
    if (reply === 'closed' && used !== undefined) {
      // Answers to strangers end their connection, which may be seen only now.
      wire = await this.#connect();
      reply = await wire.ask(bytes, waitMs);
    }
    const isStream =
      typeof reply !== 'string' && reply.headers.get('content-type')?.startsWith('text/event-stream') === true;
    // What follows damaged bytes is the answer to nobody knows what.
    if (exact && typeof reply !== 'string' && !isStream && reply.status !== 101) this.#wires.push(wire);
    else wire.destroy();
    if (typeof reply !== 'string') await this.#tidyUp(operation, reply);
    const fault = this.#judge(attempt, reply);
    const outcome = `${exact ? '' : 'damaged '}${credential} ${typeof reply === 'string' ? reply : reply.status}`;
    return { outcome, input: bytes, ...(fault === undefined ? {} : { fault }) };
  }

  async stop(): Promise<void> {
    for (const paths of this.#created.values())
      for (const path of paths) await this.#arena.broker.api(path, { method: 'DELETE' });
    for (const wire of this.#wires) wire.destroy();
    this.#pool.stop();
  }

  #connect(): Promise<Wire> {
    return Wire.connect(this.#arena.apiPort);
  }

  #attempt(chance: Chance): Attempt {
    const operation = chance.pick(this.#operations);
    const credential = chance.weighted<Credential>({
      none: 1,
      malformed: 1,
      unknown: 1,
      revoked: 1,
      read: 2,
      call: 2,
      admin: 12,
    });
    const hint = this.#hints(chance, operation);
    let path = operation.path.replace(/\{(\w+)\}/g, (_all, name: string) => {
      const value = hint(name) ?? chance.letters(12);
      const text = chance.is(0.1) ? mutateText(chance, String(value)) : String(value);
      return name === 'path' ? text.replace(/[\s?#]/g, '') : encodeURIComponent(text.toWellFormed());
    });
    let exact = true;
    if (chance.is(0.05)) {
      path = mutateText(chance, path).replace(/[\s?#\0]/g, '');
      exact = false;
    }
    const headers: Record<string, string> = { ...this.#authorization(chance, credential) };
    const query: string[] = [];
    for (const { name, in: where, schema } of operation.parameters) {
      if (where === 'path' || chance.is(0.6)) continue;
      const made = String((chance.is(0.5) ? hint(name) : undefined) ?? this.#values.make(chance, schema, hint));
      const value = chance.is(0.3) ? mutateText(chance, made) : made;
      if (where === 'query') query.push(`${name}=${encodeURIComponent(value.toWellFormed())}`);
      else headers[name] = value.replace(/[^\x20-\x7e]/g, '?').trim();
    }
    if (chance.is(0.05))
      query.push(
        chance.pick([
          'a=b',
          'limit=1',
          'limit=1',
          '%',
          '&&&',
          '=',
          '%00=%ff',
          mutateText(chance, 'x=y').replace(/[\s#\0]/g, ''),
        ]),
      );
    const body = this.#body(chance, operation, hint);
    if (body !== undefined) headers['Content-Type'] = chance.is(0.9) ? 'application/json' : 'text/plain';
    const target = query.length === 0 ? path : `${path}?${query.join('&')}`;
    let bytes = requestBytes(operation.method, target, headers, body);
    if (chance.is(0.06)) {
      bytes = mutateBytes(chance, bytes);
      exact = false;
    }
    return { operation, credential, target, bytes, exact };
  }

  /** Values that lead further than to a first check: what exists, what existed, what is spelled alike. */
  #hints(chance: Chance, { path }: Operation): (name: string) => Json | undefined {
    const created = (collection: string): string | undefined => {
      const paths = this.#created.get(collection);
      return paths === undefined || paths.length === 0
        ? undefined
        : decodeURIComponent(chance.pick(paths).split('/').at(-1) ?? '');
    };
    // The device that answers may be called, but not be taken out of the books.
    const device = /LAPI|commands/.test(path)
      ? chance.pick([this.#online, ...this.#devices])
      : chance.pick(this.#devices);
    const collection = /^\/v1\/(\w+)/.exec(path)?.[0] ?? '';
    return (name) => {
      switch (name) {
        case 'code':
          return device;
        case 'path':
          return chance.pick([
            'V1.0/System/DeviceInfo',
            'V1.0/Channels/1/PTZ/PTZCtrl',
            'V1.0/System/Reboot',
            'V1.0/System/UpServer/Register',
          ]);
        case 'url':
          return path.startsWith('/v1/webhooks')
            ? chance.pick([
                'https://hook.invalid/x',
                'https://127.0.0.1/',
                'https://[::1]/',
                'https://192.0.2.1:443/a?b',
                'http://hook.invalid/',
                'https://u:p@hook.invalid/',
                'ftp://hook.invalid/',
                'https://',
                'x',
              ])
            : chance.pick([
                '/LAPI/V1.0/System/DeviceInfo',
                '/LAPI/V1.0/Channels/1/PTZ/Presets?Limit=1',
                '/LAPI/../x',
                '/LAPI/V1.0/System/Reboot',
              ]);
        case 'node':
          return 'nobody';
        case 'id':
        case 'name':
        case 'subscription':
          return created(collection) ?? chance.letters(21);
        case 'secret':
        case 'nextSecret':
          return chance.letters(24);
        case 'profile':
          return chance.pick(['quiet', 'default', 'nothing']);
        case 'waitMs':
        case 'waitSeconds':
        case 'wait':
        case 'connectTimeoutMs':
        case 'X-LAPI-Connect-Timeout':
          return chance.pick([0, 0, 0, 1, -1, 1e9]);
        case 'timeoutMs':
        case 'X-LAPI-Timeout':
          return chance.pick([1_000, 1_500, 999, 60_001]);
        case 'cursor':
        case 'from':
        case 'after':
          return chance.pick([
            'start',
            'now',
            '0',
            Buffer.from(chance.letters(20)).toString('base64url'),
            '2025-01-01T00:00:00Z',
          ]);
        case 'devices':
        case 'codes':
          return chance.is(0.7) ? [...this.#devices.slice(0, 3)] : undefined;
        default:
          return undefined;
      }
    };
  }

  #body(chance: Chance, { body, method }: Operation, hint: (name: string) => Json | undefined): Buffer | undefined {
    if (body === undefined) return method !== 'GET' && chance.is(0.1) ? Buffer.from('{}') : undefined;
    const sound =
      body.example !== undefined && chance.is(0.5)
        ? withHints(body.example, hint)
        : this.#values.make(chance, body.schema, hint);
    switch (chance.weighted({ sound: 5, odd: 6, bytes: 2, shape: 1, absent: 0.5 })) {
      case 'sound':
        return Buffer.from(JSON.stringify(sound));
      case 'odd': {
        let value = sound;
        for (let i = chance.between(1, 3); i > 0; i--) value = mutateJson(chance, value);
        return Buffer.from(JSON.stringify(value) ?? 'null');
      }
      case 'bytes':
        return mutateBytes(chance, Buffer.from(JSON.stringify(sound)));
      case 'shape': {
        const depth = chance.pick([64, 65, 1_000, 50_000]);
        return Buffer.from(
          chance.pick([
            `${'['.repeat(depth)}${']'.repeat(depth)}`,
            `{"a":${'['.repeat(depth)}`,
            `{${Array.from({ length: 10_001 }, (_, i) => `"k${i}":0`).join(',')}}`,
            `"${'x'.repeat(300_000)}"`,
            `[${'0,'.repeat(100_000)}0]`,
            ' '.repeat(1_000),
            '\ufeff{}',
            '{"a":1}{"a":1}',
          ]),
        );
      }
      case 'absent':
        return undefined;
    }
  }

  #authorization(chance: Chance, credential: Credential): Record<string, string> {
    switch (credential) {
      case 'none':
        return {};
      case 'malformed':
        return {
          Authorization: chance.pick([
            '',
            'Bearer',
            'Bearer ',
            'Basic YTpi',
            'bearer',
            `Bearer ${'x'.repeat(5_000)}`.slice(0, 3_000),
            'Bearer a b',
            `Token ${this.#keys.admin}`,
            this.#keys.admin,
            `Bearer ${this.#keys.admin.toUpperCase()}`,
          ]),
        };
      case 'unknown':
        return {
          Authorization: `Bearer ${chance.pick([`lapi_${chance.letters(43)}`, this.#keys.admin.slice(0, -1), `${this.#keys.admin}x`, 'null', '__proto__', '*'])}`,
        };
      default:
        return { Authorization: `Bearer ${this.#keys[credential]}` };
    }
  }

  #judge({ operation, credential, target, exact }: Attempt, reply: Reply): string | undefined {
    if (reply === 'garbled') return 'an answer that is no HTTP';
    if (typeof reply === 'string') return exact ? `${reply} instead of an answer` : undefined;
    const { status, body } = reply;
    const told = `${status} ${body.toString().slice(0, 300)}`;
    if (status === 500) return `an internal error: ${told}`;
    const fault = problemFault(reply);
    if (fault !== undefined) return fault;
    const opened = status < 400;
    const holds = credential === 'read' || credential === 'call' || credential === 'admin';
    const path = target.split('?')[0] ?? '';
    const open = this.#operations.some((each) => each.scope === undefined && each.path === path);
    if (opened && !holds && !open) return `opened for a credential that is ${credential}: ${told}`;
    if (!exact) return undefined;
    if (operation.scope !== undefined && !holds && status !== 401 && !TRANSPORT_STATUSES.has(status))
      return `${credential} gets ${told}`;
    if (
      operation.scope !== undefined &&
      holds &&
      credential !== 'admin' &&
      opened &&
      !operation.scope.split(' or ').includes(credential)
    ) {
      // A key that may call may read what it called.
      return `scope ${credential} opens ${operation.scope}: ${told}`;
    }
    if (operation.statuses.has(String(status)) || TRANSPORT_STATUSES.has(status)) return undefined;
    const device = operation.statuses.has(`${Math.floor(status / 100)}XX`);
    return device && body.includes('"source":"device"') ? undefined : `not documented: ${told}`;
  }

  async #tidyUp({ method, path }: Operation, { status, body }: Answer): Promise<void> {
    if (method !== 'POST' || status !== 201 || /\{/.test(path)) return;
    const { id, name } = JSON.parse(body.toString()) as { readonly id?: unknown; readonly name?: unknown };
    const key = path.endsWith('/subscriptions') ? name : id;
    if (typeof key !== 'string') return;
    const paths = this.#created.get(path) ?? [];
    this.#created.set(path, paths);
    paths.push(`${path}/${encodeURIComponent(key)}`);
    const oldest = paths.length > KEPT_RESOURCES ? paths.shift() : undefined;
    if (oldest === undefined) return;
    // Jobs are not deleted, but ended.
    if (path.endsWith('/jobs')) await this.#arena.broker.api(`${oldest}/cancel`, { method: 'POST' });
    else await this.#arena.broker.api(oldest, { method: 'DELETE' });
  }
}

/** Every refusal of ours is a problem document (RFC 9457); those of the transport are not ours. */
function problemFault({ status, headers, body }: Answer): string | undefined {
  if (headers.get('content-type')?.startsWith('application/problem+json') !== true) return undefined;
  try {
    const problem = JSON.parse(body.toString()) as {
      readonly status?: unknown;
      readonly code?: unknown;
      readonly error?: unknown;
    };
    if (problem.status === status || typeof problem.error === 'string' || typeof problem.code === 'string')
      return undefined;
  } catch {
    // Said below.
  }
  return `no problem document: ${status} ${body.toString().slice(0, 300)}`;
}

function withHints(value: Json, hint: (name: string) => Json | undefined): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [name, hint(name) ?? withHints(member, hint)]),
  );
}

interface OpenApi {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, unknown>>>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

function operationsOf({ paths }: OpenApi): Operation[] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, doc]) => {
      const content = (
        doc.requestBody as { readonly content?: Record<string, { schema?: Schema; example?: Json }> } | undefined
      )?.content;
      const media = content === undefined ? undefined : Object.values(content)[0];
      return {
        method: method.toUpperCase(),
        path,
        scope: doc['x-scope'] as string | undefined,
        parameters: (doc.parameters ?? []) as readonly Parameter[],
        body: media === undefined ? undefined : { schema: media.schema ?? {}, example: media.example },
        statuses: new Set(Object.keys(doc.responses as object)),
      };
    }),
  );
}

export const rest: Target = {
  name: 'rest',
  about: 'the API: every operation with every kind of credential',
  inputs: 45_000,
  atOnce: 16,
  async begin(arena: Arena): Promise<TargetRun> {
    const document = JSON.parse((await arena.broker.api('/v1/openapi.json')).text) as OpenApi;
    const devices = await arena.provision(9);
    const pool = new SessionPool(arena.edgePort, devices.slice(0, 1));
    const [read, call, admin, revoked] = await Promise.all(
      [['read'], ['call'], ['admin'], ['admin']].map((scopes) => arena.key(scopes)),
    );
    if (read === undefined || call === undefined || admin === undefined || revoked === undefined)
      throw new Error('no keys');
    await arena.broker.api(`/v1/keys/${revoked.id}`, { method: 'DELETE' });
    await pool.open();
    return new RestRun({
      arena,
      operations: operationsOf(document),
      values: new SchemaValues(document.components.schemas),
      keys: { read: read.key, call: call.key, admin: admin.key, revoked: revoked.key },
      devices: devices.slice(1).map(({ code }) => code),
      online: devices[0]?.code ?? '',
      pool,
    });
  },
};
