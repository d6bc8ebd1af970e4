/** Tells event subscribers when a webhook is switched off, by whom it may be, or on again: kinds `webhook.disabled` and `webhook.enabled`, with an empty
 *  `code`, because a webhook belongs to no device. Written after it was switched: a hint (announcer.ts). The URL is left out: it may hold a token. */

import type { Announcer } from '../event/announcer.ts';
import type { OffReason, Webhook } from './webhook.ts';

export class WebhookEvents {
  readonly #announce: Announcer;

  constructor(announce: Announcer) {
    this.#announce = announce;
  }

  tell({ id, name }: Pick<Webhook, 'id' | 'name'>, off: OffReason | undefined): void {
    if (off === undefined) this.#announce('webhook.enabled', { id, name });
    else this.#announce('webhook.disabled', { id, name, reason: off });
  }
}
