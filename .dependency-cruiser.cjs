/** The directions in which code may know other code. `npm run check:imports` fails on the first import against them.
 *  Imports of types count: knowing a shape is knowing. TypeScript is parsed by swc, because TypeScript 7 has no interface for tools. */

const { readdirSync, readFileSync } = require('node:fs');
const path = require('node:path');
const { Visitor } = require('@swc/core/Visitor.js');

/** The tree walker that swc ships stops at declarations with `using`; it is told here that they are declarations like others. */
const visitStatement = Visitor.prototype.visitStatement;
Visitor.prototype.visitStatement = function (statement) {
  if (statement.type !== 'UsingDeclaration') return visitStatement.call(this, statement);
  statement.decls = this.visitVariableDeclarators(statement.decls);
  return statement;
};

/** Each package of libs, and the packages of libs that it may import. */
const LIBS = {
  protocol: [],
  runtime: ['protocol'],
  http: ['protocol'],
  redis: ['protocol'],
  telemetry: ['protocol', 'runtime', 'http'],
  device: ['protocol', 'redis'],
  routing: ['protocol', 'redis'],
  bus: ['protocol', 'redis'],
  lane: ['protocol', 'redis'],
  queue: ['protocol', 'redis'],
  timeline: ['protocol', 'redis'],
  sink: [],
  'sink-mqtt': ['sink'],
  'sink-nats': ['sink'],
  image: ['protocol'],
};

/** Third-party packages with one home. Test code and load generators may go around us on purpose, to be independent witnesses. */
const HOMES = {
  'uWebSockets.js': '^libs/http/',
  ioredis: '^libs/redis/',
  bullmq: '^libs/queue/',
  mqtt: '^libs/sink-mqtt/',
  '@nats-io': '^libs/sink-nats/',
  aws4fetch: '^libs/image/',
  'cron-parser': '^services/command/src/schedule/cron[.]ts$',
  pino: '^libs/telemetry/',
  'prom-client': '^libs/telemetry/',
};

/** What each package.json declares of our own packages; dependency-cruiser itself checks only packages of others. */
const PACKAGES = ['libs', 'services', 'test'].flatMap((group) =>
  readdirSync(path.join(__dirname, group)).map((name) => {
    const dir = `${group}/${name}`;
    const manifest = JSON.parse(readFileSync(path.join(__dirname, dir, 'package.json'), 'utf8'));
    return {
      dir,
      name: manifest.name,
      runtime: Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies }),
      tests: Object.keys(manifest.devDependencies ?? {}),
    };
  }),
);

const TEST_CODE = '([.]test[.]ts$|^test/|^libs/[^/]+/src/contract/)';
const TEST_CODE_IN_LIBS = '([.]test[.]ts$|/src/contract/)';

const layers = Object.entries(LIBS).map(([name, allowed]) => ({
  name: `lib-${name}`,
  comment: `libs/${name} may import ${allowed.length === 0 ? 'no other package of ours' : `only ${allowed.join(', ')} from libs`}.`,
  severity: 'error',
  from: { path: `^libs/${name}/`, pathNot: TEST_CODE },
  to: { path: '^(libs|services|test|scripts)/', pathNot: `^libs/(${[name, ...allowed].join('|')})/` },
}));

const homes = Object.entries(HOMES).map(([name, home]) => ({
  name: `home-of-${name}`,
  comment: `${name} has one home; everything else uses what that package exports.`,
  severity: 'error',
  from: { path: '^(libs|services)/', pathNot: [home, TEST_CODE] },
  to: { path: `^(node_modules|(libs|services|test)/[^/]+/node_modules)/${name.replace('.', '[.]')}(/|$)` },
}));

const dirsOf = (names) => PACKAGES.filter((each) => names.includes(each.name)).map((each) => each.dir);

const declared = PACKAGES.flatMap(({ dir, name, runtime, tests }) => {
  const rule = (suffix, from, names) => ({
    name: `declared-${dir.replace('/', '-')}${suffix}`,
    comment: `${dir}/package.json declares what this code imports of our packages${suffix ? ', for tests in devDependencies' : ''}.`,
    severity: 'error',
    from,
    to: { path: '^(libs|services|test)/[^/]+/', pathNot: `^(${dirsOf([name, ...names]).join('|')})/` },
  });
  return [
    rule('', { path: `^${dir}/`, pathNot: TEST_CODE_IN_LIBS }, runtime),
    rule('-tests', { path: `^${dir}/.*${TEST_CODE_IN_LIBS}` }, [...runtime, ...tests]),
  ];
});

module.exports = {
  forbidden: [
    ...layers,
    {
      name: 'lib-unlisted',
      comment: 'A new package of libs must say in this file what it may import.',
      severity: 'error',
      from: { path: '^libs/', pathNot: `^libs/(${Object.keys(LIBS).join('|')})/` },
      to: {},
    },
    ...homes,
    ...declared,
    {
      name: 'services-apart',
      comment: 'Services meet over Redis, never in code.',
      severity: 'error',
      from: { path: '^services/([^/]+)/' },
      to: { path: '^services/', pathNot: '^services/$1/' },
    },
    {
      name: 'edge-without-queue',
      comment: 'What stands between a device and its socket never waits for a queue; only command services know it.',
      severity: 'error',
      from: { path: '^services/edge/' },
      to: { path: '^libs/queue/' },
    },
    {
      name: 'services-without-test-code',
      comment: 'What is shipped does not know what tests it.',
      severity: 'error',
      from: { path: '^services/', pathNot: TEST_CODE },
      to: { path: '^(test|scripts)/' },
    },
    {
      name: 'libs-below-services',
      comment: 'Imports point from services to libs; this holds for the tests of libs too.',
      severity: 'error',
      from: { path: '^libs/' },
      to: { path: '^services/' },
    },
    {
      name: 'lib-tests-know-fixture-only',
      comment: 'Tests of libs stand on test/fixture, not on the simulated fleet or on other tests.',
      severity: 'error',
      from: { path: '^libs/' },
      to: { path: '^test/', pathNot: '^test/fixture/' },
    },
    {
      name: 'witnesses-stay-independent',
      comment:
        'The simulated devices and the fixture do not share code with what they test: a shared mistake would go unseen.',
      severity: 'error',
      from: { path: '^test/(fleet|fixture)/' },
      to: { path: '^(libs|services)/' },
    },
    {
      name: 'through-the-front-door',
      comment: 'Another package is imported by its name, which leads to what it exports, never by a path into it.',
      severity: 'error',
      from: { path: '^((?:libs|services|test)/[^/]+)/' },
      to: { path: '^(libs|services|test)/', pathNot: '^$1/', dependencyTypes: ['local'] },
    },
    {
      name: 'no-test-in-product',
      comment: 'Only tests import tests.',
      severity: 'error',
      from: { pathNot: '[.]test[.]ts$' },
      to: { path: '[.]test[.]ts$' },
    },
    {
      name: 'declared',
      comment:
        'A package that is imported is declared in the package.json next to the code; product code declares it as a dependency.',
      severity: 'error',
      from: { pathNot: TEST_CODE },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown', 'npm-dev', 'npm-bundled'] },
    },
    {
      name: 'declared-for-tests',
      comment:
        'Tests may import what is declared in their package.json, and vitest and fast-check, which the root declares for all.',
      severity: 'error',
      from: { path: TEST_CODE },
      to: {
        dependencyTypes: ['npm-no-pkg', 'npm-unknown', 'npm-bundled'],
        pathNot: '^node_modules/(vitest|fast-check)/',
      },
    },
    {
      name: 'resolvable',
      comment: 'Every import leads somewhere.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'no-circle',
      comment:
        'Modules that need each other are one module, or a third one is missing. Types alone may refer to each other.',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'no-orphan',
      comment: 'A file that nobody imports and that imports nothing is left over.',
      severity: 'error',
      from: { orphan: true, pathNot: ['[.]d[.]ts$', '/src/(main|index)[.]ts$', '[.]test[.]ts$', '^test/e2e/client/'] },
      to: {},
    },
  ],
  options: {
    parser: 'swc',
    doNotFollow: { path: 'node_modules' },
    // Only ours: many packages of others live in their dist.
    exclude: { path: ['^(libs|services|test)/[^/]+/dist/', '^coverage/'] },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['source', 'import', 'node', 'default'],
      extensions: ['.ts', '.js', '.mjs', '.cjs'],
      mainFields: ['module', 'main'],
    },
  },
};
