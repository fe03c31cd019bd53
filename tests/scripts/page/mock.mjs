// A server with the page's files and scripted answers. It sends what `lapidary serve` sends, without a model.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PAGE = new URL('../../../src/server/http/page/', import.meta.url);
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
  + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { '.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8', '.js': 'text/javascript; charset=utf-8' };
const CONTEXT = 8192;

/**
 * `mock.answer(body)` returns what to send: `{pieces, gate, delay, breakAfter, status, error, finish, midway}`.
 * `pieces` are texts, `gate` is a promise that they wait for, `delay` the milliseconds before each, `breakAfter` how
 * many are sent before the connection is closed, and `midway` an error that is sent after them.
 */
export async function startMock() {
  const mock = { requests: [], aborted: 0, key: null, answer: echo };
  const server = createServer((request, response) => {
    handle(mock, request, response).catch((error) => {
      console.error(error);
      response.destroy();
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  mock.url = `http://127.0.0.1:${server.address().port}/`;
  mock.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return mock;
}

/** Answers with the question, word by word. */
export function echo(body) {
  return { pieces: `You said: ${body.messages.at(-1).content}`.split(/(?<= )/), delay: 5 };
}

/** Answers with this many words, slowly enough to be stopped. */
export function words(count, delay = 15) {
  return () => ({ pieces: Array.from({ length: count }, (_, index) => `word${index + 1} `), delay });
}

async function handle(mock, request, response) {
  const { pathname } = new URL(request.url, mock.url);
  if (pathname.startsWith('/v1/')) {
    if (mock.key && request.headers.authorization !== `Bearer ${mock.key}`) {
      return refuse(response, 401, 'Incorrect API key provided.');
    }
    if (pathname === '/v1/models') {
      return send(response, 200, TYPES['.js'], JSON.stringify({ data: [{ id: 'gemma-2-2b-it-Q4_K_M', meta: { n_ctx: CONTEXT } }] }));
    }
    if (pathname === '/v1/chat/completions') return complete(mock, request, response);
    return refuse(response, 404, 'not found');
  }
  const name = pathname === '/' ? 'index.html' : pathname.slice(1);
  if (!/^[a-z]+\.(html|css|js)$/.test(name)) return send(response, 404, 'text/plain', 'not found');
  send(response, 200, TYPES[extname(name)], await readFile(new URL(name, PAGE)));
}

function send(response, status, type, body) {
  response.writeHead(status, { 'content-type': type, 'content-security-policy': POLICY, 'x-content-type-options': 'nosniff' });
  response.end(body);
}

function refuse(response, status, message) {
  send(response, status, 'application/json', JSON.stringify({ error: { message, type: 'error', code: status } }));
}

async function complete(mock, request, response) {
  let text = '';
  for await (const part of request) text += part;
  const body = JSON.parse(text);
  mock.requests.push(body);
  const { pieces = [], gate, delay = 0, breakAfter = Infinity, status = 200, error, finish = 'stop', midway } = mock.answer(body);
  if (status !== 200) return refuse(response, status, error);
  let closed = false;
  response.on('close', () => {
    closed = true;
    if (!response.writableFinished) mock.aborted += 1;
  });
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const event = (data) => response.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
  const chunk = (delta, reason = null) => event({ object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: reason }] });
  const started = performance.now();
  chunk({ role: 'assistant', content: '' });
  await gate;
  for (const [index, piece] of pieces.entries()) {
    if (delay) await sleep(delay);
    if (closed) return;
    if (index === breakAfter) return response.destroy();
    chunk({ content: piece });
  }
  if (midway) {
    event({ error: { message: midway, code: 500 } });
    return response.end();
  }
  chunk({}, finish);
  const prompt = body.messages.reduce((sum, { content }) => sum + Math.ceil(content.length / 4), 0);
  const milliseconds = performance.now() - started;
  event({
    object: 'chat.completion.chunk',
    choices: [],
    usage: { prompt_tokens: prompt, completion_tokens: pieces.length, total_tokens: prompt + pieces.length, prompt_tokens_details: { cached_tokens: 0 } },
    timings: { prompt_n: prompt, predicted_n: pieces.length, predicted_ms: milliseconds, predicted_per_second: (pieces.length * 1000) / milliseconds },
  });
  event('[DONE]');
  response.end();
}
