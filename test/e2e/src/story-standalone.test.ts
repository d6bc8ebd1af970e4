/** The stories about sessions and nodes (story.ts) on one Redis server. */

import { STANDALONE, sessionStories } from './story.ts';

sessionStories(STANDALONE);
