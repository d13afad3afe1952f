//! A CA for development, and what it signs.
//!
//! Keys are ECDSA over P-256: every TLS library takes them, and a handshake costs little.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::{Facts, facts::now_ms, names::node_name};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A certificate is good from a little before it was made: clocks differ.
const CLOCKS_DIFFER_MS: u64 = 3600 * 1000;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// What was asked for can't be in one, or the CA's files are not what they should be.
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
    /// The certificate is no CA's, or no certificate.
    #[error("{0}")]
    NoAuthority(String),
    /// No date.
    #[error("a certificate can't last until then")]
    Date,
}

/// From when until when a certificate is good, in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From.
    pub from_ms: u64,
    /// Until.
    pub until_ms: u64,
}

impl Lifetime {
    /// From now on, for so many days.
    pub fn days(days: u32) -> Lifetime {
        let now = now_ms();
        let from_ms = now.saturating_sub(CLOCKS_DIFFER_MS);
        Lifetime { from_ms, until_ms: now + u64::from(days) * DAY_MS }
    }
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS#8).
    pub key: String,
}

/// Without the key.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A CA: who trusts its certificate trusts what it signs.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
    until_ms: u64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one with a name, which signs end certificates and no further CA. A part of its key comes behind the
    /// name, in hexadecimal: of two CAs with one name nobody could say which of them is not trusted.
    pub fn new(name: &str, lifetime: Lifetime) -> Result<Authority, MakeError> {
        let key = KeyPair::generate()?;
        let raw = key.public_key_raw();
        let part: String =
            raw[raw.len().saturating_sub(4)..].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut params = params(&format!("{name} {part}"), lifetime)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Authority::from_pair(Pair { certificate, key: key.serialize_pem() })
    }

    /// One that was made before.
    pub fn from_pair(pair: Pair) -> Result<Authority, MakeError> {
        let no_authority = |why: &dyn std::fmt::Display| MakeError::NoAuthority(why.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes())
            .map_err(|_| no_authority(&"the CA's certificate is no PEM"))?;
        let until_ms = Facts::of(&pem.contents).map_err(|error| no_authority(&error))?.not_after_ms;
        let certificate = pem.parse_x509().map_err(|error| no_authority(&error))?;
        if !certificate.is_ca() {
            return Err(no_authority(&"the certificate is no CA's"));
        }
        let key = KeyPair::from_pem(&pair.key)?;
        if certificate.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(no_authority(&"the key is not that of the CA's certificate"));
        }
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key)?;
        Ok(Authority { pair, issuer, until_ms })
    }

    /// Its own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// It signs nothing that is good for longer than this, in ms since 1970: it would not be taken then.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// For a node: good for both of its ports, and for calling other nodes. Clients reach it by these hosts, each
    /// a name or an IP address.
    pub fn node(
        &self,
        cluster: &str,
        node_id: u64,
        hosts: &[String],
        lifetime: Lifetime,
    ) -> Result<Pair, MakeError> {
        let mut params = params(&format!("tally {cluster} node {node_id}"), lifetime)?;
        params.subject_alt_names = vec![SanType::URI(node_name(cluster, node_id).try_into()?)];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// For a client with a name. One that is a URI is put among the alternative names, others are the common name.
    pub fn client(&self, name: &str, lifetime: Lifetime) -> Result<Pair, MakeError> {
        let mut params = params(name, lifetime)?;
        if name.contains("://") {
            params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, MakeError> {
        params.not_after = params.not_after.min(moment(self.until_ms)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn moment(ms: u64) -> Result<OffsetDateTime, MakeError> {
    let seconds = i64::try_from(ms / 1000).map_err(|_| MakeError::Date)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| MakeError::Date)
}

fn params(name: &str, lifetime: Lifetime) -> Result<CertificateParams, MakeError> {
    let mut params = CertificateParams::default();
    params.not_before = moment(lifetime.from_ms)?;
    params.not_after = moment(lifetime.until_ms)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pair: &Pair) -> Facts {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
        Facts::of(&pem.contents).unwrap()
    }

    #[test]
    fn what_it_signs_says_what_was_asked_for() {
        let authority = Authority::new("a CA", Lifetime::days(100)).unwrap();
        let again = Authority::from_pair(authority.pair().clone()).unwrap();
        let hosts = ["node3.example".to_owned(), "10.0.0.3".to_owned()];
        let node = facts(&again.node("shop", 3, &hosts, Lifetime::days(50)).unwrap());
        assert_eq!(node.uris, ["tally://shop/node/3"]);
        assert_eq!(node.hosts, ["node3.example"]);
        assert_eq!(node.name(), Some("tally://shop/node/3"));
        let left = node.not_after_ms - now_ms();
        assert!((49 * DAY_MS..=50 * DAY_MS).contains(&left), "{left}");
        assert!(node.not_before_ms < now_ms());

        let client = facts(&again.client("billing", Lifetime::days(50)).unwrap());
        assert_eq!(client.name(), Some("billing"));
        let named = again.client("spiffe://shop/billing", Lifetime::days(50)).unwrap();
        assert_eq!(facts(&named).name(), Some("spiffe://shop/billing"));
        let longer = facts(&again.client("x", Lifetime::days(1000)).unwrap());
        assert_eq!(longer.not_after_ms, again.until_ms(), "not longer than the CA");
    }

    #[test]
    fn no_two_cas_have_one_name() {
        let name = || facts(Authority::new("a CA", Lifetime::days(9)).unwrap().pair()).common_name;
        let (one, two) = (name().unwrap(), name().unwrap());
        assert!(one.starts_with("a CA ") && one != two, "{one} {two}");
    }

    #[test]
    fn only_a_ca_with_its_own_key_signs() {
        let (one, two) =
            (Authority::new("1", Lifetime::days(9)), Authority::new("2", Lifetime::days(9)));
        let (one, two) = (one.unwrap(), two.unwrap());
        let mixed = Pair { key: two.pair().key.clone(), ..one.pair().clone() };
        let error = Authority::from_pair(mixed).unwrap_err().to_string();
        assert!(error.contains("not that of"), "{error}");
        let leaf = one.client("x", Lifetime::days(9)).unwrap();
        assert!(Authority::from_pair(leaf).unwrap_err().to_string().contains("no CA"));
    }
}
