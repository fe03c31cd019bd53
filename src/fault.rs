//! Handles signals that would end the process without a word: for a read of a mapped file that was
//! truncated after it was mapped, and for a write beyond the limit on the size of files.

use std::io;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::sync::{Arc, LazyLock};

/// Exit code of a process whose mapped file was truncated.
#[cfg(unix)]
const EXIT_CODE: i32 = 1;

/// Installs a SIGBUS handler. When the process reads a part of a mapped file that another program has
/// truncated, it then exits with a message that names the file instead of being killed by the signal.
/// The read cannot return an error, because it is an access to a slice. Does nothing on systems
/// without that signal.
///
/// # Errors
/// If the handler cannot be installed.
pub fn report_truncated_files() -> io::Result<()> {
    #[cfg(unix)]
    {
        use signal_hook_registry::register_sigaction;
        // SAFETY: the handler may do what any code may. The signal is raised by a read of the map,
        // in code that holds none of the locks that the handler takes: whoever has the lock of
        // `file_at` reads no map, the allocator does not read maps, and `rustix` writes without a lock.
        // If another process sent the signal, the default action follows.
        #[allow(unsafe_code)]
        unsafe {
            register_sigaction(libc::SIGBUS, |info| {
                let address = info.si_addr().addr();
                match lapidary_formats::map::file_at(address) {
                    Some(path) => report_and_exit(&path),
                    None => drop(signal_hook::low_level::emulate_default_handler(libc::SIGBUS)),
                }
            })?;
        }
    }
    Ok(())
}

#[cfg(unix)]
static LIMIT_REACHED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Installs a SIGXFSZ handler. A write beyond the limit on the size of files (`ulimit -f`) then
/// returns an error instead of ending the process. Does nothing on systems without that signal.
///
/// # Errors
/// If the handler cannot be installed.
pub fn report_large_files() -> io::Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(libc::SIGXFSZ, Arc::clone(&LIMIT_REACHED))?;
    Ok(())
}

/// Whether a write has failed because of the limit on the size of files.
pub fn file_size_limit_reached() -> bool {
    #[cfg(unix)]
    return LIMIT_REACHED.load(Ordering::Relaxed);
    #[cfg(not(unix))]
    false
}

#[cfg(unix)]
fn report_and_exit(path: &std::path::Path) {
    let path = path.display().to_string();
    let path = lapidary_formats::printable::Printable::new(&path).at_most(4000);
    let line = format!("lapidary: {path}: another program truncated it while it was being read\n");
    // If stderr is closed, nobody can be told.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    signal_hook::low_level::exit(EXIT_CODE);
}
