// Screenshots of the page.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

import { Chat } from './harness.mjs';
import { SAMPLE } from './sample.mjs';

const VIEWS = {
  'desktop-light': { viewport: { width: 1280, height: 860 }, colorScheme: 'light' },
  'desktop-dark': { viewport: { width: 1280, height: 860 }, colorScheme: 'dark' },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: 'light', deviceScaleFactor: 2, hasTouch: true, isMobile: true },
};

export async function takeShots(browser, mock, folder) {
  await mkdir(folder, { recursive: true });
  for (const [name, options] of Object.entries(VIEWS)) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const chat = new Chat(page, mock.url);
    const shot = (what) => page.screenshot({ path: join(folder, `${name}-${what}.png`) });
    await chat.open();
    await shot('welcome');
    mock.answer = () => ({ pieces: ['Yes.'] });
    for (const title of ['A plan for a small garden', 'Rust lifetimes, briefly', 'What rhymes with orange?']) {
      await chat.ask(title);
      await page.evaluate(() => document.getElementById('new-chat').click());
    }
    mock.answer = () => ({ pieces: SAMPLE.match(/[^]{1,4}/g), delay: 2 });
    await chat.ask('How are gemstones cut so that they sparkle?');
    await shot('answer-end');
    await page.locator('#log').evaluate((log) => { log.scrollTop = 0; });
    await page.waitForTimeout(200);
    await shot('answer');
    mock.answer = () => ({ pieces: SAMPLE.match(/[^]{1,4}/g), delay: 40 });
    await chat.say('And once more, slowly?');
    await page.waitForTimeout(1500);
    await shot('streaming');
    await chat.stop.click();
    await chat.idle();
    mock.answer = () => ({ status: 429, error: 'busy' });
    await chat.ask('Are you there?');
    await shot('busy');
    await page.getByRole('button', { name: 'Settings' }).click();
    await shot('settings');
    await page.keyboard.press('Escape');
    if (name === 'phone') {
      await page.getByRole('button', { name: 'Conversations' }).click();
      await page.waitForTimeout(400);
      await shot('list');
    }
    await context.close();
  }
}
