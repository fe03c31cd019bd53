// One answer while it is being generated: its text so far, its speed and how it ended.

import { answer as stream, BrokenConnection, ServerError } from './stream.js';

/** What some HTTP errors mean to the reader of the page. For the others the server's message is shown. */
const WORDS = {
  401: 'The server answers only those who have an API key.',
  429: 'The server is busy with other answers. Try again in a moment.',
};

const oneDecimal = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export class Answer {
  #controller = new AbortController();
  #started = performance.now();
  #first = null;
  #chunks = 0;

  /** `message` is the last message of `conversation` and receives the text. */
  constructor(conversation, message) {
    this.conversation = conversation;
    this.message = message;
    /** Set when the answer is not to be kept. */
    this.discarded = false;
    /** The answer that this one replaces. */
    this.before = null;
  }

  /**
   * Reads the answer into the message, and calls `onChunk` after each chunk of text. Returns the HTTP status
   * if the server refused the request, otherwise 0.
   */
  async run(body, key, context, onChunk) {
    const { message } = this;
    delete message.problem;
    message.state = 'unfinished';
    try {
      for await (const chunk of stream(body, key, this.#controller.signal)) this.#take(chunk, context, onChunk);
      message.state = 'whole';
      return 0;
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Aborts it; the server stops generating. */
  stop() {
    this.#controller.abort();
  }

  get stopped() {
    return this.#controller.signal.aborted;
  }

  #take({ text, finish, usage, timings }, context, onChunk) {
    const { message } = this;
    if (text) {
      this.#first ??= performance.now();
      this.#chunks += 1;
      message.content += text;
      // Until the server reports the number of tokens, each chunk of text counts as one.
      message.figures = { tokens: this.#chunks, ...(this.#rate() && { perSecond: this.#rate() }) };
    }
    if (finish === 'length') message.finish = 'length';
    if (usage) {
      const perSecond = timings?.predicted_per_second ?? this.#rate();
      message.figures = { tokens: usage.completion_tokens, used: usage.total_tokens };
      if (Number.isFinite(perSecond)) message.figures.perSecond = perSecond;
      if (context) message.figures.context = context;
    }
    onChunk();
  }

  #failed(error) {
    const { message } = this;
    if (error.name === 'AbortError') {
      message.state = 'stopped';
    } else if (error instanceof BrokenConnection) {
      message.state = 'broken';
    } else if (error instanceof ServerError) {
      message.state = 'failed';
      message.problem = WORDS[error.status] ?? error.message;
      return error.status;
    } else {
      throw error;
    }
    return 0;
  }

  /** Tokens per second so far, or `null`. */
  #rate() {
    const seconds = this.#first === null ? 0 : (performance.now() - this.#first) / 1000;
    return this.#chunks > 1 && seconds > 0 ? (this.#chunks - 1) / seconds : null;
  }

  /** A line of text about the progress. */
  get progress() {
    if (this.#first === null) {
      const seconds = Math.floor((performance.now() - this.#started) / 1000);
      return seconds < 1 ? 'Reading…' : `Reading… ${whole.format(seconds)} s`;
    }
    return figuresText({ tokens: this.#chunks, perSecond: this.#rate() });
  }
}

/** For example `12.3 tokens/s · 182 tokens`. */
export function figuresText({ tokens, perSecond }) {
  const parts = [];
  if (Number.isFinite(perSecond)) parts.push(`${oneDecimal.format(perSecond)} tokens/s`);
  if (Number.isFinite(tokens)) parts.push(`${whole.format(tokens)} ${tokens === 1 ? 'token' : 'tokens'}`);
  return parts.join(' · ');
}

/** For example `1,240 of 8,192 tokens`. */
export function contextText({ used, context }) {
  return context ? `${whole.format(used)} of ${whole.format(context)} tokens` : `${whole.format(used)} tokens`;
}
