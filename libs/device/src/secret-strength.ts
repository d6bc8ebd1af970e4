/** Says why a device secret is too weak to be stored (protocol G8). A secret is looked at as someone would guess it: words that everybody tries,
 *  runs (1234, cba), repetitions count as one character each. It is a floor against carelessness, not a measure of entropy. */

const MIN_CHARACTERS = 12;
/** What must be left after words, runs and repetitions are counted as one character each. */
const MIN_UNGUESSED = 8;
const MIN_DISTINCT = 5;
const COMMON =
  /p[a@]ss(?:w[o0]rd|w[o0]rt)?|adm[i1]n(?:istrator)?|secret|welcome|letmein|qwertz?uiop|qwert[yz]|asdf(?:gh)?(?:jkl)?|zxcvb(?:nm)?|uniview|camera|device|default|changeme|iloveyou|root|user|test/g;

/** Undefined = strong enough; else a reason for people, which never holds the secret. */
export function checkSecretStrength(secret: string): string | undefined {
  const characters = [...secret];
  if (characters.length === 0) return 'the secret is empty';
  if (characters.length < MIN_CHARACTERS) return `the secret is shorter than ${MIN_CHARACTERS} characters`;
  if (new Set(characters).size < MIN_DISTINCT) return `the secret has fewer than ${MIN_DISTINCT} different characters`;
  if (isRepetition(characters)) return 'the secret repeats itself';
  if (unguessed(secret) < MIN_UNGUESSED) return 'the secret is a common word or a simple sequence';
  return undefined;
}

/** The whole is one shorter piece, written at least twice. */
function isRepetition(characters: readonly string[]): boolean {
  const whole = characters.join('');
  return `${whole}${whole}`.indexOf(whole, 1) < whole.length;
}

/** Counts characters that do not just go on from the one before: neither the same again nor the next or previous one in code order. */
function unguessed(secret: string): number {
  const points = [...secret.toLowerCase().replace(COMMON, '\u0000')].map((character) => character.codePointAt(0) ?? 0);
  return points.filter((point, i) => i === 0 || !follows(points[i - 1] ?? 0, point)).length;
}

function follows(before: number, point: number): boolean {
  const step = point - before;
  const wraps = (before === 0x39 && point === 0x30) || (before === 0x30 && point === 0x39); // 9 → 0 and back
  return Math.abs(step) <= 1 || wraps;
}
