import { setImmediate as turn } from 'node:timers/promises';
import { beforeEach, expect, test } from 'vitest';
import { sendPieces } from './send-pieces.ts';

const COUNT = 6;

let asked: number;
let released: boolean;
let taken: number[];
let closed: boolean;
let drain: () => void;
let leave: () => void;

beforeEach(() => {
  asked = 0;
  released = false;
  taken = [];
  closed = false;
});

async function* source(): AsyncGenerator<Uint8Array> {
  try {
    while (asked < COUNT) yield Buffer.from([asked++]);
  } finally {
    released = true;
  }
}

/** Takes as many pieces as `room` says, then none until it is drained. */
function peer(room: number) {
  return {
    get ended() {
      return closed;
    },
    write: (piece: string | Uint8Array): boolean => {
      taken.push((piece as Uint8Array)[0] as number);
      return taken.length % room !== 0;
    },
    onDrain: (callback: () => void) => {
      drain = callback;
    },
    onClosed: (callback: () => void) => {
      leave = () => {
        closed = true;
        callback();
      };
    },
    end: () => {
      closed = true;
    },
  };
}

test('the next piece is asked for when the peer has taken the last', async () => {
  const sent = sendPieces(peer(2), source());
  for (let i = 2; i <= COUNT; i += 2) {
    await turn();
    expect([asked, taken.length, closed]).toEqual([i, i, false]);
    drain();
  }
  await sent;
  expect([taken, closed, released]).toEqual([[0, 1, 2, 3, 4, 5], true, true]);
});

test('when the peer leaves, in the middle of a piece or between two, the source is let go of', async () => {
  const sent = sendPieces(peer(3), source());
  await turn();
  leave();
  await sent;
  expect([taken.length, released]).toEqual([3, true]);
});

test('a source that fails leaves the stream open, for the caller to break', async () => {
  const failing = async function* (): AsyncGenerator<Uint8Array> {
    yield* [Buffer.from([0])];
    throw new Error('away');
  };
  await expect(sendPieces(peer(9), failing())).rejects.toThrow('away');
  expect([taken, closed]).toEqual([[0], false]);
});
