//! From a conversation to token ids.
//!
//! Contents are marked with characters that nothing else has, so that it is known after rendering
//! what was the template's own text, and where an answer stands whose ids are known.

use std::collections::BTreeSet;

use lapidary_formats::vocab::PieceKind;

use super::{ChatError, ChatTemplate, Message, Turn};
use crate::tokenizer::{Special, Tokenizer};

/// Two characters that neither the template nor a content has.
#[derive(Clone, Copy)]
struct Marks {
    /// Stands after what may begin a control piece in a content.
    content: char,
    /// Stands for an answer whose ids are known.
    answer: char,
}

impl ChatTemplate {
    /// The ids of a conversation as [`render`](Self::render) writes it, BOS once.
    ///
    /// Control pieces are made only by the template's own text. A content that spells one
    /// (`<end_of_turn>`) gets the ids of ordinary text, so it cannot end its turn.
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

    /// The same of turns, with the answers spelt as they were generated: so what a sequence holds
    /// is what the next prompt begins with, even if the tokenizer would spell an answer otherwise,
    /// or the template trims the spaces that it began or ended with. An answer that the template
    /// changes in another way, or that has control pieces in it, is encoded as text.
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

    /// The same of what `render` makes of the messages, which does what [`render`](Self::render)
    /// does, only elsewhere: in a process that can be stopped. It is called twice.
    ///
    /// # Errors
    /// Those of `render`.
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
        let (mut contents, mut spelt) = (Vec::new(), Vec::new());
        for (turn, message) in turns.iter().zip(&mut marked) {
            if let Some(ids) = turn.ids.as_ref().filter(|ids| !ids.iter().any(is_control)) {
                let content = std::mem::replace(&mut message.content, marks.answer.to_string());
                contents.push(content);
                spelt.push(ids);
            }
        }
        // A template may refuse what is no whole answer to it.
        let pattern = render(&marked).unwrap_or_default();
        let stands_for = |content: &dyn Fn(&str) -> String| {
            let contents = contents.iter().map(|text| content(text));
            fill(&pattern, marks.answer, contents).as_deref() == Some(text.as_str())
        };
        let same = stands_for(&str::to_owned) || stands_for(&|text| text.trim().to_owned());
        let mut ids = Vec::new();
        if same {
            let mut spelt = spelt.into_iter();
            for part in pattern.split(marks.answer) {
                marks.encode_onto(tokenizer, part, &mut ids);
                ids.extend(spelt.next().into_iter().flatten());
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

    /// The messages with their contents marked.
    fn mark<'m>(
        self,
        tokenizer: &Tokenizer,
        messages: impl Iterator<Item = &'m Message>,
    ) -> Vec<Message> {
        let initials = control_initials(tokenizer);
        let mark = |text: &str| mark_after(text, &initials, self.content);
        messages.map(|m| Message { role: m.role, content: mark(&m.content) }).collect()
    }

    /// Appends the ids of a rendered text, or of a part of it that follows `ids`.
    fn encode_onto(self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        // A control piece has to lie within one segment, so none begins inside a content.
        let segments = text.split(self.content).map(|segment| (segment, Special::Trusted));
        if ids.is_empty() {
            ids.extend(tokenizer.encode_segments(segments));
        } else {
            tokenizer.continue_segments(segments, ids);
        }
    }
}

/// `pattern` with each `mark` replaced by the next of `texts`, if there are as many of both.
fn fill(pattern: &str, mark: char, texts: impl Iterator<Item = String>) -> Option<String> {
    let mut parts = pattern.split(mark);
    let mut filled = parts.next()?.to_owned();
    for text in texts {
        filled.push_str(&text);
        filled.push_str(parts.next()?);
    }
    parts.next().is_none().then_some(filled)
}

/// The characters that control pieces begin with: for Gemma `<` alone.
fn control_initials(tokenizer: &Tokenizer) -> BTreeSet<char> {
    let pieces = tokenizer.vocab().pieces.iter();
    pieces.filter(|p| p.kind == PieceKind::Control).filter_map(|p| p.text.chars().next()).collect()
}

/// `text` with `mark` after each of the `initials`. Marking every possible beginning, and not
/// only whole spellings, holds even if the template cuts and joins contents.
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
