//! What is in the files of a port.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

use super::{Files, TlsError};

/// Largest file that is read: a bundle of all public CAs has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The keys of the configuration, by port.
pub(super) fn keys(port: &'static str) -> (&'static str, &'static str, &'static str) {
    match port {
        "client" => ("client_tls_cert_file", "client_tls_key_file", "client_tls_ca_file"),
        _ => ("peer_tls_cert_file", "peer_tls_key_file", "peer_tls_ca_file"),
    }
}

/// All files of a port, as they were at one look.
pub(super) struct Contents {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// Empty if no CA is configured.
    pub(super) ca: Vec<CertificateDer<'static>>,
    /// By which a change is found. (Times of files say less: a copy can bring an old one along.)
    pub(super) digest: [u8; 32],
}

impl Contents {
    pub(super) fn read(files: &Files, port: &'static str) -> Result<Contents, TlsError> {
        let (certificate_key, key_key, ca_key) = keys(port);
        let mut all = Sha256::new();
        let mut bytes_of = |path: &Path, key| {
            let bytes = read(path).map_err(|problem| problem_of(key, path, &problem))?;
            all.update((bytes.len() as u64).to_le_bytes());
            all.update(&bytes);
            Ok(bytes)
        };
        let chain = bytes_of(&files.certificate, certificate_key)?;
        let key = bytes_of(&files.key, key_key)?;
        let ca = match files.ca.as_os_str().is_empty() {
            true => None,
            false => Some(bytes_of(&files.ca, ca_key)?),
        };
        let chain = certificates(&chain)
            .map_err(|problem| problem_of(certificate_key, &files.certificate, &problem))?;
        let ca = match ca {
            Some(ca) => {
                certificates(&ca).map_err(|problem| problem_of(ca_key, &files.ca, &problem))?
            }
            None => Vec::new(),
        };
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
            problem_of(key_key, &files.key, &format!("no private key: {error}"))
        })?;
        Ok(Contents { chain, key, ca, digest: all.finalize().into() })
    }
}

pub(super) fn problem_of(key: &'static str, path: &Path, problem: &str) -> TlsError {
    TlsError { key, problem: format!("{}: {problem}", path.display()) }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes, and at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("no PEM: {error}"))?;
    if all.is_empty() {
        return Err("no certificate (PEM) is in it".to_owned());
    }
    Ok(all)
}
