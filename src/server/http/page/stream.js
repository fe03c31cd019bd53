// The server's API: its model, and streamed answers.

/** A request was refused, or an answer failed. `status` is the HTTP status, or 0 if there was none. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The connection ended before the answer was complete. */
export class BrokenConnection extends Error {}

/** The first model of the server: `{id, context}`, with `context` in tokens or `null`. */
export async function model(key) {
  const response = await request('v1/models', { headers: headers(key) });
  const first = (await response.json().catch(() => null))?.data?.[0];
  if (typeof first?.id !== 'string') throw new ServerError('The server names no model.');
  const context = first.meta?.n_ctx;
  return { id: first.id, context: Number.isFinite(context) ? context : null };
}

/**
 * Requests an answer and yields `{text}`, `{finish}` and `{usage, timings}` as they arrive. Aborting `signal`
 * ends it with an `AbortError` and frees the server's slot.
 */
export async function* answer(body, key, signal) {
  const response = await request('v1/chat/completions', {
    method: 'POST',
    headers: { ...headers(key), 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finished = false;
  try {
    for await (const data of events(response.body)) {
      if (data === '[DONE]') return;
      const chunk = parsed(data);
      if (chunk.error) throw new ServerError(wording(chunk.error));
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        finished = true;
        yield { finish: choice.finish_reason };
      }
      if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings ?? null };
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === 'AbortError') throw error;
    throw new BrokenConnection(error.message);
  }
  // Some servers send no [DONE], but an answer with a finish reason is complete.
  if (!finished) throw new BrokenConnection('the stream ended early');
}

/** Yields the `data` of each server-sent event. An incomplete event at the end is ignored. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const ended of lines) {
        const line = ended.endsWith('\r') ? ended.slice(0, -1) : ended;
        if (line === '') {
          if (data.length > 0) yield data.join('\n');
          data = [];
        } else if (line.startsWith('data:')) {
          data.push(line.slice(line[5] === ' ' ? 6 : 5));
        }
      }
    }
  } finally {
    // If the consumer stops early, this closes the connection.
    reader.cancel().catch(() => {});
  }
}

function parsed(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    throw new ServerError('The server sent what is no JSON.');
  }
}

function headers(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ServerError('The server cannot be reached.');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ServerError(wording(body?.error) || `The server answered with status ${response.status}.`, response.status);
}

function wording(error) {
  return typeof error === 'string' ? error : String(error?.message ?? '');
}
