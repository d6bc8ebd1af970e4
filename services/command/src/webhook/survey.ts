/** Counts the webhooks of the installation by state, every few seconds, for the metrics of this process.
 *  Store away: the last count stays. */

import { stateOf, type Webhook, type WebhookState } from './webhook.ts';

export interface SurveyParts {
  readonly list: () => Promise<readonly Webhook[]>;
  readonly intervalMs: number;
  readonly onCounted: (counted: ReadonlyMap<WebhookState, number>) => void;
  readonly onFailure: (error: unknown) => void;
}

export class WebhookSurvey {
  readonly name = 'webhook survey';
  readonly #parts: SurveyParts;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;

  constructor(parts: SurveyParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#timer ??= setInterval(() => {
      this.#running ??= this.#count().finally(() => {
        this.#running = undefined;
      });
    }, this.#parts.intervalMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  /** Never rejects. */
  async #count(): Promise<void> {
    const { list, onCounted, onFailure } = this.#parts;
    try {
      const counted = new Map<WebhookState, number>();
      for (const webhook of await list()) {
        const state = stateOf(webhook);
        counted.set(state, (counted.get(state) ?? 0) + 1);
      }
      onCounted(counted);
    } catch (error) {
      onFailure(error);
    }
  }
}
