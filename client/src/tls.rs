//! TLS towards the nodes, or towards what stands before them and speaks it.

use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// What a certificate begins with in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Whom a client trusts, and how it shows who it is, over TLS ([`Builder::tls`](crate::Builder::tls)).
///
/// By default it trusts the certificates that the operating system trusts, checks a node's against the host
/// of its address, and shows none of its own. It speaks TLS 1.2 and 1.3, through rustls.
///
/// ```
/// use tally_client::{Client, Tls};
///
/// # fn example(ca: Vec<u8>, certificate: Vec<u8>, key: Vec<u8>) {
/// let tls = Tls::new().trust_only(ca).identity(certificate, key).server_name("tally.internal");
/// let builder = Client::builder(["10.0.0.1", "10.0.0.2", "10.0.0.3"]).tls(tls);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    roots: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts what the operating system trusts.
    ///
    /// ```
    /// let tls = tally_client::Tls::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificates (PEM, one or more) and no longer those of the operating system. Called again
    /// it trusts more.
    ///
    /// ```no_run
    /// let tls = tally_client::Tls::new().trust_only(std::fs::read("ca.pem")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn trust_only(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Shows this certificate with its chain, and proves it by the key (both PEM), to who asks for one.
    ///
    /// ```no_run
    /// # use std::fs::read;
    /// let tls = tally_client::Tls::new().identity(read("client.pem")?, read("client.key")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Checks each node's certificate against this name, and no longer against the host of its address. Nodes
    /// tell of each other by addresses that may be in no certificate.
    ///
    /// ```
    /// let tls = tally_client::Tls::new().server_name("tally.internal");
    /// ```
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(crate) fn config(&self) -> Result<ClientTlsConfig, &'static str> {
        let mut config = ClientTlsConfig::new();
        if self.roots.is_empty() {
            config = config.with_native_roots();
        }
        for pem in &self.roots {
            // It would be read as none, and none be trusted.
            if !pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
                return Err("no certificate (PEM) is in what is to be trusted");
            }
            config = config.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name.clone());
        }
        Ok(config)
    }
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("trusts_only", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
