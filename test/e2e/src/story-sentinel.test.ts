/** The stories about sessions and nodes (story.ts) on a master with two replicas and three sentinels. */

import { SENTINEL, sessionStories } from './story.ts';

sessionStories(SENTINEL);
