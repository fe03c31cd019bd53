//! Ctrl-C, and being asked to end (SIGTERM, SIGHUP), as a flag that long work looks at, so that it
//! can finish its line and clean up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use thiserror::Error;

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The signal that asked last; 0 for Ctrl-C.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// SIGINT's number, also where Ctrl-C is no signal.
const INTERRUPT: u8 = 2;

/// What a command returns that was asked to end; everything was said already.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupted {
    /// 128 and the signal's number, as shells have it.
    pub fn exit_code() -> u8 {
        let signal = u8::try_from(SIGNAL.load(Ordering::Relaxed)).ok().filter(|n| *n > 0);
        128 + signal.unwrap_or(INTERRUPT)
    }
}

/// Takes over Ctrl-C: the first sets the flag, a second one before the flag was looked at ends the
/// process; SIGTERM and SIGHUP likewise. To be called once, by the command that looks at it.
pub fn install() -> anyhow::Result<()> {
    let on_signal = || {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(128 + INTERRUPT));
        }
    };
    ctrlc::set_handler(on_signal).context("cannot handle Ctrl-C")?;
    #[cfg(unix)]
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        use signal_hook::flag::{register, register_conditional_shutdown, register_usize};
        register_conditional_shutdown(signal, 128 + signal, Arc::clone(&REQUESTED))
            .and_then(|_| register_usize(signal, Arc::clone(&SIGNAL), signal as usize))
            .and_then(|_| register(signal, Arc::clone(&REQUESTED)))
            .context("cannot handle signals")?;
    }
    Ok(())
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
