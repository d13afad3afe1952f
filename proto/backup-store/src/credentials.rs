//! Who the store is told that it is. Never shown: not in logs, not in errors, not by `Debug`.

use std::{fs::File, io::Read as _, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::Error;

/// Credentials are a few lines: whatever is larger is another file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where they are read, each time that a store is opened: so they can be changed without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if there is one, `AWS_SESSION_TOKEN`.
    Environment,
    /// `aws_access_key_id = …` and so on, one a line, below `[default]` or no heading, as other clients of S3 have it.
    /// Nobody but its owner may read it.
    File(PathBuf),
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl CredentialsFrom {
    pub(crate) fn read(&self) -> Result<Credentials, Error> {
        match self {
            Self::Environment => {
                let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                let (key_id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
                let missing = |name: &str| Error::Settings(format!("{name} is not set"));
                Ok(Credentials {
                    key_id: of(key_id).ok_or_else(|| missing(key_id))?,
                    secret: of(secret).ok_or_else(|| missing(secret))?,
                    token: of("AWS_SESSION_TOKEN"),
                })
            }
            Self::File(path) => {
                let wrong =
                    |problem: String| Error::Settings(format!("{}: {problem}", path.display()));
                let read = || {
                    let file = File::open(path)?;
                    let mode = file.metadata()?.permissions().mode();
                    let mut text = String::new();
                    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
                    Ok((mode, text))
                };
                let (mode, text) =
                    read().map_err(|error: std::io::Error| wrong(error.to_string()))?;
                if mode & 0o077 != 0 {
                    let mode = mode & 0o777;
                    return Err(wrong(format!(
                        "others than its owner may read or write it (mode {mode:o}): chmod 600"
                    )));
                }
                Credentials::parse(&text).map_err(|missing| wrong(format!("it has no {missing}")))
            }
        }
    }
}

impl Credentials {
    /// The name of what is missing, if something is.
    fn parse(text: &str) -> Result<Credentials, &'static str> {
        let mut found = Credentials::default();
        let mut is_ours = true;
        for line in text.lines().map(str::trim) {
            if let Some(heading) = line.strip_prefix('[') {
                is_ours = heading.trim_end_matches(']').trim() == "default";
            } else if let Some((name, value)) = line.split_once('=').filter(|_| is_ours) {
                let value = value.trim().to_owned();
                match name.trim() {
                    "aws_access_key_id" => found.key_id = value,
                    "aws_secret_access_key" => found.secret = value,
                    "aws_session_token" => found.token = Some(value).filter(|it| !it.is_empty()),
                    _ => {}
                }
            }
        }
        match (found.key_id.is_empty(), found.secret.is_empty()) {
            (true, _) => Err("aws_access_key_id"),
            (_, true) => Err("aws_secret_access_key"),
            _ => Ok(found),
        }
    }

    /// A text without them: some stores repeat in an error what they were sent.
    pub(crate) fn hide(&self, text: &str) -> String {
        let all = [Some(&self.key_id), Some(&self.secret), self.token.as_ref()];
        let all = all.into_iter().flatten().filter(|part| !part.is_empty());
        all.fold(text.to_owned(), |text, part| text.replace(part.as_str(), "***"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_other_clients_write_it() {
        let text = "# mine\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id=ID\n\
                    aws_secret_access_key = a/b+c=\n region = x\n";
        let found = Credentials::parse(text).unwrap();
        assert_eq!((found.key_id.as_str(), found.secret.as_str()), ("ID", "a/b+c="));
        assert_eq!(found.token, None);
        let found =
            Credentials::parse("aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c");
        assert_eq!(found.unwrap().token.as_deref(), Some("c"));
        assert_eq!(
            Credentials::parse("[default]\naws_access_key_id=a"),
            Err("aws_secret_access_key")
        );
        assert_eq!(Credentials::parse(""), Err("aws_access_key_id"));
    }

    #[test]
    fn a_file_that_others_read_is_refused_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, "aws_access_key_id=ID\naws_secret_access_key=hush").unwrap();
        let from = CredentialsFrom::File(path.clone());
        for mode in [0o644, 0o640, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let said = from.read().unwrap_err().to_string();
            assert!(said.contains("chmod 600") && !said.contains("hush"), "{said}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(from.read().unwrap().secret, "hush");
    }

    #[test]
    fn nothing_shows_them() {
        let (key_id, secret, token) = ("ID7", "hush", Some("token".to_owned()));
        let all = Credentials { key_id: key_id.into(), secret: secret.into(), token };
        assert_eq!(format!("{all:?}"), "Credentials");
        assert_eq!(all.hide("ID7 and hush with token x"), "*** and *** with *** x");
    }
}
