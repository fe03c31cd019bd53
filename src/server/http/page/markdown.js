// An answer as Markdown on the page. `update` may be called often with a growing text: finished blocks are
// left as they are, and only what may still change is built again.

import { blocksOf } from './blocks.js';
import { copyText } from './clipboard.js';
import { appendInline } from './inline.js';

export class Markdown {
  /** @param {Element} root an empty element */
  constructor(root) {
    this.root = root;
    this.text = '';
    /** The text before this offset is finished. */
    this.settled = 0;
    /** The level of the last finished heading. The message's own heading has level 2. */
    this.level = 2;
    /** The unfinished blocks and their elements. */
    this.open = [];
  }

  update(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    const tail = text.slice(this.settled);
    const blocks = blocksOf(tail);
    // A block is finished when a later one begins with a complete line; an incomplete line may still change.
    const whole = tail.lastIndexOf('\n') + 1;
    const last = blocks.findLastIndex((block) => block.start < whole);
    rank(blocks, this.level);
    this.show(blocks);
    if (last > 0) {
      for (const { block } of this.open.splice(0, last)) this.level = block.rank ?? this.level;
      const shift = blocks[last].start;
      this.settled += shift;
    }
  }

  clear() {
    this.root.replaceChildren();
    this.settled = 0;
    this.level = 2;
    this.open = [];
  }

  show(blocks) {
    blocks.forEach((block, index) => {
      const shown = this.open[index];
      if (shown && grown(shown, block)) return;
      const made = { block, node: build(block) };
      if (shown) shown.node.replaceWith(made.node);
      else this.root.append(made.node);
      this.open[index] = made;
    });
    for (const { node } of this.open.splice(blocks.length)) node.remove();
  }
}

/** Gives headings levels without gaps, whichever levels the model uses. */
function rank(blocks, before) {
  let last = before;
  for (const block of blocks) {
    if (block.kind === 'heading') block.rank = last = Math.min(block.level + 2, last + 1, 6);
  }
}

/** Whether the element shows the block already, or can be made to by appending to it. */
function grown(shown, block) {
  const before = shown.block;
  if (before.kind !== block.kind) return false;
  const is = block.kind === 'paragraph' ? before.text === block.text
    : block.kind === 'code' ? codeGrown(shown.node, before, block)
    : block.kind === 'list' && listGrown(shown.node, before, block);
  if (is) shown.block = block;
  return is;
}

function codeGrown(node, before, block) {
  if (before.language !== block.language || !block.text.startsWith(before.text)) return false;
  node.querySelector('code').firstChild.appendData(block.text.slice(before.text.length));
  return true;
}

/** An answer may be one long list, so only the items that have changed are built again. */
function listGrown(node, before, { ordered, first, items }) {
  if (before.ordered !== ordered || before.first !== first) return false;
  const changed = items.findIndex(({ text }, index) => text !== before.items[index]?.text);
  if (changed < 0) return before.items.length === items.length;
  while (node.children.length > changed) node.lastChild.remove();
  node.append(...items.slice(changed).map(listItem));
  return true;
}

function build(block) {
  switch (block.kind) {
    case 'heading': return heading(block);
    case 'code': return code(block);
    case 'rule': return document.createElement('hr');
    case 'quote': return within('blockquote', block.blocks);
    case 'list': return list(block);
    case 'table': return table(block);
    default: return withText('p', block.text);
  }
}

/** Headings within a list or a quote have no rank. */
function heading({ level, rank: place, text }) {
  const made = withText(place ? `h${place}` : 'p', text);
  made.className = `heading level-${level}`;
  return made;
}

function withText(name, text) {
  const made = document.createElement(name);
  appendInline(made, text);
  return made;
}

function within(name, blocks) {
  const made = document.createElement(name);
  made.append(...blocks.map(build));
  return made;
}

function list({ ordered, first, items }) {
  const made = document.createElement(ordered ? 'ol' : 'ul');
  if (ordered && first !== 1) made.start = first;
  made.append(...items.map(listItem));
  return made;
}

function listItem({ blocks }) {
  return within('li', blocks);
}

function table({ head, align, rows }) {
  const row = (name, texts) => {
    const made = document.createElement('tr');
    made.append(...texts.map((text, column) => {
      const cell = withText(name, text);
      if (align[column] !== 'left') cell.className = align[column];
      return cell;
    }));
    return made;
  };
  const made = document.createElement('table');
  made.createTHead().append(row('th', head));
  made.createTBody().append(...rows.map((texts) => row('td', texts)));
  return scrollable(made, 'Table', 'table');
}

function code({ language, text }) {
  const figure = document.createElement('figure');
  figure.className = 'code';
  const caption = document.createElement('figcaption');
  const name = document.createElement('span');
  name.textContent = language || 'code';
  const copy = document.createElement('button');
  copy.type = 'button';
  copy.textContent = 'Copy';
  copy.setAttribute('aria-label', 'Copy the code');
  const body = document.createElement('code');
  body.append(document.createTextNode(text));
  copy.addEventListener('click', async () => {
    copy.textContent = (await copyText(body.textContent)) ? 'Copied' : 'Not copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 2000);
  });
  caption.append(name, copy);
  const pre = document.createElement('pre');
  pre.append(body);
  figure.append(caption, scrollable(pre, language ? `Code, ${language}` : 'Code', 'pre'));
  return figure;
}

/** Makes something that scrolls sideways reachable by keyboard. */
function scrollable(content, label, name) {
  const box = document.createElement('div');
  box.className = `scroll ${name}`;
  box.tabIndex = 0;
  box.setAttribute('role', 'group');
  box.setAttribute('aria-label', label);
  box.append(content);
  return box;
}
