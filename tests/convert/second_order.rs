//! `hessian`, and `convert` with what it collects, through the binary.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapidary_formats::gguf::Gguf;
use serde_json::Value;
use tempfile::TempDir;

use crate::directory::{copy_of, names};
use crate::fixtures::{held_out, micro, tiny};

/// A directory with the model's name and texts.
struct Place {
    dir: TempDir,
    model: PathBuf,
}

impl Place {
    fn new(model: PathBuf) -> Self {
        Self { dir: TempDir::new().unwrap(), model }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A part of the held-out text.
    fn text(&self, name: &str, part: Range<usize>) -> String {
        fs::write(self.path(name), &fs::read(held_out()).unwrap()[part]).unwrap();
        self.path(name)
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        process.arg(command).arg(&self.model).args(args);
        process
    }

    /// Runs a command that succeeds, and gives what it prints.
    #[track_caller]
    fn run(&self, command: &str, args: &[&str]) -> String {
        let output = self.command(command, args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails with this code, and gives what it says.
    #[track_caller]
    fn fails(&self, code: i32, command: &str, args: &[&str]) -> String {
        let output = self.command(command, args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        stderr
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

#[test]
fn second_order_rounding_lowers_the_divergence_of_other_text() {
    let place = Place::new(tiny());
    let (text, check) = (place.text("text", 0..50_000), place.text("check", 50_000..62_000));
    let (statistics, out) = (place.path("statistics"), place.path("out.gguf"));
    place.run("hessian", &["-f", &text, "-o", &statistics]);
    // 0.45, 0.41 and 0.42 of the divergence with importance alone.
    for (recipe, limit) in [("Q4_K_M", 0.6), ("Q3_K_M", 0.55), ("Q2_K", 0.55)] {
        let divergence = |how: [&str; 2]| {
            let args = ["-o", &out, "-q", recipe, "--check", &check, "--force", "--json"];
            let found = place.run("convert", &[&args[..], &how].concat());
            let found: Value = serde_json::from_str(&found).unwrap();
            assert!(found["rounded_by_importance"].is_array(), "{found}");
            found["check"]["kl_divergence"]["mean"].as_f64().unwrap()
        };
        let by_importance = divergence(["--calibrate", &text]);
        let second_order = divergence(["--hessian", &statistics]);
        let ratio = second_order / by_importance;
        assert!(ratio < limit, "{recipe}: {second_order} of {by_importance}: {ratio}");
    }
}

#[test]
fn rows_that_make_up_for_each_other_lower_it_more() {
    let place = Place::new(tiny());
    let (text, check) = (place.text("text", 0..50_000), place.text("check", 50_000..62_000));
    let (statistics, fisher) = (place.path("statistics"), place.path("fisher"));
    let out = place.path("out.gguf");
    place.run("hessian", &["-f", &text, "-o", &statistics, "--chunks", "2"]);
    let max = ["-q", "Q2_K", "--effort", "max", "-o", &out];
    let said = place.fails(1, "convert", &[&max[..], &["--hessian", &statistics]].concat());
    assert!(said.contains("statistics: it has no Fisher information of outputs"), "{said}");
    place.run("hessian", &["-f", &text, "-o", &fisher, "--fisher"]);
    let divergence = |effort: &str| {
        let args = ["-o", &out, "-q", "Q2_K", "--effort", effort, "--hessian", &fisher];
        let more = ["--check", &check, "--force", "--json"];
        let found = place.run("convert", &[&args[..], &more].concat());
        let found: Value = serde_json::from_str(&found).unwrap();
        found["check"]["kl_divergence"]["mean"].as_f64().unwrap()
    };
    let (best, max) = (divergence("best"), divergence("max"));
    assert!(max < 0.92 * best, "{max} of {best}: {}", max / best);
}

#[test]
fn calibrating_with_the_best_effort_is_the_two_steps() {
    let place = Place::new(tiny());
    let text = place.text("text", 0..16_000);
    let (statistics, two, one) = (place.path("statistics"), place.path("two"), place.path("one"));
    place.run("hessian", &["-f", &text, "-o", &statistics, "--threads", "1"]);
    let best = ["-q", "Q3_K_M", "--effort", "best"];
    let convert = |out: &str, more: &[&str]| {
        place.run("convert", &[&best[..], &["-o", out], more].concat());
        fs::read(out).unwrap()
    };
    let want = convert(&two, &["--hessian", &statistics, "--threads", "1"]);
    let again = ["--hessian", &statistics, "--force", "--threads", "3", "--isa", "scalar"];
    assert!(convert(&two, &again) == want);
    assert!(convert(&one, &["--calibrate", &text, "--threads", "2"]) == want);
    assert_eq!(names(place.dir.path()), ["one", "statistics", "text", "two"]);
    // The file says by what text it was rounded, and is whole.
    assert!(Gguf::open(&one).unwrap().get("lapidary.hessian").is_some());
    let verified = Command::new(env!("CARGO_BIN_EXE_lapidary")).args(["verify", &one]).output();
    assert!(verified.unwrap().status.success());
    // The same text to check with is warned of.
    let check = ["-o", &two, "--hessian", &statistics, "--force", "--check", &text];
    let output = place.command("convert", &check).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("calibrating and checking on one text"), "{stderr}");
    // Less effort is another file.
    let default = ["-q", "Q3_K_M", "-o", &two, "--hessian", &statistics, "--force"];
    place.run("convert", &default);
    assert!(place.bytes("two") != want);
}

/// How many times a process may be done before it can be stopped.
const TRIES: usize = 20;

/// Starts a conversion and does `stop` to it when `file` has `len` bytes; whether that was in time.
fn stopped_at(process: &mut Command, file: &str, len: u64, stop: impl Fn(&mut Child)) -> bool {
    let mut child = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if fs::metadata(file).is_ok_and(|metadata| metadata.len() >= len) {
            stop(&mut child);
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    !child.wait().unwrap().success()
}

#[test]
fn a_calibrating_conversion_that_was_killed_is_gone_on_with() {
    let place = Place::new(tiny());
    let text = place.text("text", 0..16_000);
    let (out, part) = (place.path("out.gguf"), place.path("out.gguf.part"));
    let args = ["-q", "Q2_K", "--calibrate", &text, "--effort", "best", "-o", &out];
    place.run("convert", &args);
    let want = place.bytes("out.gguf");
    let collecting = place.path("out.gguf.hessian.part");
    // While it collects, and while it converts.
    for (file, percent) in [(&collecting, 1), (&part, 60)] {
        let len = want.len() as u64 * percent / 100;
        let in_time = (0..TRIES).any(|_| {
            let _ = fs::remove_file(&out);
            let process = &mut place.command("convert", &args);
            stopped_at(process, file, len, |child| child.kill().unwrap())
        });
        assert!(in_time, "a process that can be stopped");
        assert!(!Path::new(&out).exists());
        let kept = Path::new(&place.path("out.gguf.hessian")).exists();
        assert_eq!(kept, file == &part);
        let more = ["--resume", "--json"];
        let report = place.run("convert", &[&args[..], &more].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["resumed_tensors"].as_u64().unwrap() > 0, kept, "{report}");
        assert!(place.bytes("out.gguf") == want);
        assert_eq!(names(place.dir.path()), ["out.gguf", "text"]);
    }
}

/// Asks a process to stop, as Ctrl-C does.
#[cfg(unix)]
fn interrupt(child: &mut Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn statistics_that_were_interrupted_are_gone_on_with() {
    let place = Place::new(tiny());
    let text = place.text("text", 0..16_000);
    let (out, part) = (place.path("out"), place.path("out.part"));
    let args = ["-f", &text, "-o", &out, "--fisher"];
    place.run("hessian", &args);
    let want = place.bytes("out");
    // While layers are summed, and while gradients are. At the end nothing may be left to be stopped.
    let stops: [fn(&mut Child); 2] = [interrupt, |child| child.kill().unwrap()];
    for percent in [10, 80] {
        for stop in stops {
            let in_time = (0..TRIES).any(|_| {
                let _ = fs::remove_file(&out);
                let process = &mut place.command("hessian", &args);
                stopped_at(process, &part, want.len() as u64 * percent / 100, stop)
            });
            assert!(in_time, "a process that can be stopped");
            assert_eq!(names(place.dir.path()), ["out.part", "text"]);
            let more = ["--resume", "--json", "--threads", "1"];
            let report = place.run("hessian", &[&args[..], &more].concat());
            let report: Value = serde_json::from_str(&report).unwrap();
            assert!(report["resumed_tensors"].as_u64().unwrap() >= 4, "{report}");
            assert!(place.bytes("out") == want);
            assert_eq!(names(place.dir.path()), ["out", "text"]);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_conversion_goes_on_with_its_statistics() {
    let place = Place::new(tiny());
    let text = place.text("text", 0..16_000);
    let (out, part) = (place.path("out.gguf"), place.path("out.gguf.hessian.part"));
    let args = ["-q", "Q2_K", "--calibrate", &text, "--effort", "best", "-o", &out];
    place.run("convert", &args);
    let want = place.bytes("out.gguf");
    // Once two layers of four are there.
    let statistics = place.path("statistics");
    place.run("hessian", &["-f", &text, "-o", &statistics]);
    let len = place.bytes("statistics").len() as u64 / 2;
    let in_time = (0..TRIES).any(|_| {
        let _ = fs::remove_file(&out);
        stopped_at(&mut place.command("convert", &args), &part, len, interrupt)
    });
    assert!(in_time, "a process that can be stopped");
    assert_eq!(names(place.dir.path()), ["out.gguf.hessian.part", "statistics", "text"]);
    let output = place.command("convert", &[&args[..], &["--resume"]].concat()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    // It does not say that there is nothing to resume.
    assert!(!stderr.contains("anew"), "{stderr}");
    assert!(place.bytes("out.gguf") == want);
    assert_eq!(names(place.dir.path()), ["out.gguf", "statistics", "text"]);
}

#[test]
#[cfg(unix)]
fn other_statistics_are_not_gone_on_with() {
    let copy = copy_of(&tiny());
    let place = Place::new(copy.path().to_owned());
    let (text, other) = (place.text("text", 0..16_000), place.text("other", 16_000..32_000));
    let (out, part) = (place.path("out"), place.path("out.part"));
    let in_time = (0..TRIES).any(|_| {
        let _ = fs::remove_file(&out);
        let process = &mut place.command("hessian", &["-f", &text, "-o", &out]);
        stopped_at(process, &part, 2_000_000, interrupt)
    });
    assert!(in_time, "a process that can be stopped");
    let begun = place.bytes("out.part");
    let refused = |cause: &str, args: &[&str]| {
        let said = place.fails(1, "hessian", &[args, &["-o", &out, "--resume"]].concat());
        assert!(said.contains(&format!("{part}: was begun with the {cause} ")), "{said}");
        assert!(said.contains("--force instead of --resume replaces it"), "{said}");
        assert!(place.bytes("out.part") == begun);
    };
    refused("text of checksum", &["-f", &other]);
    refused("hessian.tokens", &["-f", &text, "--chunks", "3"]);
    refused("hessian.columns", &["-f", &text, "--memory", "1MB"]);
    refused("number of tokens with gradients", &["-f", &text, "--fisher"]);
    // Nor for a model that was written to since, and for another one.
    let weights = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes).unwrap();
    let go_on = ["-f", &text, "-o", &out, "--resume"];
    let said = place.fails(1, "hessian", &go_on);
    assert!(said.contains("had other sizes, times or inodes"), "{said}");
    assert!(said.contains("without --resume it is replaced"), "{said}");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    refused("source of fingerprint", &["-f", &text]);
    // Without --resume it begins anew.
    place.run("hessian", &["-f", &other, "-o", &out]);
    assert_eq!(names(place.dir.path()), ["other", "out", "text"]);
    // Nothing is there to go on with.
    let output = place.command("hessian", &[&go_on[..], &["--force"]].concat()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("out.part: does not exist, so there is nothing to resume"), "{said}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let place = Place::new(micro());
    let convert = |more: &[&str]| {
        place.fails(2, "convert", &[&["-o", &place.path("out.gguf")], more].concat())
    };
    for other in ["--imatrix", "--calibrate"] {
        let error = convert(&["--hessian", "a", other, "b"]);
        assert!(error.contains("cannot be used with"), "{other}: {error}");
    }
    assert!(convert(&["--memory", "1GB"]).contains("--calibrate"));
    // A missing option is not asked for if it contradicts another.
    let error = convert(&["--hessian", "a", "--memory", "1GB"]);
    assert!(error.contains("cannot be used with"), "{error}");
    assert_eq!(names(place.dir.path()), Vec::<String>::new());
}

#[test]
fn nothing_is_replaced_without_being_asked() {
    let place = Place::new(micro());
    let (text, out) = (place.text("text", 0..8_000), place.path("out"));
    fs::write(&out, "somebody's").unwrap();
    let collect = ["-f", &text, "-o", &out, "--ctx", "64", "--chunks", "9"];
    let error = place.fails(1, "hessian", &collect);
    assert!(error.contains("--force replaces it") && error.lines().count() == 1, "{error}");
    assert_eq!(place.bytes("out"), b"somebody's");
    let report = place.run("hessian", &[&collect[..], &["--force", "--json"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["file_bytes"], place.bytes("out").len());
    // The text and the model are no outputs either.
    let error = place.fails(1, "hessian", &["-f", &text, "-o", &text, "--force"]);
    assert!(error.contains(&text) && error.lines().count() == 1, "{error}");
    let error = place.fails(1, "convert", &["--hessian", &out, "-o", &out, "--force"]);
    assert!(error.contains(&out) && error.lines().count() == 1, "{error}");
    // What a conversion would keep beside its output is somebody else's.
    let (gguf, beside) = (place.path("a.gguf"), place.path("a.gguf.hessian"));
    fs::write(&beside, "somebody's").unwrap();
    let long = place.text("long", 0..8_000);
    let convert = ["--calibrate", &long, "--effort", "best", "-o", &gguf];
    for more in [&[][..], &["--force"], &["--resume"]] {
        let error = place.fails(1, "convert", &[&convert[..], more].concat());
        assert!(error.contains("a.gguf.hessian: is in the way of the statistics"), "{error}");
        assert_eq!(fs::read(&beside).unwrap(), b"somebody's");
    }
}

#[test]
fn statistics_that_somebody_collected_stay() {
    let place = Place::new(micro());
    let (text, other) = (place.text("text", 0..8_000), place.text("other", 8_000..16_000));
    let (out, beside) = (place.path("out.gguf"), place.path("out.gguf.hessian"));
    place.run("hessian", &["-f", &text, "-o", &beside]);
    let bytes = place.bytes("out.gguf.hessian");
    let best = ["--effort", "best", "-o", &out, "--force", "--calibrate"];
    let [of_text, of_other] = [&text, &other].map(|text| [&best[..], &[text]].concat());
    // They are used, where they are of the same text.
    place.run("convert", &of_text);
    let error = place.fails(1, "convert", &of_other);
    assert!(error.contains("out.gguf.hessian: is in the way"), "{error}");
    assert!(place.bytes("out.gguf.hessian") == bytes);
    assert_eq!(names(place.dir.path()), ["other", "out.gguf", "out.gguf.hessian", "text"]);
    // As if they were unfinished.
    fs::rename(&beside, place.path("out.gguf.hessian.part")).unwrap();
    for more in [&[][..], &["--resume"]] {
        let error = place.fails(1, "convert", &[&of_text[..], more].concat());
        assert!(error.contains("out.gguf.hessian.part: is in the way"), "{error}");
        assert!(place.bytes("out.gguf.hessian.part") == bytes);
    }
    // What a conversion collected for itself goes, whatever had been there.
    fs::remove_file(place.path("out.gguf.hessian.part")).unwrap();
    place.run("convert", &of_text);
    assert_eq!(names(place.dir.path()), ["other", "out.gguf", "text"]);
}

#[test]
fn a_file_of_statistics_says_what_it_is() {
    let place = Place::new(micro());
    let (text, file) = (place.text("text", 0..8_000), place.path("statistics"));
    place.run("hessian", &["-f", &text, "-o", &file, "--ctx", "64", "--chunks", "9"]);
    let place = Place { model: PathBuf::from(&file), dir: place.dir };
    let verified = place.run("verify", &[]);
    let tensors = Gguf::open(&file).unwrap().tensors().count();
    for line in [
        format!("{file}: second-order statistics, for `lapidary convert --hessian`"),
        format!("{tensors} checksums compared"),
        "no problems found".to_owned(),
    ] {
        assert!(verified.lines().any(|found| found == line), "{verified}");
    }
    let report: Value = serde_json::from_str(&place.run("verify", &["--json"])).unwrap();
    assert_eq!((&report["contents"], &report["ok"]), (&"hessian".into(), &true.into()));
    for command in ["inspect", "run"] {
        let error = place.fails(1, command, &[]);
        let what = "it has second-order statistics, for `lapidary convert --hessian`";
        assert!(error.contains(what) && error.lines().count() == 1, "{error}");
        assert!(error.contains(&file), "{error}");
    }
    // A changed byte of a tensor, and one of the header.
    let bytes = place.bytes("statistics");
    let at = bytes.windows(4).position(|window| window == b"text").unwrap();
    for (at, cause) in [(bytes.len() - 7, "their checksum is"), (at, "its metadata or")] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        let output = place.command("verify", &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(cause), "{said}");
    }
}
