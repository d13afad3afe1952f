//! Who opened a session.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// Who opened a session: the address from which its client called, as the node that took the call saw
/// it, without the port. Clients behind one address (a NAT, a proxy, one machine) are one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "IpAddr")]
pub struct Owner(IpAddr);

impl From<IpAddr> for Owner {
    fn from(address: IpAddr) -> Owner {
        Owner::new(address)
    }
}

impl Owner {
    /// Of an address. An IPv4 address is the same owner however a socket spells it.
    pub fn new(address: IpAddr) -> Owner {
        Owner(address.to_canonical())
    }

    /// As sixteen bytes, equal only for equal owners.
    pub fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }

    /// The owner with these octets.
    pub fn from_octets(octets: [u8; 16]) -> Owner {
        Owner::new(IpAddr::from(octets))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Owner {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Owner, Self::Err> {
        text.parse().map(Owner::new)
    }
}
