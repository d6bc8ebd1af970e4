/** What the handlers of the API work with: the parts of the process, by the ports they need. */

import type { PubSub } from '@lapi-broker/bus';
import type { DeviceStore, SecretVault } from '@lapi-broker/device';
import type { ImageStore } from '@lapi-broker/image';
import type { Keyspace } from '@lapi-broker/redis';
import type { NodeDirectory, OwnerRegistry } from '@lapi-broker/routing';
import type { Timeline } from '@lapi-broker/timeline';
import type { Access } from '../access/access.ts';
import type { ApiKeyStore } from '../access/api-key.ts';
import type { PathPolicy } from '../access/policy.ts';
import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Groups } from '../group/group.ts';
import type { Jobs } from '../job/jobs.ts';
import type { Lanes } from '../lane/parts.ts';
import type { NodeWatch } from '../node/node-watch.ts';
import type { Schedules } from '../schedule/schedules.ts';
import type { LiveSessions } from '../timeline/live-sessions.ts';
import type { TargetRules } from '../webhook/target.ts';
import type { Webhooks } from '../webhook/webhooks.ts';
import type { BodyBudget } from './body-budget.ts';

export interface Broker {
  readonly access: Pick<Access, 'authenticate' | 'forget'>;
  readonly policy: Pick<PathPolicy, 'judge'>;
  readonly keys: ApiKeyStore;
  readonly dispatch: Pick<Dispatch, 'call' | 'begin'>;
  readonly lanes: Pick<Lanes, 'commands' | 'calls' | 'history' | 'tend'>;
  readonly jobs: Jobs;
  readonly schedules: Schedules;
  readonly groups: Groups;
  readonly webhooks: { readonly all: Webhooks; readonly rules: TargetRules };
  readonly images: Pick<ImageStore, 'open'>;
  readonly devices: DeviceStore;
  readonly vault: Pick<SecretVault, 'seal'>;
  readonly timeline: Pick<Timeline, 'read'>;
  /** False: nobody writes timelines in this installation. */
  readonly keepsTimeline: boolean;
  readonly liveSessions: Pick<LiveSessions, 'show'>;
  readonly registry: Pick<OwnerRegistry, 'lookUp'>;
  readonly directory: Pick<NodeDirectory, 'list' | 'ask'>;
  readonly nodes: Pick<NodeWatch, 'liveness' | 'nodes' | 'refresh'>;
  readonly pubsub: Pick<PubSub, 'publish'>;
  readonly keyspace: Pick<Keyspace, 'inbox' | 'shardOf' | 'shards'>;
  /** Names of the profiles that a device may have. */
  readonly profiles: readonly string[];
  readonly allowWeakSecrets: boolean;
  readonly directBodyBytes: number;
  readonly apiBodyBytes: number;
  readonly bodies: BodyBudget;
  /** JSON texts, and the page made of the first. */
  readonly documents: {
    readonly openapi: string;
    readonly asyncapi: string;
    readonly eventSchema: string;
    readonly html: string;
  };
  readonly nowMs: () => number;
  /** True, or why this process should get no requests. */
  readonly ready: () => true | string;
}
