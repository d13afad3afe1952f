// The recording that the page holds. Its format is told in client/player/src/lib.rs.

export async function unpack(page, id) {
  const element = page.getElementById(id);
  if (!element) return null;
  const packed = atob(element.textContent);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).json();
}

export const head = await unpack(document, 'head');
export const end = head.lasted_ms;

// What is in windows, each read when it is first shown.
const windows = new Map();
export function windowAt(number) {
  if (number < 0 || number * head.window_ms > end) return null;
  const known = windows.get(number);
  if (known) return known.data;
  const entry = { data: null };
  windows.set(number, entry);
  unpack(document, `window-${number}`).then(data => {
    if (data) {
      const from = number * head.window_ms;
      for (const operation of data.operations) { operation.from = from + operation.call; operation.to = operation.took === null ? Infinity : operation.from + operation.took; }
      for (const message of data.messages) message[2] += from;
      data.byNode = new Map();
      for (const [ms, node, ...log] of data.logs) {
        if (!data.byNode.has(node)) data.byNode.set(node, []);
        data.byNode.get(node).push([from + ms, ...log]);
      }
    }
    entry.data = data;
    dispatchEvent(new Event('window-read'));
  });
  return null;
}
export const numberOf = ms => Math.floor(Math.max(0, Math.min(ms, end)) / head.window_ms);
export function* windowsIn(from, to) {
  // A call may have begun in the window before.
  for (let number = numberOf(from) - 1; number <= numberOf(to); number++) {
    const data = windowAt(number);
    if (data) yield data;
  }
}

// The index of the last entry whose time (by `ms`) is not after t; -1 if there is none.
export function lastBefore(list, t, ms = entry => entry[0]) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ms(list[middle]) <= t) low = middle + 1; else high = middle;
  }
  return low - 1;
}

export const rolesOf = new Map(head.nodes.map(node => [node, head.roles.filter(role => role[1] === node)]));
export const roleAt = (node, t) => { const list = rolesOf.get(node); const at = lastBefore(list, t); return at < 0 ? null : { role: list[at][2], term: list[at][3] }; };
export const logAt = (node, t) => {
  const list = windowAt(numberOf(t))?.byNode.get(node);
  if (!list) return null;
  const at = lastBefore(list, t);
  return at < 0 ? null : list[at].slice(1);
};
export const cutsAt = t => { const at = lastBefore(head.cuts, t); return at < 0 ? [] : head.cuts[at][1]; };
export const isResting = role => !role || ['down', 'stopped', 'failed', 'starting', 'paused'].includes(role.role);
