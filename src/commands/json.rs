//! What `--json` prints.

use std::io::{self, Write};

use lapidary_formats::printable::is_control;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::Value;

/// A value as one line of JSON in which every control character is escaped (`\u009b`), also those that
/// JSON allows in strings: the line may be shown on a terminal.
pub fn json_line(value: &Value) -> String {
    let mut line = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut line, Escaping))
        .expect("a value can be written to memory");
    String::from_utf8(line).expect("JSON is UTF-8")
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for part in fragment.split_inclusive(is_control) {
            let plain = part.trim_end_matches(is_control);
            out.write_all(plain.as_bytes())?;
            part[plain.len()..].chars().try_for_each(|c| write!(out, "\\u{:04x}", u32::from(c)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_keys_come_back_from_ascii_escapes() {
        let text = "a\u{9b}2J\u{202e}\u{7f}\u{1b}\n\"\\ü🙂\u{2066}\u{61c}";
        let value = serde_json::json!({ text: [text, 1, null], "b": text });
        let line = json_line(&value);
        assert!(!line.contains(is_control) && line.contains("ü🙂"), "{line}");
        assert!(line.contains(r#"a\u009b2J\u202e\u007f\u001b\n\"\\ü"#), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
