/** What a fuzzer reports: one broken expectation, with what is needed to see it again. */

export interface Finding {
  readonly target: string;
  readonly seed: number;
  /** Number of the input, or the newest of those that were under way. */
  readonly index: number;
  readonly what: string;
  /** The input as far as it can be shown. */
  readonly input?: string;
}

const SHOWN_CHARS = 4_000;

/** Bytes as text that can be read and copied. */
export function shown(input: string | Buffer): string {
  const text = typeof input === 'string' ? input : input.toString('latin1');
  const plain = text.replace(
    /[^\x20-\x7e]/g,
    (char) => `\\x${(char.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`,
  );
  return plain.length <= SHOWN_CHARS ? plain : `${plain.slice(0, SHOWN_CHARS)}… (${plain.length})`;
}
