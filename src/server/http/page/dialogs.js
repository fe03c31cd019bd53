// Dialogs. Each function returns a promise of the answer, which is `null` if the dialog was closed.

import { apiKey, collect, fill, keyIsRemembered, setApiKey, settings } from './settings.js';

const byId = (id) => document.getElementById(id);

/** Opens a dialog. When its form is submitted, `answer` makes the result from it. */
function ask(id, answer) {
  const dialog = byId(id);
  const form = dialog.querySelector('form');
  let result = null;
  return new Promise((resolve) => {
    const submit = (event) => {
      // Submitting the form only closes the dialog.
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

/** Asks for confirmation of `action`. */
export async function confirmed(title, text, action) {
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-do').textContent = action;
  return (await ask('confirm', () => true)) === true;
}

/** Asks for a new name. */
export function askName(name) {
  const input = byId('rename').querySelector('input');
  input.value = name;
  const asked = ask('rename', () => input.value.trim() || null);
  input.select();
  return asked;
}

let asking = null;

/** Asks for the API key and stores it. Returns whether there is one now. */
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

/** Shows the settings. The answer is their new values. */
export function askSettings() {
  const form = byId('settings').querySelector('form');
  fill(form, settings());
  showKeyState();
  return ask('settings', collect);
}

/** Connects the buttons in the settings dialog. */
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

/** A key that fits in a header: without invisible characters, which pasting may add. */
function visible(key) {
  return key.replace(/[^\x21-\x7e]/g, '');
}
