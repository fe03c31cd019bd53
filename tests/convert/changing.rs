//! Sources that change while they are converted, or before a conversion is continued.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lapidary::convert::{convert, ConvertError, Options, Plan, Progress, Recipe, Report};
use lapidary::model::Source;
use tempfile::TempDir;

use crate::directory::copy_of;
use crate::fixtures::tiny;
use crate::stop::StopAt;

const SHARD: &str = "model.safetensors";

/// A copy of the trained model, and where its conversion goes.
struct Place {
    source: TempDir,
    out: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { source: copy_of(&tiny()), out: TempDir::new().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.out.path().join("out.gguf")
    }

    fn shard(&self) -> PathBuf {
        self.source.path().join(SHARD)
    }

    fn convert(
        &self,
        resume: bool,
        verify_source: bool,
        progress: &mut dyn Progress,
    ) -> Result<Report, ConvertError> {
        let source = Source::open(self.source.path()).unwrap();
        let plan = Plan::of_recipe(&source, Recipe::Q8_0);
        let options = Options { resume, verify_source, ..Options::default() };
        convert(&source, &self.out(), &plan, options, progress)
    }

    /// Stops a conversion after its first tensors.
    fn interrupt(&self, verify_source: bool) {
        let error = self.convert(false, verify_source, &mut StopAt::new(10)).unwrap_err();
        assert!(matches!(error, ConvertError::Unfinished { .. }), "{error}");
    }
}

/// Changes a byte of the embedding, between the pages of which a fingerprint has a sample.
fn change(shard: &Path) {
    let source = Source::open(shard.parent().unwrap()).unwrap();
    let view = source.tensor(&source.tensors()[0]);
    let at = source.place(view.data).unwrap().1.start as u64 + 2 * 4096 + 1;
    let mut file = File::options().write(true).open(shard).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[0x11]).unwrap();
}

/// Lets a file's time pass, as a copy or `touch` does.
fn touch(shard: &Path) {
    let file = File::options().write(true).open(shard).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
}

/// Does something to the source once a conversion has come to its tenth tensor.
struct Then<'a>(usize, &'a dyn Fn());

impl Progress for Then<'_> {
    fn tensor(&mut self, _name: &str) {
        self.0 += 1;
        if self.0 == 10 {
            self.1();
        }
    }
}

#[test]
fn a_source_that_changes_meanwhile_gives_no_file() {
    type Change = fn(&Path);
    let replace: Change = |shard| {
        let copy = shard.with_extension("copy");
        fs::copy(shard, &copy).unwrap();
        fs::rename(copy, shard).unwrap();
    };
    let changes: [(&str, Change); 4] = [
        ("written to", |shard| {
            change(shard);
            touch(shard);
        }),
        ("touched", touch),
        ("replaced", replace),
        ("removed", |shard| fs::remove_file(shard).unwrap()),
    ];
    for (what, change) in changes {
        let place = Place::new();
        let shard = place.shard();
        let error = place.convert(false, false, &mut Then(0, &|| change(&shard))).unwrap_err();
        assert!(
            matches!(&error, ConvertError::SourceChanged { path } if *path == shard),
            "{what}: {error}"
        );
        assert_eq!(fs::read_dir(place.out.path()).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn a_changed_source_does_not_continue_a_conversion() {
    let place = Place::new();
    place.convert(false, false, &mut ()).unwrap();
    let whole = fs::read(place.out()).unwrap();
    fs::remove_file(place.out()).unwrap();

    place.interrupt(false);
    place.convert(true, false, &mut ()).unwrap();
    assert_eq!(fs::read(place.out()).unwrap(), whole);
    fs::remove_file(place.out()).unwrap();

    place.interrupt(false);
    touch(&place.shard());
    let error = place.convert(true, false, &mut ()).unwrap_err();
    assert!(matches!(error, ConvertError::StateChanged { .. }), "{error}");
    // The unfinished file is still there.
    assert_eq!(fs::read_dir(place.out.path()).unwrap().count(), 1);
}

/// Times and inodes change when a model is copied. Its bytes can be compared instead.
#[test]
fn the_whole_source_can_be_compared() {
    let place = Place::new();
    place.interrupt(true);
    touch(&place.shard());
    let report = place.convert(true, true, &mut ()).unwrap();
    assert!(report.resumed > 0);
    fs::remove_file(place.out()).unwrap();

    place.interrupt(true);
    change(&place.shard());
    let error = place.convert(true, true, &mut ()).unwrap_err();
    assert!(
        matches!(&error, ConvertError::OtherConversion { what, .. } if what.contains("fingerprint")),
        "{error}"
    );

    // A change that leaves no trace in the file's state.
    let place = Place::new();
    let shard = place.shard();
    let meanwhile = || {
        let before = fs::metadata(&shard).unwrap().modified().unwrap();
        change(&shard);
        File::options().write(true).open(&shard).unwrap().set_modified(before).unwrap();
    };
    let error = place.convert(false, true, &mut Then(0, &meanwhile)).unwrap_err();
    assert!(matches!(error, ConvertError::SourceChanged { .. }), "{error}");
}
