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
  | { readonly kind: 'empty'; readonly status: number }
  | ({ readonly kind: 'problem'; readonly error: ErrorCode } & Pick<
      ProblemCase,
      'detail' | 'command' | 'faults' | 'headers' | 'retryable'
    > & {
        readonly method?: string;
      });
