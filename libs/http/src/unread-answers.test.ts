import { expect, test } from 'vitest';
import { type UnreadAnswer, UnreadAnswers } from './unread-answers.ts';

function rig(limitBytes: number) {
  const answers = new UnreadAnswers(limitBytes);
  const dropped: string[] = [];
  const add = (name: string, bytes: number): UnreadAnswer => {
    const answer: UnreadAnswer = {
      bytes,
      drop: () => {
        dropped.push(name);
        answers.remove(answer);
      },
    };
    answers.add(answer);
    return answer;
  };
  return { answers, add, dropped };
}

test('unread answers hold no more than the bound together, and those that wait for longest make room (I4.5)', () => {
  const { answers, add, dropped } = rig(100);
  for (const name of ['a', 'b', 'c', 'd']) add(name, 40);
  expect(dropped).toEqual(['a', 'b']);
  expect([answers.bytes, answers.dropped]).toEqual([80, 2]);
});

test('an answer that was read makes room for good, and leaving twice counts once', () => {
  const { answers, add, dropped } = rig(100);
  const read = add('read', 60);
  answers.remove(read);
  answers.remove(read);
  add('next', 100);
  expect([dropped, answers.bytes]).toEqual([[], 100]);
});

test('a single answer above the bound is served, and makes room when the next one comes', () => {
  const { add, dropped } = rig(100);
  add('huge', 150);
  expect(dropped).toEqual([]);
  add('small', 1);
  expect(dropped).toEqual(['huge']);
});
