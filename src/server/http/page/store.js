// Conversations in the browser's storage. Each has an entry of its own and there is no list, so that two tabs
// never overwrite each other's changes. Each write has a new `revision`. If the stored revision is not the one
// that a tab has, another tab has written since, and the conversation becomes a copy.

import { local } from './storage.js';

const PREFIX = 'lapidary.conversation.';
const FORMAT = 'lapidary.conversations';
const TITLE_LENGTH = 60;
const STATES = ['whole', 'stopped', 'broken', 'failed', 'unfinished'];

/** Replaces crypto.randomUUID, which browsers provide only for https and localhost. */
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A new conversation. It is stored by `write`. */
export function create() {
  const now = Date.now();
  return { id: randomId(), title: '', named: false, created: now, updated: now, revision: '', messages: [] };
}

/** The conversation's name, or its first line if it has no name. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages.find((message) => message.role === 'user');
  const line = first?.content.trim().split('\n', 1)[0].replace(/\s+/g, ' ') ?? '';
  if (!line) return 'New conversation';
  const characters = [...line];
  return characters.length > TITLE_LENGTH ? characters.slice(0, TITLE_LENGTH - 1).join('').trimEnd() + '…' : line;
}

/** Returns `null` if it is not stored, or if the entry is not a valid conversation. */
export function read(id) {
  return parse(local.get(PREFIX + id));
}

/** All conversations, the latest first. */
export function list() {
  return local.keys(PREFIX)
    .map((key) => parse(local.get(key)))
    .filter((conversation) => conversation !== null)
    .sort((a, b) => b.updated - a.updated || (a.id < b.id ? -1 : 1));
}

/**
 * Stores the conversation under a new revision. Returns `copied`: another tab had changed it, so it was stored
 * as a new conversation; and `lasting`: it is kept after the page is closed.
 */
export function write(conversation) {
  const stored = read(conversation.id);
  const copied = stored !== null && stored.revision !== conversation.revision;
  if (copied) {
    conversation.title = `${titleOf(conversation)} (copy)`;
    conversation.id = randomId();
  }
  conversation.revision = randomId();
  const lasting = local.set(PREFIX + conversation.id, JSON.stringify(conversation));
  return { copied, lasting };
}

export function remove(id) {
  local.remove(PREFIX + id);
}

/** Calls back with the id of a conversation that another tab has changed, or `null` if any may have changed. */
export function onForeignChange(callback) {
  window.addEventListener('storage', ({ key, storageArea }) => {
    // Where localStorage is forbidden, accessing it throws; but then there are no such events.
    if (storageArea !== window.localStorage) return;
    if (key === null) callback(null);
    else if (key.startsWith(PREFIX)) callback(key.slice(PREFIX.length));
  });
}

/** The contents of an export file. */
export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/**
 * Stores the conversations of an export file. Those that exist unchanged are skipped; those that exist with
 * other contents become second conversations.
 */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('This file is no JSON.');
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error('This file has no conversations of Lapidary.');
  }
  const counts = { added: 0, known: 0, refused: 0, lasting: true };
  for (const entry of file.conversations) {
    const conversation = checked(entry);
    if (!conversation) {
      counts.refused += 1;
      continue;
    }
    const stored = read(conversation.id);
    if (stored && JSON.stringify(stored.messages) === JSON.stringify(conversation.messages)) {
      counts.known += 1;
      continue;
    }
    if (stored) conversation.id = randomId();
    counts.lasting = write(conversation).lasting && counts.lasting;
    counts.added += 1;
  }
  return counts;
}

function parse(text) {
  if (text === null) return null;
  try {
    return checked(JSON.parse(text));
  } catch {
    return null;
  }
}

/** Validates a conversation from storage or a file, and drops unknown fields. Returns `null` if it is invalid. */
function checked(value) {
  if (typeof value !== 'object' || value === null) return null;
  const { id, title, named, created, updated, revision, messages } = value;
  if (typeof id !== 'string' || !/^[0-9a-f]{8,64}$/.test(id) || !Array.isArray(messages)) return null;
  const kept = messages.map(checkedMessage);
  if (kept.includes(null)) return null;
  return {
    id,
    title: typeof title === 'string' ? title.slice(0, 200) : '',
    named: named === true,
    created: Number.isFinite(created) ? created : 0,
    updated: Number.isFinite(updated) ? updated : 0,
    revision: typeof revision === 'string' ? revision : '',
    messages: kept,
  };
}

function checkedMessage(value) {
  if (typeof value?.content !== 'string') return null;
  if (value.role === 'user') return { role: 'user', content: value.content };
  if (value.role !== 'assistant') return null;
  const message = { role: 'assistant', content: value.content, state: STATES.includes(value.state) ? value.state : 'whole' };
  if (typeof value.problem === 'string') message.problem = value.problem;
  if (value.finish === 'length') message.finish = 'length';
  if (typeof value.figures === 'object' && value.figures !== null) {
    message.figures = {};
    for (const name of ['tokens', 'perSecond', 'used', 'context']) {
      if (Number.isFinite(value.figures[name])) message.figures[name] = value.figures[name];
    }
  }
  return message;
}
