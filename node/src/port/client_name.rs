//! Who a client is, where its certificate proves it.

/// The name in the client's certificate, which was verified ([`crate::tls`]): its first URI among the alternative
/// names, else its first host name, else its common name. In the extensions of each request of a connection over
/// which a client showed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientName {
    pub(crate) name: String,
    /// It proves nothing from then on, in ms since 1970.
    pub(crate) not_after_ms: u64,
}

/// The node that calls, as its certificate proves it. In the extensions of each request to a peer port with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallingNode(pub(crate) u64);
