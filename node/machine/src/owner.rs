//! Who opened a session.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

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

    /// Who has this address, as far as anybody can tell: of IPv6 its first 64 bits, as whoever gets a network of that
    /// size has all of its addresses, and would be as many clients as it likes. (RFC 6177: sites get a /64 at least.)
    pub fn network(self) -> Owner {
        match self.0 {
            IpAddr::V6(address) if !address.is_loopback() => {
                let network = u128::from(address) >> 64 << 64;
                Owner(Ipv6Addr::from(network).into())
            }
            _ => self,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let network = |text: &str| text.parse::<Owner>().expect("an address").network().to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2::"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:3::6"), "2001:db8:1:3::");
        assert_eq!(network("::1"), "::1");
        // Of IPv4 each address is somebody's, however it is spelt.
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
