//! Answers that are no JSON: what a regular expression matches, one of some texts, texts of grammars.

use lapidary::sampling::{Constraint, ConstraintError};
use lapidary::tokenizer::Special;
use serde_json::json;

use super::{answer, GRAMMARS, STOP_IDS};
use crate::tokens::TINY;

type Made = Result<Box<dyn Constraint>, ConstraintError>;

/// Whether a text is a whole answer.
fn fits(made: Made, text: &str) -> bool {
    let mut constraint = made.unwrap();
    let taken = TINY.encode(text, Special::Plain).iter().all(|id| constraint.accept(*id).is_ok());
    taken && constraint.accept(STOP_IDS[1]).is_ok()
}

#[test]
fn whole_answers_match_their_expressions() {
    for pattern in ["[0-9]{3}-[a-z]{2,4}", "^(yes|no|maybe)$", "é+(/|\\$)", "a?b\\\\$", ".{1,5}"] {
        let valid = jsonschema::validator_for(&json!({"pattern": format!("^(?:{pattern})$")}));
        let valid = valid.unwrap();
        for seed in 0..60 {
            let text = answer(&mut *GRAMMARS.regex(pattern).unwrap(), seed);
            assert!(valid.is_valid(&json!(text)), "{pattern}: {text:?}");
        }
    }
    assert!(fits(GRAMMARS.regex("x\\$"), "x$") && !fits(GRAMMARS.regex("x\\$"), "x"));
}

#[test]
fn an_answer_is_one_of_the_texts() {
    let texts = ["yes", "yes, indeed", "\"no\" \\ \n", "день"].map(str::to_owned);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let text = answer(&mut *GRAMMARS.choice(&texts).unwrap(), seed);
        assert!(texts.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert!(seen.len() > 1, "{seen:?}");
    assert!(texts.iter().all(|text| fits(GRAMMARS.choice(&texts), text)));
    assert!(GRAMMARS.choice(&[]).is_err());
}

/// Sums, in both notations.
const SUMS: [&str; 2] = [
    "root ::= sum (\"=\" [0-9]{1,2})? # a sum\nsum ::= term | term \"+\"\n  sum\nterm ::= [a-z] | \"(\" sum \")\"\n",
    "start: sum (\"=\" /[0-9]/{1,2})? // a sum\nsum: term | term \"+\" sum\nterm: /[a-z]/ | \"(\" sum \")\"\n",
];

#[test]
fn a_grammar_is_followed_in_both_notations() {
    // "+" at the end of a line: GBNF's sequences end there, outside of parentheses.
    assert!(GRAMMARS.grammar(SUMS[0]).is_err());
    let joined = SUMS[0].replace("\"+\"\n ", "\"+\"");
    for grammar in [joined.as_str(), SUMS[1]] {
        for text in ["a", "a+b", "(a+(b))+c=12", "x=0"] {
            assert!(fits(GRAMMARS.grammar(grammar), text), "{grammar}: {text}");
        }
        for text in ["", "+", "a+", "(a", "a=", "a=123", "A"] {
            assert!(!fits(GRAMMARS.grammar(grammar), text), "{grammar}: {text}");
        }
    }
}

#[test]
fn what_cannot_be_kept_is_refused_in_one_line() {
    let made = [
        ("(", GRAMMARS.regex("(")),
        ("(?=a)b", GRAMMARS.regex("(?=a)b")),
        ("no rule", GRAMMARS.grammar("root ::= other")),
        ("no Lark", GRAMMARS.grammar("start = x")),
        ("a reference to another grammar", GRAMMARS.grammar("start: @other")),
    ];
    for (name, made) in made {
        let error = made.expect_err(name).to_string();
        assert!(error.len() < 300 && !error.contains('\n'), "{name}: {error}");
    }
}

/// They are refused, or masks come within limits: an answer fails then, and the program goes on.
#[test]
fn hostile_patterns_do_no_harm() {
    let deep = "(".repeat(20_000) + &")".repeat(20_000);
    for pattern in
        ["((a{100}){100}){100}", "(a?){500}a{500}", "((.*)a){200}", "a{1,999999999}", &deep]
    {
        let Ok(mut constraint) = GRAMMARS.regex(pattern) else { continue };
        for id in TINY.encode(&"a".repeat(100), Special::Plain) {
            let mut logits = vec![0.0; TINY.vocab().pieces.len()];
            if constraint.mask(&mut logits).is_err() || constraint.accept(id).is_err() {
                break;
            }
        }
    }
    let rules: String = (0..5000).map(|i| format!("rule_{i}: rule_{} rule_{0}\n", i + 1)).collect();
    let doubling = format!("start: rule_0\n{rules}rule_5000: \"x\"\n");
    if let Ok(mut constraint) = GRAMMARS.grammar(&doubling) {
        let _ = constraint.mask(&mut vec![0.0; TINY.vocab().pieces.len()]);
    }
}
