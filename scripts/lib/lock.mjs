/** Answers "can `npm ci` install this package-lock.json on every platform, from the public registry?". Pure.
 *
 *  npm writes a lock on one platform and leaves out, without a word, optional packages of other platforms that the registry did not have at
 *  that moment; `npm ci` on those platforms then fails or installs a tool without its program. So every package that anything names must have
 *  an entry, of the named version, with a checksum. Addresses may be left out (any registry serves them then), but must not name another
 *  registry than the public one. And, as `npm ci` demands, the lock must agree with every package.json. */

/** @typedef {import('./packages.mjs').Lock} Lock */
/** @typedef {import('./packages.mjs').LockEntry & { name?: string, devDependencies?: Record<string, string>, peerDependencies?: Record<string, string> }} Entry */
/** @typedef {{ dependencies?: Record<string, string>, devDependencies?: Record<string, string>, optionalDependencies?: Record<string, string>,
 *    version?: string, name?: string }} Manifest */

const REGISTRY = 'https://registry.npmjs.org/';
const KINDS = /** @type {const} */ (['dependencies', 'devDependencies', 'optionalDependencies']);

/** Where Node would find the package from there: the nearest node_modules, going up.
 *  @param {Record<string, Entry>} packages
 *  @param {string} from key of the package that names it
 *  @param {string} name
 *  @returns {{ where: string, entry: Entry } | undefined} */
function find(packages, from, name) {
  for (let dir = from; ; dir = dir.replace(/(^|\/)[^/]*$/, '')) {
    if (!dir.endsWith('node_modules')) {
      const where = dir === '' ? `node_modules/${name}` : `${dir}/node_modules/${name}`;
      const entry = packages[where];
      if (entry !== undefined) return { where, entry };
    }
    if (dir === '') return undefined;
  }
}

/** @param {string} spec `1.2.3`, `npm:other@1.2.3`, or a range
 *  @returns {{ name: string | undefined, version: string | undefined }} version only when the spec leaves no choice */
export function exactSpec(spec) {
  const alias = /^npm:(@?[^@]+)@(.+)$/.exec(spec);
  const version = alias?.[2] ?? spec;
  return { name: alias?.[1], version: /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version) ? version : undefined };
}

/** @param {Record<string, Entry>} packages
 *  @param {string} from
 *  @param {string} name
 *  @param {string} spec
 *  @returns {string | undefined} */
function judgeNamed(packages, from, name, spec) {
  const holder = from === '' ? 'package.json' : from;
  const found = find(packages, from, name);
  if (found === undefined) return `${holder} names ${name}@${spec}, but the lock has no entry for it`;
  const { entry, where } = found;
  if (entry.link) return undefined;
  const exact = exactSpec(spec);
  if (exact.version !== undefined && entry.version !== exact.version) {
    return `${holder} names ${name}@${spec}, but ${where} in the lock is ${entry.version}`;
  }
  if (exact.name !== undefined && entry.name !== exact.name) {
    return `${holder} names ${name} as ${exact.name}, but ${where} in the lock is ${entry.name ?? name}`;
  }
  return undefined;
}

/** @param {string} where
 *  @param {Entry} entry
 *  @returns {string[]} */
function judgeEntry(where, { version, integrity, resolved, inBundle, link }) {
  /** @type {string[]} */
  const problems = [];
  if (link || inBundle) return problems;
  if (version === undefined) problems.push(`${where} has no version`);
  if (integrity === undefined)
    problems.push(`${where} has no integrity: nothing proves that what is installed is what was tested`);
  else if (!/^sha512-/.test(integrity)) problems.push(`${where} has a weak integrity (${integrity.split('-')[0]})`);
  if (resolved !== undefined && !resolved.startsWith(REGISTRY)) {
    problems.push(
      `${where} comes from ${resolved
        .replace(/^(\w+:\/\/)[^@/]*@/, '$1')
        .split('/')
        .slice(0, 3)
        .join('/')}, not from ${REGISTRY}`,
    );
  }
  return problems;
}

/** @param {string} where
 *  @param {Entry | undefined} entry
 *  @param {Manifest} manifest
 *  @returns {string[]} */
function judgeManifest(where, entry, manifest) {
  const file = where === '' ? 'package.json' : `${where}/package.json`;
  if (entry === undefined) return [`${file} is not in the lock`];
  const problems = [];
  for (const kind of KINDS) {
    const declared = manifest[kind] ?? {};
    const locked = entry[kind] ?? {};
    for (const name of new Set([...Object.keys(declared), ...Object.keys(locked)])) {
      if (declared[name] === locked[name]) continue;
      problems.push(
        `${file} says ${kind} ${name}@${declared[name] ?? 'none'}, the lock says ${locked[name] ?? 'none'}`,
      );
    }
  }
  return problems;
}

/** @param {Lock} lock
 *  @param {Record<string, Manifest>} manifests by directory; `''` is the root
 *  @returns {string[]} problems; empty = complete */
export function judgeLock(lock, manifests) {
  const packages = /** @type {Record<string, Entry>} */ (lock.packages ?? {});
  if (lock.lockfileVersion !== 3) return [`lockfileVersion is ${lock.lockfileVersion}; 3 is expected`];
  const problems = Object.entries(manifests).flatMap(([where, manifest]) =>
    judgeManifest(where, packages[where], manifest),
  );
  for (const [where, entry] of Object.entries(packages)) {
    const ours = !where.includes('node_modules/');
    if (ours && manifests[where] === undefined) problems.push(`the lock has a package ${where}, but there is none`);
    if (!ours) problems.push(...judgeEntry(where, entry));
    const named = { ...entry.dependencies, ...entry.optionalDependencies, ...(ours ? entry.devDependencies : {}) };
    for (const [name, spec] of Object.entries(named)) {
      const problem = judgeNamed(packages, where, name, spec);
      if (problem !== undefined) problems.push(problem);
    }
  }
  return problems;
}
