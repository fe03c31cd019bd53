// The page: the conversation in view, at most one answer being generated, and the list of conversations.

import { Answer, contextText } from './answer.js';
import { askKey, askSettings, confirmed, wireSettings } from './dialogs.js';
import { Follow } from './follow.js';
import * as settings from './settings.js';
import { Sidebar, wireTheme } from './sidebar.js';
import { local, session } from './storage.js';
import * as store from './store.js';
import { model as askModel } from './stream.js';
import { sends, Transcript } from './transcript.js';

const CURRENT = 'lapidary.current';
/** How often an unfinished answer is stored, in milliseconds. */
const SAVE_EVERY = 2000;
/** How much of a finished answer a screen reader reads aloud, in characters. */
const READ_ALOUD = 2000;
const COPIED = 'Another tab changed this conversation, so that it goes on here as a copy.';

const byId = (id) => document.getElementById(id);
const prompt = byId('prompt');

let model = null;
let current = store.read(session.get(CURRENT)) ?? store.create();
/** The answer that is being generated, and a promise that resolves when it ends. */
let answer = null;
let ended = Promise.resolve();
let saidNotLasting = false;
let savedAt = 0;
let drawing = false;
/** Whether the page is being closed. The browser then breaks the connection before it ends the page. */
let leaving = false;

const follow = new Follow(byId('log'), byId('to-end'));
const transcript = new Transcript(byId('messages'), { edit, retry, remove: removeExchange });
const sidebar = new Sidebar({ open, create: () => show(store.create()), rename, remove, imported });

// The conversation in view

function show(conversation) {
  current = conversation;
  session.set(CURRENT, current.id);
  draw();
  follow.toEnd();
  focusPrompt();
}

/** Focuses the message box, or the text where that would open an on-screen keyboard over half of the page. */
function focusPrompt() {
  const fine = window.matchMedia('(pointer: fine)').matches;
  (fine ? prompt : byId('messages')).focus({ preventScroll: true });
}

function open(id) {
  if (id === current.id) return;
  const conversation = answer?.conversation.id === id ? answer.conversation : store.read(id);
  if (conversation) show(conversation);
  else drawList();
}

function draw() {
  byId('welcome').hidden = current.messages.length > 0;
  transcript.show(current.messages, answer?.message);
  drawTitle();
  drawList();
  drawState();
}

function drawTitle() {
  const title = store.titleOf(current);
  byId('title').textContent = title;
  document.title = current.messages.length > 0 ? `${title} – Lapidary` : 'Lapidary';
}

function drawList() {
  const known = store.list();
  sidebar.show(known, current.id, answer?.conversation.id);
}

/** Updates the buttons and lines around the message box. */
function drawState() {
  byId('send').hidden = answer !== null;
  byId('stop').hidden = answer === null;
  const elsewhere = answer && answer.conversation !== current ? 'In another conversation: ' : '';
  byId('live').textContent = answer ? elsewhere + answer.progress : '';
  byId('keys').hidden = answer !== null;
  // An answer without text has no figures.
  const figures = current.messages.findLast(({ role, content }) => role === 'assistant' && content)?.figures;
  const known = figures?.used !== undefined;
  byId('context').hidden = !known;
  if (!known) return;
  byId('context-text').textContent = contextText(figures);
  byId('context-bar').hidden = !figures.context;
  byId('context-bar').value = figures.context ? Math.min(1, figures.used / figures.context) : 0;
}

/** Draws new text of the answer, at most once per frame. */
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!answer) return;
    transcript.update(answer.message, answer.message);
    drawState();
    follow.grown();
  });
}

// Storage

/** Stores a conversation, and tells the reader if that fails. */
function keep(conversation) {
  savedAt = performance.now();
  const { copied, lasting } = store.write(conversation);
  if (copied) {
    if (conversation === current) session.set(CURRENT, current.id);
    notify(COPIED);
    drawTitle();
    drawList();
  }
  if (lasting || saidNotLasting) return;
  saidNotLasting = true;
  notify(local.lasting
    ? 'The browser’s storage is full: what is new is gone when this page is closed. Export it, or delete old conversations.'
    : 'The browser keeps nothing for this page: conversations are gone when it is closed. Export what you need.');
}

/** Loads the conversation in view again if another tab has changed it. */
function refresh() {
  if (answer?.conversation === current || transcript.editing || current.revision === '') return;
  const stored = store.read(current.id);
  if (stored?.revision === current.revision) return;
  current = stored ?? store.create();
  session.set(CURRENT, current.id);
  draw();
  follow.grown();
}

function rename(id, title) {
  const conversation = id === current.id ? current : answer?.conversation.id === id ? answer.conversation : store.read(id);
  if (!conversation) return;
  conversation.title = title;
  conversation.named = true;
  keep(conversation);
  drawTitle();
  drawList();
}

function imported(text) {
  drawList();
  notify(text);
}

async function remove(id) {
  if (answer?.conversation.id === id) {
    answer.discarded = true;
    await stop();
  }
  store.remove(id);
  if (id === current.id) show(store.create());
  else drawList();
  announce('Conversation deleted.');
}

// Messages

function send() {
  const text = prompt.value.trim();
  if (!text) return;
  if (answer) {
    if (answer.conversation !== current) notify('Another conversation is being answered. Stop it, or wait until it is done.');
    return;
  }
  refresh();
  prompt.value = '';
  fit();
  current.messages.push({ role: 'user', content: text });
  begin();
}

/** Whether this message may be changed now. Stops an answer to this conversation that is being generated. */
async function free(message) {
  if (answer && answer.conversation !== current) {
    notify('Another conversation is being answered. Stop it, or wait until it is done.');
    return false;
  }
  if (answer) await stop();
  // Another action may have waited for the same and changed the conversation.
  return answer === null && current.messages.includes(message);
}

/** Replaces a message and what follows it. Returns whether that was possible. */
async function edit(message, content) {
  if (!(await free(message))) return false;
  current.messages.length = current.messages.indexOf(message);
  current.messages.push({ role: 'user', content });
  begin();
  return true;
}

async function retry(message) {
  const follows = current.messages.at(-1) !== message;
  if (follows && !(await confirmed('Answer again?', 'What follows this answer will be deleted.', 'Answer again'))) return;
  if (!(await free(message))) return;
  current.messages.length = current.messages.indexOf(message);
  begin(message);
}

async function removeExchange(message) {
  if (!(await confirmed('Delete this message?', 'Its answer is deleted with it.', 'Delete'))) return;
  if (!(await free(message))) return;
  const index = current.messages.indexOf(message);
  const count = current.messages[index + 1]?.role === 'assistant' ? 2 : 1;
  current.messages.splice(index, count);
  if (current.messages.length === 0 && !current.named) store.remove(current.id);
  else keep(current);
  if (current.messages.length === 0 && !current.named) show(store.create());
  else draw();
  announce('Message deleted.');
  focusPrompt();
}

// Answers

/** Requests an answer to the last message. `before` is the answer that it replaces. */
function begin(before = null) {
  const message = { role: 'assistant', content: '', state: 'unfinished' };
  const conversation = current;
  conversation.messages.push(message);
  conversation.updated = Date.now();
  answer = new Answer(conversation, message);
  answer.before = before;
  keep(conversation);
  draw();
  follow.toEnd();
  focusPrompt();
  announce('The model is answering.');
  ended = make(answer);
}

async function make(made) {
  const { conversation, message } = made;
  const ticking = setInterval(drawSoon, 1000);
  try {
    let again;
    do {
      if (!model) await connect();
      const body = settings.requestOf(conversation.messages.slice(0, -1), model?.id);
      const key = settings.apiKey();
      const status = made.stopped ? 0 : await made.run(body, key, model?.context, came);
      again = status === 401 && (await askKey(wantsKey(key)));
    } while (again);
    if (made.stopped) message.state = 'stopped';
  } finally {
    clearInterval(ticking);
    answer = null;
    finish(made);
  }
}

function came() {
  if (performance.now() - savedAt > SAVE_EVERY && !answer.discarded) keep(answer.conversation);
  drawSoon();
}

function finish({ conversation, message, before, discarded }) {
  if (discarded) return;
  if (leaving && message.state === 'broken') message.state = 'unfinished';
  const none = message.content === '' && message.state !== 'whole';
  if (none && before?.content) return restore(conversation, message, before);
  keep(conversation);
  transcript.update(message, null);
  follow.grown();
  drawList();
  drawState();
  if (conversation !== current) return announce('An answer in another conversation is done.');
  const said = transcript.textOf(message).slice(0, READ_ALOUD);
  const ends = { stopped: 'Stopped.', broken: 'The connection broke.', failed: message.problem };
  announce([said && `Answer: ${said}`, ends[message.state]].filter(Boolean).join(' '));
}

/** Puts the earlier answer back if the new one has no text. */
function restore(conversation, message, before) {
  conversation.messages.splice(conversation.messages.indexOf(message), 1, before);
  keep(conversation);
  if (!transcript.editing) draw();
  notify(`${message.problem ?? 'Nothing came.'} The answer that was there is kept.`);
}

async function stop() {
  answer?.stop();
  await ended;
}

// The server

function wantsKey(tried) {
  return tried ? 'The server does not take this key.' : 'This server answers only those who have a key.';
}

/** Asks the server for its model. The page also works if that fails. */
async function connect() {
  try {
    model = await askModel(settings.apiKey());
    byId('model').textContent = model.id;
  } catch (error) {
    byId('model').textContent = error.status === 401 ? 'An API key is wanted' : error.status ? error.message : 'Not connected';
    return error.status ?? 0;
  }
  return 200;
}

async function connectAtFirst() {
  const key = settings.apiKey();
  if ((await connect()) === 401 && (await askKey(wantsKey(key)))) await connectAtFirst();
}

// Messages to the reader

function notify(text) {
  byId('notice').firstElementChild.textContent = text;
  byId('notice').hidden = false;
  announce(text);
}

/** Has a screen reader read a text, even if it is the same as the last one. */
function announce(text) {
  const line = document.createElement('p');
  line.textContent = text;
  byId('announce').replaceChildren(line);
}

/** Makes the message box as high as its text, in browsers that cannot do so themselves. */
function fit() {
  if (CSS.supports('field-sizing', 'content')) return;
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight}px`;
}

function wire() {
  byId('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener('input', fit);
  prompt.addEventListener('keydown', (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    send();
  });
  byId('stop').addEventListener('click', async () => {
    await stop();
    focusPrompt();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !event.isComposing && !document.querySelector('dialog[open]')) stop();
  });
  byId('close-notice').addEventListener('click', () => {
    byId('notice').hidden = true;
    focusPrompt();
  });
  byId('open-settings').addEventListener('click', async () => {
    const values = await askSettings();
    if (values) notifyUnlessKept(settings.save(values));
  });
  wireSettings();
  wireTheme();
  store.onForeignChange(() => {
    refresh();
    drawList();
  });
  document.addEventListener('visibilitychange', refresh);
  window.addEventListener('beforeunload', () => {
    leaving = true;
    // It may also be a link that only downloads, and the page stays open.
    setTimeout(() => { leaving = false; }, 3000);
  });
  window.addEventListener('pagehide', () => {
    if (answer && !answer.discarded) keep(answer.conversation);
  });
}

function notifyUnlessKept(kept) {
  if (!kept) notify('The browser keeps nothing for this page: the settings hold until it is closed.');
  else announce('Settings saved.');
}

wire();
show(current);
connectAtFirst();
