// The contents of a paragraph: code, bold, italics, strikethrough, links. It makes only DOM nodes and text, so
// that nothing a model writes can become markup. It takes time linear in the length of any text: possible
// openers are kept on a stack, and marks that can close nothing are not searched for.

const SPECIAL = /[\\`*_~[\]!\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const TARGET = /\(\s{0,3}<?((?:[^\s()<>]|\([^\s()<>]*\))*)>?(?:\s{1,3}(?:"[^"]*"|'[^']*'))?\s{0,3}\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`*]{1,2000}/y;
const CLOSING_MARKS = '.,;:!?)]}_~';
/** Most open marks, and the longest run of marks. Anything beyond stays text. */
const MOST_OPEN = 40;
const LONGEST_RUN = 6;

/** Appends `text` to `parent`. */
export function appendInline(parent, text) {
  new Inline(text).into(parent);
}

class Inline {
  constructor(text) {
    this.text = text;
    this.at = 0;
    /** The nodes so far. */
    this.nodes = [];
    /** Openers that may still be closed: `{mark, count, index}`; `nodes[index]` is the opener's text. */
    this.open = [];
    this.closings = closings(text);
  }

  into(parent) {
    while (this.at < this.text.length) this.step();
    parent.append(...this.nodes);
  }

  step() {
    SPECIAL.lastIndex = this.at;
    const found = SPECIAL.exec(this.text);
    const next = found ? found.index : this.text.length;
    if (next > this.at) this.nodes.push(document.createTextNode(this.text.slice(this.at, next)));
    this.at = next;
    if (!found) return;
    const mark = found[0];
    if (mark === '\\') this.escape();
    else if (mark === '\n') this.lineBreak();
    else if (mark === '`') this.code();
    else if (mark === '[' || mark === '!') this.openLink();
    else if (mark === ']') this.closeLink();
    else if (mark.length > 1) this.address();
    else this.emphasis(mark);
  }

  literal(length) {
    this.nodes.push(document.createTextNode(this.text.slice(this.at, this.at + length)));
    this.at += length;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next && ESCAPABLE.test(next)) this.at += 1;
    this.literal(1);
  }

  lineBreak() {
    this.nodes.push(document.createElement('br'));
    this.at += 1;
  }

  code() {
    const length = runLength(this.text, this.at, '`');
    const close = this.closings.get(this.at);
    if (close === undefined) return this.literal(length);
    const inner = this.text.slice(this.at + length, close).replaceAll('\n', ' ');
    const padded = inner.startsWith(' ') && inner.endsWith(' ') && inner.trim() !== '';
    this.nodes.push(element('code', padded ? inner.slice(1, -1) : inner));
    this.at = close + length;
  }

  openLink() {
    const image = this.text[this.at] === '!';
    if (image && this.text[this.at + 1] !== '[') return this.literal(1);
    if (this.open.length < MOST_OPEN) this.open.push({ mark: '[', count: 1, index: this.nodes.length });
    this.literal(image ? 2 : 1);
  }

  closeLink() {
    const opener = this.open.findLastIndex(({ mark }) => mark === '[');
    if (opener < 0) return this.literal(1);
    const { index } = this.open[opener];
    TARGET.lastIndex = this.at + 1;
    const target = TARGET.exec(this.text);
    const address = target && safeAddress(target[1]);
    if (!address) {
      this.open.splice(opener, 1);
      return this.literal(1);
    }
    // Openers within the link can close only within it; links contain no links.
    this.open = this.open.slice(0, opener).filter(({ mark }) => mark !== '[');
    const link = linkTo(address);
    link.append(...this.nodes.splice(index).slice(1));
    this.nodes.push(link);
    this.at = TARGET.lastIndex;
  }

  address() {
    ADDRESS.lastIndex = this.at;
    const inLink = this.open.some(({ mark }) => mark === '[');
    const written = inLink ? '' : withoutClosingMarks(ADDRESS.exec(this.text)?.[0] ?? '');
    const address = safeAddress(written);
    if (!address) return this.literal('http'.length);
    const link = linkTo(address);
    link.textContent = written;
    this.nodes.push(link);
    this.at += written.length;
  }

  emphasis(mark) {
    const count = runLength(this.text, this.at, mark);
    if (count > LONGEST_RUN || (mark === '~' && count !== 2)) return this.literal(count);
    const { opens, closes } = flanks(mark, this.text[this.at - 1] ?? ' ', this.text[this.at + count] ?? ' ');
    const rest = closes ? this.close(mark, count) : count;
    this.at += count - rest;
    if (rest === 0) return;
    if (opens && this.open.length < MOST_OPEN) this.open.push({ mark, count: rest, index: this.nodes.length });
    this.literal(rest);
  }

  /** Closes openers with up to `count` marks. Returns how many marks are left. */
  close(mark, count) {
    let rest = count;
    while (rest > 0) {
      const position = this.open.findLastIndex((opener) => opener.mark === mark);
      if (position < 0) break;
      const opener = this.open[position];
      const width = Math.min(opener.count, rest, 2);
      this.open.length = position + 1;
      const inner = this.nodes.splice(opener.index + 1);
      const wrapped = document.createElement(mark === '~' ? 'del' : width === 2 ? 'strong' : 'em');
      wrapped.append(...inner);
      opener.count -= width;
      rest -= width;
      if (opener.count > 0) {
        this.nodes[opener.index].data = mark.repeat(opener.count);
      } else {
        this.nodes.pop();
        this.open.pop();
      }
      this.nodes.push(wrapped);
    }
    return rest;
  }
}

/** For each run of backticks that opens code: where the closing run begins. */
function closings(text) {
  const runs = [...text.matchAll(/`+/g)];
  const next = new Map();
  const ends = new Map();
  for (const { 0: run, index } of runs.reverse()) {
    if (next.has(run.length)) ends.set(index, next.get(run.length));
    next.set(run.length, index);
  }
  return ends;
}

/** Whether a run of marks between two characters can open or close. An underscore within a word does neither. */
function flanks(mark, before, after) {
  const space = /\s/;
  const sign = /[\p{P}\p{S}]/u;
  const left = !space.test(after) && (!sign.test(after) || space.test(before) || sign.test(before));
  const right = !space.test(before);
  if (mark !== '_') return { opens: left, closes: right };
  return { opens: left && (!right || sign.test(before)), closes: right && (!left || sign.test(after)) };
}

function runLength(text, at, mark) {
  let end = at;
  while (text[end] === mark) end += 1;
  return end - at;
}

/** Removes punctuation from the end of an address; it belongs to the sentence. */
function withoutClosingMarks(written) {
  let end = written.length;
  while (end > 0 && CLOSING_MARKS.includes(written[end - 1])) end -= 1;
  return written.slice(0, end);
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** The address if its protocol is http, https or mailto, otherwise `null`. */
function safeAddress(written) {
  try {
    const { protocol, href } = new URL(written);
    return ['https:', 'http:', 'mailto:'].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}

function linkTo(address) {
  const link = document.createElement('a');
  link.href = address;
  link.target = '_blank';
  link.rel = 'noopener noreferrer';
  link.title = address;
  return link;
}
