//! Chat templates.
#![no_main]

use lapidary::chat::{ChatTemplate, Message, Role};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(Some(source), "<bos>", "<eos>") else { return };
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let messages = [message(Role::System, "be brief"), message(Role::User, "a <bos> b")];
    let _ = template.render(&messages, true);
    let _ = template.render(&messages[1..], false);
});
