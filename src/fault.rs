//! Reads that the system refuses: what a mapped file has lost since it was mapped.

use std::io;

/// Exit code of a process whose file was cut short.
#[cfg(unix)]
const EXIT_CODE: i32 = 1;

/// From now on, a process that reads what another program has cut off a mapped file ends with a line
/// that names the file, and not by a signal. Nothing can be given back to the reader: it holds a slice
/// whose end is gone. Does nothing where the system has no such signal.
///
/// # Errors
/// If the system takes no handler.
pub fn report_lost_files() -> io::Result<()> {
    #[cfg(unix)]
    {
        use signal_hook_registry::register_sigaction;
        // SAFETY: the handler may do what any code may. The signal comes of a read of the map, by
        // code that holds none of the locks that the handler takes: `file_at` tries its own and
        // gives up, the allocator does not read maps, and `rustix` writes without a lock.
        // Sent by another process, it is handed on to what it does by itself.
        #[allow(unsafe_code)]
        unsafe {
            register_sigaction(libc::SIGBUS, |info| {
                let address = info.si_addr().addr();
                match lapidary_formats::map::file_at(address) {
                    Some(path) => say_and_exit(&path),
                    None => drop(signal_hook::low_level::emulate_default_handler(libc::SIGBUS)),
                }
            })?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn say_and_exit(path: &std::path::Path) {
    let path = path.display();
    let line = format!("lapidary: {path}: it was cut short by another program while it was read\n");
    // Nobody is left to hear of a closed stderr.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    signal_hook::low_level::exit(EXIT_CODE);
}
