//! TLS, and who calls, as the command line asks for it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use tally_client::{Builder, Client, Tls};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::output::Failure;

/// The options of TLS, which every command has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct TlsOptions {
    /// Speak TLS, and trust the CAs in this file (PEM). Default: the file in TALLY_TLS_CA. Endpoints with https://
    /// speak it too, and trust what the operating system trusts where no file is named.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Show this certificate, with its chain (PEM), to nodes that ask who calls. Default: the file in TALLY_TLS_CERT.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM). Default: the file in TALLY_TLS_KEY.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Look for this name in the nodes' certificates, and not for the host of each address. Default: the name in
    /// TALLY_TLS_SERVER_NAME.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
    /// Show the token in this file, to say who calls. Default: the token in TALLY_TOKEN. (No option takes the token
    /// itself: who lists processes would see it.)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl TlsOptions {
    /// The same again, for a command that somebody is told to run.
    pub(crate) fn flags(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("--tls-ca", path(&self.tls_ca)),
            ("--tls-cert", path(&self.tls_cert)),
            ("--tls-key", path(&self.tls_key)),
            ("--tls-server-name", self.tls_server_name.clone()),
            ("--token-file", path(&self.token_file)),
        ];
        let flag = |(flag, value): (&str, Option<String>)| {
            let value = value?;
            Some(format!(
                " {flag} {}",
                shlex::try_quote(&value).unwrap_or_else(|_| value.as_str().into())
            ))
        };
        given.into_iter().filter_map(flag).collect()
    }

    /// Takes what was not given from the environment.
    pub(crate) fn look_around(&mut self) {
        let path = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.tls_ca = self.tls_ca.take().or_else(|| path("TALLY_TLS_CA"));
        // A pair belongs together, wherever it comes from.
        if self.tls_cert.is_none() && self.tls_key.is_none() {
            (self.tls_cert, self.tls_key) = (path("TALLY_TLS_CERT"), path("TALLY_TLS_KEY"));
        }
        let name = || std::env::var("TALLY_TLS_SERVER_NAME").ok().filter(|name| !name.is_empty());
        self.tls_server_name = self.tls_server_name.take().or_else(name);
    }
}

/// What is in the files that were named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    token: Option<String>,
    /// An endpoint asks for TLS.
    https: bool,
}

impl Secrets {
    pub(crate) fn read(options: &TlsOptions, endpoints: &[String]) -> Result<Secrets, Failure> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        };
        let identity = match (&options.tls_cert, &options.tls_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            (Some(_), None) => return Err(missing("--tls-key (TALLY_TLS_KEY)")),
            (None, Some(_)) => return Err(missing("--tls-cert (TALLY_TLS_CERT)")),
        };
        let is_https = |endpoint: &String| {
            endpoint
                .split_once("://")
                .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
        };
        let secrets = Secrets {
            ca: options.tls_ca.as_deref().map(read).transpose()?,
            identity,
            server_name: options.tls_server_name.clone(),
            token: token(options)?,
            https: endpoints.iter().any(is_https),
        };
        if let Some(endpoint) = secrets.shows_token_to(endpoints) {
            eprintln!(
                "warning: the token goes to {endpoint} unencrypted, and whoever sees it on the way can use it: https:// or \
                 --tls-ca asks for TLS"
            );
        }
        Ok(secrets)
    }

    /// An endpoint beyond this machine to which a token goes without TLS.
    fn shows_token_to<'a>(&self, endpoints: &'a [String]) -> Option<&'a str> {
        if self.token.is_none() || self.is_tls() {
            return None;
        }
        endpoints.iter().map(String::as_str).find(|endpoint| !is_loopback(endpoint))
    }

    /// Whether TLS is spoken.
    pub(crate) fn is_tls(&self) -> bool {
        self.https || self.ca.is_some() || self.identity.is_some()
    }

    /// A client of these endpoints.
    pub(crate) fn builder(&self, endpoints: Vec<String>) -> Builder {
        let mut builder = Client::builder(endpoints);
        if let Some(token) = &self.token {
            builder = builder.bearer_token(token.clone());
        }
        if !self.is_tls() {
            return builder;
        }
        let mut tls = Tls::new();
        if let Some(ca) = &self.ca {
            tls = tls.trust_only(ca.clone());
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(certificate.clone(), key.clone());
        }
        if let Some(name) = &self.server_name {
            tls = tls.server_name(name.clone());
        }
        builder.tls(tls)
    }

    /// The same for a connection that is not the library's.
    pub(crate) fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        let address = address.split_once("://").map_or(address, |(_, address)| address);
        if !self.is_tls() {
            return Endpoint::from_shared(format!("http://{address}"));
        }
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name.clone());
        }
        Endpoint::from_shared(format!("https://{address}"))?.tls_config(config)
    }
}

/// The token of the file, else of the environment.
fn token(options: &TlsOptions) -> Result<Option<String>, Failure> {
    let Some(path) = &options.token_file else {
        let token = std::env::var("TALLY_TOKEN").unwrap_or_default().trim().to_owned();
        return Ok(Some(token).filter(|token| !token.is_empty()));
    };
    let token = fs::read_to_string(path);
    let token = token.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    match token.trim() {
        "" => Err(Failure::usage(format!("{}: there is no token in it", path.display()))),
        token => Ok(Some(token.to_owned())),
    }
}

/// Whether an endpoint, `[SCHEME://]HOST[:PORT]`, is on this machine. A name may lead anywhere, but for this one.
pub(crate) fn is_loopback(endpoint: &str) -> bool {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address);
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn missing(what: &str) -> Failure {
    Failure::usage(format!("a certificate and its key belong together: {what} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_leaves_the_machine_in_the_clear_is_seen() {
        let asks = |token: &str, endpoints: &[&str]| {
            let endpoints: Vec<String> = endpoints.iter().map(|it| (*it).to_owned()).collect();
            let token = Some(token.to_owned()).filter(|token| !token.is_empty());
            let https = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
            let secrets = Secrets { token, https, ..Secrets::default() };
            secrets.shows_token_to(&endpoints).map(str::to_owned)
        };
        for here in ["127.0.0.1:7401", "[::1]:7401", "localhost:7401", "http://127.0.0.2:1"] {
            assert_eq!(asks("tally_2_00", &[here]), None, "{here}");
        }
        for beyond in ["10.0.0.1:7401", "tally-0.tally:7401", "[2001:db8::1]:7401", "http://db:1"] {
            assert_eq!(asks("tally_2_00", &["127.0.0.1:7401", beyond]).as_deref(), Some(beyond));
            assert_eq!(asks("", &[beyond]), None, "no token, {beyond}");
        }
        assert_eq!(asks("tally_2_00", &["https://db:7401"]), None);
    }
}
