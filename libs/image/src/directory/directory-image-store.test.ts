import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hourOf, imageIdOf } from '../image-id.ts';
import { DirectoryImageStore } from './directory-image-store.ts';

const PICTURE = Buffer.alloc(300_000, 7);
const NOW_MS = Date.UTC(2026, 2, 1, 12);
const ID = imageIdOf(PICTURE, NOW_MS);
const HASH = ID.slice(11);

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lapi-images-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const soon = (): AbortSignal => AbortSignal.timeout(10_000);

test('a file left short by a loss of power is written again', async () => {
  const root = path.join(dir, 'torn');
  const store = new DirectoryImageStore(root);
  const folder = path.join(root, hourOf(NOW_MS), HASH.slice(0, 2));
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, HASH), PICTURE.subarray(0, 10));
  await store.put(ID, PICTURE, 'x', soon());
  expect(await store.open(ID)).toMatchObject({ totalBytes: PICTURE.length });
});

test('a put that fails or is given up leaves nothing behind', async () => {
  const root = path.join(dir, 'given-up');
  const store = new DirectoryImageStore(root);
  await expect(store.put(ID, PICTURE, 'x', AbortSignal.abort())).rejects.toMatchObject({ code: 'broker_unavailable' });
  expect(await readdir(path.join(root, hourOf(NOW_MS), HASH.slice(0, 2)))).toEqual([]);
});

test('a place that is no directory is a store that is away', async () => {
  const file = path.join(dir, 'file');
  await writeFile(file, '');
  const store = new DirectoryImageStore(path.join(file, 'images'));
  const away = { code: 'broker_unavailable' };
  await expect(store.put(ID, PICTURE, 'x', soon())).rejects.toMatchObject(away);
  await expect(store.open(ID)).rejects.toMatchObject(away);
  await expect(store.sweep('2030010100', soon())).rejects.toMatchObject(away);
});

test('a sweep leaves alone what is no hour, and takes along what a killed process left', async () => {
  const root = path.join(dir, 'swept');
  const store = new DirectoryImageStore(root);
  await mkdir(path.join(root, '2026010100', 'aa'), { recursive: true });
  await writeFile(path.join(root, '2026010100', 'aa', '.draft'), '');
  await mkdir(path.join(root, 'lost+found'));
  await writeFile(path.join(root, '1'), '');
  expect(await store.sweep('2026010101', soon())).toBe(1);
  expect((await readdir(root)).sort()).toEqual(['1', 'lost+found']);
});
