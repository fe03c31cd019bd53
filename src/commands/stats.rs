//! The statistics of a run: lines on stderr, or JSON.

use std::io::{self, Write};
use std::time::Instant;

use lapidary::generate::{Answer, DraftStats, End, Finish};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::memory::MemoryPlan;
use super::terminal;

/// The results of a finished run.
pub struct Stats<'a> {
    pub answer: &'a Answer,
    /// The answer's text, for JSON.
    pub text: &'a str,
    pub seed: u64,
    /// When the command started.
    pub start: Instant,
    /// When the model was ready.
    pub loaded: Instant,
    pub plan: MemoryPlan,
}

impl Stats<'_> {
    /// Seconds from the start of the command to the first token.
    fn first_token(&self) -> Option<f64> {
        self.answer.first_token.map(|at| (at - self.start).as_secs_f64())
    }

    /// Writes the statistics to stderr.
    pub fn print(&self) -> io::Result<()> {
        let (a, mut err) = (self.answer, terminal::stderr());
        writeln!(err)?;
        let prompt = speed(a.prompt_speed());
        let first =
            self.first_token().map_or(String::new(), |s| format!(", first token after {s:.2} s"));
        let cached = match a.prompt_tokens - a.prompt_evaluated {
            0 => String::new(),
            cached => format!(" ({cached} of them cached)"),
        };
        writeln!(err, "prompt  {} tokens{cached}{prompt}{first}", a.prompt_tokens)?;
        let (generated, speed) = (a.tokens, speed(a.decode_speed()));
        writeln!(err, "answer  {generated} tokens{speed}{}, {}", self.shifts(), self.end())?;
        if let Some(draft) = &a.draft {
            writeln!(err, "draft   {}", drafted(draft))?;
        }
        writeln!(err, "seed    {}", self.seed)
    }

    fn shifts(&self) -> String {
        match self.answer.shifts {
            0 => String::new(),
            1 => ", the context was shifted once".into(),
            n => format!(", the context was shifted {n} times"),
        }
    }

    fn end(&self) -> String {
        match self.answer.end {
            Some(End::Finished(Finish::Stop)) => "ended by the model".into(),
            Some(End::Finished(Finish::Length)) => "ended by -n".into(),
            Some(End::ContextFull) => {
                format!(
                    "ended because the context of {} tokens is full (see --ctx and --context-shift)",
                    self.plan.options.n_ctx
                )
            }
            Some(End::Cancelled) | None => "interrupted".into(),
        }
    }

    /// The statistics as one JSON object.
    pub fn json(&self) -> serde_json::Value {
        let a = self.answer;
        let mut json = serde_json::json!({
            "text": self.text,
            "stop": match a.end {
                Some(End::Finished(Finish::Stop)) => "stop",
                Some(End::Finished(Finish::Length)) => "length",
                Some(End::ContextFull) => "context",
                Some(End::Cancelled) | None => "interrupted",
            },
            "prompt_tokens": a.prompt_tokens,
            "prompt_evaluated": a.prompt_evaluated,
            "generated_tokens": a.tokens,
            "shifts": a.shifts,
            "seed": self.seed,
            "memory": self.plan.json(),
            "seconds": {
                "load": (self.loaded - self.start).as_secs_f64(),
                "first_token": self.first_token(),
                "prompt": a.prompt_time.as_secs_f64(),
                "decode": a.decode_time.as_secs_f64(),
            },
            "tokens_per_second": {
                "prompt": a.prompt_speed(),
                "decode": a.decode_speed(),
            },
        });
        if let Some(draft) = &a.draft {
            json["draft"] = serde_json::json!({
                "drafted": draft.drafted,
                "accepted": draft.accepted,
                "passes": draft.passes,
                "tokens_per_pass": draft.tokens_per_pass(),
                "speedup": draft.speedup(),
            });
        }
        json
    }
}

/// What drafts did, in words.
fn drafted(draft: &DraftStats) -> String {
    let DraftStats { drafted, accepted, .. } = *draft;
    let share = if drafted > 0 { accepted as f64 * 100.0 / drafted as f64 } else { 0.0 };
    let per_pass =
        draft.tokens_per_pass().map_or(String::new(), |n| format!(", {n:.2} tokens/pass"));
    let speedup =
        draft.speedup().map_or(String::new(), |x| format!(", {x:.2} times as fast as without"));
    format!("{drafted} tokens drafted, {accepted} accepted ({share:.0} %){per_pass}{speedup}")
}

fn speed(tokens_per_second: Option<f64>) -> String {
    tokens_per_second.map_or(String::new(), |s| format!(", {s:.1} tokens/s"))
}

/// Resident memory of this process in bytes, including the resident pages of mapped files.
pub fn resident() -> Option<u64> {
    let pid = sysinfo::get_current_pid().ok()?;
    let mut system = System::new();
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, memory);
    system.process(pid).map(|process| process.memory())
}
