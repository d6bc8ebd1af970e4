/** A ground whose parties live in network namespaces: a place for each Redis, each sentinel, each service; devices, readers and the platform stay
 *  on the machine, which is a place too. Between any of them packets can be treated badly for a while. */

import {
  type Disturbance,
  type Network,
  type Place,
  startNetwork,
  startRedis,
  startRedisSentinel,
} from '@lapi-broker/fixture';
import type { Stage } from '../fault/fault.ts';
import type { Ground, Service, Store, StoreKind } from '../rig.ts';

type Three = readonly [Place, Place, Place];

interface Places {
  /** Of the servers that keep data; a single one is in the first. */
  readonly stores: Three;
  readonly sentinels: Three;
  readonly edges: readonly Place[];
  readonly commands: readonly Place[];
}

export class NamespaceGround implements Ground {
  readonly places: Places;
  readonly #network: Network;

  private constructor(network: Network, places: Places) {
    this.#network = network;
    this.places = places;
  }

  static async start(): Promise<NamespaceGround> {
    const network = await startNetwork();
    const three = async (role: string): Promise<Three> => [
      await network.place(`${role}-1`),
      await network.place(`${role}-2`),
      await network.place(`${role}-3`),
    ];
    const two = async (role: string): Promise<Place[]> => [
      await network.place(`${role}-1`),
      await network.place(`${role}-2`),
    ];
    try {
      return new NamespaceGround(network, {
        stores: await three('redis'),
        sentinels: await three('sentinel'),
        edges: await two('edge'),
        commands: await two('command'),
      });
    } catch (error) {
      await network.stop();
      throw error;
    }
  }

  /** Where devices, readers and the platform are. */
  get machine(): Place {
    return this.#network.machine;
  }

  async startStore(kind: StoreKind, args: readonly string[]): Promise<Store> {
    const { stores: places, sentinels: sentinelPlaces } = this.places;
    switch (kind) {
      case 'standalone':
        return { kind, redis: await startRedis({ args, place: places[0] }) };
      case 'sentinel':
        return { kind, redis: await startRedisSentinel({ args, places, sentinelPlaces }) };
      case 'cluster':
        throw new TypeError('no cluster in namespaces');
    }
  }

  placeOf(service: Service, index: number): Place {
    const place = (service === 'edge' ? this.places.edges : this.places.commands)[index];
    if (place === undefined) throw new RangeError(`no place for ${service} ${index}`);
    return place;
  }

  /** Holds while `work` runs, and ends whatever happens. */
  async during(disturbances: readonly Disturbance[], work: () => Promise<void>): Promise<void> {
    const heals: (() => Promise<void>)[] = [];
    try {
      for (const each of disturbances) heals.push(await this.#network.disturb(each));
      await work();
    } finally {
      for (const heal of heals) await heal();
    }
  }

  async stop(): Promise<void> {
    await this.#network.stop();
  }
}

export function namespacesOf({ rig: { ground } }: Pick<Stage, 'rig'>): NamespaceGround {
  if (!(ground instanceof NamespaceGround)) throw new TypeError('this fault wants network namespaces');
  return ground;
}
