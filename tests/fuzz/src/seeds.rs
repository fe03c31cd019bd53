//! Writes what the targets begin with to `corpus/`: sound files, made by the tests' own code.

use std::fs;
use std::path::Path;

use lapidary::chat::GEMMA2_TEMPLATE;
use lapidary_formats::imatrix::{Entry, Imatrix};
use lapidary_formats::session::{Header, Writer};
use lapidary_fuzz::{small, Place, FILES};

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir).expect("the corpus can be written");
    fs::write(dir.join(name), bytes).expect("the corpus can be written");
}

fn main() {
    seed("gguf", "model", &small::gguf(|_| ()));
    let place = Place::new();
    small::write_checkpoint(place.path());
    for (number, name) in (0u8..).zip(FILES) {
        let mut bytes = vec![number];
        match name {
            "model.safetensors.index.json" => {
                bytes.extend(br#"{"weight_map": {"model.norm.weight": "model.safetensors"}}"#);
            }
            // `<unk>`, `a`, and a trainer of BPE.
            "tokenizer.model" => {
                bytes.extend(b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x03\x0a\x01a\x12\x02\x18\x02")
            }
            "special_tokens_map.json" => bytes.extend(br#"{"eos_token": "<eos>"}"#),
            "added_tokens.json" => bytes.extend(br#"{"<|im_end|>": 11}"#),
            name => bytes.extend(fs::read(place.path().join(name)).expect("it was written")),
        }
        seed("checkpoint", name, &bytes);
    }
    let mut dat = [1i32, 1].map(i32::to_le_bytes).concat();
    dat.extend(b"a");
    dat.extend([1i32, 2, 0, 0, 1, 1].iter().flat_map(|n| n.to_le_bytes()));
    dat.extend(b"t");
    seed("imatrix", "dat", &dat);
    let entry = Entry { sums: vec![1.0, 2.0], count: 3.0 };
    let imatrix = Imatrix { entries: [("a".to_owned(), entry)].into(), ..Imatrix::default() };
    seed("imatrix", "gguf", &imatrix.write(Vec::new()).expect("memory can be written"));
    seed("tokenizer", "text", "▁the\nthe\nhe\n\n\0\x04the hen <bos>  \u{1F9D0}".as_bytes());
    for (ty, name) in (0u8..).zip(["float", "legacy", "k"]) {
        seed("quant", name, &[&[ty * 5][..], &[0x3c; 600]].concat());
    }
    let header = Header {
        model: "m".to_owned(),
        kv: "f16".to_owned(),
        note: String::new(),
        row_bytes: 2,
        ids: vec![2, 7],
        first: vec![0, 1],
    };
    let mut session = Writer::new(Vec::new(), &header).expect("memory can be written");
    session.write(&[1; 12]).expect("memory can be written");
    seed("session", "small", &session.finish().expect("memory can be written"));
    seed("template", "gemma2", GEMMA2_TEMPLATE.as_bytes());
    let tools = "{% macro f(x) %}{{ x | tojson(indent=2) }}{% endmacro %}{% set ns = namespace(n=0) %}\
                 {% for m in messages if m.role != 'system' %}{% set ns.n = ns.n + 1 %}\
                 {{ f(m) | indent(2) | replace('a', 'b') }}{{ m.content[:-1].strip().split(' ') | join }}\
                 {{ '%5d' | format(ns.n) }}{% endfor %}";
    seed("template", "others", tools.as_bytes());
}
