// The messages of a conversation, on the page.

import { figuresText } from './answer.js';
import { copyText } from './clipboard.js';
import { iconButton } from './icons.js';
import { Markdown } from './markdown.js';

const NOTES = {
  stopped: 'Stopped.',
  broken: 'The connection broke before the answer was whole. What came is kept.',
  unfinished: 'This answer is not whole: it is being made in another tab, or the page was closed before.',
};

export class Transcript {
  #root;
  #actions;
  /** A redraw function for each answer on the page, by message. */
  #answers = new Map();

  /** `actions`: `edit(message, text)`, `retry(message)` and `remove(message)`. */
  constructor(root, actions) {
    this.#root = root;
    this.#actions = actions;
  }

  /** Draws all messages again. `busy` is the answer that is being generated. */
  show(messages, busy) {
    this.#answers.clear();
    this.#root.replaceChildren(...messages.map((message) => (
      message.role === 'user' ? this.#question(message, messages) : this.#answer(message, busy)
    )));
  }

  /** Draws new text of an answer, if the answer is on the page. */
  update(message, busy) {
    this.#answers.get(message)?.(busy);
  }

  /** The text of an answer as it is displayed. */
  textOf(message) {
    return this.#root.querySelector(`[data-index="${[...this.#answers.keys()].indexOf(message)}"] .prose`)?.innerText ?? '';
  }

  /** Whether a message is being edited. */
  get editing() {
    return this.#root.querySelector('form.edit') !== null;
  }

  #question(message, messages) {
    const article = shell('user', 'You');
    const bubble = document.createElement('div');
    bubble.className = 'bubble';
    bubble.textContent = message.content;
    const tools = document.createElement('div');
    tools.className = 'tools';
    const edit = iconButton('edit', 'Edit this message', () => {
      const follows = messages.at(-1) !== message;
      const form = editForm(message.content, follows, async (text) => {
        // If it cannot be sent, the form stays open with the text.
        if (text !== null) return this.#actions.edit(message, text);
        form.replaceWith(bubble, tools);
        return edit.focus();
      });
      tools.remove();
      bubble.replaceWith(form);
      form.elements.text.focus();
    });
    tools.append(edit, copyButton(() => message.content, 'Copy this message'),
      iconButton('remove', 'Delete this message and its answer', () => this.#actions.remove(message)));
    article.append(bubble, tools);
    return article;
  }

  #answer(message, busy) {
    const article = shell('assistant', 'Answer');
    article.dataset.index = this.#answers.size;
    const prose = document.createElement('div');
    prose.className = 'prose';
    const markdown = new Markdown(prose);
    const waiting = document.createElement('div');
    waiting.className = 'waiting';
    waiting.append(...[1, 2, 3].map(() => document.createElement('span')));
    const note = document.createElement('p');
    note.className = 'note';
    const tools = document.createElement('div');
    tools.className = 'tools';
    const figures = document.createElement('span');
    figures.className = 'figures';
    tools.append(copyButton(() => message.content, 'Copy this answer'), iconButton('retry', 'Answer again', () => this.#actions.retry(message)), figures);
    article.append(prose, waiting, note, tools);

    const draw = (now) => {
      const working = now === message;
      markdown.update(message.content);
      article.setAttribute('aria-busy', String(working));
      prose.hidden = message.content === '';
      this.#note(note, message, working);
      waiting.hidden = !working || message.content !== '';
      // Without text the only action is to retry, and the note has a button for that.
      tools.hidden = working || (message.content === '' && !note.hidden);
      figures.textContent = message.figures ? figuresText(message.figures) : '';
    };
    this.#answers.set(message, draw);
    draw(busy);
    return article;
  }

  #note(note, message, working) {
    const ended = message.finish === 'length' ? 'The answer ended at the limit of tokens.' : '';
    const text = working ? '' : message.state === 'failed' ? message.problem : NOTES[message.state] ?? ended;
    note.hidden = !text;
    note.classList.toggle('bad', message.state === 'failed' || message.state === 'broken');
    if (note.dataset.text === text) return;
    note.dataset.text = text;
    note.textContent = text;
    if (!text || message.state === 'whole' || (message.state === 'stopped' && message.content)) return;
    const retry = document.createElement('button');
    retry.type = 'button';
    retry.className = 'plain';
    retry.textContent = 'Retry';
    retry.addEventListener('click', () => this.#actions.retry(message));
    note.append(' ', retry);
  }
}

function shell(role, name) {
  const article = document.createElement('article');
  article.className = role;
  article.setAttribute('aria-label', name);
  const heading = document.createElement('h2');
  heading.className = 'hidden';
  heading.textContent = name;
  article.append(heading);
  return article;
}

function copyButton(text, label) {
  const button = iconButton('copy', label, async () => {
    button.classList.add((await copyText(text())) ? 'done' : 'undone');
    setTimeout(() => button.classList.remove('done', 'undone'), 1500);
  });
  return button;
}

/** A form in place of a message. `done` gets the new text, or `null` if editing was cancelled. */
function editForm(content, follows, done) {
  const form = document.createElement('form');
  form.className = 'edit';
  form.setAttribute('aria-label', 'Edit the message');
  const text = document.createElement('textarea');
  text.name = 'text';
  text.value = content;
  text.rows = Math.min(12, content.split('\n').length + 1);
  text.setAttribute('aria-label', 'Message');
  const actions = document.createElement('div');
  actions.className = 'actions';
  const hint = document.createElement('span');
  hint.className = 'muted space';
  hint.textContent = follows ? 'What follows will be replaced.' : '';
  const cancel = document.createElement('button');
  cancel.type = 'button';
  cancel.className = 'plain';
  cancel.textContent = 'Cancel';
  const send = document.createElement('button');
  send.className = 'main';
  send.textContent = 'Send';
  actions.append(hint, cancel, send);
  form.append(text, actions);

  cancel.addEventListener('click', () => done(null));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (text.value.trim()) done(text.value);
  });
  text.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      done(null);
    } else if (sends(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  return form;
}

/** Whether this key event sends the message. In an input method's composition, Enter chooses a word. */
export function sends(event) {
  const composing = event.isComposing || event.keyCode === 229;
  return event.key === 'Enter' && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey && !composing;
}
