//! The certificates of `tallyd dev --tls`: made once, kept with the data, and made again before they end.

use std::path::{Path, PathBuf};

use tally_certificates::{Authority, Facts, Lifetime, Paths, now_ms, write_pair};

use crate::{
    storage::real_disk::create_dir_durably,
    tls::{Asking, Trusted},
};

/// The cluster in the nodes' names: the default.
const CLUSTER: &str = "tally";

const CA_DAYS: u32 = 3650;
const DAYS: u32 = 365;

/// With less left than this new ones are made.
const RENEWED_BEFORE_END_MS: u64 = 30 * 24 * 3600 * 1000;

/// Where they are.
#[derive(Debug)]
pub(super) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes what is missing, for nodes 1 to so many.
    pub(super) fn made(data: &Path, nodes: u64) -> Result<Certificates, String> {
        let directory = data.join("certificates");
        let certificates = Certificates { directory };
        create_dir_durably(&certificates.directory)
            .map_err(|error| format!("{}: {error}", certificates.directory.display()))?;
        certificates.make(nodes).map_err(|error| error.to_string())?;
        Ok(certificates)
    }

    fn make(&self, nodes: u64) -> Result<(), Box<dyn std::error::Error>> {
        let ca = self.paths("ca");
        let is_new = !is_good(&ca);
        if is_new {
            let made = Authority::new("Tally development CA", Lifetime::days(CA_DAYS))?;
            write_pair(&ca, made.pair())?;
        }
        let authority = Authority::from_pair(ca.read()?)?;
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        for node in 1..=nodes {
            let paths = self.of_node(node);
            if is_new || !is_good(&paths) {
                let pair = authority.node(CLUSTER, node, &hosts, Lifetime::days(DAYS))?;
                write_pair(&paths, &pair)?;
            }
        }
        let client = self.paths("client-dev");
        if is_new || !is_good(&client) {
            write_pair(&client, &authority.client("dev", Lifetime::days(DAYS))?)?;
        }
        Ok(())
    }

    fn paths(&self, name: &str) -> Paths {
        Paths::new(&self.directory, name)
    }

    fn of_node(&self, node: u64) -> Paths {
        self.paths(&format!("node-{node}"))
    }

    /// For `tallyd serve`.
    pub(super) fn serve_flags(&self, node: u64) -> Vec<PathBuf> {
        let (ca, own) = (self.paths("ca").certificate, self.of_node(node));
        let mut flags = vec!["--cluster-name".into(), CLUSTER.into()];
        for port in ["client", "peer"] {
            for (kind, path) in [("cert", &own.certificate), ("key", &own.key), ("ca", &ca)] {
                flags.extend([format!("--{port}-tls-{kind}-file").into(), path.clone()]);
            }
        }
        flags
    }

    /// For `tally`, as a user would type them.
    pub(super) fn tally_flags(&self) -> String {
        let (ca, client) = (self.paths("ca").certificate, self.paths("client-dev"));
        format!(
            " --tls-ca {} --tls-cert {} --tls-key {}",
            ca.display(),
            client.certificate.display(),
            client.key.display()
        )
    }

    /// For what this process asks of the nodes.
    pub(super) fn asking(&self) -> Result<Asking, String> {
        Asking::new(Trusted::Ca(&self.paths("ca").certificate), None)
    }
}

/// Whether both files are there and will be for a while.
fn is_good(paths: &Paths) -> bool {
    let read = paths.read().ok().and_then(|pair| Facts::of_pem(&pair.certificate).ok());
    read.is_some_and(|facts| facts.not_after_ms > now_ms() + RENEWED_BEFORE_END_MS)
}
