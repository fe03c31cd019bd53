// The reader's settings: how answers are generated, and the API key. The server decides about empty settings.

import { local, session } from './storage.js';

const SETTINGS = 'lapidary.settings';
const KEY = 'lapidary.key';
const NUMBERS = ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed'];

/** Returns `{system, …}` with those numbers that are set. */
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

/** Returns whether the settings were stored. */
export function save(values) {
  return local.set(SETTINGS, JSON.stringify(values));
}

/** Shows `values` in the form. */
export function fill(form, values) {
  form.elements.system.value = values.system ?? '';
  for (const name of NUMBERS) form.elements[name].value = values[name] ?? '';
}

/** Reads the values from the form. */
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
    // Answers without text are left out, and messages that thereby follow each other are joined: templates
    // require the roles to alternate.
    if (role === 'assistant' && !content) continue;
    const last = turns.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else turns.push({ role, content });
  }
  return { ...(model && { model }), messages: turns, ...numbers };
}

/** The API key, or an empty string. */
export function apiKey() {
  return session.get(KEY) ?? local.get(KEY) ?? '';
}

/** Stores the key; an empty key removes it. Returns whether it was stored as asked. */
export function setApiKey(key, remember) {
  session.remove(KEY);
  local.remove(KEY);
  return key === '' || (remember ? local : session).set(KEY, key);
}

/** Whether the key is kept after this tab is closed. */
export function keyIsRemembered() {
  return local.get(KEY) !== null;
}
