/** NodeDirectory on Redis: one hash per node name that expires with the lease is the truth; the zset `nodes` is a hint in another slot, from
 *  which readers learn the names. So a node that lives may be missing there for a beat, and a dead one stays until it is forgotten.
 *  Redis away: methods reject with `broker_unavailable`; a renewal whose answer was lost may have counted, which is safe. */

import { incarnationOf, type NodeId, nodeNameOf } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import type {
  DrainProgress,
  HeardAsk,
  NodeAsk,
  NodeDirectory,
  NodeRecord,
  NodeStatus,
  NodeView,
  RenewResult,
} from '../node-directory.ts';
import { byNode, deadNode, IDLE } from '../node-view.ts';
import { unexpectedReply, words } from './reply.ts';

export interface RedisNodeDirectoryOptions {
  /** How many incarnations `list` reads, latest beats first; dead ones beyond it wait until others are forgotten. */
  readonly listLimit?: number;
}

const JOIN = new URL('./join.lua', import.meta.url);
const RENEW = new URL('./renew.lua', import.meta.url);
const ASK = new URL('./ask.lua', import.meta.url);
const LEAVE = new URL('./leave.lua', import.meta.url);

const LIST_LIMIT = 2000;
const FIELDS = ['inc', 'address', 'version', 'started', 'sessions', 'rate', 'lag', 'phase', 'drain', 'beat'] as const;

export class RedisNodeDirectory implements NodeDirectory {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #listLimit: number;
  readonly #join: Script;
  readonly #renew: Script;
  readonly #ask: Script;
  readonly #leave: Script;

  /** A state connection; the caller opens and closes it. */
  constructor(
    connection: RedisConnection,
    keyspace: Keyspace,
    { listLimit = LIST_LIMIT }: RedisNodeDirectoryOptions = {},
  ) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#listLimit = listLimit;
    this.#join = createScript(connection, JOIN, 1);
    this.#renew = createScript(connection, RENEW, 1);
    this.#ask = createScript(connection, ASK, 1);
    this.#leave = createScript(connection, LEAVE, 1);
  }

  async join(record: NodeRecord, leaseMs: number, status = IDLE): Promise<{ readonly redisTimeMs: number }> {
    const { node, address, version, startedAtMs } = record;
    const reply = words(
      await this.#join(
        [this.#key(node)],
        [incarnationOf(node), address, version, startedAtMs, leaseMs, ...fieldsOf(status)],
      ),
    );
    if (reply[0] !== 'JOINED') throw unexpectedReply('join', reply);
    const redisTimeMs = Number(reply[1]);
    // Awaited: the reaper finds the devices of a node only through this list, so it comes before the first claim.
    await guarded(this.#listed(node, redisTimeMs));
    return { redisTimeMs };
  }

  async renew(node: NodeId, status: NodeStatus, leaseMs: number, notAfterMs: number): Promise<RenewResult> {
    const reply = words(
      await this.#renew([this.#key(node)], [incarnationOf(node), leaseMs, Math.floor(notAfterMs), ...fieldsOf(status)]),
    );
    switch (reply[0]) {
      case 'RENEWED': {
        const redisTimeMs = Number(reply[1]);
        // Not awaited: the lease is renewed whatever becomes of the hint, and the next beat repeats it.
        this.#listed(node, redisTimeMs).catch(() => undefined);
        const asked = heardAsk(reply[2] ?? '');
        return { status: 'renewed', redisTimeMs, ...(asked === undefined ? {} : { asked }) };
      }
      case 'LAPSED':
        return { status: 'lapsed' };
      case 'LATE':
        return { status: 'late' };
      default:
        throw unexpectedReply('renew', reply);
    }
  }

  async ask(node: NodeId, ask: NodeAsk): Promise<'asked' | 'gone'> {
    const seconds = ask.ask === 'drain' ? (ask.seconds ?? '') : '';
    const reply = words(await this.#ask([this.#key(node)], [incarnationOf(node), ask.ask, seconds]));
    if (reply[0] === 'ASKED') return 'asked';
    if (reply[0] === 'GONE') return 'gone';
    throw unexpectedReply('ask', reply);
  }

  async leave(node: NodeId): Promise<void> {
    const reply = words(await this.#leave([this.#key(node)], [incarnationOf(node)]));
    if (reply[0] !== 'LEFT' && reply[0] !== 'FOREIGN') throw unexpectedReply('leave', reply);
  }

  async list(): Promise<readonly NodeView[]> {
    const scored = await guarded(
      this.#connection.zrevrange(this.#keyspace.nodes(), 0, this.#listLimit - 1, 'WITHSCORES'),
    );
    const beats = pairs(scored);
    const names = [...new Set(beats.map(([node]) => nodeNameOf(node)))];
    const rows = await Promise.all(
      names.map((name) => guarded(this.#connection.hmget(this.#keyspace.node(name), ...FIELDS))),
    );
    const rowOf = new Map(names.map((name, i) => [name, rows[i] ?? []]));
    return beats.map(([node, beatMs]) => view(node, beatMs, rowOf.get(nodeNameOf(node)) ?? [])).sort(byNode);
  }

  /** Two slots, so two steps; nothing can come between them, because a lease that lapsed never lives again. */
  async forget(node: NodeId): Promise<boolean> {
    if ((await guarded(this.#connection.hget(this.#key(node), 'inc'))) === incarnationOf(node)) return false;
    await guarded(this.#connection.zrem(this.#keyspace.nodes(), node));
    return true;
  }

  #key(node: NodeId): string {
    return this.#keyspace.node(nodeNameOf(node));
  }

  #listed(node: NodeId, beatMs: number): Promise<unknown> {
    return this.#connection.zadd(this.#keyspace.nodes(), beatMs, node);
  }
}

/** A flat list of member, score, member, score … */
function pairs(scored: readonly string[]): readonly (readonly [NodeId, number])[] {
  return Array.from(
    { length: scored.length / 2 },
    (_, i) => [scored[2 * i] as NodeId, Number(scored[2 * i + 1])] as const,
  );
}

/** `<number> drain <seconds>?` or `<number> resume`, as ask.lua writes it; '' = nothing was asked. */
function heardAsk(text: string): HeardAsk | undefined {
  const [number = '', ask, seconds = ''] = text.split(' ');
  if (ask === 'resume') return { ask, number: Number(number) };
  if (ask !== 'drain') return undefined;
  return { ask, seconds: seconds === '' ? undefined : Number(seconds), number: Number(number) };
}

/** The status as join.lua and renew.lua take it. */
function fieldsOf({ sessions, registrations, loopLagMs, phase, drain }: NodeStatus): readonly (string | number)[] {
  return [sessions, registrations, loopLagMs, phase, drain === undefined ? '' : drainText(drain)];
}

function drainText({ startedAtMs, endsAtMs, devices, left }: DrainProgress): string {
  return `${Math.floor(startedAtMs)} ${Math.floor(endsAtMs)} ${devices} ${left}`;
}

function drainOf(text: string): DrainProgress | undefined {
  const [startedAtMs = 0, endsAtMs = 0, devices = 0, left = 0] = text.split(' ').map(Number);
  return text === '' ? undefined : { startedAtMs, endsAtMs, devices, left };
}

function view(node: NodeId, beatMs: number, row: readonly (string | null)[]): NodeView {
  const [incarnation, address, version, started, sessions, rate, lag, phase, drained, beat] = row;
  if (incarnation !== incarnationOf(node)) return deadNode(node, beatMs);
  const drain = drainOf(drained ?? '');
  return {
    node,
    address: address ?? '',
    version: version ?? '',
    startedAtMs: Number(started ?? 0),
    sessions: Number(sessions ?? 0),
    registrations: Number(rate ?? 0),
    loopLagMs: Number(lag ?? 0),
    phase: phase === 'draining' ? 'draining' : 'serving',
    ...(drain === undefined ? {} : { drain }),
    alive: true,
    lastBeatMs: Number(beat ?? beatMs),
  };
}
