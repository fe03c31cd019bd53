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

/// A template that overflows the stack of whoever parses it as it comes.
fn deep() -> String {
    format!("{{{{ {}1 }}}}", "-".repeat(30_000))
}

/// One for Ollama's parser, which is Go's.
const GO: &str = "{{ if .System }}{{ .System }}{{ end }}<start_of_turn>user\n{{ .Prompt }}";

#[test]
fn templates_that_cannot_be_parsed_are_reported_by_every_command() {
    for (template, cause) in [
        (deep(), "the chat template has more than 4096 tokens in one tag"),
        (GO.to_owned(), "the chat template cannot be parsed: syntax error: unexpected `.`"),
    ] {
        assert!(chat_fails(&template).starts_with(cause), "{}", chat_fails(&template));
        let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", &*template)));
        let output = file.run("verify", &[]);
        let (stdout, code) = (String::from_utf8(output.stdout).unwrap(), output.status.code());
        assert!(code == Some(1) && stdout.contains(cause), "{stdout}");
        let out = file.path().with_extension("new");
        let output = file.run("convert", &["-q", "F16", "-o", out.to_str().unwrap()]);
        let (stderr, code) = (String::from_utf8(output.stderr).unwrap(), output.status.code());
        assert!(code == Some(0) && file.cause(&stderr).starts_with(cause), "{stderr}");
        assert!(stderr.contains("cannot chat with it"), "{stderr}");
        let output = file.run("run", &["-p", "the", "-n", "1"]);
        assert!(output.status.success(), "{output:?}");
    }
}

/// What a template does shows when it is tried, in a process of its own.
#[test]
fn a_conversion_tries_the_template() {
    for (template, cause) in [
        ("{{ no_such_function() }}", "the chat template fails"),
        ("{{ [1] * 10000000000000 == [1] * 10000000000000 }}", "took longer than 5 s"),
    ] {
        let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
        let out = file.path().with_extension("new");
        let output = file.run("convert", &["-q", "F16", "-o", out.to_str().unwrap()]);
        let (stderr, code) = (String::from_utf8(output.stderr).unwrap(), output.status.code());
        assert!(code == Some(0) && stderr.contains(cause), "{stderr}");
    }
    let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", "{{ bos_token }}")));
    let out = file.path().with_extension("new");
    let output = file.run("convert", &["-q", "F16", "-o", out.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Gemma's template with tags of transformers and the date.
#[test]
fn tags_and_functions_of_transformers_work_in_a_chat() {
    let template = "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}\
                    {% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let file = File::new(&small::gguf(|h| h.set("tokenizer.chat_template", template)));
    let output = file.run("run", &["--chat", "-p", "the", "-n", "1"]);
    assert!(output.status.success(), "{output:?}");
}
