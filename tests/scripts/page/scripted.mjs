// Checks that need scripted answers, refusals and broken connections.

import assert from 'node:assert/strict';

import { until } from './harness.mjs';
import { echo, words } from './mock.mjs';

const HOSTILE = [
  '<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>',
  '[click](javascript:window.hacked=1) ![picture](data:text/html,<script>window.hacked=1</script>)',
  '[a](JaVaScRiPt:window.hacked=1) [b](vbscript:x) <a href="javascript:window.hacked=1">c</a>',
  '```html"><script>window.hacked=1</script>\n<svg onload=window.hacked=1>\n```',
  '| <img src=x onerror=window.hacked=1> | b |\n|---|---|\n| <b>1</b> | [x](javascript:window.hacked=1) |',
].join('\n\n');

export async function checkScripted(checks, mock) {
  const check = async (name, body, options) => {
    Object.assign(mock, { requests: [], aborted: 0, key: null, answer: echo });
    await checks.check(name, body, options);
  };

  await check('stop by button and by Escape: what came stays, and the server is left', async (chat, page) => {
    mock.answer = words(5000);
    await chat.say('go on');
    await chat.has(60);
    assert.match(await page.locator('#live').innerText(), /tokens\/s · \d+ tokens/);
    await chat.stop.click();
    await chat.idle();
    const text = await chat.lastText();
    assert.match(text, /^word1 word2/);
    await page.getByText('Stopped.', { exact: true }).first().waitFor();
    await chat.say('and on');
    await chat.has(30);
    await page.keyboard.press('Escape');
    await chat.idle();
    assert.equal(await chat.answers.locator('.note', { hasText: 'Stopped.' }).count(), 2);
    await until(() => mock.aborted >= 2);
    await page.reload();
    assert.equal(await chat.answers.first().locator('.prose').innerText(), text);
  });

  await check('retry asks the same again, edit goes on from there, delete takes the exchange', async (chat, page) => {
    let times = 0;
    mock.answer = (body) => ({ pieces: [`answer ${times += 1} to ${body.messages.at(-1).content}`] });
    await chat.ask('one');
    await chat.ask('two');
    await chat.answers.last().getByRole('button', { name: 'Answer again' }).click();
    await page.getByText('answer 3 to two').first().waitFor();
    await chat.idle();
    assert.deepEqual(mock.requests.at(-1).messages, mock.requests.at(-2).messages);

    await page.locator('article.user').first().hover();
    await page.getByRole('button', { name: 'Edit this message' }).first().click();
    await page.keyboard.press('Escape');
    assert.deepEqual(await chat.questions.allInnerTexts(), ['one', 'two']);
    await page.getByRole('button', { name: 'Edit this message' }).first().click();
    await page.locator('form.edit textarea').fill('uno');
    await page.keyboard.press('Enter');
    await page.getByText('answer 4 to uno').first().waitFor();
    await chat.idle();
    assert.deepEqual(await chat.questions.allInnerTexts(), ['uno']);
    assert.deepEqual(mock.requests.at(-1).messages, [{ role: 'user', content: 'uno' }]);

    await chat.ask('three');
    await page.locator('article.user').first().hover();
    await page.getByRole('button', { name: 'Delete this message and its answer' }).first().click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('uno').first().waitFor({ state: 'detached' });
    await page.reload();
    assert.deepEqual(await chat.questions.allInnerTexts(), ['three']);
  });

  await check('what is set is sent, and nothing else', async (chat, page) => {
    const dialog = page.getByRole('dialog');
    await chat.ask('plain');
    assert.deepEqual(mock.requests.at(-1), {
      model: 'gemma-2-2b-it-Q4_K_M', messages: [{ role: 'user', content: 'plain' }], stream: true, stream_options: { include_usage: true },
    });
    await page.getByRole('button', { name: 'Settings' }).click();
    await dialog.getByLabel('System message').fill('Be brief.');
    for (const [name, value] of [['Temperature', '0.5'], ['Top p', '0.9'], ['Top k', '40'], ['Min p', '0.05'], ['Max tokens', '64'], ['Seed', '0']]) {
      await dialog.getByLabel(name).fill(value);
    }
    await chat.saveSettings();
    await page.getByRole('button', { name: 'New conversation' }).click();
    await chat.ask('again');
    const { messages, temperature, top_p, top_k, min_p, max_tokens, seed } = mock.requests.at(-1);
    assert.deepEqual(messages, [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'again' }]);
    assert.deepEqual([temperature, top_p, top_k, min_p, max_tokens, seed], [0.5, 0.9, 40, 0.05, 64, 0]);
  });

  await check('what a model writes stays text', async (chat, page) => {
    mock.answer = () => ({ pieces: HOSTILE.match(/[^]{1,7}/g), delay: 1 });
    await chat.ask('be evil <img src=x onerror=window.hacked=1>');
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(await page.locator('#messages :is(img, script, iframe, article a)').count(), 0);
    const text = await chat.lastText();
    for (const part of ['<img src=x onerror="window.hacked=1">', '<script>', '](javascript:window.hacked=1)', '<svg onload']) assert.ok(text.includes(part), part);
    await page.reload();
    assert.equal(await page.evaluate(() => window.hacked), undefined);
  });

  await check('a connection that breaks', async (chat, page) => {
    mock.answer = () => ({ ...words(50)(), breakAfter: 20 });
    await chat.ask('break');
    assert.match(await chat.lastText(), /^word1 .*word\d+$/);
    await page.getByText('The connection broke before the answer was whole.').first().waitFor();
    mock.answer = echo;
    await page.getByRole('button', { name: 'Retry' }).click();
    await page.getByText('You said: break').first().waitFor();
    await chat.idle();
  });

  await check('a server that fails, midway and at once', async (chat, page) => {
    mock.answer = () => ({ ...words(5)(), midway: 'no numbers came of it' });
    await chat.ask('fail');
    await page.getByText('no numbers came of it').first().waitFor();
    assert.match(await chat.lastText(), /^word1/);
    mock.answer = () => ({ status: 400, error: 'the prompt has 9000 tokens, the context takes 8192' });
    await chat.ask('too long');
    await page.getByText('the prompt has 9000 tokens').first().waitFor();
    mock.answer = echo;
    await chat.ask('next');
    // The unanswered question is joined with the next one, so that the roles alternate.
    assert.deepEqual(mock.requests.at(-1).messages.map(({ role }) => role), ['user', 'assistant', 'user']);
    assert.equal(mock.requests.at(-1).messages.at(-1).content, 'too long\n\nnext');
  });

  await check('a busy server', async (chat, page) => {
    mock.answer = () => ({ status: 429, error: '4 requests are waiting already' });
    await chat.ask('hello');
    await page.getByText('The server is busy').first().waitFor();
    assert.match(await page.locator('#announce').innerText(), /busy/);
    mock.answer = echo;
    await page.getByRole('button', { name: 'Retry' }).click();
    await page.getByText('You said: hello').first().waitFor();
    await chat.idle();
    // A refused retry does not lose the good answer.
    mock.answer = () => ({ status: 429, error: '4 requests are waiting already' });
    await page.getByRole('button', { name: 'Answer again' }).click();
    await page.getByText('The answer that was there is kept.').first().waitFor();
    await page.reload();
    assert.equal(await chat.lastText(), 'You said: hello');
  });

  await check('a server that wants a key', async (chat, page) => {
    mock.key = 'secret';
    await page.reload();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Key', { exact: true }).waitFor();
    await page.keyboard.press('Escape');
    await chat.say('hello');
    await dialog.getByLabel('Key', { exact: true }).waitFor();
    await page.keyboard.press('Escape');
    await page.getByText('The server answers only those who have an API key.').first().waitFor();
    await page.getByRole('button', { name: 'Retry' }).click();
    await dialog.getByLabel('Key', { exact: true }).fill('wrong');
    await page.keyboard.press('Enter');
    await dialog.getByText('does not take this key').waitFor();
    await dialog.getByLabel('Key', { exact: true }).fill('secret');
    await page.keyboard.press('Enter');
    await page.getByText('You said: hello').first().waitFor();
    await chat.idle();
    assert.equal(await page.locator('#model').innerText(), 'gemma-2-2b-it-Q4_K_M');
    assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes('secret'));
    await page.reload();
    await chat.ask('again');
    assert.equal(mock.requests.length, 2);

    await page.evaluate(() => sessionStorage.removeItem('lapidary.key'));
    await page.reload();
    await dialog.getByLabel('Key', { exact: true }).fill('secret');
    await dialog.getByLabel('Remember').check();
    await page.keyboard.press('Enter');
    await page.locator('#model', { hasText: 'gemma' }).waitFor();
    assert.ok((await page.evaluate(() => JSON.stringify(localStorage))).includes('secret'));
  });

  await check('two tabs keep each other’s conversations', async (chat, page, context) => {
    await chat.ask('from the first');
    const other = await context.newPage();
    const second = new chat.constructor(other, chat.url);
    await second.open();
    await second.ask('from the second');
    await chat.conversations.nth(1).waitFor();
    assert.deepEqual((await chat.conversations.allInnerTexts()).sort(), ['from the first', 'from the second']);

    // Two tabs with the same conversation: an idle one follows the other, two that both write diverge.
    await other.getByRole('button', { name: 'from the first' }).click();
    await second.ask('more');
    await page.getByText('You said: more').first().waitFor();
    mock.answer = words(100);
    await Promise.all([chat.say('mine'), second.say('theirs')]);
    await Promise.all([chat.idle(), second.idle()]);
    const questions = await page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('lapidary.conversation.'))
      .map((key) => JSON.parse(localStorage[key]).messages.filter(({ role }) => role === 'user').map(({ content }) => content).join()).sort());
    assert.ok(questions.some((all) => all.endsWith('mine')) && questions.some((all) => all.endsWith('theirs')), questions.join(' | '));
  });

  await check('an answer goes on while another conversation is in view', async (chat, page) => {
    mock.answer = words(60);
    await chat.say('long one');
    await chat.has(20);
    await page.getByRole('button', { name: 'New conversation' }).click();
    assert.equal(await chat.answers.count(), 0);
    assert.match(await page.locator('#live').innerText(), /In another conversation/);
    await chat.idle();
    await page.getByRole('button', { name: 'long one' }).click();
    assert.match(await chat.lastText(), /word60$/);
  });

  await check('a conversation that is deleted while it is answered is gone, here and in other tabs', async (chat, page, context) => {
    mock.answer = words(5000);
    await chat.say('long one');
    await chat.has(60);
    const other = await context.newPage();
    const second = new chat.constructor(other, chat.url);
    await second.open();
    await other.getByRole('button', { name: 'long one' }).click();
    await page.locator('#conversations').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await chat.idle();
    await second.questions.first().waitFor({ state: 'detached' });
    await until(() => mock.aborted >= 1);
    await page.reload();
    assert.equal(await chat.conversations.count(), 0);
    assert.equal(await second.conversations.count(), 0);
  });

  await check('a page that is closed midway keeps what came', async (chat, page) => {
    mock.answer = words(5000);
    await chat.say('long one');
    await chat.has(60);
    await page.reload();
    assert.match(await chat.lastText(), /^word1 word2/);
    await page.getByText('This answer is not whole').first().waitFor();
  });

  await check('storage that is full', async (chat, page) => {
    await page.evaluate(() => {
      for (let size = 1 << 20; size > 0; size >>= 1) {
        try {
          for (let index = 0; index < 100; index += 1) localStorage.setItem(`full.${size}.${index}`, 'x'.repeat(size));
        } catch {
          // Continue with the next smaller size.
        }
      }
    });
    await chat.ask('hello');
    await page.getByText('storage is full').first().waitFor();
    assert.equal(await chat.lastText(), 'You said: hello');
    await chat.ask('again');
    assert.equal(await chat.conversations.count(), 1);
  });

  await check('storage that is forbidden', async (chat, page) => {
    await chat.ask('hello');
    await page.getByText('The browser keeps nothing for this page').first().waitFor();
    await page.getByRole('button', { name: 'New conversation' }).click();
    await page.getByRole('button', { name: 'hello' }).click();
    assert.equal(await chat.lastText(), 'You said: hello');
  }, {
    init: () => {
      for (const name of ['localStorage', 'sessionStorage']) {
        Object.defineProperty(window, name, { get() { throw new DOMException('forbidden', 'SecurityError'); } });
      }
    },
  });

  await check('the end is followed until the reader scrolls up', async (chat, page) => {
    const log = page.locator('#log');
    const distance = () => log.evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
    mock.answer = () => ({ pieces: Array.from({ length: 5000 }, (_, index) => `Line ${index}\n\n`), delay: 15 });
    await chat.say('scroll');
    await chat.has(900);
    assert.ok((await distance()) < 100);
    await log.hover();
    await page.mouse.wheel(0, -400);
    await page.getByRole('button', { name: 'Latest' }).waitFor();
    const away = await distance();
    const length = (await chat.lastText()).length;
    await chat.has(length + 300);
    assert.ok((await distance()) > away + 100);
    await page.getByRole('button', { name: 'Latest' }).click();
    await chat.has(length + 600);
    assert.ok((await distance()) < 100);
    await chat.stop.click();
    await chat.idle();
  });

  await check('nothing moves for who wants that', async (chat, page) => {
    const moving = async () => {
      let opened;
      const gate = new Promise((resolve) => { opened = resolve; });
      mock.answer = () => ({ pieces: ['late'], gate });
      await chat.say('Wait');
      await page.locator('.waiting:not([hidden])').waitFor();
      const count = await page.evaluate(() => document.getAnimations().length);
      opened();
      await chat.idle();
      return count;
    };
    assert.equal(await moving(), 0);
    await page.emulateMedia({ reducedMotion: 'no-preference' });
    assert.ok((await moving()) > 0);
  }, { reducedMotion: 'reduce' });

  for (const [where, init] of [['', undefined], [', without a clipboard for scripts', () => Object.defineProperty(navigator, 'clipboard', { value: undefined })]]) {
    await check(`copying${where}`, async (chat, page) => {
      mock.answer = () => ({ pieces: ['Say **this**:\n\n```sh\necho "<b>"\n\techo 2\n```\n'] });
      await chat.ask('code');
      await page.getByRole('button', { name: 'Copy the code' }).click();
      await page.getByText('Copied', { exact: true }).waitFor();
      await chat.prompt.focus();
      await page.keyboard.press('Control+V');
      assert.equal(await chat.prompt.inputValue(), 'echo "<b>"\n\techo 2');
      await chat.prompt.fill('');
      await page.getByRole('button', { name: 'Copy this answer' }).click();
      await page.locator('.tools .done').waitFor();
      await chat.prompt.focus();
      await page.keyboard.press('Control+V');
      assert.match(await chat.prompt.inputValue(), /^Say \*\*this\*\*:/);
    }, { init, permissions: ['clipboard-read', 'clipboard-write'] });
  }
}
