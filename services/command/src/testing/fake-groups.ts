/** For tests of what stands on `Groups`: groups in memory, fed by `add`, without shards, order and retention. Time stands still until
 *  `lapse` ends all ack deadlines. */

import { BrokerError, type EventRecord } from '@lapi-broker/protocol';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import type {
  DeadLetter,
  Delivery,
  Group,
  GroupGap,
  GroupMessage,
  GroupOwner,
  GroupProgress,
  GroupSpec,
  Groups,
  NewGroup,
  PullOptions,
  Settled,
  Verdict,
} from '../group/group.ts';
import { record } from './event-record.ts';

interface Item {
  readonly number: number;
  readonly message: GroupMessage;
  attempts: number;
  state: 'waiting' | 'out' | 'done' | 'dead';
}

interface Kept {
  group: Group;
  readonly items: Item[];
}

export class FakeGroups implements Groups {
  readonly groups = new Map<string, Kept>();
  /** In the order in which they came. */
  readonly settlings: { readonly ackIds: readonly string[]; readonly verdict: Verdict }[] = [];
  pulls: PullOptions[] = [];
  /** Rejects the next calls of `pull` and `settle` while it is set. */
  failure: Error | undefined;
  /** While it is set, `settle` waits for it. */
  gate: Promise<void> | undefined;
  readonly #limit: number;
  #wakes: (() => void)[] = [];
  #numbers = 0;

  constructor(limit = 100) {
    this.#limit = limit;
  }

  add(name: string, part: Partial<EventRecord> = {}): string {
    this.#numbers += 1;
    const event = new OutgoingEvent(1, { ms: 1_000, seq: this.#numbers }, record(part));
    return this.#push(name, { type: 'event', event });
  }

  addGap(name: string, gap: GroupGap): string {
    this.#numbers += 1;
    return this.#push(name, { type: 'gap', gap });
  }

  /** All ack deadlines are over. */
  lapse(name: string): void {
    for (const item of this.#find(name).items) if (item.state === 'out') this.#again(name, item);
    this.#wakeAll();
  }

  /** The ids of what is in this state, as numbers of their coming. */
  numbers(name: string, state: Item['state']): number[] {
    return this.#find(name)
      .items.filter((item) => item.state === state)
      .map(({ number }) => number);
  }

  async create(spec: GroupSpec, owner: GroupOwner): Promise<NewGroup> {
    const found = this.groups.get(spec.name);
    if (found === undefined) {
      if (this.groups.size >= this.#limit) return { status: 'full', limit: this.#limit };
      const group: Group = { ...spec, key: `${spec.name}.1`, owner, createdAtMs: 1_000 };
      this.groups.set(spec.name, { group, items: [] });
      return { status: 'created', group };
    }
    const { key: _, owner: __, createdAtMs: ___, ...before } = found.group;
    return JSON.stringify(before) === JSON.stringify(spec)
      ? { status: 'existing', group: found.group }
      : { status: 'conflict' };
  }

  async get(name: string): Promise<Group> {
    return this.#find(name).group;
  }

  async list(owner: GroupOwner): Promise<readonly Group[]> {
    return [...this.groups.values()].map(({ group }) => group).filter((group) => group.owner === owner);
  }

  async change(name: string, change: Parameters<Groups['change']>[1]): Promise<Group> {
    const kept = this.#find(name);
    kept.group = { ...kept.group, ...change };
    return kept.group;
  }

  async remove(name: string): Promise<void> {
    this.groups.delete(name);
    this.#wakeAll();
  }

  async progress(name: string): Promise<GroupProgress> {
    return {
      lag: 0,
      waiting: this.numbers(name, 'waiting').length,
      inFlight: this.numbers(name, 'out').length,
      deadLetters: this.numbers(name, 'dead').length,
      acknowledged: this.numbers(name, 'done').length,
      deadLettersDropped: 0,
      oldestAtMs: undefined,
    };
  }

  async pull(name: string, options: PullOptions): Promise<readonly Delivery[]> {
    this.pulls.push(options);
    const { max, waitMs, signal } = options;
    for (;;) {
      if (this.failure !== undefined) throw this.failure;
      if (signal?.aborted === true) return [];
      const deliveries = this.#take(this.#find(name), max);
      if (deliveries.length > 0 || waitMs === 0) return deliveries;
      await new Promise<void>((resolve) => {
        this.#wakes.push(resolve);
        signal?.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  async settle(name: string, ackIds: readonly string[], verdict: Verdict): Promise<readonly Settled[]> {
    await this.gate;
    if (this.failure !== undefined) throw this.failure;
    const { items } = this.#find(name);
    this.settlings.push({ ackIds, verdict });
    const results = ackIds.map((ackId): Settled => {
      const found = /^a(\d+)\.(\d+)$/.exec(ackId);
      const item = items.find(({ number }) => number === Number(found?.[1]));
      if (item === undefined) return 'invalid';
      if (item.state !== 'out' || item.attempts !== Number(found?.[2])) return 'stale';
      if (verdict.type === 'ack') item.state = 'done';
      else if (verdict.type === 'nack') this.#again(name, item);
      else if (verdict.type === 'release') {
        item.attempts -= 1;
        item.state = 'waiting';
      }
      return 'done';
    });
    this.#wakeAll();
    return results;
  }

  async deadLetters(
    name: string,
    { after, limit }: { readonly after: string | undefined; readonly limit: number },
  ): Promise<readonly DeadLetter[]> {
    const dead = this.#find(name).items.filter((item) => item.state === 'dead');
    const letters = dead.flatMap(({ message, attempts }) =>
      message.type === 'gap' ? [] : { id: idOf(message.event), event: message.event, attempts, diedAtMs: 2_000 },
    );
    const from = after === undefined ? 0 : letters.findIndex(({ id }) => id === after) + 1;
    return letters.slice(from, from + limit);
  }

  async replay(name: string, ids: readonly string[] | undefined): Promise<number> {
    const chosen = this.#dead(name, ids);
    for (const item of chosen) {
      item.attempts = 0;
      item.state = 'waiting';
    }
    this.#wakeAll();
    return chosen.length;
  }

  async discard(name: string, ids: readonly string[] | undefined): Promise<number> {
    const chosen = this.#dead(name, ids);
    for (const item of chosen) item.state = 'done';
    return chosen.length;
  }

  wake(): void {
    this.#wakeAll();
  }

  #dead(name: string, ids: readonly string[] | undefined): Item[] {
    return this.#find(name).items.filter(
      ({ state, message }) =>
        state === 'dead' && message.type === 'event' && (ids === undefined || ids.includes(idOf(message.event))),
    );
  }

  #push(name: string, message: GroupMessage): string {
    this.#find(name).items.push({ number: this.#numbers, message, attempts: 0, state: 'waiting' });
    this.#wakeAll();
    return message.type === 'event' ? idOf(message.event) : '';
  }

  #take({ items }: Kept, max: number): Delivery[] {
    const taken = items.filter(({ state }) => state === 'waiting').slice(0, max);
    return taken.map((item) => {
      item.state = 'out';
      item.attempts += 1;
      return { ackId: `a${item.number}.${item.attempts}`, attempt: item.attempts, message: item.message };
    });
  }

  #again(name: string, item: Item): void {
    item.state = item.attempts >= this.#find(name).group.maxAttempts ? 'dead' : 'waiting';
  }

  #find(name: string): Kept {
    const found = this.groups.get(name);
    if (found === undefined) throw new BrokerError('not_found', 'There is no such subscription.');
    return found;
  }

  #wakeAll(): void {
    for (const wake of this.#wakes.splice(0)) wake();
  }
}

function idOf(event: OutgoingEvent): string {
  return String(JSON.parse(event.json().toString()).id);
}
