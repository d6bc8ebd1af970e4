/** JSON Schema for the documents of the API, made from the very schemas that validate and describe (z.toJSONSchema): those with an id are
 *  written once, under `components/schemas`, and referred to from everywhere else. OpenAPI 3.1 and AsyncAPI 3 both take them as they are. */

import { z } from 'zod';

export type JsonObject = { [name: string]: unknown };

export class SchemaComponents {
  readonly #schemas = new Map<string, JsonObject>();

  /** A reference for a schema with an id, else the schema itself. */
  use(schema: z.ZodType): JsonObject {
    const id = schema.meta()?.id;
    if (id !== undefined && this.#schemas.has(id)) return { $ref: `#/components/schemas/${id}` };
    const {
      $schema: _,
      $defs,
      id: __,
      ...json
    } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonObject & { $defs?: JsonObject };
    for (const [name, definition] of Object.entries($defs ?? {})) this.#put(name, definition as JsonObject);
    if (id === undefined) return relink(json) as JsonObject;
    // A root with an id may come as a reference to its own definition.
    if (!this.#schemas.has(id)) this.#put(id, json);
    return { $ref: `#/components/schemas/${id}` };
  }

  all(): { [name: string]: JsonObject } {
    return Object.fromEntries([...this.#schemas].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  #put(name: string, definition: JsonObject): void {
    const { id: _, ...json } = definition;
    this.#schemas.set(name, relink(json) as JsonObject);
  }
}

/** zod names shared schemas `#/$defs/X`; here they are components. */
function relink(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(relink);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      name === '$ref' && typeof member === 'string'
        ? member.replace('#/$defs/', '#/components/schemas/')
        : relink(member),
    ]),
  );
}
