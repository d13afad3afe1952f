//! The name in a client's certificate.

/// The name in the certificate that a client has shown and that was verified. In the extensions of each of its
/// requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientName(pub(crate) String);
