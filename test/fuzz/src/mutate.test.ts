import { expect, test } from 'vitest';
import { Chance } from './chance.ts';
import { bigText, soundText } from './message.ts';
import { mutateBytes, mutateJson } from './mutate.ts';

test('an input is made of seed, target and number alone; another of any of them is another input', () => {
  const made = (seed: number, target: string, index: number): string => {
    const chance = Chance.of(seed, target, index);
    return JSON.stringify([
      soundText(chance, 1),
      mutateJson(chance, { a: [1, 'x'] }),
      mutateBytes(chance, Buffer.from('abcdef')),
    ]);
  };
  expect(made(1, 'json', 7)).toBe(made(1, 'json', 7));
  expect(new Set([made(1, 'json', 7), made(2, 'json', 7), made(1, 'rest', 7), made(1, 'json', 8)]).size).toBe(4);
});

test('damage changes a copy', () => {
  const bytes = Buffer.from('{"a":1}');
  for (let index = 0; index < 200; index++) mutateBytes(Chance.of(1, 'x', index), bytes);
  expect(bytes.toString()).toBe('{"a":1}');
});

test('large messages are JSON of the length that was asked for, or a little less', () => {
  for (let index = 0; index < 60; index++) {
    const { text, kind } = bigText(Chance.of(1, 'x', index), index, 65_536);
    expect(() => JSON.parse(text.replaceAll('\t', ' ')), kind).not.toThrow();
    expect(Buffer.byteLength(text), kind).toBeLessThanOrEqual(65_536);
    expect(Buffer.byteLength(text), kind).toBeGreaterThan(60_000);
  }
});
