//! What an output may not destroy: the model, the texts that are read, and files that only have the
//! name of an unfinished file.

use std::fs;
use std::path::{Path, PathBuf};

use lapidary::convert::{
    check_output, convert, ConvertError, Options, Plan, Recipe, Report, Target,
};
use lapidary::model::Source;
use lapidary_formats::gguf::{Header, Writer};
use tempfile::TempDir;

use crate::directory::names;
use crate::fixtures::micro;
use crate::stop::StopAt;

fn keep() -> Options {
    Options { threads: Some(2), ..Options::default() }
}

fn force() -> Options {
    Options { force: true, ..keep() }
}

fn resume() -> Options {
    Options { resume: true, ..keep() }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn convert(
        &self,
        source: &Path,
        recipe: Recipe,
        options: Options,
    ) -> Result<Report, ConvertError> {
        let source = Source::open(source).unwrap();
        let plan = Plan::of_recipe(&source, recipe);
        convert(&source, &self.path("new.gguf"), &plan, options, &mut ())
    }

    /// Expects a conversion of `source` to be refused because of `cause`, and every file to stay.
    #[track_caller]
    fn refuses(&self, source: &Path, options: Options, cause: &str) {
        let contents = || -> Vec<_> {
            names(self.0.path()).iter().map(|name| fs::read(self.path(name)).ok()).collect()
        };
        let (names_before, before) = (names(self.0.path()), contents());
        let error = self.convert(source, Recipe::Q4_K_M, options).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
        assert_eq!(names(self.0.path()), names_before);
        assert!(contents() == before, "{error}");
    }
}

/// A GGUF file that this program did not write.
fn strangers_file(path: &Path) {
    let mut header = Header::new();
    header.set("general.architecture", "llama");
    fs::write(path, Writer::new(Vec::new(), header).unwrap().finish().unwrap()).unwrap();
}

#[test]
#[cfg(unix)]
fn an_unfinished_file_with_other_names_is_refused() {
    let place = Place::new();
    place.convert(&micro(), Recipe::F32, keep()).unwrap();
    fs::rename(place.path("new.gguf"), place.path("src.gguf")).unwrap();
    strangers_file(&place.path("other.gguf"));
    for linked in ["src.gguf", "other.gguf"] {
        fs::hard_link(place.path(linked), place.path("new.gguf.part")).unwrap();
        for options in [keep(), force(), resume()] {
            let cause =
                if linked == "src.gguf" { "belongs to the model" } else { "has other names" };
            place.refuses(&place.path("src.gguf"), options, cause);
            place.refuses(&micro(), options, "new.gguf.part: is in the way and has other names");
        }
        fs::remove_file(place.path("new.gguf.part")).unwrap();
    }
}

/// A checkpoint whose files have other names elsewhere, as in the cache of a hub.
#[test]
#[cfg(unix)]
fn the_files_of_a_checkpoint_are_recognized_under_other_names() {
    let place = Place::new();
    fs::create_dir(place.path("model")).unwrap();
    fs::create_dir(place.path("blobs")).unwrap();
    for name in names(&micro()) {
        let blob = place.path("blobs").join(&name);
        fs::copy(micro().join(&name), &blob).unwrap();
        std::os::unix::fs::symlink(&blob, place.path("model").join(&name)).unwrap();
    }
    let source = Source::open(&place.path("model")).unwrap();
    for name in names(&micro()) {
        let error = check_output(&place.path("blobs").join(&name), true, Some(&source), &[]);
        assert!(error.unwrap_err().to_string().contains("belongs to the model"), "{name}");
    }
}

#[test]
fn a_strangers_file_is_replaced_only_on_request() {
    let place = Place::new();
    strangers_file(&place.path("new.gguf.part"));
    place.refuses(
        &micro(),
        keep(),
        "new.gguf.part: is in the way and was not begun by a conversion",
    );
    place.refuses(&micro(), resume(), "was begun with the recipe absent");
    place.convert(&micro(), Recipe::Q4_K_M, force()).unwrap();
    assert_eq!(names(place.0.path()), ["new.gguf"]);

    for contents in ["somebody's notes", "GG", "GGUF and more"] {
        let place = Place::new();
        fs::write(place.path("new.gguf.part"), contents).unwrap();
        if contents != "GG" {
            place.refuses(&micro(), keep(), "was not begun by a conversion");
        }
        place.convert(&micro(), Recipe::Q4_K_M, force()).unwrap();
        assert_eq!(names(place.0.path()), ["new.gguf"]);
    }
}

#[test]
fn what_a_conversion_began_is_replaced() {
    let place = Place::new();
    place.convert(&micro(), Recipe::Q4_K_M, keep()).unwrap();
    let whole = fs::read(place.path("new.gguf")).unwrap();
    fs::remove_file(place.path("new.gguf")).unwrap();
    // Cut short within the header, which has not yet got to our keys.
    for len in [0, 3, 100, 5000] {
        fs::write(place.path("new.gguf.part"), &whole[..len]).unwrap();
        place.convert(&micro(), Recipe::Q4_K_M, keep()).unwrap();
        assert!(fs::read(place.path("new.gguf")).unwrap() == whole, "{len} bytes");
        fs::remove_file(place.path("new.gguf")).unwrap();
    }
    // The same by another recipe, of which some tensors are finished.
    let source = Source::open(&micro()).unwrap();
    let plan = Plan::of_recipe(&source, Recipe::Q8_0);
    convert(&source, &place.path("new.gguf"), &plan, keep(), &mut StopAt::new(10)).unwrap_err();
    assert_eq!(names(place.0.path()), ["new.gguf.part"]);
    place.convert(&micro(), Recipe::Q4_K_M, keep()).unwrap();
    assert!(fs::read(place.path("new.gguf")).unwrap() == whole);
}

#[test]
fn a_finished_file_is_not_taken_for_an_unfinished_one() {
    let place = Place::new();
    place.convert(&micro(), Recipe::Q8_0, keep()).unwrap();
    fs::rename(place.path("new.gguf"), place.path("new.gguf.part")).unwrap();
    place.refuses(&micro(), keep(), "new.gguf.part: is in the way and is a finished file");
    place.convert(&micro(), Recipe::Q4_K_M, force()).unwrap();
    assert_eq!(names(place.0.path()), ["new.gguf"]);
}

#[test]
fn what_is_read_besides_the_model_is_not_overwritten() {
    let place = Place::new();
    for (out, input) in [("text", "text"), ("text", "text.part"), ("text", "./text")] {
        fs::write(place.path(input), "In the beginning").unwrap();
        let input = place.path(input);
        let error = check_output(&place.path(out), true, None, &[&input]).unwrap_err().to_string();
        assert!(error.ends_with("is being read"), "{error}");
        fs::remove_file(input).unwrap();
    }
    check_output(&place.path("text"), false, None, &[&place.path("other")]).unwrap();
}

/// A target that is no conversion's, such as an importance matrix's.
#[test]
fn another_target_overwrites_only_an_empty_file() {
    let place = Place::new();
    let create = |force| Target::create(&place.path("new.gguf"), force, None, 0).map(drop);
    strangers_file(&place.path("new.gguf.part"));
    assert!(matches!(create(false), Err(ConvertError::InTheWay { finished: false, .. })));
    create(true).unwrap();
    place.convert(&micro(), Recipe::Q8_0, force()).unwrap();
    fs::rename(place.path("new.gguf"), place.path("new.gguf.part")).unwrap();
    assert!(matches!(create(false), Err(ConvertError::InTheWay { .. })));
    fs::write(place.path("new.gguf.part"), "").unwrap();
    create(false).unwrap();
}

#[test]
#[cfg(unix)]
fn a_link_to_nothing_is_found_before_the_work() {
    let place = Place::new();
    std::os::unix::fs::symlink(place.path("nothing"), place.path("new.gguf")).unwrap();
    place.refuses(&micro(), keep(), "new.gguf: is a symbolic link to a file that does not exist");
    place.convert(&micro(), Recipe::Q4_K_M, force()).unwrap();
    assert!(fs::symlink_metadata(place.path("new.gguf")).unwrap().is_file());
    assert_eq!(names(place.0.path()), ["new.gguf"]);
}
