//! Reads the syntax of templates that nobody has vouched for, without running them.
//!
//! minijinja's parser, and what walks and drops its trees, call themselves for every operator of an
//! expression and every `elif`. So a template of some kilobytes could overflow any stack, which ends
//! the process. The numbers of both are limited here before the parser sees them (the parser itself
//! limits the nesting of brackets and blocks), and what parses has a stack that suffices.

use std::panic::resume_unwind;
use std::thread;

use minijinja::machinery::{parse, Token, Tokenizer, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;

use super::ChatError;

/// Most tokens of a tag, from `{%` to `%}` or from `{{` to `}}`. The longest of the templates in
/// use have some hundred.
const MAX_TAG_TOKENS: usize = 4096;
/// Most `elif` tags of a template.
const MAX_ELIFS: usize = 1024;
/// Bytes of the stack on which templates are parsed and compiled: twice what the worst template within
/// the limits takes without optimization, and four times what it takes with it.
const STACK_BYTES: usize = 32 << 20;

/// How whitespace around tags is treated, as in transformers.
const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// Checks that a template can be parsed, and returns it as minijinja reads it: the tags
/// `{% generation %}` and `{% endgeneration %}`, with which transformers marks the text of answers
/// for training, become tags that enclose a scope and do nothing else.
///
/// # Errors
/// If it is not valid Jinja, or beyond the limits.
pub(super) fn checked(source: &str) -> Result<String, ChatError> {
    let source = translated(source)?;
    // The tree is dropped on that thread, too.
    let parsed = on_large_stack(|| {
        parse(&source, super::template::NAME, SyntaxConfig, WHITESPACE).map(drop)
    })?;
    parsed.map_err(ChatError::Syntax)?;
    Ok(source)
}

/// Calls `work` on a thread whose stack suffices for any template that is [`checked`].
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ChatError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let done = thread.map_err(ChatError::Thread)?.join();
        Ok(done.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Replaces tags that minijinja does not know, and counts what would take stack.
fn translated(source: &str) -> Result<String, ChatError> {
    let mut tokens = Tokenizer::new(source, super::template::NAME, false, SyntaxConfig, WHITESPACE);
    let (mut translated, mut copied) = (String::with_capacity(source.len()), 0);
    let (mut tag_tokens, mut elifs, mut begins_tag) = (0, 0, false);
    while let Some((token, span)) = tokens.next_token().map_err(ChatError::Syntax)? {
        tag_tokens += 1;
        let replacement = match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => {
                tag_tokens = 0;
                None
            }
            Token::Ident("generation") if begins_tag => Some("with"),
            Token::Ident("endgeneration") if begins_tag => Some("endwith"),
            Token::Ident("elif") if begins_tag => {
                elifs += 1;
                None
            }
            _ => None,
        };
        if let Some(replacement) = replacement {
            translated.push_str(&source[copied..span.start_offset as usize]);
            translated.push_str(replacement);
            copied = span.end_offset as usize;
        }
        for (what, count, limit) in
            [("tokens in one tag", tag_tokens, MAX_TAG_TOKENS), ("`elif` tags", elifs, MAX_ELIFS)]
        {
            if count > limit {
                return Err(ChatError::TooComplex { what, limit });
            }
        }
        begins_tag = matches!(token, Token::BlockStart);
    }
    translated.push_str(&source[copied..]);
    Ok(translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_transformers_are_translated_and_nothing_else() {
        for (source, expected) in [
            ("{%- generation -%}a{% endgeneration %}", "{%- with -%}a{% endwith %}"),
            ("{{ generation }}{% if generation %}{% endif %}", ""),
            ("{# {% generation %} #}{{ '{% generation %}' }} generation", ""),
            ("{% raw %}{% generation %}{% endraw %}", ""),
            ("{% generation %}", "{% with %}"),
        ] {
            let expected = if expected.is_empty() { source } else { expected };
            assert_eq!(translated(source).unwrap(), expected);
        }
    }
}
