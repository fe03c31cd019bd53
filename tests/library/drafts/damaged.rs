//! Drafted tokens whose values are NaN, and drafters that fail.

use lapidary::generate::draft::{DraftRequest, DraftTokens, Drafter, Offer, Speculation};
use lapidary::generate::Limits;
use lapidary::kernels::KvType;
use lapidary::model::{ModelError, StateOptions};
use serde_json::{json, Value};
use tempfile::TempDir;

use super::session::{generate, greedy, Setup};
use crate::directory::copy_of;
use crate::engine::{one, request, wait, Bench};
use crate::fixtures::{micro, tiny};
use crate::safetensors::{read, write};

/// `<unused7>`, which no text has.
const DAMAGED: u32 = 14;

/// The small trained checkpoint with a row of NaN in its embedding, but not in its output matrix.
fn with_a_damaged_token() -> TempDir {
    let dir = copy_of(&tiny());
    let path = dir.path().join("model.safetensors");
    let mut tensors = read(&path);
    let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
    let head = embedding.clone();
    let row = embedding.bytes.len() / embedding.shape[0];
    embedding.bytes[DAMAGED as usize * row..][..row].fill(0xFF);
    tensors.insert("lm_head.weight".to_owned(), head);
    write(&path, &tensors);
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["tie_word_embeddings"] = json!(false);
    std::fs::write(&path, config.to_string()).unwrap();
    dir
}

/// Always drafts this token, or fails as a model with damaged weights does.
#[derive(Debug)]
struct Always(Option<u32>);

impl Drafter for Always {
    fn offer(&mut self, request: &DraftRequest<'_>) -> Offer {
        Offer { most: request.most, kind: 0, behind: 0 }
    }

    fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
        let id = self.0.ok_or(ModelError::NotFinite { path: "small.gguf".into() })?;
        Ok(requests.iter().map(|request| vec![id; request.most]).collect())
    }
}

fn always(id: Option<u32>) -> Speculation<'static> {
    Speculation::new(Box::new(Always(id)), DraftTokens::Fixed(3), 2)
}

#[test]
fn drafted_tokens_whose_values_are_nan_harm_no_text() {
    let dir = with_a_damaged_token();
    let setup = Setup::new(dir.path(), dir.path());
    let ([model, _], options) = (setup.models(), StateOptions::new(100, KvType::F16));
    let texts = [None, Some(always(Some(DAMAGED)))].map(|speculation| {
        let mut session = setup.session(&model, &greedy(), options);
        let drafts = speculation.is_some();
        speculation.into_iter().for_each(|speculation| session.set_speculation(speculation));
        let (_, answer) = generate(&mut session, &setup.ids[..30], 20, &mut ());
        assert!(!drafts || answer.draft.is_some_and(|draft| draft.drafted > 9));
        (answer.ids, session.ids().to_vec())
    });
    assert_eq!(texts[0].0.len(), 20);
    assert_eq!(texts[0], texts[1]);
    // The token itself is refused, with a draft and without.
    let mut session = setup.session(&model, &greedy(), options);
    let limits = Limits { max_tokens: Some(9), cancelled: &|| false };
    let mut shift = ();
    let mut tokens = session.generate(&[2, DAMAGED], limits, &mut shift).unwrap();
    assert!(tokens.next().unwrap().is_err());
    drop(tokens);

    let bench = Bench::new(dir.path());
    bench.engine_with(2, 2, Some(always(Some(DAMAGED))), |_, handle| {
        let good = || request(&setup.ids[..30], 20, greedy());
        let answers = [one(&handle, good()), one(&handle, good())];
        for answer in answers {
            let found = wait(answer);
            assert_eq!((found.ids, found.error), (texts[0].0.clone(), None));
        }
        let bad = wait(one(&handle, request(&[2, DAMAGED], 20, greedy())));
        assert!(bad.error.is_some() && bad.ids.is_empty());
    });
}

#[test]
fn a_draft_model_that_fails_is_named() {
    let setup = Setup::new(&micro(), &micro());
    let [model, _] = setup.models();
    let mut session = setup.session(&model, &greedy(), StateOptions::new(100, KvType::F16));
    session.set_speculation(always(None));
    let limits = Limits { max_tokens: Some(9), cancelled: &|| false };
    let mut shift = ();
    let tokens = session.generate(&setup.ids[..20], limits, &mut shift).unwrap();
    let error = tokens.filter_map(Result::err).next().unwrap().to_string();
    assert!(error.contains("small.gguf"), "{error}");
    assert_eq!(session.ids().len(), session.state().len());
}

#[test]
fn answers_do_not_need_the_drafter() {
    let bench = Bench::new(&micro());
    bench.engine_with(2, 2, Some(always(None)), |_, handle| {
        let found = wait(one(&handle, request(&bench.ids[..60], 40, greedy())));
        assert_eq!((found.ids.len(), found.done.unwrap().drafted), (40, 0));
        assert_eq!(handle.status().totals.draft_failures, 1);
    });
}
