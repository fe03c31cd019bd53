// Checks that must pass with any server, whatever its model answers.

import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export async function checkAnywhere(checks) {
  await checks.check('an answer comes, with its figures and the context', async (chat, page) => {
    await chat.limitTokens(20);
    await chat.ask('Hello there');
    assert.match(await page.locator('#model').innerText(), /\S/);
    assert.match(await page.locator('#context-text').innerText(), /^[\d,]+ of [\d,]+ tokens$/);
    assert.match(await chat.answers.last().locator('.figures').innerText(), /[\d.]+ tokens\/s · \d+ tokens?/);
    assert.equal(await page.title(), 'Hello there – Lapidary');
    assert.match(await page.locator('#announce').innerText(), /./);
  });

  await checks.check('the history survives a reload', async (chat, page) => {
    await chat.limitTokens(10);
    await chat.ask('First question');
    const answer = await chat.lastText();
    await page.reload();
    assert.deepEqual(await chat.questions.allInnerTexts(), ['First question']);
    assert.equal(await chat.lastText(), answer);
    await chat.ask('Second question');
    assert.equal(await chat.answers.count(), 2);
  });

  await checks.check('several conversations: new, switch, rename, delete', async (chat, page) => {
    await chat.limitTokens(5);
    await chat.ask('About cats');
    await page.getByRole('button', { name: 'New conversation' }).click();
    assert.equal(await chat.answers.count(), 0);
    await chat.ask('About dogs');
    assert.equal(await chat.conversations.count(), 2);
    await page.getByRole('button', { name: 'About cats' }).click();
    assert.deepEqual(await chat.questions.allInnerTexts(), ['About cats']);

    await page.getByRole('button', { name: 'Rename' }).click();
    await page.getByRole('dialog').getByLabel('Name').fill('Felines');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Felines' }).waitFor();
    assert.equal(await page.locator('h1').innerText(), 'Felines');
    await page.reload();
    assert.equal(await page.locator('h1').innerText(), 'Felines');

    await page.locator('#conversations').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByRole('button', { name: 'Felines' }).waitFor({ state: 'detached' });
    await page.reload();
    assert.deepEqual(await chat.conversations.allInnerTexts(), ['About dogs']);
  });

  await checks.check('export and import', async (chat, page) => {
    await chat.limitTokens(5);
    await chat.ask('Keep me');
    const answer = await chat.lastText();
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Export all' }).click()]);
    const file = join(tmpdir(), `lapidary-export-${process.pid}.json`);
    await download.saveAs(file);
    const exported = JSON.parse(await readFile(file, 'utf8'));
    assert.equal(exported.format, 'lapidary.conversations');
    assert.equal(exported.conversations[0].messages[0].content, 'Keep me');

    await page.locator('#import-file').setInputFiles(file);
    await page.getByText('0 imported, 1 here already.').first().waitFor();
    await page.evaluate(() => localStorage.clear());
    await page.evaluate(() => sessionStorage.clear());
    await page.reload();
    assert.equal(await chat.conversations.count(), 0);
    await page.locator('#import-file').setInputFiles(file);
    await page.getByRole('button', { name: 'Keep me' }).click();
    assert.equal(await chat.lastText(), answer);

    await writeFile(file, '{"conversations": 1}');
    await page.locator('#import-file').setInputFiles(file);
    await page.getByText('This file has no conversations of Lapidary.').first().waitFor();
    await rm(file);
  });

  await checks.check('settings are kept, and reset', async (chat, page) => {
    const settings = page.getByRole('dialog');
    await page.getByRole('button', { name: 'Settings' }).click();
    await settings.getByLabel('System message').fill('Be brief.');
    await settings.getByLabel('Temperature').fill('0.5');
    await chat.saveSettings();
    await page.reload();
    await page.getByRole('button', { name: 'Settings' }).click();
    assert.equal(await settings.getByLabel('System message').inputValue(), 'Be brief.');
    assert.equal(await settings.getByLabel('Temperature').inputValue(), '0.5');
    await settings.getByRole('button', { name: 'Reset to defaults' }).click();
    await chat.saveSettings();
    await page.getByRole('button', { name: 'Settings' }).click();
    assert.equal(await settings.getByLabel('Temperature').inputValue(), '');
  });

  await checks.check('without a mouse', async (chat, page) => {
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.textContent);
    for (let step = 0; step < 20 && (await focused()) !== 'Skip to the message box'; step += 1) await page.keyboard.press('Shift+Tab');
    assert.equal(await focused(), 'Skip to the message box');
    await page.keyboard.press('Enter');
    await page.keyboard.type('typed');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('second line');
    assert.equal(await chat.prompt.inputValue(), 'typed\nsecond line');
    assert.equal(await chat.answers.count(), 0);
    await page.keyboard.press('Enter');
    await chat.idle();
    await chat.answers.first().waitFor();
    assert.deepEqual(await chat.questions.allInnerTexts(), ['typed\nsecond line']);
    assert.equal(await focused(), 'prompt');

    // Backwards from the message box: the answer's buttons, the question's buttons, and so on to the settings.
    const met = [];
    for (let step = 0; step < 8; step += 1) {
      await page.keyboard.press('Shift+Tab');
      met.push(await focused());
    }
    for (const name of ['Answer again', 'Copy this answer', 'Edit this message', 'open-settings']) assert.ok(met.includes(name), `${name} is not among ${met}`);
    assert.ok(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== 'none'));
    while ((await focused()) !== 'open-settings') await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    assert.equal(await focused(), 'open-settings');
  });

  await checks.check('a word that is being composed is not sent', async (chat, page) => {
    await chat.prompt.fill('にほん');
    await chat.prompt.evaluate((box) => box.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true })));
    assert.equal(await chat.answers.count(), 0);
    assert.equal(await chat.prompt.inputValue(), 'にほん');
    await chat.prompt.press('Enter');
    await chat.answers.first().waitFor();
    await page.keyboard.press('Escape');
    await chat.idle();
  });

  for (const width of [320, 360]) {
    await checks.check(`${width} pixels wide`, async (chat, page) => {
      const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth
        && [...document.querySelectorAll('#log, header, #composer, dialog[open]')].every((box) => box.scrollWidth <= box.clientWidth + 1)
        && [...document.querySelectorAll('#page *, dialog[open] *')].every((box) => box.closest('.hidden, .skip, .scroll') || box.getBoundingClientRect().right <= innerWidth + 1));
      await chat.limitTokens(40);
      assert.ok(await fits());
      await chat.ask(`Averylongwordwithoutanyspace${'x'.repeat(200)}`);
      assert.ok(await fits());
      assert.ok(await chat.prompt.isVisible());
      await page.getByRole('button', { name: 'Conversations' }).click();
      await chat.conversations.first().getByRole('button').first().waitFor();
      await page.waitForTimeout(300);
      assert.ok(await fits());
      await page.keyboard.press('Escape');
      await page.waitForFunction(() => !document.body.classList.contains('sidebar-open'));
      assert.equal(await page.evaluate(() => document.activeElement.id), 'open-sidebar');
      await page.getByRole('button', { name: 'Settings' }).click();
      assert.ok(await fits());
    }, { viewport: { width, height: 700 }, hasTouch: true, isMobile: true });
  }

  await checks.check('dark and light, by the system and by the switch', async (chat, page) => {
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await paper();
    await page.emulateMedia({ colorScheme: 'light' });
    const light = await paper();
    assert.notEqual(dark, light);
    await page.getByRole('radio', { name: 'Dark' }).check();
    assert.equal(await paper(), dark);
    await page.reload();
    assert.equal(await paper(), dark);
    await page.getByRole('radio', { name: 'System' }).check();
    assert.equal(await paper(), light);
  }, { colorScheme: 'dark' });
}
