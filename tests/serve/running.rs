//! A server that runs for one test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Reply};

/// The small trained checkpoint.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gemma2");

/// As long as anything takes, on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The tiny model as one file, converted once.
pub fn model() -> PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let convert = || {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("served.gguf");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
        command.arg("convert").arg(TINY).arg("-o").arg(&path).args(["-q", "F16", "--force"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        path
    };
    MODEL.get_or_init(convert).clone()
}

/// The program, which ends with the test.
pub struct Server {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    pub client: Client,
}

impl Server {
    /// One that is ready, with more options.
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(options: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_on(&model(), options, variables)
    }

    /// The same with another model.
    pub fn start_on(model: &Path, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_lapidary"));
        Self::start_program(program, model, options, variables)
    }

    /// The same with the program in another place.
    pub fn start_program(
        program: &Path,
        model: &Path,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program);
        command.arg("serve").arg(model).args(["--port", "0", "--threads", "2"]).args(options);
        command.env_remove("LAPIDARY_API_KEY").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address: SocketAddr = loop {
            let start = said.len();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended: {said}");
            if let Some(address) = said[start..].trim_end().strip_prefix("listening on http://") {
                break address.parse().unwrap();
            }
        };
        Self { child, stderr, client: Client::new(address) }
    }

    /// What a path says.
    pub fn get(&self, path: &str) -> Reply {
        self.client.request("GET", path, &[], b"")
    }

    /// What a path says to a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.client.post(path, body)
    }

    /// A completion that has to succeed.
    pub fn complete(&self, body: &Value) -> Value {
        self.post("/v1/completions", body).json(200)
    }

    /// A chat completion that has to succeed.
    pub fn chat(&self, body: &Value) -> Value {
        self.post("/v1/chat/completions", body).json(200)
    }

    /// Waits until a number of `/health` is what it should be.
    pub fn wait_until(&self, name: &str, expected: usize) {
        let start = Instant::now();
        loop {
            let health = self.get("/health").json(200);
            if health[name] == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{name} never was {expected}: {health}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text(200);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }

    /// The resident memory that is not a file's, in bytes.
    #[cfg(target_os = "linux")]
    pub fn anonymous_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end; its exit status, and what it said last.
    pub fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(start.elapsed() < PATIENCE, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (status, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
