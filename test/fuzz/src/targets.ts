/** All targets, in the order of a message's way in. */

import { frames } from './target/frames.ts';
import { handshake } from './target/handshake.ts';
import { json } from './target/json.ts';
import { rest } from './target/rest.ts';
import { stream } from './target/stream.ts';
import type { Target } from './target.ts';

export const TARGETS: readonly Target[] = [handshake, frames, json, rest, stream];
