//! The limits of requests: sizes, counts and times. The first part bounds what any client can take of
//! the server, the second what one request can ask for. (How many answers are made at a time and how
//! many requests may wait are options of `lapidary serve`.)

use std::time::Duration;

// Connections.

/// The most connections at a time. Others wait until one ends.
pub const MAX_CONNECTIONS: u32 = 256;
/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 64 << 10;
/// The most headers of a request.
pub const MAX_HEADERS: usize = 64;
/// How long a request's head may take to arrive, and how long a connection may be idle.
pub const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take to read anything of what it is sent.
pub const WRITE_TIME: Duration = Duration::from_secs(60);
/// How long a stream may be silent: a client that waits for a long prompt is sent a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long open connections have to finish when the server ends.
pub const END_TIME: Duration = Duration::from_secs(3);

// Bodies.

/// The longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;
/// How long a body may take to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(60);
/// A body that is no longer, in bytes, waits for no others.
pub const SMALL_BODY: usize = 16 << 10;
/// All longer bodies that are held at a time, in bytes.
pub const MAX_BODIES: usize = 32 << 20;
/// Requests that are parsed at a time. JSON takes many times its length in memory, and a stranger's
/// chat template takes up to a gigabyte and five seconds.
pub const MAX_PREPARING: usize = 2;
/// The most memory that the values of a body may take, in bytes: enough for a body full of token ids.
pub const MAX_VALUES: usize = 48 << 20;
/// The most memory for the requests of all connections, in bytes.
pub const REQUESTS: usize =
    MAX_CONNECTIONS as usize * (MAX_HEAD + SMALL_BODY) + MAX_BODIES + MAX_PREPARING * MAX_VALUES;

// Keys.

/// The longest API key, in bytes.
pub const MAX_KEY: usize = 512;

// The queue.

/// After how many seconds a client may try again when the queue is full.
pub const RETRY_SECONDS: u32 = 1;

// What one request can ask for.

/// The most messages of a conversation.
pub const MAX_MESSAGES: usize = 4096;
/// The most answers to all prompts of a request together.
pub const MAX_ANSWERS: usize = 256;
/// The most answers to each prompt.
pub const MAX_ANSWERS_PER_PROMPT: usize = 16;
/// The most stop texts.
pub const MAX_STOPS: usize = 16;
/// The longest stop text, in bytes.
pub const MAX_STOP_BYTES: usize = 1024;
/// The most token ids with a bias.
pub const MAX_BIASES: usize = 4096;
/// The longest regular expression or grammar, in bytes.
pub const MAX_GRAMMAR: usize = 64 << 10;
/// The most texts that an answer can be one of.
pub const MAX_CHOICES: usize = 1024;
/// The most alternatives that are listed beside each token.
pub const MAX_TOP_LOGPROBS: usize = 20;
