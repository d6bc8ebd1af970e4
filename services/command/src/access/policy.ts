/** Says whether a caller may send this RequestURL to a device (protocol C5, C10, S13): the shape and the reserved paths are the protocol's
 *  own judgement, this file adds what an installation guards beyond it and who is granted it. Guarded paths need the admin scope.
 *  Verdicts are remembered per URL, bounded, because platforms call the same few URLs all day. Otherwise pure. */

import { checkRequestUrl } from '@lapi-broker/protocol';

export type Verdict =
  | { readonly status: 'open' }
  | { readonly status: 'guarded'; readonly reason: string }
  | { readonly status: 'invalid_request' | 'forbidden_by_policy'; readonly reason: string };

// Beyond S13: NVRs repeat the System branch below a channel, and a factory reset goes by several names.
const GUARDED_ANYWHERE = /\/system\/(?:users|security|upgrade|reboot|upserver|factory|restore|reset|default)/i;
const OPEN: Verdict = { status: 'open' };
const MAX_REMEMBERED = 4_096;
/** Longer ones carry times or session numbers in their query and would not come again. */
const MAX_REMEMBERED_LENGTH = 128;

export class PathPolicy {
  readonly #platformSubscribes: boolean;
  readonly #remembered = new Map<string, Verdict>();

  /** `platformSubscribes`: event subscriptions are left to the platform (C10). */
  constructor(platformSubscribes = false) {
    this.#platformSubscribes = platformSubscribes;
  }

  judge(url: string): Verdict {
    const known = this.#remembered.get(url);
    if (known !== undefined) return known;
    const verdict = this.#judge(url);
    if (url.length <= MAX_REMEMBERED_LENGTH) {
      if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
      this.#remembered.set(url, verdict);
    }
    return verdict;
  }

  #judge(url: string): Verdict {
    const checked = checkRequestUrl(url, this.#platformSubscribes);
    if (checked.status !== 'ok') return checked;
    if (checked.guard !== undefined)
      return { status: 'guarded', reason: `the area "${checked.guard}" needs the scope "admin"` };
    return GUARDED_ANYWHERE.test(checked.path)
      ? { status: 'guarded', reason: 'this path needs the scope "admin"' }
      : OPEN;
  }
}
