import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodePicture, findPictures, MAX_PICTURES, type PictureSpan, replaceParts } from './image.ts';

const THRESHOLD = 1_024;

function pictureOf(bytes: number, seed = 1): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 7 + seed) & 0xff));
}

const PICTURE = pictureOf(1_000);
const BASE64 = PICTURE.toString('base64');

function find(kind: string, value: unknown): PictureSpan[] {
  return findPictures(kind, Buffer.from(JSON.stringify(value)), THRESHOLD);
}

function paths(kind: string, value: unknown): string[] {
  return find(kind, value).map(({ path }) => path);
}

/** The value that a JSON Pointer leads to. */
function at(value: unknown, path: string): unknown {
  return path
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce<unknown>((inner, step) => (inner as Record<string, unknown>)[step], value);
}

describe('what is a picture', () => {
  test('the paths of 11.4 are found in their kinds without any sibling', () => {
    const picture = { Data: BASE64 };
    expect(paths('structure', { StructureInfo: { ImageInfoList: [{}, picture, picture] } })).toEqual([
      '/StructureInfo/ImageInfoList/1/Data',
      '/StructureInfo/ImageInfoList/2/Data',
    ]);
    expect(paths('motiondetection', { AlarmPicture: { ImageList: [picture] } })).toEqual([
      '/AlarmPicture/ImageList/0/Data',
    ]);
    expect(
      paths('personverification', {
        FaceInfoList: [{ PanoImage: picture, FaceImage: picture, FeatureList: [{ Feature: BASE64 }] }],
        CardInfoList: [{ IDImage: picture }],
      }),
    ).toEqual(['/FaceInfoList/0/PanoImage/Data', '/FaceInfoList/0/FaceImage/Data', '/CardInfoList/0/IDImage/Data']);
    expect(paths('alarm.X', { StructureInfo: { ImageInfoList: [picture] } })).toEqual([]);
  });

  test.each(['Size', 'Format', 'Name', 'Index'])(
    'in any kind, Data with a sibling %s, before or after it',
    (sibling) => {
      expect(paths('unhandled', { a: [{ [sibling]: 1, Data: BASE64 }] })).toEqual(['/a/0/Data']);
      expect(paths('structure', { Data: BASE64, [sibling]: 1 })).toEqual(['/Data']);
      expect(paths('notification', [[{ Data: BASE64, x: { y: [1, '"'] }, [sibling]: {} }]])).toEqual(['/0/0/Data']);
    },
  );

  test('Data without such a sibling, a sibling of something else, and other names stay', () => {
    expect(paths('passdata', { Data: BASE64 })).toEqual([]);
    expect(paths('passdata', { Size: 1, Picture: { Data: BASE64 } })).toEqual([]);
    expect(paths('passdata', { Data: BASE64, Picture: { Size: 1 } })).toEqual([]);
    expect(paths('passdata', { Feature: BASE64, data: BASE64, Size: 1 })).toEqual([]);
    expect(paths('passdata', { Data: [BASE64], Size: 1 })).toEqual([]);
    expect(paths('passdata', BASE64)).toEqual([]);
  });

  test('what is below the threshold stays', () => {
    const text = 'A'.repeat(THRESHOLD);
    expect(paths('x', { Size: 1, Data: text })).toEqual(['/Data']);
    expect(paths('x', { Size: 1, Data: text.slice(4) })).toEqual([]);
  });

  test('text that is no base64 stays', () => {
    const long = 'QUJD'.repeat(300);
    for (const bad of [
      `data:image/jpeg;base64,${long}`,
      `${long}A`,
      `${long}A===`,
      `${long}AB=`,
      `${long}====`,
      `${long}=A==`,
      `${long} `,
      `${long}\t`,
      `${long}é`,
      `${long}\\`,
      `${long}"`,
      `${long}-_`,
    ])
      expect(paths('x', { Size: 1, Data: bad }), bad.slice(-8)).toEqual([]);
    expect(findPictures('x', Buffer.from(`{"Size":1,"Data":"${long}\\u0141BCD"}`), THRESHOLD)).toEqual([]);
    for (const good of [long, `${long}AB`, `${long}AB==`, `${long}ABC`, `${long}ABC=`, `${long}AB=\r\n=\n`])
      expect(paths('x', { Size: 1, Data: good }), good.slice(-8)).toEqual(['/Data']);
  });

  test('names are read as JSON reads them: escapes, and the last of equal names', () => {
    const text = Buffer.from(`{"S\\u0069ze":1,"a~/b":[{"D\\u0061ta":"${BASE64}","Name":""}]}`);
    expect(findPictures('x', text, THRESHOLD).map(({ path }) => path)).toEqual(['/a~0~1b/0/Data']);
    const escaped = Buffer.from(`{"Size":1,"\\u0044\\u0061\\u0074\\u0061":"${BASE64}"}`);
    expect(findPictures('x', escaped, THRESHOLD).map(({ path }) => path)).toEqual(['/Data']);
    expect(findPictures('x', Buffer.from(`{"Size":1,"Data":"${BASE64}","Data":1}`), THRESHOLD)).toEqual([]);
    const [last] = findPictures(
      'x',
      Buffer.from(`{"Size":1,"Data":"${'A'.repeat(THRESHOLD)}","Data":"${BASE64}"}`),
      1_024,
    );
    expect(last?.bytes).toBe(PICTURE.length);
  });

  test('at most 64 are found, and none under an endless path', () => {
    expect(
      find(
        'x',
        Array.from({ length: 100 }, () => ({ Size: 1, Data: BASE64 })),
      ).length,
    ).toBe(MAX_PICTURES);
    expect(find('x', { ['n'.repeat(2_000)]: { Size: 1, Data: BASE64 } })).toEqual([]);
  });
});

describe('decoding', () => {
  const spellings: readonly [string, (base64: string) => string][] = [
    ['as it is', (base64) => base64],
    ['without padding', (base64) => base64.replace(/=+$/, '')],
    ['with escaped slashes', (base64) => base64.replaceAll('/', '\\/')],
    ['in lines, CRLF', (base64) => base64.replace(/.{76}/g, '$&\\r\\n')],
    ['in lines, LF at the end', (base64) => `${base64.replace(/.{64}/g, '$&\\n')}\\n`],
    ['with \\u escapes', (base64) => base64.replace(/[+=/]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`)],
    [
      'in \\u escapes, capital letters',
      (base64) => base64.replace(/./g, (c) => `\\u00${c.charCodeAt(0).toString(16).toUpperCase()}`),
    ],
  ];
  test.each(spellings)('base64 %s is understood, and its length is known before', (_, spell) => {
    for (let bytes = 996; bytes < 1_002; bytes++) {
      const picture = pictureOf(bytes, bytes);
      const data = Buffer.from(`{"Size":0,"Data":"${spell(picture.toString('base64'))}"}`);
      const [span] = findPictures('x', data, THRESHOLD);
      expect(span?.bytes).toBe(bytes);
      expect(decodePicture(data, span as PictureSpan).equals(picture)).toBe(true);
    }
  });
});

describe('replacing', () => {
  const leaf = fc.oneof(
    fc.jsonValue({ maxDepth: 1 }),
    fc.uint8Array({ minLength: 30, maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString('base64')),
  );
  const name = fc.oneof(
    fc.constantFrom('Data', 'Size', 'Index', 'StructureInfo', 'ImageInfoList', 'a/b~c"\\', '', '__proto__x'),
    fc.string({ unit: 'binary', maxLength: 5 }),
  );
  const { value } = fc.letrec<{ value: unknown }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 6, withCrossShrink: true },
      leaf,
      fc.array(tie('value'), { maxLength: 4 }),
      fc.dictionary(name, tie('value'), { maxKeys: 5 }),
      fc.record({ Size: fc.nat(), Data: leaf, more: tie('value') }),
      fc.record({ StructureInfo: fc.record({ ImageInfoList: fc.array(fc.record({ Data: leaf }), { maxLength: 3 }) }) }),
    ),
  }));

  test('every other byte stays, and the rest of the object is the same', () => {
    let pictures = 0;
    fc.assert(
      fc.property(
        value,
        fc.constantFrom(undefined, 1, '\t'),
        fc.constantFrom('structure', 'x'),
        (object, layout, kind) => {
          const text = JSON.stringify(object, undefined, layout);
          const data = Buffer.from(text);
          const spans = findPictures(kind, data, 32);
          pictures += spans.length;
          const replaced = replaceParts(
            data,
            spans.map(({ start, end }, i) => ({ start, end, text: `"/v1/images/${i}"` })),
          );
          const expected = JSON.parse(text) as unknown;
          let rest = '';
          let from = 0;
          for (const [i, { path, start, end }] of spans.entries()) {
            const steps = path.split('/');
            const owner = at(expected, steps.slice(0, -1).join('/')) as { Data: string };
            expect(owner.Data).toBe(JSON.parse(data.toString('utf8', start, end)));
            expect(decodePicture(data, spans[i] as PictureSpan).equals(Buffer.from(owner.Data, 'base64'))).toBe(true);
            owner.Data = `/v1/images/${i}`;
            rest += `${data.toString('utf8', from, start)}"/v1/images/${i}"`;
            from = end;
          }
          expect(replaced.toString()).toBe(rest + data.toString('utf8', from));
          expect(JSON.parse(replaced.toString())).toEqual(expected);
        },
      ),
      { numRuns: 1_000 },
    );
    expect(pictures).toBeGreaterThan(100);
  });

  test('nothing to replace is a copy', () => {
    const data = Buffer.from('{"a":1}');
    const copy = replaceParts(data, []);
    data.fill(0);
    expect(copy.toString()).toBe('{"a":1}');
  });
});

test('twice the hostile text costs about twice as much, whatever it is made of', () => {
  const shapes: readonly [string, (n: number) => string][] = [
    ['escaped quotes in Data', (n) => `{"Size":1,"Data":"${'\\"'.repeat(n)}"}`],
    ['backslashes in Data', (n) => `{"Size":1,"Data":"${'\\\\'.repeat(n)}"}`],
    [
      'long Data that ends badly, again and again',
      (n) => `[${`{"Size":1,"Data":"${'A'.repeat(1_025)}"},`.repeat(n >> 9)}0]`,
    ],
    ['deep arrays', (n) => `[${`${'['.repeat(60)}${']'.repeat(60)},`.repeat(n >> 6)}0]`],
    ['many Data in one object', (n) => `{"Size":1${`,"Data":"${'A'.repeat(1_024)}"`.repeat(n >> 9)},"Data":0}`],
  ];
  const costMs = (text: Buffer): number => {
    let least = Number.POSITIVE_INFINITY;
    for (let run = 0; run < 5; run++) {
      const began = performance.now();
      findPictures('structure', text, THRESHOLD);
      least = Math.min(least, performance.now() - began);
    }
    return least;
  };
  for (const [name, shape] of shapes) {
    const small = Buffer.from(shape(100_000));
    const large = Buffer.from(shape(1_600_000));
    // Sixteen times as much text; quadratic would be 256 times as much time.
    expect(costMs(large) / Math.max(0.5, costMs(small)), name).toBeLessThan(80);
  }
});
