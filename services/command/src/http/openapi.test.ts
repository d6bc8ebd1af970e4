import { ERRORS, LAPI_METHODS } from '@lapi-broker/protocol';
import { describe, expect, it } from 'vitest';
import { API_HEADERS, DOCUMENTED, methodsByPath, ROUTES } from './api.ts';
import { renderDocsPage } from './docs-page.ts';
import { createOpenApi, toTemplate } from './openapi.ts';

const document = createOpenApi(DOCUMENTED, '1.2.3');
const operations = Object.entries(document.paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);

const sorted = (texts: Iterable<string>): string[] => [...texts].sort((a, b) => (a < b ? -1 : 1));

function walk(value: unknown, visit: (name: string, member: unknown) => void): void {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, member] of Object.entries(value)) {
    visit(name, member);
    walk(member, visit);
  }
}

describe('the OpenAPI document', () => {
  it('holds every route of the table and no other', () => {
    const inTable = DOCUMENTED.flatMap(({ method, path }) =>
      (method === 'ANY' ? LAPI_METHODS : [method]).map((each) => `${each} ${toTemplate(path)}`),
    );
    expect(sorted(operations.map(({ path, method }) => `${method} ${path}`))).toEqual(sorted(inTable));
  });

  it('names each operation once', () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('has no reference that leads nowhere, and no schema that is only a reference to itself', () => {
    const components: Record<string, unknown> = { ...document.components };
    let references = 0;
    walk(document, (name, member) => {
      if (name !== '$ref') return;
      references += 1;
      const [, , group, target] = String(member).split('/');
      expect(components[group ?? ''], String(member)).toHaveProperty([target ?? '']);
    });
    expect(references).toBeGreaterThan(20);
    for (const schema of Object.values(document.components.schemas)) expect(schema).not.toHaveProperty('$ref');
  });

  it('describes every path parameter of every path, and every operation in words', () => {
    for (const { path, operation } of operations) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const described = (operation.parameters ?? []).filter((each) => each.in === 'path').map((each) => each.name);
      expect(described, path).toEqual(inPath);
      expect(operation.summary, path).toMatch(/\w/);
      for (const parameter of operation.parameters ?? [])
        expect(parameter.description, `${path} ${parameter.name}`).toMatch(/\w/);
    }
  });

  it('gives every operation an answer, its errors, and an example where it takes a described body', () => {
    for (const { path, method, operation } of operations) {
      const where = `${method} ${path}`;
      expect(
        Object.keys(operation.responses).some((status) => /^(?:2..|101)$/.test(status)),
        where,
      ).toBe(true);
      expect(operation.responses, where).toHaveProperty(['500']);
      if (operation.security.length > 0) expect(operation.responses, where).toHaveProperty(['401']);
      for (const media of Object.values(operation.requestBody?.content ?? {}) as { schema: { $ref?: string } }[]) {
        if (media.schema.$ref !== undefined) expect(media, where).toHaveProperty('example');
      }
      if (operation['x-scope'] !== undefined) expect(operation.security, where).toHaveLength(1);
    }
  });

  it('has an example for every error code, and every code is an error of some operation', () => {
    expect(sorted(Object.keys(document.components.examples))).toEqual(sorted(Object.keys(ERRORS)));
    const used = new Set<string>();
    walk(document.paths, (name, member) => {
      if (name === '$ref' && String(member).startsWith('#/components/examples/')) used.add(String(member).slice(22));
    });
    expect(sorted(used)).toEqual(sorted(Object.keys(ERRORS)));
  });

  it('names every request header that handlers read and that is not of HTTP itself', () => {
    const described = new Set(
      operations.flatMap(({ operation }) =>
        (operation.parameters ?? []).filter((each) => each.in === 'header').map((each) => each.name.toLowerCase()),
      ),
    );
    for (const name of API_HEADERS.filter((each) => each.startsWith('x-lapi-'))) expect(described).toContain(name);
  });
});

it('no two routes answer the same method and path', () => {
  for (const [path, methods] of methodsByPath(ROUTES)) expect(new Set(methods).size, path).toBe(methods.length);
});

describe('the docs page', () => {
  const page = renderDocsPage(document);

  it('shows every operation and every error code, and loads nothing', () => {
    for (const { operation } of operations) expect(page).toContain(`id="${operation.operationId}"`);
    for (const code of Object.keys(ERRORS)) expect(page).toContain(`id="${code}"`);
    expect(page).not.toMatch(/<script|src=|@import|url\(|=["']?https?:/);
  });

  it('keeps markup in texts as text', () => {
    const hostile = { ...document, info: { ...document.info, description: '<img onerror=x> `<b>` & "q"' } };
    const shown = renderDocsPage(hostile);
    expect(shown).not.toContain('<img');
    expect(shown).toContain('&lt;img onerror=x&gt; <code>&lt;b&gt;</code> &amp; &quot;q&quot;');
  });
});
