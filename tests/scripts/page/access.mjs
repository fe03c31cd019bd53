// Checks the page with axe-core, and checks what axe-core cannot see: that tokens are not read aloud one by one.

import assert from 'node:assert/strict';

import { SAMPLE } from './sample.mjs';

export async function checkAccess(checks, axePath, mock) {
  const audit = async (page, where) => {
    // Evaluated through the debugger, because the page's policy would block an injected script.
    const { violations } = await page.evaluate(async () => {
      const found = await window.axe.run(document, { resultTypes: ['violations'] });
      return { violations: found.violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ html, failureSummary }) => `${html}\n${failureSummary}`) })) };
    });
    const listed = violations.map(({ id, impact, nodes }) => `${where}: ${impact} ${id}\n${nodes.join('\n')}`).join('\n');
    assert.equal(listed, '');
  };

  for (const colorScheme of ['light', 'dark']) {
    for (const viewport of [{ width: 1200, height: 900 }, { width: 360, height: 700 }]) {
      await checks.check(`axe finds nothing, ${colorScheme}, ${viewport.width} pixels`, async (chat, page) => {
        if (mock) mock.answer = () => ({ pieces: [SAMPLE] });
        await page.emulateMedia({ reducedMotion: 'reduce' });
        await page.getByRole('button', { name: 'Settings' }).click();
        await page.getByLabel('Max tokens').fill('20');
        await audit(page, 'settings');
        await chat.saveSettings();
        await audit(page, 'welcome');
        await chat.ask('Show me everything');
        await audit(page, 'answer');
        await page.getByRole('button', { name: 'Edit this message' }).click();
        await audit(page, 'edit');
        await page.keyboard.press('Escape');
        if (viewport.width < 800) await page.getByRole('button', { name: 'Conversations' }).click();
        await audit(page, 'list');
        await page.getByRole('button', { name: 'Rename' }).click();
        await audit(page, 'rename');
      }, { colorScheme, viewport, init: { path: axePath } });
    }
  }

  await checks.check('a screen reader hears the whole answer, once', async (chat, page) => {
    if (mock) mock.answer = () => ({ pieces: Array.from({ length: 40 }, (_, index) => `part${index} `), delay: 10 });
    await page.evaluate(() => {
      window.heard = [];
      new MutationObserver(() => window.heard.push(document.getElementById('announce').textContent))
        .observe(document.getElementById('announce'), { childList: true, subtree: true, characterData: true });
    });
    await chat.limitTokens(30);
    await chat.ask('Talk');
    const heard = await page.evaluate(() => window.heard);
    assert.deepEqual(heard.slice(0, 2), ['Settings saved.', 'The model is answering.']);
    assert.equal(heard.length, 3);
    if (mock) assert.match(heard[2], /^Answer: part0 .* part39/);
    assert.equal(await page.locator('[aria-live]:not([aria-live="off"]), [role="status"], [role="log"], [role="alert"]').count(), 1);
  });
}
