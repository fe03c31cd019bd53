//! What each recipe gives, pinned: a change that is not meant to change files must not.
//! `tests/scripts/oracles/recipe_digests.py` made the golden.

use std::fs;

use lapidary::convert::{convert, Options, Plan, Recipe};
use lapidary::model::Source;
use tempfile::TempDir;

use crate::fixtures::tests_dir;

#[test]
fn files_of_all_recipes_are_the_same_to_the_byte() {
    let golden = fs::read_to_string(tests_dir("goldens/recipes/digests.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let dir = TempDir::new().unwrap();
    for model in ["tiny-gemma2", "micro-gemma2"] {
        let source = Source::open(&tests_dir("fixtures").join(model)).unwrap();
        for recipe in Recipe::all() {
            let out = dir.path().join("out.gguf");
            let options = Options { force: true, ..Options::default() };
            convert(&source, &out, &Plan::of_recipe(&source, recipe), options, &mut ()).unwrap();
            let found = crc32fast::hash(&fs::read(&out).unwrap());
            let expected = golden[model][recipe.name()].as_u64().unwrap();
            assert_eq!(u64::from(found), expected, "{model} {recipe}");
        }
    }
}
