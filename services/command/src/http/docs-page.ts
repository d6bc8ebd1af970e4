/** Renders the OpenAPI document as one page for people: no script, nothing loaded from elsewhere, so it works behind any proxy and under a
 *  policy that forbids everything. Texts come from our own document and are escaped all the same. Pure. */

import { ERRORS, type ErrorCode, errorDefinition } from '@lapi-broker/protocol';
import type { OpenApiDocument, OpenApiOperation } from './openapi.ts';
import type { JsonObject } from './schema-components.ts';

export function renderDocsPage(document: OpenApiDocument): string {
  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  );
  const sections = document.tags.map(({ name, description }) => {
    const own = operations.filter(({ operation }) => operation.tags.includes(name));
    if (own.length === 0) return '';
    return `<h2 id="${escapeHtml(name)}">${escapeHtml(name)}</h2><p>${inline(description)}</p>${own.map(renderOperation).join('')}`;
  });
  const schemas = Object.entries(document.components.schemas).map(
    ([name, schema]) =>
      `<details id="schema-${escapeHtml(name)}"><summary><code>${escapeHtml(name)}</code></summary>${pre(schema)}</details>`,
  );
  const { title, version, description } = document.info;
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)} ${escapeHtml(version)}</title><style>${STYLE}</style></head><body><main>
<h1>${escapeHtml(title)} <small>${escapeHtml(version)}</small></h1>${paragraphs(description)}
<p>The same as <a href="/v1/openapi.json">OpenAPI 3.1</a>. What the broker says by itself, as <a href="/v1/asyncapi.json">AsyncAPI 3.0</a>; one event, as <a href="/v1/event.schema.json">JSON Schema</a>.</p>
<nav>${document.tags.map(({ name }) => `<a href="#${escapeHtml(name)}">${escapeHtml(name)}</a>`).join(' ')} <a href="#Errors">Errors</a> <a href="#Schemas">Schemas</a></nav>
${sections.join('\n')}
<h2 id="Errors">Errors</h2>${renderErrors()}
<h2 id="Schemas">Schemas</h2>${schemas.join('')}
</main></body></html>
`;
}

function renderOperation({
  path,
  method,
  operation,
}: {
  path: string;
  method: string;
  operation: OpenApiOperation;
}): string {
  const scope =
    operation['x-scope'] === undefined ? 'no key needed' : `scope <code>${escapeHtml(operation['x-scope'])}</code>`;
  const parameters = (operation.parameters ?? []).map(
    (parameter) =>
      `<tr><td><code>${escapeHtml(parameter.name)}</code></td><td>${parameter.in}${parameter.required ? ', required' : ''}</td><td>${constraint(parameter.schema)}</td><td>${inline(parameter.description)}</td></tr>`,
  );
  const [media] = Object.values(operation.requestBody?.content ?? {}) as { schema?: JsonObject; example?: unknown }[];
  const responses = Object.entries(operation.responses).map(([status, response]) => {
    const [content] = Object.values(response.content ?? {});
    const example = content?.example === undefined ? '' : pre(content.example);
    return `<tr><td><code>${escapeHtml(status)}</code></td><td>${paragraphs(response.description)}${reference(content?.schema)}${example}</td></tr>`;
  });
  return `<details class="operation" id="${escapeHtml(operation.operationId)}"><summary><b class="${method.toLowerCase()}">${method}</b> <code>${escapeHtml(path)}</code> ${escapeHtml(operation.summary)}</summary>
${paragraphs(operation.description ?? '')}<p>Needs: ${scope}.</p>
${parameters.length === 0 ? '' : `<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>${parameters.join('')}</table>`}
${media === undefined ? '' : `<p>Body: ${reference(media.schema)}</p>${media.example === undefined ? '' : pre(media.example)}`}
<table><tr><th>status</th><th></th></tr>${responses.join('')}</table></details>`;
}

function renderErrors(): string {
  const rows = (Object.keys(ERRORS) as ErrorCode[]).map((code) => {
    const { status, retryable, cause, remedy } = errorDefinition(code);
    const again = retryable === 'get' ? 'GET only' : retryable ? 'yes' : 'no';
    return `<tr id="${code}"><td><code>${code}</code></td><td>${status}</td><td>${again}</td><td>${inline(cause)}</td><td>${inline(remedy)}</td></tr>`;
  });
  return `<table><tr><th>code</th><th>status</th><th>retryable</th><th>cause</th><th>remedy</th></tr>${rows.join('')}</table>`;
}

function reference(schema: JsonObject | undefined): string {
  const target = schema?.$ref;
  if (typeof target !== 'string') return schema?.description === undefined ? '' : inline(String(schema.description));
  const name = target.slice(target.lastIndexOf('/') + 1);
  return `<a href="#schema-${escapeHtml(name)}"><code>${escapeHtml(name)}</code></a>`;
}

function constraint(schema: JsonObject): string {
  const { type, minimum, maximum, enum: values } = schema;
  const words = [
    Array.isArray(values) ? values.join(' | ') : String(type ?? ''),
    minimum === undefined && maximum === undefined ? '' : `${String(minimum ?? '')}…${String(maximum ?? '')}`,
    schema.default === undefined ? '' : `default ${String(schema.default)}`,
  ];
  return escapeHtml(words.filter((word) => word !== '').join(', '));
}

function pre(value: unknown): string {
  return `<pre>${escapeHtml(JSON.stringify(value, undefined, 2))}</pre>`;
}

function paragraphs(text: string): string {
  return text === ''
    ? ''
    : text
        .split('\n\n')
        .map((part) => `<p>${inline(part)}</p>`)
        .join('');
}

/** Backticks become code; everything else is text. */
function inline(text: string): string {
  return escapeHtml(text).replace(/`([^`]+)`/g, '<code>$1</code>');
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}

const STYLE = `:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0}main{max-width:60rem;margin:0 auto;padding:1rem}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;padding:.75rem;border:1px solid #8884;border-radius:4px}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{text-align:left;vertical-align:top;padding:.25rem .5rem;border-top:1px solid #8884}
td p:first-child{margin-top:0}details.operation{border:1px solid #8884;border-radius:4px;padding:.25rem .75rem;margin:.5rem 0}
summary{cursor:pointer}summary b{display:inline-block;min-width:4rem}.get{color:#2b7}.post{color:#27c}.put{color:#b70}.delete{color:#c33}
nav a{margin-right:.75rem}small{opacity:.6}`;
