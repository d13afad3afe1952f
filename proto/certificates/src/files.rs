//! Certificates and keys as files: `NAME.crt`, which anybody may read, and `NAME.key`, which only its owner may.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::Pair;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Paths {
    /// Of a name in a directory.
    pub fn new(directory: &Path, name: &str) -> Paths {
        let path = |ending: &str| directory.join(format!("{name}.{ending}"));
        Paths { certificate: path("crt"), key: path("key") }
    }

    /// Whether one of the two is there.
    pub fn exist(&self) -> bool {
        self.certificate.exists() || self.key.exists()
    }

    /// Reads both.
    pub fn read(&self) -> io::Result<Pair> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        Ok(Pair { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

/// Writes both, each at once: who reads meanwhile sees the old file or the new one. What was there is replaced.
pub fn write_pair(paths: &Paths, pair: &Pair) -> io::Result<()> {
    write(&paths.key, &pair.key, 0o600)?;
    write_public(&paths.certificate, &pair.certificate)
}

/// Writes a file that anybody may read, at once.
pub fn write_public(path: &Path, text: &str) -> io::Result<()> {
    write(path, text, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // One that is left from before may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let written = file.and_then(|mut file: File| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    written.map_err(named)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path(), "node-1");
        assert!(!paths.exist());
        for text in ["a", "b"] {
            let pair = Pair { certificate: text.to_owned(), key: text.to_owned() };
            write_pair(&paths, &pair).unwrap();
            let read = paths.read().unwrap();
            assert_eq!((read.certificate, read.key), (pair.certificate, pair.key));
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&paths.key), 0o600);
            assert_eq!(mode(&paths.certificate) & 0o600, 0o600);
        }
        let missing = Paths::new(directory.path(), "node-2").read().unwrap_err().to_string();
        assert!(missing.contains("node-2.crt"), "{missing}");
    }
}
