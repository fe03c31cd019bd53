//! Conversions that are cut short, by whatever, and gone on with: the same bytes in the end, no
//! work done twice, and nothing half-written under the output's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapidary::convert::{convert, ConvertError, Options, Plan, Progress, Recipe, Report};
use lapidary::model::Source;
use lapidary_formats::gguf::Gguf;
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{micro, tiny};
use crate::stop::StopAt;

/// From the beginning.
fn anew() -> Options {
    Options { threads: Some(2), ..Options::default() }
}

fn going_on() -> Options {
    Options { resume: true, ..anew() }
}

/// A directory to convert the random model in.
struct Place {
    dir: TempDir,
    source: Source,
    recipe: Recipe,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            source: Source::open(&micro()).unwrap(),
            recipe: Recipe::Q4_K_M,
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out.gguf")
    }

    fn part(&self) -> PathBuf {
        self.dir.path().join("out.gguf.part")
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }

    fn convert(&self, options: Options) -> Result<Report, ConvertError> {
        self.convert_with(options, &mut ())
    }

    fn convert_with(
        &self,
        options: Options,
        progress: &mut dyn Progress,
    ) -> Result<Report, ConvertError> {
        let plan = Plan::of_recipe(&self.source, self.recipe);
        convert(&self.source, &self.out(), &plan, options, progress)
    }

    /// What a conversion in one go writes.
    fn whole(&self) -> Vec<u8> {
        self.convert(anew()).unwrap();
        let bytes = fs::read(self.out()).unwrap();
        fs::remove_file(self.out()).unwrap();
        bytes
    }

    /// Stops a conversion when `n` tensors are finished. (All of the model's tensors are smaller
    /// than a slice.)
    fn cut_after(&self, n: usize, options: Options) {
        let error = self.convert_with(options, &mut StopAt::new(n)).unwrap_err();
        let message = error.to_string();
        let ConvertError::Unfinished { part, finished, tensors, cause } = error else {
            panic!("{message}")
        };
        assert!(matches!(*cause, ConvertError::Cancelled), "{message}");
        assert_eq!((part, finished, tensors), (self.part(), n, self.source.tensors().len()));
        assert_eq!(self.names(), ["out.gguf.part"]);
    }

    /// Goes on, and compares; gives the number of tensors that were finished.
    fn resume(&self, whole: &[u8]) -> usize {
        let report = self.convert(going_on()).unwrap();
        assert!(fs::read(self.out()).unwrap() == whole);
        assert_eq!(self.names(), ["out.gguf"]);
        fs::remove_file(self.out()).unwrap();
        report.resumed
    }

    /// Expects an error that names the unfinished file and says `cause`, and that leaves it alone.
    #[track_caller]
    fn refuses(&self, options: Options, cause: &str) {
        let before = fs::read(self.part()).unwrap();
        let error = self.convert(options).unwrap_err().to_string();
        assert!(error.starts_with(self.part().to_str().unwrap()), "{error}");
        assert!(error.contains(cause), "{error}");
        assert!(fs::read(self.part()).unwrap() == before);
    }
}

#[test]
fn every_tensor_is_a_place_to_go_on_from() {
    let place = Place::new();
    let whole = place.whole();
    for n in 1..=place.source.tensors().len() {
        // Other threads are no other conversion.
        place.cut_after(n, Options { threads: Some([1, 2, 7][n % 3]), ..anew() });
        assert_eq!(place.resume(&whole), n);
    }
}

#[test]
fn a_conversion_can_be_cut_short_again_and_again() {
    let place = Place::new();
    let whole = place.whole();
    // What is found finished is asked about too, once a tensor.
    for (questions, finished) in [(5, 5), (12, 12), (30, 30), (36, 36)] {
        place.cut_after_questions(questions, finished);
    }
    assert_eq!(place.resume(&whole), 36);
}

impl Place {
    fn cut_after_questions(&self, questions: usize, expected: usize) {
        let mut stop = StopAt::new(questions);
        match self.convert_with(going_on(), &mut stop).unwrap_err() {
            ConvertError::Unfinished { finished, .. } => assert_eq!(finished, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn without_resume_or_without_a_beginning_everything_is_done() {
    let place = Place::new();
    let whole = place.whole();
    assert_eq!(place.resume(&whole), 0);
    place.cut_after(10, anew());
    let report = place.convert(anew()).unwrap();
    assert_eq!(report.resumed, 0);
    assert!(fs::read(place.out()).unwrap() == whole);
}

/// Where the tensors of the finished file begin and end.
fn ranges(file: &Path) -> Vec<std::ops::Range<usize>> {
    let gguf = Gguf::open(file).unwrap();
    gguf.tensors().map(|t| gguf.place(t.data).unwrap().1).collect()
}

/// What a power cut leaves: any beginning of the data, whatever the header says of it.
#[test]
fn a_file_that_ends_anywhere_is_gone_on_with() {
    let place = Place::new();
    let whole = place.whole();
    fs::write(place.out(), &whole).unwrap();
    let ranges = ranges(&place.out());
    fs::remove_file(place.out()).unwrap();
    let header = ranges[0].start;
    let mut cuts = vec![
        (0, 0),
        (3, 0),
        (100, 0),
        (header - 3000, 0),
        (header - 10, 0),
        (header, 0),
        (header + 1, 0),
        (whole.len(), 36),
    ];
    for k in [0, 1, 17, 35] {
        let range = &ranges[k];
        cuts.extend([(range.start + range.len() / 2, k), (range.end - 1, k), (range.end, k + 1)]);
    }
    for (len, finished) in cuts {
        fs::write(place.part(), &whole[..len]).unwrap();
        assert_eq!(place.resume(&whole), finished, "{len} bytes");
    }
}

#[test]
fn a_finished_tensor_whose_bytes_have_changed_is_made_anew() {
    let place = Place::new();
    let whole = place.whole();
    fs::write(place.out(), &whole).unwrap();
    let ranges = ranges(&place.out());
    fs::remove_file(place.out()).unwrap();
    for (damaged, at) in [(0, ranges[0].start), (7, ranges[7].end - 1), (19, ranges[19].start + 5)]
    {
        place.cut_after(20, anew());
        let mut bytes = fs::read(place.part()).unwrap();
        bytes[at] ^= 0x10;
        fs::write(place.part(), bytes).unwrap();
        assert_eq!(place.resume(&whole), damaged);
    }
    // Bytes behind the last finished tensor are no part of anything.
    place.cut_after(20, anew());
    let mut bytes = fs::read(place.part()).unwrap();
    bytes.extend([0xa5; 10_000]);
    fs::write(place.part(), bytes).unwrap();
    assert_eq!(place.resume(&whole), 20);
}

#[test]
fn another_conversion_is_not_gone_on_with() {
    let mut place = Place::new();
    place.cut_after(10, anew());
    place.recipe = Recipe::Q6_K;
    place.refuses(going_on(), "was begun with the recipe Q4_K_M, but is to go on with Q6_K");

    // The same model but for one weight.
    let other = copy_of(&micro());
    let shard = other.path().join("model-00002-of-00002.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let (source, recipe) = (Source::open(other.path()).unwrap(), Recipe::Q4_K_M);
    let place = Place { source, recipe, ..place };
    place.refuses(going_on(), "was begun with the source of fingerprint ");
    // Without --resume it is replaced.
    place.convert(anew()).unwrap();
    assert_eq!(place.names(), ["out.gguf"]);
}

#[test]
fn a_part_of_another_version_is_not_gone_on_with() {
    let place = Place::new();
    place.cut_after(10, anew());
    let mut bytes = fs::read(place.part()).unwrap();
    let key = b"lapidary.version";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 12;
    assert_eq!(bytes[at..][..5], *env!("CARGO_PKG_VERSION").as_bytes());
    bytes[at] = b'9';
    fs::write(place.part(), bytes).unwrap();
    place.refuses(going_on(), "was begun with the version 9.");
}

#[test]
fn what_no_conversion_began_is_left_alone() {
    let place = Place::new();
    for options in [anew(), going_on()] {
        fs::write(place.part(), "somebody's notes").unwrap();
        place.refuses(options, "was not begun by a conversion");
    }
    fs::write(place.part(), b"GGUF and nothing else that makes sense, but much of it").unwrap();
    place.refuses(going_on(), "has no header from which a conversion could continue");
    fs::remove_file(place.part()).unwrap();
    fs::create_dir(place.part()).unwrap();
    let error = place.convert(anew()).unwrap_err().to_string();
    assert!(error.contains("out.gguf.part: is in the way and is not a regular file"), "{error}");
}

#[test]
#[cfg(unix)]
fn links_are_not_followed() {
    let place = Place::new();
    let victim = place.dir.path().join("victim");
    fs::write(&victim, "GGUF").unwrap();
    std::os::unix::fs::symlink(&victim, place.part()).unwrap();
    place.refuses(anew(), "is not a regular file");
    assert_eq!(fs::read(&victim).unwrap(), b"GGUF");
}

#[test]
fn an_unfinished_file_is_not_converted_onto_itself() {
    let place = Place::new();
    // Everything is written, and the file is whole but for its name.
    place.cut_after(36, anew());
    let source = Source::open(&place.part()).unwrap();
    let place = Place { source, ..place };
    place.refuses(anew(), "belongs to the model that is being read");
}

/// Converts once more to the same output, from within.
struct Intruder<'a> {
    place: &'a Place,
    refused: usize,
}

impl Progress for Intruder<'_> {
    fn tensor(&mut self, _name: &str) {
        for options in [anew(), going_on()] {
            let error = self.place.convert(options).unwrap_err();
            assert!(matches!(error, ConvertError::Busy { .. }), "{error}");
            self.refused += 1;
        }
        if self.refused == 2 {
            let output = binary(&micro(), &self.place.out(), &[]).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("out.gguf: is being written by another process"), "{stderr}");
        }
    }
}

#[test]
fn one_output_has_one_writer() {
    let place = Place::new();
    let whole = place.whole();
    let mut intruder = Intruder { place: &place, refused: 0 };
    place.convert_with(anew(), &mut intruder).unwrap();
    assert_eq!(intruder.refused, 2 * 36);
    assert!(fs::read(place.out()).unwrap() == whole);
}

/// Adds up what it is told.
#[derive(Default)]
struct Counter {
    total: u64,
    bytes: [u64; 2],
}

impl Progress for Counter {
    fn started(&mut self, bytes: u64) {
        self.total = bytes;
    }

    fn advanced(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes[0] += bytes_in;
        self.bytes[1] += bytes_out;
    }
}

#[test]
fn progress_counts_what_is_finished_and_the_report_does_not() {
    let place = Place::new();
    place.cut_after(20, anew());
    let mut counter = Counter::default();
    let report = place.convert_with(going_on(), &mut counter).unwrap();
    assert_eq!(counter.bytes, [counter.total, report.totals.bytes()]);
    let read = |specs: &[lapidary::model::TensorSpec]| -> u64 {
        specs.iter().map(|spec| place.source.tensor(spec).data.len() as u64).sum()
    };
    assert_eq!(counter.total, read(place.source.tensors()));
    assert_eq!(report.bytes_read, read(&place.source.tensors()[20..]));
}

fn binary(source: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command.arg("convert").arg(source).arg("-o").arg(out).args(more);
    command
}

/// How many times a process may be done before it can be stopped. One try takes a tenth of a second
/// and is looked at every millisecond.
const TRIES: usize = 50;

/// Starts the program on the trained model and does `stop` to it when its unfinished file has `len`
/// bytes; gives what it said and its code if that was in time.
fn stopped_at(len: u64, out: &Path, stop: impl Fn(&mut Child)) -> Option<(Option<i32>, String)> {
    let part = out.with_extension("gguf.part");
    let more = ["-q", "Q2_K", "--threads", "1"];
    let mut command = binary(&tiny(), out, &more);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if fs::metadata(&part).is_ok_and(|metadata| metadata.len() >= len) {
            stop(&mut child);
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    let in_time = !output.status.success();
    (in_time && part.exists())
        .then(|| (output.status.code(), String::from_utf8(output.stderr).unwrap()))
}

/// Stops the program at several lengths of its file, checks what is left, and goes on.
fn stop_and_go_on(stop: impl Fn(&mut Child), check: impl Fn(Option<i32>, &str)) {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.gguf");
    let more = ["-q", "Q2_K", "--json"];
    assert!(binary(&tiny(), &out, &more).output().unwrap().status.success());
    let whole = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    for percent in [40, 60, 80] {
        let len = whole.len() as u64 * percent / 100;
        let (code, stderr) = (0..TRIES)
            .find_map(|_| {
                let stopped = stopped_at(len, &out, &stop);
                let _ = stopped.is_none() && fs::remove_file(&out).is_ok();
                stopped
            })
            .expect("a process that can be stopped");
        check(code, &stderr);
        assert!(!out.exists());
        let output = binary(&tiny(), &out, &[&more[..], &["--resume"]].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // The embedding is finished at 40 % already.
        assert!(report["resumed_tensors"].as_u64().unwrap() > 0);
        assert!(fs::read(&out).unwrap() == whole);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(&out).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn a_process_that_is_killed_leaves_what_can_be_gone_on_with() {
    stop_and_go_on(|child| child.kill().unwrap(), |code, _| assert_eq!(code, None));
}

#[test]
#[cfg(unix)]
fn ctrl_c_says_how_to_go_on() {
    let interrupt = |child: &mut Child| {
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    };
    stop_and_go_on(interrupt, |code, stderr| {
        assert_eq!(code, Some(130), "{stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
        assert!(stderr.starts_with("lapidary: cancelled; "), "{stderr}");
        assert!(stderr.contains("out.gguf.part: --resume continues from there"), "{stderr}");
    });
}
