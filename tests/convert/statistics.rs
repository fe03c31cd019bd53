//! Files of statistics through the binary: how their collection goes on after an interruption, what they
//! replace, and what they say of themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lapidary_formats::gguf::Gguf;
use serde_json::Value;

use crate::directory::{copy_of, names};
use crate::fixtures::{micro, tiny};
use crate::place::Place;

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
    let collecting = place.path("out.gguf.hessian.part");
    // While it collects, and while it converts.
    for (effort, file, percent) in
        [("best", &collecting, 1), ("best", &part, 60), ("max", &part, 60)]
    {
        let args = ["-q", "Q2_K", "--calibrate", &text, "--effort", effort, "-o", &out, "--force"];
        place.run("convert", &args);
        let want = place.bytes("out.gguf");
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
        let more = ["--resume", "--threads", "1", "--json"];
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
    // While the second layer is written, an eighth of the file being one, and while gradients are summed. At
    // the end nothing may be left to be stopped.
    let stops: [fn(&mut Child); 2] = [interrupt, |child| child.kill().unwrap()];
    for percent in [20, 80] {
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
