// The node's metrics: read from their text, and what two scrapes say of the time between them.

const WANTED = /^tally_(request_duration_seconds_bucket|hot_item_operations_per_second)\{/;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\.)*)"/g;

const unescaped = text => text.replace(/\\(.)/g, (_, letter) => (letter === 'n' ? '\n' : letter));

// What of a scrape is shown: { at, methods: method → { buckets: le → count, count, notOk }, hot: [{ kind, item, rate }] }.
// The text has cumulative counts, and leaves out bounds at which nothing is added; here each bucket has its own count, so
// that those of several series can be added up.
export function scraped(text, at) {
  const methods = new Map(), hot = [];
  let series = '', below = 0;
  for (const line of text.split('\n')) {
    if (!WANTED.test(line)) continue;
    const end = line.lastIndexOf(' ');
    const labels = {};
    for (const [, name, value] of line.slice(0, end).matchAll(LABEL)) labels[name] = unescaped(value);
    const value = Number(line.slice(end + 1));
    if (labels.le === undefined) { hot.push({ kind: labels.kind, item: labels.item, rate: value }); continue; }
    const { le, ...rest } = labels;
    const key = JSON.stringify(rest);
    if (key !== series) [series, below] = [key, 0];
    let method = methods.get(labels.method);
    if (!method) methods.set(labels.method, method = { buckets: new Map(), count: 0, notOk: 0 });
    const bound = le === '+Inf' ? Infinity : Number(le);
    method.buckets.set(bound, (method.buckets.get(bound) ?? 0) + value - below);
    method.count += value - below;
    if (labels.outcome !== 'ok') method.notOk += value - below;
    below = value;
  }
  return { at, methods, hot };
}

// Requests of one node between two scrapes: method → { count, notOk, buckets }. Counters begin at 0 with a process:
// where one fell, the node was started anew, and everything since is new.
function between(older, newer) {
  const found = new Map();
  const fell = [...older.methods].some(([name, before]) => before.count > (newer.methods.get(name)?.count ?? 0));
  for (const [name, now] of newer.methods) {
    const before = fell ? undefined : older.methods.get(name);
    const buckets = new Map([...now.buckets].map(([le, count]) => [le, count - (before?.buckets.get(le) ?? 0)]));
    found.set(name, { count: now.count - (before?.count ?? 0), notOk: now.notOk - (before?.notOk ?? 0), buckets });
  }
  return found;
}

// The upper bound of the bucket that holds the quantile, in seconds.
function quantile(buckets, share) {
  const sorted = [...buckets].sort((one, other) => one[0] - other[0]);
  const wanted = Math.max(1, Math.ceil(share * sorted.reduce((sum, [, count]) => sum + count, 0)));
  let below = 0;
  for (const [le, count] of sorted) if ((below += count) >= wanted) return le;
  return Infinity;
}

// Rates by method, of several nodes together: each a pair of scrapes.
export function rates(pairs) {
  const sums = new Map();
  let seconds = 0;
  for (const [older, newer] of pairs) {
    const took = (newer.at - older.at) / 1000;
    if (took <= 0) continue;
    seconds = Math.max(seconds, took);
    for (const [name, { count, notOk, buckets }] of between(older, newer)) {
      if (count <= 0) continue;
      let sum = sums.get(name);
      if (!sum) sums.set(name, sum = { rate: 0, notOk: 0, buckets: new Map() });
      sum.rate += count / took;
      sum.notOk += notOk / took;
      for (const [le, each] of buckets) sum.buckets.set(le, (sum.buckets.get(le) ?? 0) + each);
    }
  }
  const rows = [...sums].map(([method, { rate, notOk, buckets }]) => ({ method, rate, notOk, p50: quantile(buckets, .5), p99: quantile(buckets, .99) }));
  rows.sort((one, other) => other.rate - one.rate || (one.method < other.method ? -1 : 1));
  return { seconds, total: rows.reduce((sum, row) => sum + row.rate, 0), rows };
}

// The hottest items of several nodes together.
export function hottest(scrapes) {
  const sums = new Map();
  for (const { hot } of scrapes) for (const { kind, item, rate } of hot) {
    const key = JSON.stringify([kind, item]);
    sums.set(key, { kind, item, rate: (sums.get(key)?.rate ?? 0) + rate });
  }
  return [...sums.values()].sort((one, other) => other.rate - one.rate).slice(0, 10);
}
