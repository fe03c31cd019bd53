// Drives the chat page in Chromium. Without a URL it serves the page itself, with scripted answers. With the URL
// of a running `lapidary serve`, it makes only the checks that pass with any model's answers.
//
//   node tests/scripts/page/run.mjs [URL] [--only TEXT] [--shots FOLDER]
//
// playwright-core and axe-core are loaded from NODE_PATH, or else installed to a temporary folder with npm.

import { parseArgs } from 'node:util';

import { checkAccess } from './access.mjs';
import { checkAnywhere } from './anywhere.mjs';
import { Checks, launch, packages } from './harness.mjs';
import { checkMarkdown } from './markdown.mjs';
import { startMock } from './mock.mjs';
import { checkScripted } from './scripted.mjs';
import { takeShots } from './shots.mjs';

const { positionals, values } = parseArgs({ allowPositionals: true, options: { only: { type: 'string' }, shots: { type: 'string' } } });
const [playwright, axe] = packages('playwright-core', 'axe-core');
const mock = positionals.length === 0 ? await startMock() : null;
const url = mock ? mock.url : new URL(positionals[0]).href;
const browser = await launch(playwright.exports);
const checks = new Checks(browser, url, values.only);
try {
  await checkAnywhere(checks);
  await checkAccess(checks, axe.path, mock);
  if (mock) {
    await checkMarkdown(checks, mock);
    await checkScripted(checks, mock);
    if (values.shots) await takeShots(browser, mock, values.shots);
  }
} finally {
  await browser.close();
  mock?.close();
}
console.log(`${checks.passed} passed, ${checks.failed} failed`);
process.exitCode = checks.failed > 0 || checks.passed === 0 ? 1 : 0;
