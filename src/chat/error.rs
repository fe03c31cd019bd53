//! Why a conversation cannot be rendered.

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is far longer than any useful one.
    #[error("the chat template has {len} bytes, but at most {limit} are allowed")]
    SourceTooLong {
        /// Its length in bytes.
        len: usize,
        /// Largest allowed length in bytes.
        limit: usize,
    },
    /// The template has an expression or a condition that is far larger than any useful one.
    #[error("the chat template has more than {limit} {what}")]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// Largest allowed number of it.
        limit: usize,
    },
    /// No thread can be started to parse the template.
    #[error("the chat template cannot be parsed: {0}")]
    Thread(std::io::Error),
    /// The template is not Jinja, or uses something that is not supported.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(minijinja::Error),
    /// The template called `raise_exception`: it does not accept the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template failed while it ran, or ran for too long.
    #[error("the chat template fails: {0}")]
    Render(minijinja::Error),
    /// The template wrote too much text.
    #[error("the chat template writes more than {limit} bytes")]
    TooLong {
        /// Largest allowed length in bytes.
        limit: usize,
    },
    /// Two characters that occur in no content are needed as marks, and there are none left.
    #[error(
        "the messages contain every private-use character from U+E000 to U+F8FF, or all but one"
    )]
    NoMark,
}
