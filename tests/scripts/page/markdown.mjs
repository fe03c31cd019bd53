// Checks the Markdown renderer within the page, and that a growing text is rendered like the whole text.

import assert from 'node:assert/strict';

import { SAMPLE } from './sample.mjs';

const CASES = [
  ['a\nb\n\nc', '<p>a<br>b</p><p>c</p>'],
  ['**b** *i* ***bi*** __b__ _i_ ~~s~~', '<p><strong>b</strong> <em>i</em> <em><strong>bi</strong></em> <strong>b</strong> <em>i</em> <del>s</del></p>'],
  ['snake_case_name 2 * 3 * 4 \\*no\\* **open', '<p>snake_case_name 2 * 3 * 4 *no* **open</p>'],
  ['**Note:**text', '<p><strong>Note:</strong>text</p>'],
  ['`a*b*` `` ` `` `open', '<p><code>a*b*</code> <code>`</code> `open</p>'],
  ['# One\n###### Six ##', '<h3 class="heading level-1">One</h3><h4 class="heading level-6">Six</h4>'],
  ['#no heading', '<p>#no heading</p>'],
  ['- a\n- b\n  - c\n\n- d', '<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li><li><p>d</p></li></ul>'],
  ['3. a\n4. b', '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'],
  ['born in\n1984. A year', '<p>born in<br>1984. A year</p>'],
  ['> a\n> - b', '<blockquote><p>a</p><ul><li><p>b</p></li></ul></blockquote>'],
  ['a\n\n---\n\nb', '<p>a</p><hr><p>b</p>'],
  ['[t](https://a.b/c_(d)) https://e.f/g.', '<p><a>t</a> <a>https://e.f/g</a>.</p>'],
  ['[t](javascript:x) [u](/rel) [v', '<p>[t](javascript:x) [u](/rel) [v</p>'],
  ['<b>x</b> &amp;', '<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>'],
];

/** Texts that would take forever if the time were not linear in their length. */
const LONG = ['*a ', '[a](', '`` ` ', '**a _b ', '> ', '- ', '![', '](', '[](((', '# ', '| ', 'http://', '*_', '\\', '\n\n', '"[a](b "', '   '];

export async function checkMarkdown(checks, mock) {
  mock.answer = () => ({ pieces: [''] });

  await checks.check('Markdown', async (chat, page) => {
    const made = await page.evaluate(async (texts) => {
      const { Markdown } = await import('/markdown.js');
      return texts.map((text) => {
        const root = document.createElement('div');
        new Markdown(root).update(text);
        for (const link of root.querySelectorAll('a')) {
          if (link.rel !== 'noopener noreferrer') throw new Error('a link without rel');
          for (const name of link.getAttributeNames()) link.removeAttribute(name);
        }
        return root.innerHTML;
      });
    }, CASES.map(([text]) => text));
    made.forEach((html, index) => assert.equal(html, CASES[index][1]));
  });

  await checks.check('a growing text is shown as the whole one', async (chat, page) => {
    const differs = await page.evaluate(async (texts) => {
      const { Markdown } = await import('/markdown.js');
      for (const text of texts) {
        const whole = document.createElement('div');
        new Markdown(whole).update(text);
        for (const step of [1, 3, 17]) {
          const root = document.createElement('div');
          const growing = new Markdown(root);
          for (let length = 1; length < text.length; length += step) growing.update(text.slice(0, length));
          growing.update(text);
          if (root.innerHTML !== whole.innerHTML) return `${step}: ${root.innerHTML}\n${whole.innerHTML}`;
        }
      }
      return null;
    }, [SAMPLE, ...CASES.map(([text]) => text), CASES.map(([text]) => text).join('\n\n'), '1. a\n```\nx\n\ny\n```\n2. b\n\n   ```js\n   z\n\n   w\n   ```\n\n3. c\r\n\r\nd']);
    assert.equal(differs, null);
  });

  await checks.check('what stands finished is not drawn again', async (chat, page) => {
    const kept = await page.evaluate(async () => {
      const { Markdown } = await import('/markdown.js');
      const root = document.createElement('div');
      const growing = new Markdown(root);
      growing.update('first\n\nsecond\n\n```\ncode');
      const before = [...root.children];
      growing.update('first\n\nsecond\n\n```\ncode goes on\n```\n\nthird');
      return before.every((node, index) => node === root.children[index]) && root.querySelector('code').textContent === 'code goes on';
    });
    assert.ok(kept);
  });

  await checks.check('long nonsense is shown in bounded depth', async (chat, page) => {
    const depths = await page.evaluate(async (parts) => {
      const { Markdown } = await import('/markdown.js');
      const depth = (node) => {
        let deepest = 0;
        for (const walker = document.createTreeWalker(node); walker.nextNode();) {
          let steps = 0;
          for (let at = walker.currentNode; at !== node; at = at.parentNode) steps += 1;
          deepest = Math.max(deepest, steps);
        }
        return deepest;
      };
      return parts.map((part) => {
        const root = document.createElement('div');
        new Markdown(root).update(`${part.repeat(30_000 / part.length)}x`);
        return depth(root);
      });
    }, LONG);
    assert.ok(depths.every((depth) => depth < 200), depths.join());
  });
}
