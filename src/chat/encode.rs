//! Turns a conversation into token ids.
//!
//! The contents of messages are marked with characters that occur nowhere else. After rendering,
//! the marks tell which text is the template's own, and where an answer with known ids is.

use std::collections::BTreeSet;

use lapidary_formats::vocab::PieceKind;

use super::{ChatError, ChatTemplate, Message, Turn};
use crate::tokenizer::{Special, Tokenizer};

/// Two characters that occur neither in the template nor in any content.
#[derive(Clone, Copy)]
struct Marks {
    /// Put after every character of a content that could begin a control piece.
    content: char,
    /// Put in the place of an answer whose ids are known.
    answer: char,
}

impl ChatTemplate {
    /// The ids of a conversation as [`render`](Self::render) writes it, with BOS exactly once.
    ///
    /// Only the template's own text becomes control pieces. If a content spells one
    /// (`<end_of_turn>`), it gets the ids of ordinary text, so it cannot end its turn.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ChatError> {
        let marks = Marks::unused(self.source(), messages.iter())?;
        let marked = marks.mark(tokenizer, messages.iter());
        let text = self.render(&marked, add_generation_prompt)?;
        let mut ids = Vec::new();
        marks.encode_onto(tokenizer, &text, &mut ids);
        tokenizer.prepend_bos(&mut ids);
        Ok(ids)
    }

    /// The same for turns, where answers keep the ids with which they were generated. The next prompt
    /// then begins with what a sequence already holds, even if the tokenizer would encode an answer
    /// differently, or if the template trims spaces at the answer's beginning or end. An answer that
    /// the template changes in another way, or that contains control pieces, is encoded as text.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn encode_turns(
        &self,
        tokenizer: &Tokenizer,
        turns: &[Turn],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ChatError> {
        self.encode_turns_with(tokenizer, turns, |m| self.render(m, add_generation_prompt))
    }

    /// The same with another `render`, which does what [`render`](Self::render) does but in another
    /// place, such as a process that can be stopped. It is called twice.
    ///
    /// # Errors
    /// The errors of `render`.
    pub fn encode_turns_with<E: From<ChatError>>(
        &self,
        tokenizer: &Tokenizer,
        turns: &[Turn],
        render: impl Fn(&[Message]) -> Result<String, E>,
    ) -> Result<Vec<u32>, E> {
        let messages = || turns.iter().map(|turn| &turn.message);
        let marks = Marks::unused(self.source(), messages())?;
        let mut marked = marks.mark(tokenizer, messages());
        let text = render(&marked)?;

        let is_control = |id: &u32| {
            tokenizer.vocab().pieces.get(*id).is_none_or(|p| p.kind == PieceKind::Control)
        };
        let (mut contents, mut known_ids) = (Vec::new(), Vec::new());
        for (turn, message) in turns.iter().zip(&mut marked) {
            if let Some(ids) = turn.ids.as_ref().filter(|ids| !ids.iter().any(is_control)) {
                let content = std::mem::replace(&mut message.content, marks.answer.to_string());
                contents.push(content);
                known_ids.push(ids);
            }
        }
        // A template may refuse the mark as an answer; the empty pattern then matches nothing.
        let pattern = render(&marked).unwrap_or_default();
        let matches_text = |content: &dyn Fn(&str) -> String| {
            let contents = contents.iter().map(|text| content(text));
            fill(&pattern, marks.answer, contents).as_deref() == Some(text.as_str())
        };
        let unchanged =
            matches_text(&str::to_owned) || matches_text(&|text| text.trim().to_owned());
        let mut ids = Vec::new();
        if unchanged {
            let mut known_ids = known_ids.into_iter();
            for segment in pattern.split(marks.answer) {
                marks.encode_onto(tokenizer, segment, &mut ids);
                ids.extend(known_ids.next().into_iter().flatten());
            }
        } else {
            marks.encode_onto(tokenizer, &text, &mut ids);
        }
        tokenizer.prepend_bos(&mut ids);
        Ok(ids)
    }
}

impl Marks {
    fn unused<'m>(
        source: &str,
        messages: impl Iterator<Item = &'m Message> + Clone,
    ) -> Result<Self, ChatError> {
        let used = |c| source.contains(c) || messages.clone().any(|m| m.content.contains(c));
        let mut unused = ('\u{E000}'..='\u{F8FF}').filter(|c| !used(*c));
        let (content, answer) = unused.next().zip(unused.next()).ok_or(ChatError::NoMark)?;
        Ok(Self { content, answer })
    }

    /// Copies the messages and marks their contents.
    fn mark<'m>(
        self,
        tokenizer: &Tokenizer,
        messages: impl Iterator<Item = &'m Message>,
    ) -> Vec<Message> {
        let initials = control_initials(tokenizer);
        let mark = |text: &str| mark_after(text, &initials, self.content);
        messages.map(|m| Message { role: m.role, content: mark(&m.content) }).collect()
    }

    /// Appends the ids of a rendered text, or of a section of it that follows `ids`.
    fn encode_onto(self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        // A control piece must lie within one segment, so none can begin inside a content.
        let segments = text.split(self.content).map(|segment| (segment, Special::Trusted));
        if ids.is_empty() {
            ids.extend(tokenizer.encode_segments(segments));
        } else {
            tokenizer.continue_segments(segments, ids);
        }
    }
}

/// `pattern` with each `mark` replaced by the next of `texts`; `None` if the numbers differ.
fn fill(pattern: &str, mark: char, texts: impl Iterator<Item = String>) -> Option<String> {
    let mut segments = pattern.split(mark);
    let mut filled = segments.next()?.to_owned();
    for text in texts {
        filled.push_str(&text);
        filled.push_str(segments.next()?);
    }
    segments.next().is_none().then_some(filled)
}

/// The first characters of control pieces; for Gemma only `<`.
fn control_initials(tokenizer: &Tokenizer) -> BTreeSet<char> {
    let pieces = tokenizer.vocab().pieces.iter();
    pieces.filter(|p| p.kind == PieceKind::Control).filter_map(|p| p.text.chars().next()).collect()
}

/// `text` with `mark` after each of the `initials`. Marking every possible beginning instead of whole
/// spellings works even if the template cuts and joins contents.
fn mark_after(text: &str, initials: &BTreeSet<char>, mark: char) -> String {
    let mut marked = String::with_capacity(text.len());
    for c in text.chars() {
        marked.push(c);
        if initials.contains(&c) {
            marked.push(mark);
        }
    }
    marked
}
