//! Whose certificates are taken between nodes: those that a configured CA signed, and that name a node of this
//! cluster; and where a node calls, the one that it means.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tally_certificates::{Facts, node_of};

/// A certificate names nobody who may be there.
#[derive(Debug, thiserror::Error)]
pub(super) enum WrongName {
    /// No node of this cluster.
    #[error(
        "the certificate names {found}, and no node of this cluster (tally://{cluster}/node/ID)"
    )]
    NoNode { found: String, cluster: String },
    /// Another node.
    #[error("the certificate is that of node {found}, not of node {meant}")]
    AnotherNode { found: u64, meant: u64 },
    /// It can't be read.
    #[error(transparent)]
    Unreadable(#[from] tally_certificates::NotACertificate),
}

/// The node of this cluster that a certificate names: the only one, as a key is one node's.
pub(super) fn named(certificate: &CertificateDer<'_>, cluster: &str) -> Result<u64, WrongName> {
    let facts = Facts::of(certificate)?;
    let mut nodes = facts.uris.iter().filter_map(|uri| node_of(cluster, uri));
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        _ => {
            let found = match facts.uris.is_empty() {
                true => facts.name().unwrap_or("nobody").to_owned(),
                false => facts.uris.join(", "),
            };
            Err(WrongName::NoNode { found, cluster: cluster.to_owned() })
        }
    }
}

fn refused(wrong: WrongName) -> Error {
    CertificateError::Other(OtherError(Arc::new(wrong))).into()
}

/// An error of a handshake in our own words, if they are what it is about: rustls would show them as code.
pub(super) fn in_words(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(wrong)))) => {
            std::io::Error::new(error.kind(), wrong.to_string())
        }
        _ => error,
    }
}

/// Whether a server's certificate is accepted for the name that was called.
pub(super) trait Accepts: std::fmt::Debug + Send + Sync {
    fn accept(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// Checks a server for rustls: its certificate by `accepts`, its signatures as TLS 1.3 has them.
#[derive(Debug)]
pub(super) struct Called<A> {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) accepts: A,
}

impl<A: Accepts> ServerCertVerifier for Called<A> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.accepts.accept(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 alone is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const NAME_END: &str = ".node.tally";

/// What a node asks for in its handshake with another one. It is in no certificate: it tells
/// [`Answering`] which node is meant.
pub(super) fn asked_name(node_id: u64) -> String {
    format!("{node_id}{NAME_END}")
}

/// Checks the node that was called.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) cluster: String,
}

impl Answering {
    /// That a CA which is trusted signed it for one who answers calls.
    pub(super) fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let roots = &self.roots;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            algorithms,
        )
    }
}

impl Accepts for Answering {
    fn accept(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        let meant = server_name.to_str();
        let meant = meant.strip_suffix(NAME_END).and_then(|id| id.parse().ok());
        let meant: u64 = meant.ok_or(CertificateError::NotValidForName)?;
        match named(end_entity, &self.cluster).map_err(refused)? {
            found if found == meant => Ok(()),
            found => Err(refused(WrongName::AnotherNode { found, meant })),
        }
    }
}

/// Checks the node that calls.
#[derive(Debug)]
pub(super) struct Calling {
    /// That a CA which is trusted signed it for one who calls.
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) cluster: String,
}

impl ClientCertVerifier for Calling {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        named(end_entity, &self.cluster).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
