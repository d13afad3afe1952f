//! Where a node puts the backups that it makes by itself.

use std::path::PathBuf;

use tally_backup_store::{CredentialsFrom, Location, Settings};

use super::{BACKUP_INTERVAL_MS_MIN, BACKUPS_KEPT_MAX, Config, ConfigError, is_loopback};

impl Config {
    /// The object store for backups, if there is one.
    pub fn backup_store(&self) -> Result<Option<Settings>, ConfigError> {
        if self.backup_to.is_empty() {
            return Ok(None);
        }
        let location = self.backup_to.parse::<Location>();
        let location = location.map_err(|problem| ConfigError { key: "backup_to", problem })?;
        let path = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        Ok(Some(Settings {
            location,
            endpoint: (!self.backup_s3_endpoint.is_empty())
                .then(|| self.backup_s3_endpoint.clone()),
            region: self.backup_s3_region.clone(),
            path_style: self.backup_s3_path_style,
            credentials: match path(&self.backup_s3_credentials_file) {
                Some(path) => CredentialsFrom::File(path),
                None => CredentialsFrom::Environment,
            },
            ca_file: path(&self.backup_s3_ca_file),
        }))
    }

    pub(super) fn validate_backups(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError { key, problem: problem.to_owned() });
        if self.backup_interval_ms < BACKUP_INTERVAL_MS_MIN {
            let problem = format!("must be at least {BACKUP_INTERVAL_MS_MIN}");
            return wrong("backup_interval_ms", &problem);
        }
        if !(1..=BACKUPS_KEPT_MAX).contains(&self.backups_kept) {
            return wrong("backups_kept", &format!("must be 1 to {BACKUPS_KEPT_MAX}"));
        }
        let store = self.backup_store()?;
        let has_directory = !self.backup_dir.as_os_str().is_empty();
        if has_directory && store.is_some() {
            let problem =
                "is set, and backup_dir is: a node has one place; give the other to another node";
            return wrong("backup_to", problem);
        }
        let endpoint = &self.backup_s3_endpoint;
        if store.is_none() {
            let paths = [
                ("backup_s3_endpoint", !endpoint.is_empty()),
                (
                    "backup_s3_credentials_file",
                    !self.backup_s3_credentials_file.as_os_str().is_empty(),
                ),
                ("backup_s3_ca_file", !self.backup_s3_ca_file.as_os_str().is_empty()),
            ];
            return match paths.into_iter().find(|(_, is_set)| *is_set) {
                Some((key, _)) => wrong(key, "is set, and backup_to is not"),
                None => Ok(()),
            };
        }
        let of_region = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let region = &self.backup_s3_region;
        if region.is_empty() || !region.bytes().all(of_region) {
            return wrong("backup_s3_region", &format!("{region:?} is no region"));
        }
        if endpoint.is_empty() {
            return Ok(());
        }
        if let Some(problem) = Settings::endpoint_problem(endpoint) {
            // It may have credentials in it.
            return wrong("backup_s3_endpoint", problem);
        }
        match endpoint.strip_prefix("http://") {
            Some(address) if !self.insecure_backup_without_tls && !is_loopback(address) => wrong(
                "backup_s3_endpoint",
                "is not of this machine and has no TLS: whoever is on the way reads each backup; \
                 say https://, or insecure_backup_without_tls = true",
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Config {
        Config { node_id: 1, backup_to: "s3://backups/tally".into(), ..Config::default() }
    }

    fn refused(config: &Config) -> String {
        config.validate().expect_err("it is refused").to_string()
    }

    #[test]
    fn a_store_is_told_from_a_directory() {
        valid().validate().unwrap();
        assert!(Config { backup_to: String::new(), ..valid() }.backup_store().unwrap().is_none());
        let store = valid().backup_store().unwrap().unwrap();
        assert_eq!(store.credentials, CredentialsFrom::Environment);
        assert!(store.path_style && store.endpoint.is_none() && store.ca_file.is_none());
        let both = refused(&Config { backup_dir: "/b".into(), ..valid() });
        assert!(both.contains("backup_to") && both.contains("backup_dir"), "{both}");
        let file = Config { backup_s3_credentials_file: "/c".into(), ..valid() };
        let from = file.backup_store().unwrap().unwrap().credentials;
        assert_eq!(from, CredentialsFrom::File("/c".into()));
        assert!(refused(&Config { backup_to: String::new(), ..file }).contains("credentials_file"));
    }

    #[test]
    fn places_that_are_none_are_refused() {
        for wrong in ["/var/backups", "s3:/b/c", "s3://b", "s3://Upper/x", "s3://backups/a//b"]
            .into_iter()
            .chain(["s3://backups/../x", "s3://id:key@backups/x", "s3://backups/a b"])
        {
            let said = refused(&Config { backup_to: wrong.into(), ..valid() });
            assert!(said.starts_with("backup_to: "), "{wrong}: {said}");
        }
        for right in ["s3://backups", "s3://backups/", "s3://my.back-ups/a/b_c/d=e/"] {
            Config { backup_to: right.into(), ..valid() }.validate().unwrap();
        }
    }

    #[test]
    fn backups_leave_the_machine_in_the_open_by_the_operators_word_alone() {
        let with = |endpoint: &str| Config { backup_s3_endpoint: endpoint.into(), ..valid() };
        for near in ["https://s3.example", "https://s3.example:9000", "http://127.0.0.1:9000"] {
            with(near).validate().unwrap();
        }
        let far = with("http://s3.example:9000");
        assert!(refused(&far).contains("insecure_backup_without_tls"));
        Config { insecure_backup_without_tls: true, ..far }.validate().unwrap();
        for wrong in ["s3.example", "ftp://s3.example", "https://", "https://s3.example/x"] {
            assert!(refused(&with(wrong)).starts_with("backup_s3_endpoint: "), "{wrong}");
        }
        let said = refused(&with("https://id:hush@s3.example"));
        assert!(!said.contains("hush"), "{said}");
    }
}
