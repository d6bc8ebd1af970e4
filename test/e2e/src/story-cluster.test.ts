/** The stories about sessions and nodes (story.ts) on a real Redis Cluster. */

import { CLUSTER, sessionStories } from './story.ts';

sessionStories(CLUSTER);
