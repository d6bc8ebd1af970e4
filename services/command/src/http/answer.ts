/** What an operation answers, before it is bytes: exchange.ts writes it. */

import type { HeaderList } from '@lapi-broker/http';
import type { ErrorCode } from '@lapi-broker/protocol';
import type { ProblemCase } from './problem.ts';

export type Answer =
  | { readonly kind: 'json'; readonly status: number; readonly value: unknown; readonly headers?: HeaderList }
  | {
      readonly kind: 'bytes';
      readonly status: number;
      readonly contentType: string;
      readonly bytes: string | Uint8Array;
      readonly headers?: HeaderList;
    }
  | {
      /** Sent as fast as the peer takes it; never whole in memory. */
      readonly kind: 'stream';
      readonly status: number;
      readonly contentType: string;
      readonly pieces: AsyncIterable<Uint8Array>;
      /** Lets go of the source; called once, sent or not. */
      readonly close: () => Promise<void>;
      readonly headers?: HeaderList;
    }
  | { readonly kind: 'empty'; readonly status: number }
  | ({ readonly kind: 'problem'; readonly error: ErrorCode } & Pick<
      ProblemCase,
      'detail' | 'command' | 'faults' | 'headers' | 'retryable'
    > & {
        readonly method?: string;
      });
