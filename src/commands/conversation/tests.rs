use std::io;
use std::path::Path;

use lapidary::kernels::KvType;
use lapidary::model::{Model, Source, StateOptions};
use lapidary::sampling::{Sampler, SamplerConfig};
use lapidary::tokenizer::{ControlPieces, Special};

use super::*;
use crate::commands::prompt_cache::SessionArgs;

const GREEDY: f32 = 0.0;
const LENGTH: Option<End> = Some(End::Finished(Finish::Length));

/// The trained model and its tokenizer.
struct Setup {
    source: Source,
    tokenizer: Tokenizer,
}

impl Setup {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-gemma2");
        let source = Source::open(&path).unwrap();
        let tokenizer = Tokenizer::new(source.vocab().unwrap()).unwrap();
        Self { source, tokenizer }
    }

    fn model(&self) -> Model<'_> {
        // One thread, because the many steps are too small to be shared.
        Model::load(&self.source, Some(1)).unwrap()
    }

    /// A session whose answers end only at the length limit.
    fn session<'a>(&'a self, model: &'a Model<'a>, n_ctx: usize, temperature: f32) -> Session<'a> {
        let config = SamplerConfig {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(5),
            ..SamplerConfig::default()
        };
        let options = StateOptions::new(n_ctx, KvType::F16);
        Session::new(model, &self.tokenizer, Vec::new(), Sampler::new(config).unwrap(), options)
    }

    fn conversation<'s, 'm>(
        &'m self,
        session: &'s mut Session<'m>,
        limit: usize,
        shift: bool,
    ) -> Conversation<'s, 'm> {
        Conversation {
            session,
            tokenizer: &self.tokenizer,
            template: ChatTemplate::new(None, "<bos>", "<eos>").unwrap(),
            model: "tiny.gguf".into(),
            system: Some("Be brief.".into()),
            limit: Some(limit),
            seed: 5,
            shift,
            cache: None,
            turns: Vec::new(),
            decoded: Decoded::default(),
        }
    }

    fn held(&self, conversation: &Conversation<'_, '_>) -> String {
        self.tokenizer.decode(conversation.session.ids(), ControlPieces::Show)
    }
}

fn say(conversation: &mut Conversation<'_, '_>, text: &str) -> Answer {
    conversation.respond(text, &mut io::sink()).unwrap().expect("the message fits")
}

/// The temperature is so high that any token may be sampled. The answers' ids are therefore not
/// those that the tokenizer would give for their text.
#[test]
fn the_next_message_evaluates_only_new_tokens_even_if_the_answer_would_be_encoded_differently() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 1024, 100.0);
    let mut conversation = setup.conversation(&mut session, 12, false);
    let mut different = 0;
    say(&mut conversation, "And who art thou?");
    for message in ["And whence comest thou?", "  And what seekest thou? ", "<end_of_turn>"] {
        let last = conversation.turns.last().unwrap();
        let (ids, text) = (last.ids.clone().unwrap(), last.message.content.clone());
        different += usize::from(setup.tokenizer.encode(&text, Special::Plain) != ids);
        let answer = say(&mut conversation, message);
        let around =
            ["<end_of_turn>\n<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"];
        let around = around.map(|text| setup.tokenizer.encode(text, Special::Trusted).len());
        let message = setup.tokenizer.encode(message.trim(), Special::Plain).len();
        // The last token of an answer that the length limit ended was not evaluated.
        assert_eq!(answer.prompt_evaluated, 1 + around[0] + message + around[1], "{text:?}");
    }
    assert!(different > 0, "all answers have the ids that the tokenizer gives");
}

#[test]
fn a_conversation_can_be_longer_than_its_context() {
    let setup = Setup::new();
    let model = setup.model();
    let (mut session, mut fresh) =
        (setup.session(&model, 100, GREEDY), setup.session(&model, 100, GREEDY));
    let mut conversation = setup.conversation(&mut session, 20, true);
    let mut forgotten = 0;
    for i in 0..12 {
        let message = format!("And he said unto them {i}");
        let before = conversation.turns.len();
        let answer = say(&mut conversation, &message);
        assert_eq!((answer.tokens, answer.end), (20, LENGTH));
        forgotten += usize::from(conversation.turns.len() < before + 2);
        // Only whole pairs are left: each user message has an answer.
        let roles = conversation.turns.iter().map(|turn| turn.message.role);
        assert!(roles
            .eq([Role::User, Role::Assistant].into_iter().cycle().take(conversation.turns.len())));
        let held = setup.held(&conversation);
        assert!(
            held.starts_with("<bos><start_of_turn>user\nBe brief.\n\nAnd he said unto"),
            "{held}"
        );
        assert!(held.contains(&message), "{held}");
        assert_eq!(held.matches("<start_of_turn>").count(), conversation.turns.len());
        // The session continues like a fresh one that evaluates the same tokens.
        let ids = conversation.session.ids().to_vec();
        let go_on = |session: &mut Session<'_>| {
            write_answer(session, &ids, Some(1), &mut (), &mut io::sink()).unwrap().0.ids
        };
        assert_eq!(go_on(conversation.session), go_on(&mut fresh));
    }
    assert!(forgotten > 1);
}

#[test]
fn an_answer_longer_than_the_context_keeps_its_message_and_loses_its_beginning() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 60, GREEDY);
    let mut conversation = setup.conversation(&mut session, 10, true);
    say(&mut conversation, "And who art thou?");
    conversation.limit = Some(200);
    let answer = say(&mut conversation, "And whence comest thou?");
    assert_eq!((answer.tokens, answer.end), (200, LENGTH));
    assert!(answer.shifts > 2);
    let prompt = "<bos><start_of_turn>user\nBe brief.\n\nAnd whence comest thou?<end_of_turn>\n\
                  <start_of_turn>model\n";
    let held = setup.held(&conversation);
    assert!(held.starts_with(prompt), "{held}");
    let (held, prompt) =
        (conversation.session.ids(), setup.tokenizer.encode(prompt, Special::Trusted));
    assert!(answer.ids[..answer.ids.len() - 1].ends_with(&held[prompt.len()..]));
    // The answer is kept for the next message if it fits. Here it does not and is forgotten.
    let next = say(&mut conversation, "And what is thy name?");
    assert_eq!(next.end, LENGTH);
    assert_eq!(conversation.turns.len(), 2);
}

#[test]
fn a_message_that_does_not_fit_is_reported_and_changes_nothing() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 60, GREEDY);
    for shift in [false, true] {
        let mut conversation = setup.conversation(&mut session, 10, shift);
        say(&mut conversation, "And who art thou?");
        let before = conversation.turns.clone();
        let long = "And it came to pass in those days. ".repeat(10);
        assert!(conversation.respond(&long, &mut io::sink()).unwrap().is_none());
        assert_eq!(conversation.turns, before);
    }
    // Without context shift, a full context ends the answer.
    let mut conversation = setup.conversation(&mut session, 100, false);
    let answer = say(&mut conversation, "And who art thou?");
    assert_eq!((answer.end, answer.shifts), (Some(End::ContextFull), 0));
    assert!(summary(&answer, 0).contains("the context is full: use a larger --ctx"));
}

#[test]
fn a_restored_conversation_continues_where_it_ended() {
    let setup = Setup::new();
    let model = setup.model();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("session");
    let args = SessionArgs { context_shift: false, prompt_cache: Some(path) };
    let cache = args.prompt_cache(&setup.source).unwrap().unwrap();

    let mut session = setup.session(&model, 200, 100.0);
    let mut conversation = setup.conversation(&mut session, 12, false);
    say(&mut conversation, "And who art thou?");
    say(&mut conversation, "And whence comest thou?");
    let turns = conversation.turns.clone();
    cache.save(&session, &turns).unwrap();

    let mut again = setup.session(&model, 300, GREEDY);
    let restored = cache.restore(&mut again).unwrap();
    assert_eq!(restored, turns);
    let mut conversation = setup.conversation(&mut again, 12, false);
    conversation.turns = restored;
    let answer = say(&mut conversation, "And what seekest thou?");
    let new = "<end_of_turn>\n<start_of_turn>user\nAnd what seekest thou?<end_of_turn>\n\
               <start_of_turn>model\n";
    let new = setup.tokenizer.encode(new, Special::Trusted).len();
    assert_eq!(answer.prompt_evaluated, 1 + new);
    // The result is the same as if everything had been evaluated now.
    let mut fresh = setup.session(&model, 200, GREEDY);
    let mut conversation = setup.conversation(&mut fresh, 12, false);
    conversation.turns = turns;
    let expected = say(&mut conversation, "And what seekest thou?");
    assert_eq!(expected.prompt_evaluated, expected.prompt_tokens);
    assert_eq!(answer.ids, expected.ids);
}

#[test]
fn a_template_that_fails_names_the_model_and_changes_nothing() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 200, GREEDY);
    let mut conversation = setup.conversation(&mut session, 5, false);
    say(&mut conversation, "And who art thou?");
    let before = conversation.turns.clone();
    let gemma = std::mem::replace(
        &mut conversation.template,
        ChatTemplate::new(Some("{{ nothing.at_all }}"), "<bos>", "<eos>").unwrap(),
    );
    let error = conversation.answer(&mut io::sink()).unwrap_err();
    assert!(error.is::<TemplateFailed>());
    assert!(error.to_string().starts_with("tiny.gguf: "), "{error}");
    assert!(conversation.respond("And whence?", &mut io::sink()).unwrap().is_none());
    conversation.execute(&Command::Retry, &mut io::sink()).unwrap();
    assert_eq!(conversation.turns, before);
    conversation.template = gemma;
    say(&mut conversation, "And whence?");
}

#[test]
fn retry_answers_again_and_undo_removes_messages() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 300, GREEDY);
    let mut conversation = setup.conversation(&mut session, 5, false);
    let execute = |conversation: &mut Conversation<'_, '_>, command| {
        conversation.execute(&command, &mut io::sink()).unwrap();
        conversation.turns.len()
    };
    for nothing in [Command::Retry, Command::Undo, Command::Stats] {
        assert_eq!(execute(&mut conversation, nothing), 0);
    }
    say(&mut conversation, "And who art thou?");
    say(&mut conversation, "And whence comest thou?");
    let turns = conversation.turns.clone();
    // Greedy sampling gives the same answer again.
    assert_eq!(execute(&mut conversation, Command::Retry), 4);
    assert_eq!(conversation.turns, turns);
    assert!(conversation.stats().contains("of 300 tokens\nmessages  4\n"));
    assert_eq!(execute(&mut conversation, Command::Undo), 2);
    assert_eq!(conversation.turns, turns[..2]);
    assert_eq!(execute(&mut conversation, Command::Reset), 0);
    // As loaded from a file whose last message has no answer.
    conversation.turns = turns[..3].to_vec();
    assert_eq!(execute(&mut conversation, Command::Retry), 4);
    assert_eq!(conversation.turns, turns);
    conversation.turns = turns[..3].to_vec();
    assert_eq!(execute(&mut conversation, Command::Undo), 2);
}

/// A writer that fails like a closed pipe after some writes.
struct Pipe(usize);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_output_leaves_the_earlier_messages() {
    let setup = Setup::new();
    let model = setup.model();
    let mut session = setup.session(&model, 300, GREEDY);
    let mut conversation = setup.conversation(&mut session, 20, false);
    say(&mut conversation, "And who art thou?");
    let before = conversation.turns.clone();
    let error = conversation.respond("And whence comest thou?", &mut Pipe(3)).unwrap_err();
    assert!(error.is::<io::Error>(), "{error:#}");
    assert_eq!(conversation.turns, before);
}
