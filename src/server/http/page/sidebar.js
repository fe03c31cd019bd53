// The list of conversations, the actions on them, and the theme switch below it.

import { askName, confirmed } from './dialogs.js';
import { iconButton } from './icons.js';
import { local } from './storage.js';
import * as store from './store.js';

const byId = (id) => document.getElementById(id);
const narrow = window.matchMedia('(max-width: 800px)');

export class Sidebar {
  #actions;

  /** `actions`: `open(id)`, `create()`, `rename(id, name)`, `remove(id)` and `imported(text)` with a report. */
  constructor(actions) {
    this.#actions = actions;
    byId('new-chat').addEventListener('click', () => {
      this.close();
      actions.create();
    });
    byId('open-sidebar').addEventListener('click', () => this.#openNarrow());
    byId('close-sidebar').addEventListener('click', () => this.close());
    byId('scrim').addEventListener('click', () => this.close());
    document.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || !this.#isOpen || document.querySelector('dialog[open]')) return;
      // Escape closes only the sidebar and does nothing else.
      event.stopImmediatePropagation();
      this.close();
    });
    narrow.addEventListener('change', () => this.close());
    byId('export-all').addEventListener('click', () => this.#export(store.list(), 'lapidary-conversations'));
    byId('import').addEventListener('click', () => byId('import-file').click());
    byId('import-file').addEventListener('change', () => this.#import());
  }

  /** Draws the list. `busy` is the id of the conversation whose answer is being generated. */
  show(conversations, current, busy) {
    const focused = document.activeElement?.closest('#conversations li')?.dataset.id;
    const rows = conversations.map((conversation) => this.#row(conversation, conversation.id === current, conversation.id === busy));
    byId('conversations').replaceChildren(...rows);
    byId('no-conversations').hidden = rows.length > 0;
    byId('export-all').disabled = rows.length === 0;
    if (focused) rows.find((row) => row.dataset.id === focused)?.querySelector('button').focus();
  }

  #row(conversation, current, busy) {
    const row = document.createElement('li');
    row.dataset.id = conversation.id;
    const open = document.createElement('button');
    open.type = 'button';
    open.className = 'open';
    open.textContent = store.titleOf(conversation);
    open.title = open.textContent;
    if (busy) {
      open.classList.add('busy');
      open.setAttribute('aria-label', `${open.textContent}, being answered`);
    }
    open.addEventListener('click', () => {
      this.close();
      this.#actions.open(conversation.id);
    });
    row.append(open);
    if (current) {
      open.setAttribute('aria-current', 'true');
      row.append(
        iconButton('edit', 'Rename', () => this.#rename(conversation.id)),
        iconButton('save', 'Export', () => this.#export([store.read(conversation.id) ?? conversation], 'lapidary-conversation')),
        iconButton('remove', 'Delete', () => this.#remove(conversation.id)),
      );
    }
    return row;
  }

  async #rename(id) {
    const conversation = store.read(id);
    if (!conversation) return;
    const name = await askName(store.titleOf(conversation));
    if (name) this.#actions.rename(id, name);
  }

  async #remove(id) {
    const conversation = store.read(id);
    if (!conversation) return;
    const title = store.titleOf(conversation);
    if (await confirmed('Delete the conversation?', `“${title}” will be gone for good.`, 'Delete')) this.#actions.remove(id);
  }

  #export(conversations, name) {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([store.exported(conversations)], { type: 'application/json' }));
    link.download = `${name}-${new Date().toISOString().slice(0, 10)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async #import() {
    const input = byId('import-file');
    const [file] = input.files;
    input.value = '';
    if (!file) return;
    try {
      const counts = store.imported(await file.text());
      const parts = [`${counts.added} imported`];
      if (counts.known) parts.push(`${counts.known} here already`);
      if (counts.refused) parts.push(`${counts.refused} not understood`);
      if (!counts.lasting) parts.push('the storage is full, so that some are gone when the page is closed');
      this.#actions.imported(`${parts.join(', ')}.`);
    } catch (error) {
      this.#actions.imported(error.message);
    }
  }

  get #isOpen() {
    return document.body.classList.contains('sidebar-open');
  }

  #openNarrow() {
    document.body.classList.add('sidebar-open');
    byId('open-sidebar').setAttribute('aria-expanded', 'true');
    byId('scrim').hidden = false;
    byId('page').inert = true;
    byId('new-chat').focus();
  }

  /** Closes the sidebar on a narrow page, where it covers the conversation. */
  close() {
    if (!this.#isOpen) return;
    document.body.classList.remove('sidebar-open');
    byId('open-sidebar').setAttribute('aria-expanded', 'false');
    byId('scrim').hidden = true;
    byId('page').inert = false;
    byId('open-sidebar').focus();
  }
}

/** Connects the switch between light and dark. theme.js applies the choice. */
export function wireTheme() {
  const { name, show: showTheme } = window.lapidaryTheme;
  const choose = (theme) => {
    for (const input of document.querySelectorAll('#theme input')) input.checked = input.value === theme;
    showTheme(theme);
  };
  choose(local.get(name) ?? '');
  byId('theme').addEventListener('change', ({ target }) => {
    local.set(name, target.value);
    showTheme(target.value);
  });
  window.addEventListener('storage', ({ key, newValue }) => {
    if (key === name) choose(newValue ?? '');
  });
}
