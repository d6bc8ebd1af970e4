import type { DeviceCode, Epoch, NodeId } from '@lapi-broker/protocol';
import { expect, it } from 'vitest';
import { OwnerCache, type Route } from './owner-cache.ts';

const code = (text: string): DeviceCode => text as DeviceCode;
const route = (epoch: number): Route => ({ node: 'a.1' as NodeId, epoch: epoch as Epoch, channel: 'inbox' });

it('an owner is remembered for its time and not a moment longer', () => {
  const cache = new OwnerCache(10, 1000);
  cache.set(code('c'), route(1), 0);
  expect(cache.get(code('c'), 999)?.epoch).toBe(1);
  expect(cache.get(code('c'), 1000)).toBeUndefined();
});

it('the entry looked up longest ago makes room for a new one', () => {
  const cache = new OwnerCache(2, 1000);
  cache.set(code('a'), route(1), 0);
  cache.set(code('b'), route(2), 1);
  cache.set(code('a'), route(3), 2);
  cache.set(code('c'), route(4), 3);
  expect(cache.get(code('a'), 4)?.epoch).toBe(3);
  expect(cache.get(code('b'), 4)).toBeUndefined();
  expect(cache.get(code('c'), 4)?.epoch).toBe(4);
});

it('a cache of no entries keeps nothing', () => {
  const cache = new OwnerCache(0, 1000);
  cache.set(code('a'), route(1), 0);
  expect(cache.get(code('a'), 0)).toBeUndefined();
});
