//! Which store, and how it is reached.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use object_store::{BackoffConfig, RetryConfig, aws::AmazonS3Builder};
use tokio::runtime::Handle;

use super::{CredentialsFrom, Error, REQUEST_RETRIES, RETRY_MAX, Store, http};

/// A bucket, and where in it: `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) bucket: String,
    /// Without slashes around it; empty: the bucket itself.
    pub(crate) prefix: String,
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(format!("{text:?} is not s3://BUCKET/PREFIX"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let of_bucket = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
        };
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(of_bucket) {
            return Err(format!("{bucket:?} can't be the name of a bucket"));
        }
        let prefix = prefix.trim_end_matches('/');
        // What every store, and every file system into which somebody copies it, takes as it is.
        let of_prefix = |char: char| char.is_ascii_alphanumeric() || "-._=".contains(char);
        let is_right = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(of_prefix)
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_right) {
            return Err(format!(
                "{prefix:?}: names in it have letters, digits, -, ., _ and = alone"
            ));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Location {
    /// Taken as that of one object: where it is, and its name there.
    pub fn of_object(&self) -> Option<(Location, String)> {
        let (prefix, name) = match self.prefix.rsplit_once('/') {
            Some((prefix, name)) => (prefix, name),
            None => ("", self.prefix.as_str()),
        };
        let parent = Location { bucket: self.bucket.clone(), prefix: prefix.to_owned() };
        (!name.is_empty()).then(|| (parent, name.to_owned()))
    }

    pub(crate) fn key(&self, name: &str) -> String {
        match self.prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{}/{name}", self.prefix),
        }
    }

    pub(crate) fn shown(&self, name: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(name))
    }
}

/// All that is needed to open a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where in it.
    pub location: Location,
    /// `https://host:port` or, within the machine or by the operator's word, `http://…`. None: Amazon's of the region.
    pub endpoint: Option<String>,
    /// Part of each signature.
    pub region: String,
    /// The bucket is the first part of the path, and not of the host's name.
    pub path_style: bool,
    /// Who asks.
    pub credentials: CredentialsFrom,
    /// CAs that sign for the store (PEM). None: those that the operating system trusts.
    pub ca_file: Option<PathBuf>,
}

/// What is wrong with an endpoint, if something is.
pub(crate) fn endpoint_problem(endpoint: &str) -> Option<&'static str> {
    let authority = match endpoint.split_once("://") {
        Some(("http" | "https", authority)) => authority,
        _ => return Some("is neither http://host:port nor https://host:port"),
    };
    // Credentials are never in it, as it is shown.
    let has_more = authority.contains(['/', '?', '#', '@', ' ']);
    (authority.is_empty() || has_more).then_some("has more than a host and a port")
}

impl Settings {
    /// What is wrong with the endpoint, if something is.
    pub fn endpoint_problem(endpoint: &str) -> Option<&'static str> {
        endpoint_problem(endpoint)
    }

    /// Reads the credentials, and has what is needed to ask the store; nothing was asked yet. Connections are kept by
    /// this runtime, which needs I/O and time.
    pub fn open(&self, runtime: &Handle) -> Result<Store, Error> {
        let credentials = self.credentials.read()?;
        let endpoint = self.bucket_endpoint()?;
        let connector = http::Connector::new(&endpoint, self.ca_file.as_deref(), runtime)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.location.bucket)
            .with_region(&self.region)
            .with_endpoint(&endpoint)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_allow_http(true)
            .with_access_key_id(&credentials.key_id)
            .with_secret_access_key(&credentials.secret)
            // Removing several at once is what some stores do not know.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(500),
                    max_backoff: Duration::from_secs(10),
                    base: 3.0,
                },
                max_retries: REQUEST_RETRIES,
                retry_timeout: RETRY_MAX,
            })
            .with_http_connector(connector);
        if let Some(token) = &credentials.token {
            builder = builder.with_token(token);
        }
        let objects = builder.build();
        let objects =
            objects.map_err(|error| Error::Settings(credentials.hide(&error.to_string())))?;
        Ok(Store::new(Arc::new(objects), self.location.clone(), credentials, runtime.clone()))
    }

    /// As the requests need it: with the bucket where that is part of the host's name.
    fn bucket_endpoint(&self) -> Result<String, Error> {
        let amazons = || format!("https://s3.{}.amazonaws.com", self.region);
        let endpoint = self.endpoint.clone().unwrap_or_else(amazons);
        if let Some(problem) = endpoint_problem(&endpoint) {
            return Err(Error::Settings(format!("{endpoint:?} {problem}")));
        }
        match (self.path_style, endpoint.split_once("://")) {
            (false, Some((scheme, authority))) => {
                Ok(format!("{scheme}://{}.{authority}", self.location.bucket))
            }
            _ => Ok(endpoint),
        }
    }
}
