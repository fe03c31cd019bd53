// One answer while it is being made: what has come of it, how fast, and how it ended.

import { answer as stream, BrokenConnection, ServerError } from './stream.js';

/** What refusals mean to who reads the page. The server says the rest. */
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
  #pieces = 0;

  /** `message` is the last of `conversation`, and is written to. */
  constructor(conversation, message) {
    this.conversation = conversation;
    this.message = message;
    /** Set when nobody wants to keep it. */
    this.discarded = false;
    /** What it is to replace. */
    this.before = null;
  }

  /**
   * Reads the whole answer into the message, and calls `onPiece` whenever some of it has come. Returns
   * HTTP's status where the server refused, otherwise 0.
   */
  async run(body, key, context, onPiece) {
    const { message } = this;
    delete message.problem;
    message.state = 'unfinished';
    try {
      for await (const piece of stream(body, key, this.#controller.signal)) this.#take(piece, context, onPiece);
      message.state = 'whole';
      return 0;
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Ends it; the server stops working on it. */
  stop() {
    this.#controller.abort();
  }

  get stopped() {
    return this.#controller.signal.aborted;
  }

  #take({ text, finish, usage, timings }, context, onPiece) {
    const { message } = this;
    if (text) {
      this.#first ??= performance.now();
      this.#pieces += 1;
      message.content += text;
      // Until the server has counted, a piece counts as a token.
      message.figures = { tokens: this.#pieces, ...(this.#rate() && { perSecond: this.#rate() }) };
    }
    if (finish === 'length') message.finish = 'length';
    if (usage) {
      const perSecond = timings?.predicted_per_second ?? this.#rate();
      message.figures = { tokens: usage.completion_tokens, used: usage.total_tokens };
      if (Number.isFinite(perSecond)) message.figures.perSecond = perSecond;
      if (context) message.figures.context = context;
    }
    onPiece();
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
    return this.#pieces > 1 && seconds > 0 ? (this.#pieces - 1) / seconds : null;
  }

  /** A line on how it goes. */
  get progress() {
    if (this.#first === null) {
      const seconds = Math.floor((performance.now() - this.#started) / 1000);
      return seconds < 1 ? 'Reading…' : `Reading… ${whole.format(seconds)} s`;
    }
    return figuresText({ tokens: this.#pieces, perSecond: this.#rate() });
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
