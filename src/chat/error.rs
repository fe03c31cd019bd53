//! Why a conversation cannot be written out.

/// Why a conversation could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is far longer than any that is of use.
    #[error("the chat template has {len} bytes, at most {limit} are taken")]
    SourceTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is taken, in bytes.
        limit: usize,
    },
    /// The template is no Jinja that this program understands.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(#[source] minijinja::Error),
    /// The template called `raise_exception`: it does not take such a conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template failed while it ran, or ran for too long.
    #[error("the chat template fails: {0}")]
    Render(#[source] minijinja::Error),
    /// The template wrote without end.
    #[error("the chat template writes more than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// Contents are marked with two characters that they do not have; these have all of them.
    #[error(
        "the messages contain every private-use character from U+E000 to U+F8FF, or all but one"
    )]
    NoMark,
}
