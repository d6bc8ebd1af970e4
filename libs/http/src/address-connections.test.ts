import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AddressConnections, LEASE_MS } from './address-connections.ts';

/** Connections as they really are, driving the table with what the transport would report. */
class Transport {
  nowMs = 0;
  readonly table = new AddressConnections(() => this.nowMs);
  readonly #connections: { address: string; state: 'unanswered' | 'busy' | 'idle' }[] = [];

  open(address: string): void {
    this.#connections.push({ address, state: 'unanswered' });
    this.table.opened(address);
  }

  request(index: number): void {
    const connection = this.#connections[index % this.#connections.length];
    if (connection === undefined || connection.state === 'busy') return;
    connection.state = 'busy';
    this.table.requestStarted(connection.address);
  }

  answer(index: number): void {
    const connection = this.#connections[index % this.#connections.length];
    if (connection?.state !== 'busy') return;
    connection.state = 'idle';
    this.table.requestAnswered(connection.address);
  }

  upgrade(index: number): void {
    const connection = this.#connections[index % this.#connections.length];
    if (connection?.state !== 'busy') return;
    this.#connections.splice(this.#connections.indexOf(connection), 1);
    this.table.upgraded(connection.address);
  }

  close(index: number): void {
    const connection = this.#connections[index % this.#connections.length];
    if (connection === undefined) return;
    this.#connections.splice(this.#connections.indexOf(connection), 1);
    this.table.closed();
    if (connection.state === 'unanswered') this.table.closedUnanswered(connection.address);
    if (connection.state === 'busy') this.table.requestAborted(connection.address);
  }

  closeAll(): void {
    while (this.#connections.length > 0) this.close(0);
  }

  closeIdle(): void {
    for (const connection of [...this.#connections]) {
      if (connection.state !== 'busy') this.close(this.#connections.indexOf(connection));
    }
  }

  openFrom(address: string): number {
    return this.#connections.filter((connection) => connection.address === address).length;
  }
}

const A = '192.0.2.1';
const B = '192.0.2.2';

const step = fc.tuple(
  fc.constantFrom('open A', 'open B', 'request', 'answer', 'upgrade', 'close'),
  fc.nat({ max: 20 }),
  fc.nat({ max: 500 }),
);

function run(transport: Transport, steps: readonly (readonly [string, number, number])[]): void {
  for (const [what, index, passedMs] of steps) {
    transport.nowMs += passedMs;
    if (what === 'open A') transport.open(A);
    if (what === 'open B') transport.open(B);
    if (what === 'request') transport.request(index);
    if (what === 'answer') transport.answer(index);
    if (what === 'upgrade') transport.upgrade(index);
    if (what === 'close') transport.close(index);
  }
}

describe('connections of an address', () => {
  test('the sum over all addresses is exact while no lease has expired', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        const transport = new Transport();
        run(transport, steps);
        const counted = transport.table.from(A) + transport.table.from(B);
        expect(counted).toBe(transport.openFrom(A) + transport.openFrom(B));
      }),
      { numRuns: 500 },
    );
  });

  test('no error lasts: once idle connections are closed and a lease time has passed, the counts are exact', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const transport = new Transport();
        run(transport, steps);
        transport.closeIdle();
        transport.nowMs += LEASE_MS;
        for (const address of [A, B]) expect(transport.table.from(address)).toBe(transport.openFrom(address));
        transport.closeAll();
        for (const address of [A, B]) expect(transport.table.from(address)).toBe(0);
      }),
      { numRuns: 500 },
    );
  });

  test('with one address the count is exact at every step', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
        const transport = new Transport();
        for (const each of steps) {
          run(transport, [[each[0] === 'open B' ? 'open A' : each[0], each[1], each[2]]]);
          expect(transport.table.from(A)).toBe(transport.openFrom(A));
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a site whose devices open, ask and leave never comes near its limit, while another address holds connections', () => {
    const transport = new Transport();
    for (let index = 0; index < 100; index += 1) transport.open(B);
    for (let index = 0; index < 5000; index += 1) {
      transport.nowMs += 1;
      transport.open(A);
      transport.request(100);
      transport.answer(100);
      expect(transport.table.from(A)).toBe(1);
      transport.close(100);
    }
    expect(transport.table.from(A)).toBe(0);
    expect(transport.table.from(B)).toBe(100);
  });
});
