/** V10: does the API agree with the sockets? Soon after a fault every command service must say of each device what the device knows itself: is it
 *  connected, and to which edge. And the presence events of each device must end in that state: of its highest epoch there is an
 *  `presence.online`, and a `presence.offline` exactly if it is gone. Judging is pure; looking is done by PresenceWatch, which waits for
 *  agreement up to a deadline and tells what it last saw. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { EventHistory } from '../event/history.ts';
import type { Rig } from '../rig.ts';

const LOOK_MS = 300;
const PAGE = 1_000;
const ASK_MS = 5_000;

/** What a device knows of itself. */
export interface Connection {
  readonly code: string;
  readonly online: boolean;
  /** Name of its edge, if online. */
  readonly edge: string;
}

/** What a service says of it. */
export interface Shown {
  readonly code: string;
  readonly online: boolean;
  /** Node, if online. */
  readonly node: string;
}

export interface PresenceViolation {
  readonly check: 'V10';
  readonly device: string;
  readonly what: string;
}

/** Devices of which one service says something else than they do. */
export function differences(
  by: string,
  connections: readonly Connection[],
  shown: readonly Shown[],
): PresenceViolation[] {
  const told = new Map<string, Shown>();
  const twice = new Set<string>();
  for (const each of shown) {
    if (told.has(each.code)) twice.add(each.code);
    told.set(each.code, each);
  }
  return connections.flatMap(({ code, online, edge }): PresenceViolation[] => {
    const found = (what: string): PresenceViolation[] => [{ check: 'V10', device: code, what }];
    const view = told.get(code);
    if (twice.has(code)) return found(`${by} shows it twice`);
    if (view === undefined) return found(`${by} does not know it`);
    if (view.online !== online)
      return found(
        `${online ? 'connected' : 'not connected'}, but ${by} shows it ${view.online ? `online at ${view.node}` : 'offline'}`,
      );
    const name = view.node.slice(0, view.node.lastIndexOf('.'));
    return online && name !== edge ? found(`connected to ${edge}, but ${by} shows it at ${view.node}`) : [];
  });
}

/** `reader`: a subscription that was there before the first session, and has got everything. */
export function checkPresenceEvents(
  history: EventHistory,
  reader: string,
  connections: readonly Connection[],
): PresenceViolation[] {
  const newest = new Map<string, { readonly epoch: number; online: boolean; offline: boolean }>();
  for (const entry of history.entries) {
    if (entry.kind !== 'receive' || entry.reader !== reader) continue;
    const { device, epoch, topic } = entry;
    if (topic !== 'presence.online' && topic !== 'presence.offline') continue;
    const known = newest.get(device);
    if (known !== undefined && known.epoch > epoch) continue;
    const state = known?.epoch === epoch ? known : { epoch, online: false, offline: false };
    if (topic === 'presence.online') state.online = true;
    else state.offline = true;
    newest.set(device, state);
  }
  return connections.flatMap(({ code, online }): PresenceViolation[] => {
    const state = newest.get(code);
    const told = state?.online === true && !state.offline;
    if (told === online) return [];
    const last = state === undefined ? 'there were none' : `epoch ${state.epoch} ended ${told ? 'online' : 'offline'}`;
    return [
      {
        check: 'V10',
        device: code,
        what: `${online ? 'connected' : 'not connected'}, but of its presence events ${last}`,
      },
    ];
  });
}

export class PresenceWatch {
  readonly #rig: Rig;
  readonly #connections: () => readonly Connection[];
  readonly #signal: AbortSignal;
  readonly #onAnswer: (text: string) => void;

  constructor(
    rig: Rig,
    connections: () => readonly Connection[],
    signal: AbortSignal,
    onAnswer: (text: string) => void,
  ) {
    this.#rig = rig;
    this.#connections = connections;
    this.#signal = signal;
    this.#onAnswer = onAnswer;
  }

  /** Until all agree, or the deadline has come; answers how long that took, and what they then disagreed about. */
  async untilAgreed(
    deadlineMs: number,
  ): Promise<{ readonly tookMs: number; readonly violations: PresenceViolation[] }> {
    const beganMs = performance.now();
    for (;;) {
      const violations = await this.#look();
      const tookMs = Math.round(performance.now() - beganMs);
      if (violations.length === 0 || tookMs > deadlineMs || this.#signal.aborted) return { tookMs, violations };
      await sleep(LOOK_MS, undefined, { signal: this.#signal }).catch(() => undefined);
    }
  }

  async #look(): Promise<PresenceViolation[]> {
    const before = JSON.stringify(this.#connections());
    const views = await Promise.all(
      this.#rig.commandUrls.map((url, i) => this.#list(url).then((shown) => ({ by: `service ${i + 1}`, shown }))),
    ).catch((cause: unknown) => (cause instanceof Error ? cause.message : String(cause)));
    if (typeof views === 'string')
      return [{ check: 'V10', device: '', what: `a service does not list devices: ${views}` }];
    const connections = this.#connections();
    // What changed while it was read is looked at again.
    if (JSON.stringify(connections) !== before) return [{ check: 'V10', device: '', what: 'devices came and went' }];
    return views.flatMap(({ by, shown }) => differences(by, connections, shown));
  }

  async #list(url: string): Promise<Shown[]> {
    const shown: Shown[] = [];
    let cursor: string | undefined;
    do {
      const query = `limit=${PAGE}${cursor === undefined ? '' : `&cursor=${encodeURIComponent(cursor)}`}`;
      const answer = await fetch(`${url}/v1/devices?${query}`, {
        headers: { authorization: `Bearer ${this.#rig.broker.apiKey}` },
        signal: AbortSignal.timeout(ASK_MS),
      });
      const text = await answer.text();
      this.#onAnswer(text);
      if (answer.status !== 200) throw new Error(`${answer.status} ${text}`);
      const page = JSON.parse(text) as {
        items: { code: string; online: boolean; node?: string | null }[];
        cursor?: string;
      };
      for (const { code, online, node } of page.items) shown.push({ code, online, node: node ?? '' });
      cursor = page.cursor;
    } while (cursor !== undefined);
    return shown;
  }
}
