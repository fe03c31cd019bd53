// Questions to the reader. Each is a promise of what was answered, `null` for a dialog that was left.

import { apiKey, collect, fill, keyIsRemembered, setApiKey, settings } from './settings.js';

const byId = (id) => document.getElementById(id);

/** Opens a dialog; `answer` makes its answer out of the form when that is sent. */
function ask(id, answer) {
  const dialog = byId(id);
  const form = dialog.querySelector('form');
  let result = null;
  return new Promise((resolve) => {
    const submit = (event) => {
      // Sending a form is closing the dialog and nothing else.
      event.preventDefault();
      result = answer(form);
      dialog.close();
    };
    const leave = (event) => {
      if (event.target.closest('[data-close]')) dialog.close();
    };
    form.addEventListener('submit', submit);
    dialog.addEventListener('click', leave);
    dialog.addEventListener('close', () => {
      form.removeEventListener('submit', submit);
      dialog.removeEventListener('click', leave);
      resolve(result);
    }, { once: true });
    dialog.showModal();
  });
}

/** Whether the reader wants what `action` says. */
export async function confirmed(title, text, action) {
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-do').textContent = action;
  return (await ask('confirm', () => true)) === true;
}

/** A new name. */
export function askName(name) {
  const input = byId('rename').querySelector('input');
  input.value = name;
  const asked = ask('rename', () => input.value.trim() || null);
  input.select();
  return asked;
}

let asking = null;

/** Asks for the API key and keeps it. Whether there is one now. */
export function askKey(reason) {
  asking ??= askKeyOnce(reason).finally(() => { asking = null; });
  return asking;
}

async function askKeyOnce(reason) {
  const { elements } = byId('key').querySelector('form');
  byId('key-text').textContent = reason;
  elements.key.value = '';
  elements.remember.checked = keyIsRemembered();
  const given = await ask('key', () => ({ key: visible(elements.key.value), remember: elements.remember.checked }));
  if (given === null) return false;
  setApiKey(given.key, given.remember);
  return given.key !== '';
}

/** The settings as they are to be. */
export function askSettings() {
  const form = byId('settings').querySelector('form');
  fill(form, settings());
  showKeyState();
  return ask('settings', collect);
}

/** What the settings' own buttons do. */
export function wireSettings() {
  const form = byId('settings').querySelector('form');
  byId('reset-settings').addEventListener('click', () => {
    fill(form, {});
    form.elements.system.focus();
  });
  byId('change-key').addEventListener('click', async () => {
    await askKey('Some servers answer only those who have a key. Leave it empty to forget the one that is kept.');
    showKeyState();
  });
}

function showKeyState() {
  byId('key-state').textContent = !apiKey() ? 'none is kept' : keyIsRemembered() ? 'kept on this device' : 'kept until this tab is closed';
}

/** A key as a header can hold it: without what a paste may bring along unseen. */
function visible(key) {
  return key.replace(/[^\x21-\x7e]/g, '');
}
