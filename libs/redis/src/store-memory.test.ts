import { expect, it } from 'vitest';
import { usedPercentOf } from './store-memory.ts';

it.each([
  ['# Memory\r\nused_memory:80\r\nused_memory_rss:99\r\nmaxmemory:100\r\nmaxmemory_human:100B\r\n', 80],
  ['used_memory:200\r\nmaxmemory:100\r\n', 200],
  ['used_memory:80\r\nmaxmemory:0\r\n', 0],
  ['', 0],
])('%j is %d %% used', (report, percent) => {
  expect(usedPercentOf(report)).toBe(percent);
});
