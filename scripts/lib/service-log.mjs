/** What a person at the terminal should see of the services' logs: warnings and errors, one short line each. The rest is in the log files.
 *  Pure. */

const SHOWN_LEVELS = new Set(['warn', 'error', 'fatal']);
const MAX_CHARS = 300;
/** Members of every line that say nothing at a terminal. */
const PLAIN = new Set(['level', 'at', 'service', 'name', 'event', 'msg', 'err', 'error']);

/** @param {string} text
 *  @returns {Record<string, unknown> | undefined} a log entry, if the line is one */
export function parseEntry(text) {
  if (!text.startsWith('{')) return undefined;
  try {
    const entry = JSON.parse(text);
    return typeof entry === 'object' && entry !== null && !Array.isArray(entry) ? entry : undefined;
  } catch {
    return undefined;
  }
}

/** @param {unknown} value */
function brief(value) {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** @param {Record<string, unknown>} entry */
function cause(entry) {
  const error = entry.err ?? entry.error;
  if (typeof error === 'string') return error;
  if (typeof error !== 'object' || error === null) return undefined;
  const { message, code } = /** @type {Record<string, unknown>} */ (error);
  return typeof message === 'string' && message !== '' ? message : typeof code === 'string' ? code : undefined;
}

/** A line that is not a log entry is shown when it comes from stderr: a crash, a warning of Node.
 *  @param {string} text
 *  @param {'stdout' | 'stderr'} from
 *  @returns {string | undefined} */
export function worthShowing(text, from) {
  const entry = parseEntry(text);
  if (entry === undefined) return from === 'stderr' && text.trim() !== '' ? text.slice(0, MAX_CHARS) : undefined;
  if (typeof entry.level !== 'string' || !SHOWN_LEVELS.has(entry.level)) return undefined;
  const facts = Object.entries(entry)
    .filter(([key]) => !PLAIN.has(key))
    .map(([key, value]) => `${key}=${brief(value)}`);
  const parts = [entry.level, entry.event, entry.msg, cause(entry), ...facts];
  return parts
    .filter((part) => part !== undefined && part !== '')
    .map(String)
    .join(' ')
    .slice(0, MAX_CHARS);
}

const QUIET_MS = 30_000;
const REMEMBERED = 200;

/** What one service may say at the terminal: the first line of a kind at once, the next of the same kind (level and event) half a minute
 *  later, with the number of those in between. A Redis that is away for an hour must not scroll the screen for an hour. */
export class Digest {
  /** @type {Map<string, { shownMs: number, hidden: number }>} */
  #kinds = new Map();

  /** @param {string} text
   *  @param {'stdout' | 'stderr'} from
   *  @param {number} nowMs
   *  @returns {string | undefined} */
  take(text, from, nowMs) {
    const shown = worthShowing(text, from);
    if (shown === undefined) return undefined;
    const entry = parseEntry(text);
    if (entry === undefined) return shown;
    const kind = `${entry.level} ${entry.event ?? entry.msg}`;
    const before = this.#kinds.get(kind);
    if (before !== undefined && nowMs - before.shownMs < QUIET_MS) {
      before.hidden += 1;
      return undefined;
    }
    if (this.#kinds.size >= REMEMBERED) this.#kinds.clear();
    this.#kinds.set(kind, { shownMs: nowMs, hidden: 0 });
    return before === undefined || before.hidden === 0 ? shown : `${shown} (and ${before.hidden} more)`;
  }
}

/** @param {string} text
 *  @returns {{ port: number, probePort: number } | undefined} from the line with which a service says that it serves */
export function readyPorts(text) {
  if (!text.includes('"service.ready"')) return undefined;
  const entry = parseEntry(text);
  if (entry?.event !== 'service.ready') return undefined;
  const { port, probePort } = entry;
  return typeof port === 'number' && typeof probePort === 'number' ? { port, probePort } : undefined;
}
