//! The first members, as configuration says them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::is_address;

/// The first members: node id and address of the peer port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitialCluster(pub BTreeMap<u64, String>);

/// Other ways to some nodes: the same form, for another purpose.
pub type PeerVia = InitialCluster;

impl FromStr for InitialCluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (id, address) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not of the form id=host:port"))?;
            let id: u64 = id
                .trim()
                .parse()
                .ok()
                .filter(|id| *id > 0)
                .ok_or_else(|| format!("{id:?} is not a node id"))?;
            let address = address.trim();
            if !is_address(address) {
                return Err(format!("{address:?} is not host:port"));
            }
            if members.insert(id, address.to_owned()).is_some() {
                return Err(format!("node {id} is named twice"));
            }
        }
        Ok(InitialCluster(members))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (id, address)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{id}={address}")?;
        }
        Ok(())
    }
}

impl Serialize for InitialCluster {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InitialCluster {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
