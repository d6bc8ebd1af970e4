/** `npm test`: everything that must hold before a change is taken, in one command, on a machine that may have nothing installed yet.
 *  `npm test -- unit lint` runs only the named stages.
 *
 *  One line per stage with its time; the output of a stage only when it fails. The last line is `N passed, N failed`: tests that passed, and
 *  tests and other stages that failed. Exit code 0 only when nothing failed. A failed stage does not stop the later ones, except those that
 *  need its result. What a stage started is ended with it; the reaper does it when this process is killed. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Child, tellExit } from './lib/child.mjs';
import { makeDataDir } from './lib/kept.mjs';
import { nodeBinary, requireScriptNode, toolEnvironment } from './lib/node-binary.mjs';
import { ensurePackages } from './lib/packages.mjs';
import { forgetDir, guardDir } from './lib/reaper.mjs';
import { ensureRedisBinary } from './lib/redis.mjs';
import { Obstacle, Stopped, stopOnSignals, throwIfStopped } from './lib/stop.mjs';
import { ensureTestServers } from './lib/test-servers.mjs';
import { countTests } from './lib/vitest-report.mjs';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const DATA_DIR = path.join(ROOT, '.lapi');
const STAGE_MS = 20 * 60_000;
const SHOWN_LINES = 200;

/** @typedef {{ name: string, script: string, about: string, tests?: boolean, needs?: string }} Stage
 *  `script`: of package.json. `needs`: a stage whose result it uses. */

/** @type {readonly Stage[]} */
const STAGES = [
  { name: 'format', script: 'check:format', about: 'every file is formatted' },
  { name: 'lint', script: 'check:lint', about: 'no mistakes that a linter can see' },
  { name: 'types', script: 'check:types', about: 'everything fits together' },
  { name: 'imports', script: 'check:imports', about: 'imports point the right way' },
  { name: 'lock', script: 'check:lock', about: 'package-lock.json installs on every platform' },
  { name: 'build', script: 'build', about: 'every package compiles' },
  { name: 'unit', script: 'test:unit', about: 'pure code', tests: true },
  { name: 'contract', script: 'test:contract', about: 'ports on memory and on real Redis', tests: true },
  { name: 'e2e', script: 'test:e2e', about: 'stories on real processes', tests: true, needs: 'build' },
];

/** @param {string} line */
function say(line) {
  process.stdout.write(`${line}\n`);
}

/** @param {string[]} names
 *  @returns {Stage[]} in their order, with what they need */
function chosen(names) {
  const unknown = names.filter((name) => !STAGES.some((stage) => stage.name === name));
  if (unknown.length > 0) {
    throw new Obstacle(
      `There is no stage ${unknown.join(', ')}. Stages:\n${STAGES.map(({ name, about }) => `  ${name.padEnd(9)} ${about}`).join('\n')}`,
    );
  }
  if (names.length === 0) return [...STAGES];
  const wanted = new Set(names);
  for (const { name, needs } of STAGES) if (wanted.has(name) && needs !== undefined) wanted.add(needs);
  return STAGES.filter((stage) => wanted.has(stage.name));
}

/** @param {Stage} stage
 *  @param {{ node: string, env: NodeJS.ProcessEnv, signal: AbortSignal, reportDir: string }} context
 *  @returns {Promise<import('./lib/vitest-report.mjs').Count & { ok: boolean }>} */
async function runStage({ name, script, tests = false }, { node, env, signal, reportDir }) {
  const report = path.join(reportDir, `${name}.json`);
  const extra = tests
    ? ['--', '--allowOnly=false', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    : [];
  const began = performance.now();
  const child = new Child({ name, command: node, args: ['--run', script, ...extra], cwd: ROOT, env });
  const onAbort = () => void child.stop(5_000);
  signal.addEventListener('abort', onAbort, { once: true });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill();
  }, STAGE_MS);
  const exit = await child.exited;
  clearTimeout(timer);
  signal.removeEventListener('abort', onAbort);
  throwIfStopped(signal);

  const ok = exit.code === 0;
  const count = tests
    ? countTests(existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : undefined, exit.code)
    : { passed: 0, failed: ok ? 0 : 1, skipped: 0 };
  const seconds = ((performance.now() - began) / 1_000).toFixed(1).padStart(6);
  const counted = tests
    ? `  ${count.passed} passed${count.failed > 0 ? `, ${count.failed} failed` : ''}${count.skipped > 0 ? `, ${count.skipped} skipped` : ''}`
    : '';
  say(`${ok ? 'ok    ' : 'FAILED'} ${name.padEnd(9)}${seconds} s${counted}`);
  if (!ok) {
    const how = late ? `was ended after ${STAGE_MS / 60_000} minutes` : tellExit(exit);
    say(`${child.lastLines(SHOWN_LINES).join('\n')}\n(${name} ${how}; alone: npm test -- ${name})\n`);
  }
  return { ...count, ok };
}

/** @param {string[]} names
 *  @param {AbortSignal} signal
 *  @returns {Promise<boolean>} true when nothing failed */
async function run(names, signal) {
  requireScriptNode();
  const stages = chosen(names);
  await ensurePackages({ root: ROOT, install: true, say, signal });
  const node = nodeBinary(ROOT);
  const env = { ...toolEnvironment(ROOT, node, process.env), NO_COLOR: '1', FORCE_COLOR: undefined };
  if (stages.some((stage) => stage.tests)) {
    makeDataDir(DATA_DIR);
    Object.assign(env, {
      LAPI_REDIS_SERVER: await ensureRedisBinary({ dataDir: DATA_DIR, install: true, say, signal }),
    });
    await ensureTestServers({ say, signal });
  }
  const reportDir = mkdtempSync(path.join(tmpdir(), 'lapi-test-'));
  guardDir(reportDir);
  const total = { passed: 0, failed: 0 };
  /** @type {Set<string>} */
  const broken = new Set();
  try {
    for (const stage of stages) {
      if (stage.needs !== undefined && broken.has(stage.needs)) {
        say(`FAILED ${stage.name.padEnd(9)}      not run, because ${stage.needs} failed`);
        total.failed += 1;
        continue;
      }
      const { passed, failed, ok } = await runStage(stage, { node, env, signal, reportDir });
      total.passed += passed;
      total.failed += failed;
      if (!ok) broken.add(stage.name);
    }
  } finally {
    rmSync(reportDir, { recursive: true, force: true });
    forgetDir(reportDir);
  }
  say(`${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0;
}

const signal = stopOnSignals({ onFirst: () => say('Stopping …'), kill: () => {} });
try {
  const good = await run(process.argv.slice(2), signal);
  process.exitCode = good ? 0 : 1;
} catch (error) {
  if (error instanceof Stopped) process.exit(130);
  process.stderr.write(
    error instanceof Obstacle ? `${error.message}\n` : `${error instanceof Error ? error.stack : error}\n`,
  );
  process.exit(1);
}
