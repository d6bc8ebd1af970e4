/** Makes values from the JSON Schemas of the OpenAPI document: mostly such as fit, for as far as a schema says. Pure. */

import type { Chance } from './chance.ts';
import type { Json } from './mutate.ts';

export type Schema = { readonly [name: string]: unknown };

const MOST_DEPTH = 6;

export class SchemaValues {
  readonly #components: Readonly<Record<string, Schema>>;

  constructor(components: Readonly<Record<string, Schema>>) {
    this.#components = components;
  }

  /** `hint`: values that are known to mean something, by name of the member. */
  make(chance: Chance, schema: Schema, hint: (name: string) => Json | undefined, depth = 0): Json {
    const { $ref, anyOf, oneOf, allOf, type } = schema;
    if (typeof $ref === 'string') {
      return this.make(chance, this.#components[$ref.split('/').at(-1) ?? ''] ?? {}, hint, depth + 1);
    }
    if ('const' in schema) return schema.const as Json;
    if (Array.isArray(schema.enum)) return chance.pick(schema.enum as readonly Json[]);
    const choices = [anyOf, oneOf, allOf].find(Array.isArray) as readonly Schema[] | undefined;
    if (choices !== undefined && choices.length > 0) return this.make(chance, chance.pick(choices), hint, depth + 1);
    if (Array.isArray(schema.examples) && chance.is(0.5)) return chance.pick(schema.examples as readonly Json[]);
    const kind = Array.isArray(type) ? chance.pick(type as readonly unknown[]) : type;
    switch (kind) {
      case 'object':
        return depth > MOST_DEPTH ? {} : this.#object(chance, schema, hint, depth);
      case 'array': {
        const {
          minItems = 0,
          maxItems = 3,
          items = {},
        } = schema as { minItems?: number; maxItems?: number; items?: Schema };
        const count =
          depth > MOST_DEPTH ? 0 : chance.between(minItems, Math.max(minItems, Math.min(maxItems, minItems + 3)));
        return Array.from({ length: count }, () => this.make(chance, items, hint, depth + 1));
      }
      case 'integer':
      case 'number': {
        const { minimum = 0, maximum = 100_000 } = schema as { minimum?: number; maximum?: number };
        return chance.pick([minimum, Math.min(maximum, minimum + 1), Math.floor((minimum + maximum) / 2), maximum]);
      }
      case 'boolean':
        return chance.is(0.5);
      case 'null':
        return null;
      case 'string': {
        const { minLength = 0, maxLength = 20 } = schema as { minLength?: number; maxLength?: number };
        return chance.letters(chance.between(minLength, Math.max(minLength, Math.min(maxLength, 40))));
      }
      default:
        return chance.pick<Json>([{}, [], 'x', 1, null]);
    }
  }

  #object(chance: Chance, schema: Schema, hint: (name: string) => Json | undefined, depth: number): Json {
    const { properties = {}, required = [] } = schema as { properties?: Record<string, Schema>; required?: string[] };
    const object: Record<string, Json> = {};
    for (const [name, property] of Object.entries(properties)) {
      if (!required.includes(name) && chance.is(0.5)) continue;
      object[name] = (chance.is(0.8) ? hint(name) : undefined) ?? this.make(chance, property, hint, depth + 1);
    }
    return object;
  }
}
