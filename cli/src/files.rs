//! Files that others read while they are written: replaced whole, never half there.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Everyone, as far as the umask goes: mode 0644.
    Everyone,
    /// The owner alone: mode 0600. For keys.
    Owner,
}

/// Puts `content` in the place of the file at `path` in one step: who reads it sees the old
/// content or the new one. Makes the directory if there is none.
///
/// # Errors
/// The system's, if the directory cannot be written to.
pub fn replace(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory)?;
    let mode = match readers {
        Readers::Everyone => 0o644,
        Readers::Owner => 0o600,
    };
    let mut file = tempfile::Builder::new()
        .prefix(".sidestep-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_stays_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/key.pem");
        replace(&path, b"one", Readers::Everyone).expect("writes");
        replace(&path, b"two", Readers::Owner).expect("replaces");
        assert_eq!(std::fs::read(&path).expect("reads"), b"two");
        let mode = std::fs::metadata(&path).expect("is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let left = std::fs::read_dir(path.parent().expect("one")).expect("lists");
        assert_eq!(left.count(), 1);
    }
}
