//! Turns Ctrl-C, SIGTERM and SIGHUP into a flag. Long work checks the flag, so that it can finish
//! its line and clean up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use thiserror::Error;

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The signal that came last; 0 for Ctrl-C.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// The number of SIGINT, also used on systems where Ctrl-C is not a signal.
const INTERRUPT: u8 = 2;

/// The error of a command that was asked to stop. What need be said has been said.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupted {
    /// 128 plus the signal's number, as shells report it.
    pub fn exit_code() -> u8 {
        let signal = u8::try_from(SIGNAL.load(Ordering::Relaxed)).ok().filter(|n| *n > 0);
        128 + signal.unwrap_or(INTERRUPT)
    }
}

/// Installs the handlers. The first Ctrl-C sets the flag; a second one that comes before the flag
/// is cleared ends the process. SIGTERM and SIGHUP do the same. Call it once, in a command that
/// checks the flag.
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

/// Whether a stop has been requested since the flag was last cleared.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Clears the flag before the next piece of work.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// Returns an error if a stop has been requested. For use between two steps of a command.
pub fn check() -> Result<(), Interrupted> {
    if requested() {
        return Err(Interrupted);
    }
    Ok(())
}
