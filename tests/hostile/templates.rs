//! Chat templates that do harm, in a chat with their model.

use serde_json::Value;

use super::file::File;
use super::small;

/// What a chat with the small model says of its template.
fn chat_fails(template: &str) -> String {
    let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
    let output = file.run("run", &["--chat", "-p", "the", "-n", "1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    file.cause(error.trim_end().strip_prefix("lapidary: ").unwrap())
}

/// Strings that double, lists without end, a width that no string can have.
#[test]
fn templates_that_take_all_memory() {
    for template in [
        "{% set n = namespace(x='x') %}{% for i in range(70) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ ([1] * 1000000000000) | list | length }}",
        "{{ 'a\nb' | indent(9000000000000000000) }}",
        "{{ 'a' | batch(9000000000000000000) | list }}",
    ] {
        let expected = "the process of the chat template failed; it may use up to 1024 MB";
        assert_eq!(chat_fails(template), expected, "{template}");
    }
}

/// Few instructions that take a long time: the same 64 MB in capitals, a thousand times.
#[test]
#[cfg(unix)]
fn templates_that_take_all_time() {
    let slow = "{% set n = namespace(x='x') %}{% for i in range(26) %}{% set n.x = n.x ~ n.x %}{% endfor %}\
                {% for i in range(1000) %}{{ n.x | upper | length }}{% endfor %}";
    assert_eq!(chat_fails(slow), "the chat template took longer than 5 s");
}

#[test]
fn templates_that_loop_or_include_or_refuse() {
    let rounds = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
    let message = chat_fails(rounds);
    assert!(message.starts_with("the chat template fails: engine ran out of fuel"), "{message}");
    let message = chat_fails("{% include '/etc/hostname' %}");
    assert!(message.starts_with("the chat template fails: template not found"), "{message}");
    let message = chat_fails("{{ raise_exception('not today') }}");
    assert_eq!(message, "the chat template refuses the conversation: not today");
    let message = chat_fails("{% for %}");
    assert!(message.starts_with("the chat template cannot be parsed: "), "{message}");
}

#[test]
fn templates_of_strangers_are_rendered_as_any() {
    let answer = |template: &str| {
        let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
        let output = file.run("run", &["--chat", "-p", "the", "-n", "3", "--temp", "0", "--json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["text"].clone(), json["prompt_tokens"].clone())
    };
    let gemma2 = lapidary::chat::GEMMA2_TEMPLATE;
    // A comment makes it another one.
    assert_eq!(answer(gemma2), answer(&format!("{gemma2}{{# #}}")));
}
