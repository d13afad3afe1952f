//! The caller's side, for what a process asks of its own nodes: a health check, and the cluster of `tallyd dev`.

use std::{io, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, Error,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    files::{certificates, read},
    material::roots,
    verify::{Accepts, Called},
};

/// Whom to trust, and what to show.
#[derive(Debug, Clone, Copy)]
pub enum Trusted<'a> {
    /// CAs in a file, for the host that is asked.
    Ca(&'a Path),
    /// The one certificate in this file, whatever it names: the node's own, on its own machine.
    Own(&'a Path),
}

/// Asks over TLS.
#[derive(Clone)]
pub struct Asking(TlsConnector);

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asking")
    }
}

impl Asking {
    /// With what is in these files. `shown` is a certificate and its key.
    pub fn new(trusted: Trusted<'_>, shown: Option<(&Path, &Path)>) -> Result<Asking, String> {
        let named = |path: &Path, problem: String| format!("{}: {problem}", path.display());
        let of = |path: &Path| {
            let pem = read(path).map_err(|problem| named(path, problem))?;
            certificates(&pem).map_err(|problem| named(path, problem))
        };
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trusted {
            Trusted::Own(path) => {
                let accepts = Pinned(of(path)?.swap_remove(0));
                Arc::new(Called { accepts, provider: Arc::clone(&provider) })
            }
            Trusted::Ca(path) => {
                let roots = roots(&of(path)?).map_err(|problem| named(path, problem))?;
                let provider = Arc::clone(&provider);
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| named(path, error.to_string()))?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let pem = read(key).map_err(|problem| named(key, problem))?;
                let secret = PrivateKeyDer::from_pem_slice(&pem)
                    .map_err(|error| named(key, format!("no private key: {error}")))?;
                builder
                    .with_client_auth_cert(of(certificate)?, secret)
                    .map_err(|error| named(key, error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Asking(TlsConnector::from(Arc::new(config))))
    }

    /// Connects to an address, host:port.
    pub async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        self.0.connect(name, stream).await
    }
}

/// Takes one certificate alone, and by its key.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl Accepts for Pinned {
    fn accept(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: UnixTime,
    ) -> Result<(), Error> {
        match *end_entity == self.0 {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}
