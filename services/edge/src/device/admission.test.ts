import { expect, test } from 'vitest';
import { AdmissionBucket } from './admission.ts';

test('a burst of twice the rate passes at once, the next registration is refused with a time to come back', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) expect(bucket.ask(0, 0.5).status).toBe('admitted');
  const refused = bucket.ask(0, 0.5);
  expect(refused).toEqual({ status: 'refused', retryAfterS: 2 });
});

test('tokens come back at the rate', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) bucket.ask(0, 0);
  expect(bucket.ask(99, 0).status).toBe('refused');
  expect(bucket.ask(200, 0).status).toBe('admitted');
});

test('the longer the queue of refused devices, the later they are asked to return, spread and at most 120 s', () => {
  const bucket = new AdmissionBucket(10, 0);
  for (let i = 0; i < 20; i++) bucket.ask(0, 0);
  const waits: number[] = [];
  for (let i = 0; i < 5_000; i++) {
    const answer = bucket.ask(0, i % 2 === 0 ? 0 : 0.999);
    if (answer.status === 'refused') waits.push(answer.retryAfterS);
  }
  expect(waits.at(0)).toBe(2);
  expect(Math.max(...waits)).toBe(120);
  expect(waits[200]).toBeLessThan(waits[201] as number);
});
