// How the node is asked.

const PATIENCE_MS = 12000;
export const TOKEN = 'tally-console-token';

export class Refused extends Error {
  constructor(status, body) {
    const { reason, message } = body.refused;
    super(`${reason}: ${message}`);
    this.status = status;
    this.body = body;
  }
}
/** Who asks has changed meanwhile: what came is not for whoever looks now. */
export class Outdated extends Error {}
let era = 0;
export function asksAnew() { era += 1; }
// As text.
export async function asked(path, method = 'GET') {
  const headers = {}, of = era;
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (method === 'PUT') headers['x-tally-console'] = '1';
  let response, text;
  try {
    response = await fetch(path, { method, headers, cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(PATIENCE_MS) });
    text = await response.text();
  } catch {
    throw new Error('the node does not answer');
  }
  if (of !== era) throw new Outdated('who asks has changed: ask again');
  if (response.ok) return text;
  let body;
  try { body = JSON.parse(text); } catch { body = {}; }
  body.refused ??= { reason: `HTTP ${response.status}`, message: text.trim() };
  throw new Refused(response.status, body);
}
export const ask = async (path, method) => JSON.parse(await asked(path, method));
