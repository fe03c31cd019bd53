// What the reader has set: how answers are made, and the key. An empty setting is the server's to choose.

import { local, session } from './storage.js';

const SETTINGS = 'lapidary.settings';
const KEY = 'lapidary.key';
const NUMBERS = ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed'];

/** `{system, …}`, of the numbers only those that are set. */
export function settings() {
  let stored;
  try {
    stored = JSON.parse(local.get(SETTINGS)) ?? {};
  } catch {
    stored = {};
  }
  const known = { system: typeof stored.system === 'string' ? stored.system : '' };
  for (const name of NUMBERS) if (Number.isFinite(stored[name])) known[name] = stored[name];
  return known;
}

/** Whether they were kept. */
export function save(values) {
  return local.set(SETTINGS, JSON.stringify(values));
}

/** Shows `values` in the form. */
export function fill(form, values) {
  form.elements.system.value = values.system ?? '';
  for (const name of NUMBERS) form.elements[name].value = values[name] ?? '';
}

/** What the form says. */
export function collect(form) {
  const values = { system: form.elements.system.value };
  for (const name of NUMBERS) {
    const number = form.elements[name].valueAsNumber;
    if (Number.isFinite(number)) values[name] = number;
  }
  return values;
}

/** The body of a request for the answer to `messages`. */
export function requestOf(messages, model) {
  const { system, ...numbers } = settings();
  const turns = system.trim() ? [{ role: 'system', content: system }] : [];
  for (const { role, content } of messages) {
    // An answer of which nothing came is left out, and questions that meet thereby become one: templates
    // want the roles to take turns.
    if (role === 'assistant' && !content) continue;
    const last = turns.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else turns.push({ role, content });
  }
  return { ...(model && { model }), messages: turns, ...numbers };
}

/** The API key, or an empty text. */
export function apiKey() {
  return session.get(KEY) ?? local.get(KEY) ?? '';
}

/** Takes an empty key for none. Returns whether it was kept as asked. */
export function setApiKey(key, remember) {
  session.remove(KEY);
  local.remove(KEY);
  return key === '' || (remember ? local : session).set(KEY, key);
}

/** Whether the key outlives this tab. */
export function keyIsRemembered() {
  return local.get(KEY) !== null;
}
