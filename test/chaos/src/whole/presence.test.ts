/** The checker is checked: views that agree have no violation, and each disagreement is found. */

import { describe, expect, test } from 'vitest';
import { EventRecorder } from '../event/history.ts';
import { type Connection, checkPresenceEvents, differences } from './presence.ts';

const here: Connection = { code: 'here', online: true, edge: 'edge-1' };
const gone: Connection = { code: 'gone', online: false, edge: 'edge-2' };

const told = (history: EventRecorder, device: string, epoch: number, topic: string): void =>
  history.log({
    kind: 'receive',
    reader: 'ordered',
    by: 'a',
    id: `0-0-${history.entries.length + 1}`,
    device,
    number: undefined,
    hash: '',
    epoch,
    seq: 0,
    topic,
    attempt: 1,
  });

describe('V10, the list of devices', () => {
  test('agrees with the sockets', () => {
    const shown = [
      { code: 'here', online: true, node: 'edge-1.0abc' },
      { code: 'gone', online: false, node: '' },
    ];
    expect(differences('a service', [here, gone], shown)).toEqual([]);
  });

  test.each([
    ['offline, though connected', [{ code: 'here', online: false, node: '' }], /connected, but .* offline/],
    ['at another node', [{ code: 'here', online: true, node: 'edge-2.0abc' }], /connected to edge-1, but/],
    ['not at all', [], /does not know it/],
    [
      'with two owners',
      [
        { code: 'here', online: true, node: 'edge-1.0abc' },
        { code: 'here', online: true, node: 'edge-2.0abc' },
      ],
      /twice/,
    ],
  ])('shows a device %s', (_, shown, what) => {
    const [violation, ...more] = differences('a service', [here], shown);
    expect(violation?.what).toMatch(what);
    expect(more).toEqual([]);
  });

  test('shows a device online that is gone', () => {
    const shown = [{ code: 'gone', online: true, node: 'edge-2.0abc' }];
    expect(differences('a service', [gone], shown)[0]?.what).toMatch(/not connected, but .* online/);
  });
});

describe('V10, presence events', () => {
  const history = (): EventRecorder => new EventRecorder(new Map([['ordered', 'ordered']]), false);

  test('end in the state of the device, in whatever order they were handed out', () => {
    const events = history();
    told(events, 'here', 2, 'presence.online');
    told(events, 'here', 1, 'presence.offline');
    told(events, 'here', 1, 'presence.online');
    told(events, 'gone', 1, 'presence.offline');
    told(events, 'gone', 1, 'presence.online');
    expect(checkPresenceEvents(events, 'ordered', [here, gone])).toEqual([]);
  });

  test('never said that a device went, or came, or said that it went after it came back', () => {
    const events = history();
    told(events, 'gone', 1, 'presence.online');
    expect(checkPresenceEvents(events, 'ordered', [gone])[0]?.what).toMatch(/ended online/);
    expect(checkPresenceEvents(events, 'ordered', [here])[0]?.what).toMatch(/there were none/);
    told(events, 'here', 3, 'presence.online');
    told(events, 'here', 3, 'presence.offline');
    expect(checkPresenceEvents(events, 'ordered', [here])[0]?.what).toMatch(/ended offline/);
  });
});
