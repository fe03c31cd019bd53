//! Ctrl-C as a flag that long work looks at, so that it can finish its line and clean up.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use thiserror::Error;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What a command returns that Ctrl-C ended; everything was said already.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupted {
    /// 128 + SIGINT, as shells have it.
    pub const EXIT_CODE: u8 = 130;
}

/// Takes over Ctrl-C: the first sets the flag, a second one before the flag was looked at ends the
/// process. To be called once, by the command that looks at it.
pub fn install() -> anyhow::Result<()> {
    let on_signal = || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Interrupted::EXIT_CODE));
        }
    };
    ctrlc::set_handler(on_signal).context("cannot handle Ctrl-C")
}

/// Whether Ctrl-C was pressed since the flag was last cleared.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Clears the flag, for what comes next.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// Ends a command between two of its steps if Ctrl-C was pressed.
pub fn check() -> Result<(), Interrupted> {
    if requested() {
        return Err(Interrupted);
    }
    Ok(())
}
