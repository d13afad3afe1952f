//! The names of nodes in their certificates: `tally://CLUSTER/node/3`, as a URI among the alternative names.
//!
//! The cluster is named by the operator and not by the id that the cluster draws when it is formed: certificates
//! are made before there is a cluster.

/// Longest name of a cluster.
const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// Whether a cluster can have this name: letters, digits, `-`, `_` and `.`, at most 64 of them. All of it can stand
/// in a URI as it is.
pub fn is_cluster_name(name: &str) -> bool {
    let may_have = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= CLUSTER_NAME_BYTES_MAX && name.bytes().all(may_have)
}

/// The name that a node's certificate has to have.
pub fn node_name(cluster: &str, node_id: u64) -> String {
    format!("tally://{cluster}/node/{node_id}")
}

/// The node that a name stands for, if it is one of this cluster. There is one spelling for each node.
pub fn node_of(cluster: &str, name: &str) -> Option<u64> {
    let id: u64 = name.strip_prefix(&format!("tally://{cluster}/node/"))?.parse().ok()?;
    (id > 0 && node_name(cluster, id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_name_in_one_cluster() {
        assert_eq!(node_of("shop", &node_name("shop", 3)), Some(3));
        for other in [
            "tally://shop2/node/3",
            "tally://shop/node/03",
            "tally://shop/node/+3",
            "tally://shop/node/0",
            "tally://shop/node/3/",
            "tally://shop/node/3/node/4",
            "tally://SHOP/node/3",
            "https://shop/node/3",
            "3",
        ] {
            assert_eq!(node_of("shop", other), None, "{other}");
        }
        assert!(is_cluster_name("shop-eu.1"));
        for wrong in ["", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert!(!is_cluster_name(wrong), "{wrong}");
        }
    }
}
