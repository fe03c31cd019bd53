// Parses a text into Markdown blocks, as models write them. The result is a plain tree, from which
// markdown.js makes elements. Each block has its start offset and that of the text after it.

// None of these can match the same characters in two ways, so each takes time linear in the line's length.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?![^ ])/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])(?:( +)(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const DELIMITERS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;
/** Deepest nesting; anything deeper is a paragraph. A model in a loop may nest forever. */
const DEPTH = 12;

/**
 * The blocks of a text: `{kind, start, end, …}` with `kind` one of paragraph, heading, code, list, quote,
 * table and rule.
 */
export function blocksOf(text, depth = 0) {
  const reader = new Lines(text);
  const blocks = [];
  while (!reader.done) {
    if (blank(reader.line)) {
      reader.next();
      continue;
    }
    const start = reader.start;
    const block = depth < DEPTH ? structure(reader, depth) ?? paragraph(reader) : paragraph(reader, () => false);
    blocks.push({ ...block, start, end: reader.start });
  }
  return blocks;
}

/** Reads a text line by line. */
class Lines {
  constructor(text) {
    this.text = text;
    this.after = -1;
    this.next();
  }

  next() {
    this.start = this.after + 1;
    this.done = this.start >= this.text.length;
    const end = this.text.indexOf('\n', this.start);
    this.after = end < 0 ? this.text.length : end;
    this.line = this.text.slice(this.start, this.after).replaceAll('\t', '    ').replace(/\r$/, '');
    if (this.done) this.start = this.text.length;
  }

  /** The next line without surrounding spaces, or an empty string. */
  peek() {
    const end = this.text.indexOf('\n', this.after + 1);
    return this.text.slice(this.after + 1, end < 0 ? undefined : end).trim();
  }
}

function blank(line) {
  return line.trim() === '';
}

function indent(line) {
  return line.length - line.trimStart().length;
}

/** Parses the block that begins here; `null` if it is a paragraph. */
function structure(reader, depth) {
  const { line } = reader;
  const fence = FENCE.exec(line);
  if (fence) return code(reader, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    reader.next();
    return { kind: 'heading', level: heading[1].length, text: headingText(line.slice(heading[0].length)) };
  }
  if (RULE.test(line)) {
    reader.next();
    return { kind: 'rule' };
  }
  if (QUOTE.test(line)) return quote(reader, depth);
  if (ITEM.test(line)) return list(reader, depth);
  if (line.includes('|') && DELIMITERS.test(reader.peek())) {
    const head = cells(line);
    if (cells(reader.peek()).length === head.length) return table(reader, head);
  }
  return null;
}

/** The heading's text without closing marks. */
function headingText(line) {
  const text = line.trim();
  let end = text.length;
  while (text[end - 1] === '#') end -= 1;
  return end === 0 || text[end - 1] === ' ' ? text.slice(0, end).trimEnd() : text;
}

function code(reader, [opening, fence, info]) {
  const shift = indent(opening);
  const close = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ ]*$`);
  const lines = [];
  let closed = false;
  for (reader.next(); !reader.done; reader.next()) {
    closed = close.test(reader.line);
    if (closed) break;
    // Tabs in code are kept.
    const raw = reader.text.slice(reader.start, reader.after).replace(/\r$/, '');
    lines.push(raw.slice(Math.min(shift, indent(raw))));
  }
  if (closed) reader.next();
  return { kind: 'code', language: info.trim().split(/\s/, 1)[0], text: lines.join('\n'), closed };
}

function quote(reader, depth) {
  const lines = [];
  for (; !reader.done && QUOTE.test(reader.line); reader.next()) lines.push(reader.line.replace(QUOTE, ''));
  return { kind: 'quote', blocks: blocksOf(lines.join('\n'), depth + 1) };
}

/** Consecutive list items. Lines that are indented by two or more below an item belong to it. */
function list(reader, depth) {
  const first = ITEM.exec(reader.line);
  const ordered = first[3] !== undefined;
  const items = [];
  while (!reader.done) {
    const item = ITEM.exec(reader.line);
    if (!item || (item[3] !== undefined) !== ordered || RULE.test(reader.line)) break;
    const text = itemText(reader, item);
    items.push({ text, blocks: blocksOf(text, depth + 1) });
  }
  return { kind: 'list', ordered, first: ordered ? Number(first[3]) : 1, items };
}

function itemText(reader, [, outer, marker, , gap = '', rest = '']) {
    // Code in an item may begin with spaces of its own: of more than four, only one belongs to the marker.
  const spaces = gap.length > 4 ? 1 : Math.max(gap.length, 1);
  const lines = [gap.slice(spaces) + rest];
  const inner = outer.length + marker.length + spaces;
  const least = Math.min(inner, outer.length + 2);
  let fence = null;
  let blanks = 0;
  for (reader.next(); !reader.done; reader.next()) {
    const { line } = reader;
    if (blank(line)) {
      blanks += 1;
      continue;
    }
    const belongs = indent(line) >= least;
    // Without a blank line in between, a paragraph continues at any indentation.
    const lazy = blanks === 0 && !fence && !interrupts(line) && !ITEM.test(line);
    if (!belongs && !lazy) break;
    for (; blanks > 0; blanks -= 1) lines.push('');
    const own = line.slice(Math.min(indent(line), inner));
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(own)?.[1];
    if (mark && (!fence || mark.startsWith(fence))) fence = fence ? null : mark;
    lines.push(own);
  }
  return lines.join('\n');
}

function table(reader, head) {
  const align = cells(reader.peek()).map((cell) => (cell.endsWith(':') ? (cell.startsWith(':') ? 'center' : 'right') : 'left'));
  const rows = [];
  reader.next();
  for (reader.next(); !reader.done && reader.line.includes('|'); reader.next()) {
    const row = cells(reader.line);
    rows.push(head.map((_, column) => row[column] ?? ''));
  }
  return { kind: 'table', head, align, rows };
}

/** The cells of a row. A bar after a backslash does not separate cells. */
function cells(line) {
  const inner = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '');
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}

/** Whether a line ends the paragraph before it. Lists that begin above 1 do not: it may be a year. */
function interrupts(line) {
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  return item !== null && item[5] !== undefined && item[5] !== '' && (item[3] === undefined || item[3] === '1');
}

function paragraph(reader, ends = interrupts) {
  const lines = [];
  do {
    lines.push(reader.line.trim());
    reader.next();
  } while (!reader.done && !blank(reader.line) && !ends(reader.line));
  return { kind: 'paragraph', text: lines.join('\n') };
}
