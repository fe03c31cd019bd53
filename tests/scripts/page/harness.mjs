// A browser that drives the page, and helpers for the checks.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Timeout in milliseconds. It is long because the machine may be busy, and nothing is measured. */
const PATIENCE = 60_000;

/** Loads packages from NODE_PATH, or installs them for this run. */
export function packages(...names) {
  const given = (process.env.NODE_PATH ?? '').split(delimiter).filter(Boolean);
  const holds = (folder) => names.every((name) => existsSync(join(folder, name)));
  let folder = given.find(holds);
  if (!folder) {
    const place = mkdtempSync(join(tmpdir(), 'lapidary-page-'));
    process.on('exit', () => rmSync(place, { recursive: true, force: true }));
    execFileSync('npm', ['install', '--silent', '--no-save', '--prefix', place, ...names], { stdio: 'inherit' });
    folder = join(place, 'node_modules');
  }
  const require = createRequire(join(folder, 'none.js'));
  return names.map((name) => ({ exports: require(name), path: require.resolve(name) }));
}

/** A browser with a temporary profile. */
export function launch(playwright) {
  const browsers = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const executablePath = browsers.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('there is no Chromium: install it, or name it in CHROMIUM');
  return playwright.chromium.launch({ executablePath, args: FLAGS });
}

/** Waits until `holds()` is true, for conditions outside of the page. */
export async function until(holds) {
  for (const end = Date.now() + PATIENCE; !holds();) {
    if (Date.now() > end) throw new Error(`this never came true: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs checks one after the other, each in a browser context of its own, and counts the failures. */
export class Checks {
  failed = 0;
  passed = 0;

  /** Runs only the checks whose names contain `only`. */
  constructor(browser, url, only = '') {
    this.browser = browser;
    this.url = url;
    this.only = only;
  }

  /** Calls `body(chat, page, context)`. `options` are those of a browser context, and `init`, a script that runs before the page's. */
  async check(name, body, { init, ...options } = {}) {
    if (!name.includes(this.only)) return;
    const context = await this.browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
    context.setDefaultTimeout(PATIENCE);
    if (init) await context.addInitScript(init);
    const complaints = [];
    const watch = (page) => {
      page.on('pageerror', (error) => complaints.push(`error on the page: ${error.message}`));
      page.on('console', (message) => {
        // The browser logs every refusal, including those that a check provokes.
        if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) complaints.push(message.text());
      });
      page.on('request', (request) => {
        if (!request.url().startsWith(this.url) && !/^(data|blob):/.test(request.url())) complaints.push(`asked for ${request.url()}`);
      });
    };
    context.on('page', watch);
    try {
      const page = await context.newPage();
      const chat = new Chat(page, this.url);
      await chat.open();
      await body(chat, page, context);
      if (complaints.length > 0) throw new Error(complaints.join('\n'));
      this.passed += 1;
      console.log(`ok      ${name}`);
    } catch (error) {
      this.failed += 1;
      console.log(`FAILED  ${name}\n${error.stack.replace(/^/gm, '        ')}`);
    } finally {
      await context.close();
    }
  }
}

/** The page, with the actions of a user. */
export class Chat {
  constructor(page, url) {
    this.page = page;
    this.url = url;
    this.prompt = page.getByRole('textbox', { name: 'Message', exact: true });
    this.send = page.getByRole('button', { name: 'Send' });
    this.stop = page.getByRole('button', { name: 'Stop', exact: true });
    this.answers = page.locator('article.assistant');
    this.questions = page.locator('article.user .bubble');
    this.conversations = page.locator('#conversations li');
  }

  async open() {
    await this.page.goto(this.url);
    await this.prompt.waitFor();
  }

  /** Sends a message without waiting. */
  async say(text) {
    await this.prompt.fill(text);
    await this.prompt.press('Enter');
  }

  /** Sends a message and waits for the whole answer. */
  async ask(text) {
    const before = await this.answers.count();
    await this.say(text);
    await this.answers.nth(before).waitFor();
    await this.idle();
  }

  /** Waits until no answer is being generated. */
  async idle() {
    await this.page.locator('#send:not([hidden])').waitFor();
  }

  /** Sets the largest number of tokens of an answer. */
  async limitTokens(tokens) {
    await this.page.getByRole('button', { name: 'Settings' }).click();
    await this.page.getByLabel('Max tokens').fill(String(tokens));
    await this.saveSettings();
  }

  /** Closes the settings and waits until they are stored. */
  async saveSettings() {
    await this.page.getByRole('dialog').getByRole('button', { name: 'Save' }).click();
    await this.page.locator('#announce', { hasText: 'Settings saved.' }).waitFor({ state: 'attached' });
  }

  lastText() {
    return this.answers.last().locator('.prose').innerText();
  }

  /** Waits until the answer has this many characters. */
  async has(characters) {
    await this.page.waitForFunction(
      (least) => [...document.querySelectorAll('article.assistant .prose')].at(-1)?.textContent.length >= least, characters);
  }
}
