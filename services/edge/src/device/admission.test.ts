import { expect, test } from 'vitest';
import { AdmissionBucket } from './admission.ts';

test('a burst of twice the rate passes at once, the next registration is refused with a time to come back', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) expect(bucket.ask(`site ${i}`, 0, 0.5).status).toBe('admitted');
  const refused = bucket.ask('another', 0, 0.5);
  expect(refused).toEqual({ status: 'refused', retryAfterS: 2, holdMs: 2_000 });
});

test('tokens come back at the rate', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) bucket.ask(`site ${i}`, 0, 0);
  expect(bucket.ask('another', 99, 0).status).toBe('refused');
  expect(bucket.ask('another', 200, 0).status).toBe('admitted');
});

test('the longer the queue of refused devices, the later they are asked to return, spread and at most 120 s', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) bucket.ask(`site ${i}`, 0, 0);
  const waits: number[] = [];
  for (let i = 0; i < 5_000; i++) {
    const answer = bucket.ask('another', 0, i % 2 === 0 ? 0 : 0.999);
    if (answer.status === 'refused') waits.push(answer.retryAfterS);
  }
  expect(waits.at(0)).toBe(2);
  expect(Math.max(...waits)).toBe(120);
  expect(waits[200]).toBeLessThan(waits[201] as number);
});

test('an answer is held back for up to 4 s once 70 % of the burst is used, and not before', () => {
  const bucket = new AdmissionBucket(50, 0);
  const holds = Array.from({ length: 100 }, (_, i) => bucket.ask(`site ${i}`, 0, 0.5).holdMs);
  expect(holds.slice(0, 71)).toEqual(Array.from({ length: 71 }, () => 0));
  expect(holds.slice(71)).toEqual(Array.from({ length: 29 }, () => 2_000));
  expect(bucket.ask('another', 0, 0.999)).toMatchObject({ status: 'refused', holdMs: 3_996 });
  // Refilled to more than 30 %.
  expect(bucket.ask('later', 700, 0.5)).toEqual({ status: 'admitted', holdMs: 0 });
});

test('one address cannot use up what others need: it gets the whole rate, but not the second half of the burst, and nobody else waits for it (L34)', () => {
  const bucket = new AdmissionBucket(100, 0);
  let flooded = 0;
  for (let nowMs = 0; nowMs < 10_000; nowMs++) {
    if (bucket.ask('flood', nowMs, 0).status === 'admitted') flooded++;
    if (nowMs % 100 === 50) expect(bucket.ask(`site ${nowMs}`, nowMs, 0.5)).toEqual({ status: 'admitted', holdMs: 0 });
  }
  // Half of a burst of 200, then 100 a second less the 10 a second of the others.
  expect(flooded).toBeGreaterThan(990);
  expect(flooded).toBeLessThan(1_100);
});

test('an address of its own is remembered for the second under way only', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 10; i++) expect(bucket.ask('site', 0, 0).status).toBe('admitted');
  expect(bucket.ask('site', 999, 0).status).toBe('admitted');
  for (let i = 0; i < 14; i++) bucket.ask('site', 999, 0);
  expect(bucket.ask('site', 999, 0).status).toBe('refused');
  expect(bucket.ask('site', 1_000, 0).status).toBe('admitted');
});
