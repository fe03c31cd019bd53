//! Grammars in llama.cpp's notation, GBNF, rewritten in Lark, which the crate `llguidance` reads:
//! <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>,
//! <https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>.

use std::collections::HashMap;
use std::fmt::Write;

use crate::sampling::ConstraintError;

/// Parentheses that may be open at a time. The parser calls itself for each.
const MAX_DEPTH: usize = 64;

/// Whether a grammar is in GBNF: there the first rule has `::=` after its name.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    let mut parser = Parser::new(grammar);
    parser.skip(true);
    parser.name().is_some() && {
        parser.skip(false);
        parser.rest.starts_with("::=")
    }
}

/// The same grammar in Lark.
///
/// # Errors
/// If the text is not a grammar, has no rule `root`, or uses a rule that it does not have.
pub(super) fn to_lark(grammar: &str) -> Result<String, ConstraintError> {
    let mut parser = Parser::new(grammar);
    parser.skip(true);
    while !parser.rest.is_empty() {
        parser.rule()?;
    }
    parser.finish()
}

struct Parser<'a> {
    rest: &'a str,
    /// The number of each name. Lark's names have other characters.
    names: HashMap<&'a str, usize>,
    /// Which of them have a rule.
    defined: Vec<bool>,
    lark: String,
}

impl<'a> Parser<'a> {
    fn new(grammar: &'a str) -> Self {
        Self { rest: grammar, names: HashMap::new(), defined: Vec::new(), lark: String::new() }
    }

    fn finish(mut self) -> Result<String, ConstraintError> {
        let root = self.names.get("root").copied().filter(|root| self.defined[*root]);
        let root = root.ok_or_else(|| error("it has no rule named root"))?;
        if let Some((name, _)) = self.names.iter().find(|(_, number)| !self.defined[**number]) {
            return Err(error(&format!("it has no rule named {name}")));
        }
        writeln!(self.lark, "start: rule_{root}").expect("a String takes any text");
        Ok(self.lark)
    }

    /// A rule, and the white space after it.
    fn rule(&mut self) -> Result<(), ConstraintError> {
        let name = self.name().ok_or_else(|| self.unexpected("a rule's name"))?;
        let number = self.number(name);
        if std::mem::replace(&mut self.defined[number], true) {
            return Err(error(&format!("it has two rules named {name}")));
        }
        self.skip(false);
        if !self.take("::=") {
            return Err(self.unexpected("::="));
        }
        write!(self.lark, "rule_{number}: ").expect("a String takes any text");
        self.skip(true);
        self.alternatives(0)?;
        if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
            return Err(self.unexpected("the end of the rule"));
        }
        self.lark.push('\n');
        self.skip(true);
        Ok(())
    }

    /// Sequences with `|` between them. Line breaks are white space inside parentheses.
    fn alternatives(&mut self, depth: usize) -> Result<(), ConstraintError> {
        if depth > MAX_DEPTH {
            return Err(error(&format!("more than {MAX_DEPTH} parentheses are open at a time")));
        }
        loop {
            let mut empty = true;
            while self.item(depth)? {
                self.skip(depth > 0);
                self.repetition();
                self.lark.push(' ');
                self.skip(depth > 0);
                empty = false;
            }
            if empty {
                self.lark.push_str("\"\" ");
            }
            if !self.take("|") {
                return Ok(());
            }
            self.lark.push_str("| ");
            self.skip(true);
        }
    }

    /// An item of a sequence, if there is one.
    fn item(&mut self, depth: usize) -> Result<bool, ConstraintError> {
        match self.rest.chars().next() {
            Some('"') => self.literal()?,
            Some('[') => self.class()?,
            Some('.') => {
                self.rest = &self.rest[1..];
                self.lark.push_str(r"/[\x{0}-\x{10FFFF}]/");
            }
            Some('(') => {
                self.rest = &self.rest[1..];
                self.skip(true);
                self.lark.push('(');
                self.alternatives(depth + 1)?;
                if !self.take(")") {
                    return Err(self.unexpected(")"));
                }
                self.lark.push(')');
            }
            _ => {
                let Some(name) = self.name() else { return Ok(false) };
                let number = self.number(name);
                write!(self.lark, "rule_{number}").expect("a String takes any text");
            }
        }
        Ok(true)
    }

    /// What follows an item: `*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}`, which are the same in Lark.
    fn repetition(&mut self) {
        let end = match self.rest.chars().next() {
            Some('*' | '+' | '?') => 1,
            Some('{') => self.rest.find('}').map_or(0, |end| end + 1),
            _ => 0,
        };
        let (repetition, rest) = self.rest.split_at(end);
        self.lark.extend(repetition.chars().filter(|c| !c.is_whitespace()));
        self.rest = rest;
    }

    /// A text in quotation marks.
    fn literal(&mut self) -> Result<(), ConstraintError> {
        self.rest = &self.rest[1..];
        let mut text = String::new();
        while !self.take("\"") {
            text.push(self.character()?);
        }
        self.lark.push_str(&super::quoted(&text));
        Ok(())
    }

    /// Characters in brackets, as a regular expression that names them by number.
    fn class(&mut self) -> Result<(), ConstraintError> {
        self.rest = &self.rest[1..];
        let not = if self.take("^") { "^" } else { "" };
        let mut ranges = String::new();
        while !self.take("]") {
            let first = self.character()?;
            let ranged = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if ranged && self.take("-") { self.character()? } else { first };
            if last < first {
                return Err(error(&format!("the range {first}-{last} is empty")));
            }
            let (first, last) = (u32::from(first), u32::from(last));
            write!(ranges, r"\x{{{first:x}}}-\x{{{last:x}}}").expect("a String takes any text");
        }
        if ranges.is_empty() {
            return Err(error("brackets are empty"));
        }
        write!(self.lark, "/[{not}{ranges}]/").expect("a String takes any text");
        Ok(())
    }

    /// A character of a literal or a class.
    fn character(&mut self) -> Result<char, ConstraintError> {
        let mut rest = self.rest.chars();
        let mut next =
            || rest.next().ok_or_else(|| error("it ends inside quotation marks or brackets"));
        let c = match next()? {
            '\\' => match next()? {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                c @ ('\\' | '"' | '[' | ']' | '-' | '^') => c,
                c @ ('x' | 'u' | 'U') => {
                    let digits = match c {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let digits: String = rest.by_ref().take(digits).collect();
                    let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                    code.ok_or_else(|| error(&format!("\\{c}{digits} is no character")))?
                }
                c => return Err(error(&format!("\\{c} is no escape"))),
            },
            c => c,
        };
        self.rest = rest.as_str();
        Ok(c)
    }

    fn name(&mut self) -> Option<&'a str> {
        let other = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let end = self.rest.find(other).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn number(&mut self, name: &'a str) -> usize {
        let number = *self.names.entry(name).or_insert(self.defined.len());
        self.defined.resize(self.defined.len().max(number + 1), false);
        number
    }

    /// Skips white space and comments; line breaks too if `lines`.
    fn skip(&mut self, lines: bool) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t']);
            if self.rest.starts_with('#') {
                self.rest = &self.rest[self.rest.find(['\n', '\r']).unwrap_or(self.rest.len())..];
            }
            let more = self.rest.trim_start_matches(['\n', '\r']);
            if !lines || more.len() == self.rest.len() {
                return;
            }
            self.rest = more;
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The error of something else than `expected`.
    fn unexpected(&self, expected: &str) -> ConstraintError {
        let found: String = self.rest.chars().take(20).collect();
        error(&format!("expected {expected}, found {found:?}"))
    }
}

fn error(text: &str) -> ConstraintError {
    ConstraintError(format!("the grammar cannot be used: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notations_are_told_apart() {
        for gbnf in ["root ::= x", "# a list\n\nroot::= x", "  a-b ::=\n \"x\""] {
            assert!(is_gbnf(gbnf), "{gbnf}");
        }
        for lark in ["start: \"::=\"", "// root ::= x\nstart: /x/", "", "%llguidance {}"] {
            assert!(!is_gbnf(lark), "{lark}");
        }
    }

    #[test]
    fn a_grammar_is_rewritten() {
        let gbnf = "root  ::= (item \"\\n\" # one\n | other)+ | # or\n tail{2, 3}\n\
                    item ::= [^\"\\\\\\x41-\\x5A-]? .\n\nother ::= (\"say \\\"\\u00e9\\\"\" | )\ntail::=[a]*\r\n";
        let expected = "rule_0: (rule_1 \"\\n\" | rule_2 )+ | rule_3{2,3} \n\
                        rule_1: /[^\\x{22}-\\x{22}\\x{5c}-\\x{5c}\\x{41}-\\x{5a}\\x{2d}-\\x{2d}]/? \
                        /[\\x{0}-\\x{10FFFF}]/ \n\
                        rule_2: (\"say \\\"é\\\"\" | \"\" ) \n\
                        rule_3: /[\\x{61}-\\x{61}]/* \n\
                        start: rule_0\n";
        assert_eq!(to_lark(gbnf).unwrap(), expected);
    }

    #[test]
    fn what_is_no_grammar_is_refused() {
        for (gbnf, cause) in [
            ("a ::= \"x\"", "no rule named root"),
            ("root ::= b", "no rule named b"),
            ("root ::= \"x\"\nroot ::= \"y\"", "two rules named root"),
            ("root ::= \"x", "ends inside"),
            ("root ::= [z-a]", "z-a is empty"),
            ("root ::= []", "brackets are empty"),
            ("root ::= \"\\q\"", "\\q is no escape"),
            ("root ::= \"\\ud800\"", "\\ud800 is no character"),
            ("root ::= (\"x\"", "expected )"),
            ("root ::= \"x\" )", "expected the end of the rule"),
            ("root = \"x\"", "expected ::="),
            ("root ::= \"x\"\n!", "expected a rule's name"),
        ] {
            let found = to_lark(gbnf).unwrap_err().0;
            assert!(found.contains(cause), "{gbnf}: {found}");
        }
        let deep = format!("root ::= {}", "(".repeat(100_000));
        assert!(to_lark(&deep).unwrap_err().0.contains("64 parentheses"));
    }
}
