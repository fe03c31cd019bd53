//! New files that get a name when they are complete.

use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// Creates a file in the directory of `path` that only its owner may read. Its name begins with
/// `prefix`. It is deleted when dropped, and gets the name `path` by
/// [`persist`](NamedTempFile::persist). So there is a complete file called `path` at any time, and
/// a file that had the name before is never written to.
///
/// # Errors
/// If no file can be created in that directory.
pub fn new_file_beside(path: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    tempfile::Builder::new().prefix(prefix).tempfile_in(dir)
}
