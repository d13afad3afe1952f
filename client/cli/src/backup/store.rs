//! Backups in an S3-compatible object store, where nodes put them (`backup_to`): read from there.

use std::path::{Path, PathBuf};

use clap::Args;
use tally_backup_store::{Checked, CredentialsFrom, Error, Location, Settings, Store};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;

use crate::output::{Failure, escaped};

/// How a store is reached; each as the key of a node's configuration. Credentials are in the environment
/// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) or in a file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where FILE is s3://BUCKET/NAME")]
#[group(skip)]
pub(crate) struct StoreOptions {
    /// Where the store is, https://host:port. Default: Amazon's of the region.
    #[arg(long, value_name = "URL", env = "TALLY_BACKUP_S3_ENDPOINT", hide_env_values = true)]
    s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(
        long,
        value_name = "REGION",
        env = "TALLY_BACKUP_S3_REGION",
        default_value = "us-east-1"
    )]
    s3_region: String,
    /// The bucket is the first part of the path; false: a part of the host's name.
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_BACKUP_S3_PATH_STYLE",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    s3_path_style: bool,
    /// File of the credentials, which its owner alone may read. Default: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "FILE", env = "TALLY_BACKUP_S3_CREDENTIALS_FILE")]
    s3_credentials_file: Option<PathBuf>,
    /// CAs that sign for the store (PEM). Default: those that the operating system trusts.
    #[arg(long, value_name = "FILE", env = "TALLY_BACKUP_S3_CA_FILE")]
    s3_ca_file: Option<PathBuf>,
}

/// A backup that was fetched and found right. The file goes with it.
pub(super) struct Fetched {
    pub(super) file: NamedTempFile,
    pub(super) from: String,
}

pub(super) fn failure(error: Error) -> Failure {
    Failure::unable(escaped(&error.to_string()))
}

/// Where it is, if it is in a store.
pub(super) fn location(file: &Path) -> Result<Option<Location>, Failure> {
    match file.to_str().filter(|text| text.starts_with("s3://")) {
        Some(text) => text.parse().map(Some).map_err(|problem: String| Failure::unable(problem)),
        None => Ok(None),
    }
}

impl StoreOptions {
    pub(super) fn open(&self, location: Location) -> Result<Store, Failure> {
        let path =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let settings = Settings {
            location,
            endpoint: self.s3_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            credentials: path(&self.s3_credentials_file)
                .map_or(CredentialsFrom::Environment, CredentialsFrom::File),
            ca_file: path(&self.s3_ca_file),
        };
        settings.open(&Handle::current()).map_err(failure)
    }

    /// One object of it.
    pub(super) fn open_object(&self, location: &Location) -> Result<(Store, String), Failure> {
        let Some((parent, name)) = location.of_object() else {
            return Err(Failure::unable("a bucket is no backup: s3://BUCKET/NAME".to_owned()));
        };
        Ok((self.open(parent)?, name))
    }
}

/// Reads one whole.
pub(super) async fn check(store: &Store, name: &str) -> Result<Checked, Failure> {
    store.check(name).await.map_err(failure)
}

/// Reads one whole into a file that nobody else may read, and that goes when it is not needed any more.
pub(super) async fn fetch(store: &Store, name: &str) -> Result<Fetched, Error> {
    let file = NamedTempFile::new();
    let mut file = file.map_err(|error| Error::Settings(format!("a temporary file: {error}")))?;
    store.fetch(name, file.as_file_mut()).await?;
    Ok(Fetched { file, from: store.shown(name) })
}
