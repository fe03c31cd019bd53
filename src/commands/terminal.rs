//! Standard output and standard error, for all commands. Texts of models and files may hold characters
//! that control a terminal: change its title, its clipboard, what it shows. A terminal gets them
//! escaped, as in a Rust literal; a file or a pipe gets them as they are.
#![allow(clippy::disallowed_methods)]

use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use lapidary_formats::printable::is_control;

/// Standard output.
pub fn stdout() -> Shown<Stdout> {
    let out = io::stdout();
    Shown { escapes: out.is_terminal(), out }
}

/// Standard error.
pub fn stderr() -> Shown<Stderr> {
    let out = io::stderr();
    Shown { escapes: out.is_terminal(), out }
}

/// A writer that escapes control characters other than line feeds and tabs, if it has to. Each write
/// must be whole characters, as those of `write!` are; anything else counts as no text.
pub struct Shown<W> {
    out: W,
    escapes: bool,
}

impl<W> Shown<W> {
    /// Whether it goes to a terminal.
    pub fn is_terminal(&self) -> bool {
        self.escapes
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.escapes {
            return self.out.write(bytes);
        }
        let text = String::from_utf8_lossy(bytes);
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '\n' | '\t' => shown.push(c),
                // Marks without a visible form that texts in Arabic and Hebrew have. They change the
                // direction of nothing but the neighbouring signs.
                '\u{61c}' | '\u{200e}' | '\u{200f}' => shown.push(c),
                c if is_control(c) => shown.extend(c.escape_debug()),
                c => shown.push(c),
            }
        }
        self.out.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8], escapes: bool) -> Vec<u8> {
        let mut shown = Shown { out: Vec::new(), escapes };
        shown.write_all(text).unwrap();
        shown.out
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let every = (0..=0x2069).filter_map(char::from_u32).filter(|c| is_control(*c));
        let kept = ['\n', '\t', '\u{61c}', '\u{200e}', '\u{200f}'];
        let text: String = every.filter(|c| !kept.contains(c)).collect();
        assert_eq!(text.chars().count(), 32 - 2 + 1 + 32 + 9);
        let escaped = String::from_utf8(shown(text.as_bytes(), true)).unwrap();
        assert!(escaped.is_ascii() && !escaped.contains(char::is_control), "{escaped}");
        assert_eq!(
            shown("\u{1b}]52;c;\u{7}\r\u{9b}".as_bytes(), true),
            br"\u{1b}]52;c;\u{7}\r\u{9b}"
        );
        // Half a character could become a control character together with the next write.
        assert_eq!(shown(b"\xc2", true), "\u{fffd}".as_bytes());
    }

    #[test]
    fn texts_stay_as_they_are() {
        let text = "Grüße,\n\t\"日本語\" \\ 🙂 e\u{301} \u{200d} א\u{200f}!".as_bytes();
        assert_eq!(shown(text, true), text);
        let controls = b"\x1b[2J\r\0\xff";
        assert_eq!(shown(controls, false), controls);
    }
}
