//! Where built peers are kept: `$XDG_CACHE_HOME/sidestep-interop/NAME-HASH`, the hash being that of
//! the lock files and sources that they come from. Nothing there is part of the tree, and all of it
//! may be deleted at any time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// Folders that nothing has asked for in so long are deleted.
const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The last thing that is written to a folder. Its time is that of the folder's last use.
const COMPLETE: &str = "complete";

/// The folder of `name` as these sources (files, or folders of files) make it. If there is none yet,
/// `build` fills it; whoever asks at the same time waits for that.
pub(super) fn built(
    name: &str,
    sources: &[PathBuf],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    built_in(&home()?, name, hash(sources)?, build)
}

/// The folder of `name` as `content` says, which need not be a file.
pub(super) fn built_of(
    name: &str,
    content: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    built_in(&home()?, name, hasher.finish(), build)
}

/// Whether that folder is there already. Sources that cannot be read have made nothing.
pub(super) fn has(name: &str, sources: &[PathBuf]) -> bool {
    let folder = |hash| Ok(home()?.join(format!("{name}-{hash:016x}")));
    hash(sources)
        .and_then(folder)
        .is_ok_and(|folder| folder.join(COMPLETE).exists())
}

fn built_in(
    home: &Path,
    name: &str,
    hash: u64,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = home.join(format!("{name}-{hash:016x}"));
    fs::create_dir_all(home).with_context(|| home.display().to_string())?;
    // Is let go of when it is closed, also if the process is killed.
    let lock = File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    let complete = folder.join(COMPLETE);
    if !complete.exists() {
        // An earlier attempt may have left half of it.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        build(&folder).with_context(|| format!("installing {name}"))?;
    }
    File::create(&complete)?;
    forget(home, name)?;
    Ok(folder)
}

/// Deletes what is old of `name`.
fn forget(home: &Path, name: &str) -> Result<()> {
    let now = SystemTime::now();
    for entry in fs::read_dir(home)? {
        let folder = entry?.path();
        let file = folder.file_name().unwrap_or_default().to_string_lossy();
        let is_of = file
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('-'));
        let used = fs::metadata(folder.join(COMPLETE)).and_then(|file| file.modified());
        let age = used.ok().and_then(|used| now.duration_since(used).ok());
        if is_of && age.is_some_and(|age| age > KEPT) {
            fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

fn home() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let home = match set("XDG_CACHE_HOME") {
        Some(caches) => PathBuf::from(caches),
        None => PathBuf::from(set("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(home.join("sidestep-interop"))
}

/// A hash of names and contents. It need not be the same for every version of the compiler: another
/// one makes another folder.
fn hash(sources: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        add(source, &mut hasher)?;
    }
    Ok(hasher.finish())
}

fn add(source: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let at = || source.display().to_string();
    if source.is_dir() {
        let entries = fs::read_dir(source).with_context(at)?;
        let mut entries = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| add(entry, hasher));
    }
    source.file_name().hash(hasher);
    fs::read(source).with_context(at)?.hash(hasher);
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_is_built_is_kept_and_half_of_it_is_not() {
        let home = tempfile::tempdir().unwrap();
        let build =
            |hash, result: fn(&Path) -> Result<()>| built_in(home.path(), "peer", hash, result);
        let fails = build(1, |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("the registry does not answer")
        });
        let error = format!("{:#}", fails.unwrap_err());
        assert_eq!(error, "installing peer: the registry does not answer");
        let folder = build(1, |folder| Ok(fs::write(folder.join("whole"), "")?)).unwrap();
        assert!(folder.join("whole").exists() && !folder.join("half").exists());
        assert_eq!(build(1, |_| bail!("built again")).unwrap(), folder);
        assert_ne!(build(2, |_| Ok(())).unwrap(), folder);
    }

    #[test]
    fn every_source_counts() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("b/c");
        fs::create_dir(home.path().join("b")).unwrap();
        fs::write(home.path().join("a"), "1").unwrap();
        fs::write(&file, "2").unwrap();
        let sources = [home.path().to_owned()];
        let first = hash(&sources).unwrap();
        assert_eq!(hash(&sources).unwrap(), first);
        fs::write(&file, "3").unwrap();
        assert_ne!(hash(&sources).unwrap(), first);
        assert!(hash(&[home.path().join("none")]).is_err());
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let old = built_in(home.path(), "peer", 1, |_| Ok(())).unwrap();
        let other = built_in(home.path(), "another", 1, |_| Ok(())).unwrap();
        let long_ago = SystemTime::now() - 2 * KEPT;
        for folder in [&old, &other] {
            let file = File::options()
                .write(true)
                .open(folder.join(COMPLETE))
                .unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let new = built_in(home.path(), "peer", 2, |_| Ok(())).unwrap();
        assert!(new.exists() && other.exists() && !old.exists());
    }
}
