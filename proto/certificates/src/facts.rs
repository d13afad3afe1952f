//! What a certificate says of itself. Whether it is true is TLS's to find out.

use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its URIs among the alternative names.
    pub uris: Vec<String>,
    /// Its host names among the alternative names.
    pub hosts: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// It is good from this on, in ms since 1970 …
    pub not_before_ms: u64,
    /// … until this.
    pub not_after_ms: u64,
}

/// The bytes are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no certificate that can be read: {0}")]
pub struct NotACertificate(String);

impl Facts {
    /// Reads a certificate in DER.
    pub fn of(der: &[u8]) -> Result<Facts, NotACertificate> {
        let wrong = |error: &dyn std::fmt::Display| NotACertificate(error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| wrong(&error))?;
        let (mut uris, mut hosts) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|error| wrong(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                _ => {}
            }
        }
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = common_names.next().and_then(|name| name.as_str().ok());
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Ok(Facts {
            uris,
            hosts,
            common_name: common_name.map(str::to_owned),
            not_before_ms: ms(certificate.validity().not_before.timestamp()),
            not_after_ms: ms(certificate.validity().not_after.timestamp()),
        })
    }

    /// Reads the first certificate in a PEM.
    pub fn of_pem(pem: &str) -> Result<Facts, NotACertificate> {
        let parsed = x509_parser::pem::parse_x509_pem(pem.as_bytes());
        let (_, parsed) = parsed.map_err(|error| NotACertificate(error.to_string()))?;
        Facts::of(&parsed.contents)
    }

    /// The one name that it is known by: the first URI, else the first host name, else the common name.
    pub fn name(&self) -> Option<&str> {
        let first = self.uris.first().or(self.hosts.first()).or(self.common_name.as_ref())?;
        (!first.is_empty()).then_some(first)
    }
}

/// A moment in ms since 1970 for people, to the minute.
pub fn date(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let Ok(at) = OffsetDateTime::from_unix_timestamp(seconds) else { return "never".to_owned() };
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

/// The present moment in ms since 1970, for a program that makes certificates.
pub fn now_ms() -> u64 {
    let ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    u64::try_from(ms).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_790_000_061_000), "2026-09-21 14:14 UTC");
        assert_eq!(date(u64::MAX), "never");
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        assert!(Facts::of(b"").is_err() && Facts::of(&[0x30, 0x03, 1, 1, 1]).is_err());
    }
}
