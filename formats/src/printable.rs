//! Makes strings from untrusted files safe to print.

use std::fmt::{self, Write};

/// Displays a string from a file safely. Characters that control a terminal or are invisible on it
/// (control characters, and with them ANSI escapes; bidirectional marks; zero-width characters) are
/// escaped as in a Rust literal. A text that is too long is truncated. Everything else is unchanged.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a> {
    text: &'a str,
    limit: usize,
}

impl<'a> Printable<'a> {
    /// Shows at most 200 characters of `text`, enough for names and values.
    pub fn new(text: &'a str) -> Self {
        Self { text, limit: 200 }
    }

    /// Sets the largest number of characters that are shown.
    pub fn at_most(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

/// Whether a character acts on a terminal, and is not shown there: a control character (C0, DEL, C1),
/// or one that changes the direction of the text around it (Unicode's `Bidi_Control`).
pub fn is_control(c: char) -> bool {
    let is_bidi = matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.text.char_indices().nth(self.limit).map(|(at, _)| at);
        let shown = &self.text[..cut.unwrap_or(self.text.len())];
        // `escape_debug` knows which characters cannot be printed, but escapes these three as well.
        const PLAIN: [char; 3] = ['"', '\'', '\\'];
        for part in shown.split_inclusive(PLAIN) {
            let text = part.trim_end_matches(PLAIN);
            write!(f, "{}{}", text.escape_debug(), &part[text.len()..])?;
        }
        match cut {
            Some(_) => f.write_char('…'),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Printable::new(text).to_string()
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "blk.0.attn_q.weight", "Grüße, \"Welt\" \\ 'x'", "▁the", "日本語 🙂", "ö"]
        {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        assert_eq!(shown("\x1b[31mred\x1b[0m"), "\\u{1b}[31mred\\u{1b}[0m");
        assert_eq!(shown("a\r\nb\tc\0"), "a\\r\\nb\\tc\\0");
        let c0_and_c1 = ('\0'..=' ').chain('\x7f'..='\u{9f}').filter(|c| c.is_control());
        // Bidirectional marks, zero-width characters, line and paragraph separators, tags.
        let others = "\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\
                      \u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{e0041}";
        for c in c0_and_c1.chain(others.chars()) {
            let text = shown(&format!("a{c}b"));
            assert!(text.starts_with("a\\") && !text.contains(c), "{text}");
        }
    }

    #[test]
    fn long_text_is_truncated_between_characters() {
        assert_eq!(shown(&"ß".repeat(200)), "ß".repeat(200));
        assert_eq!(shown(&"ß".repeat(201)), format!("{}…", "ß".repeat(200)));
        assert_eq!(Printable::new("abc").at_most(2).to_string(), "ab…");
    }
}
