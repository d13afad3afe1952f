//! `tally cert`: a CA for development and small clusters, and what it signs. Needs no cluster.

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use tally_certificates::{
    Authority, Lifetime, MakeError, Pair, Paths, date, is_cluster_name, node_name, now_ms,
    write_pair,
};

use crate::output::{Exit, Failure, Output};

/// The name of the CA's files.
const CA: &str = "ca";

/// A CA lasts ten years, what it signs one.
const CA_DAYS: u32 = 3650;
const DAYS: u32 = 365;

#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Makes a CA: ca.crt, which nodes and clients trust, and ca.key, which signs and stays where it is.
    Init {
        /// Its name in the certificate; a part of its key is put behind it.
        #[arg(long, default_value = "Tally development CA")]
        name: String,
        #[command(flatten)]
        place: Place,
        /// How many days it lasts.
        #[arg(long, default_value_t = CA_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
    /// Makes node-ID.crt and node-ID.key for a node: good for both of its ports, and for calling other nodes.
    Node {
        /// Its id.
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// Hosts by which clients reach it, names or IP addresses, separated by commas.
        #[arg(long, value_delimiter = ',', required = true, value_name = "HOST,...")]
        hosts: Vec<String>,
        /// The nodes' cluster_name.
        #[arg(long, default_value = "tally", value_name = "NAME")]
        cluster: String,
        #[command(flatten)]
        place: Place,
        /// How many days it lasts, and never longer than the CA.
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
    /// Makes client-NAME.crt and client-NAME.key, by which a client shows that it is NAME.
    Client {
        /// Its name: letters, digits, '-', '_' and '.', at most 64 of them.
        name: String,
        #[command(flatten)]
        place: Place,
        /// How many days it lasts, and never longer than the CA.
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Directory of the CA and of what it signs; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "certificates")]
    dir: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
}

impl Place {
    fn paths(&self, name: &str) -> Result<Paths, Failure> {
        let paths = Paths::new(&self.dir, name);
        if paths.exist() && !self.force {
            let (certificate, key) = (paths.certificate.display(), paths.key.display());
            return Err(Failure::usage(format!(
                "{certificate} or {key} is there already; --force replaces both"
            )));
        }
        Ok(paths)
    }

    fn authority(&self) -> Result<Authority, Failure> {
        let paths = Paths::new(&self.dir, CA);
        let pair = paths.read().map_err(|error| {
            Failure::usage(format!(
                "{error}. `tally cert init` makes a CA, or --dir names another place"
            ))
        })?;
        Authority::from_pair(pair)
            .map_err(|error| Failure::usage(format!("{}: {error}", paths.certificate.display())))
    }
}

/// What was made.
#[derive(Serialize)]
struct Made {
    certificate: String,
    key: String,
    name: String,
    not_after_wall_time_ms: u64,
}

pub(crate) fn run(command: &Cert, output: Output) -> Result<Exit, Failure> {
    let unmade = |error: MakeError| Failure::usage(error.to_string());
    let (paths, name, pair, until_ms) = match command {
        Cert::Init { name, place, days } => {
            let paths = place.paths(CA)?;
            let made = Authority::new(name, Lifetime::days(*days)).map_err(unmade)?;
            fs::create_dir_all(&place.dir)
                .map_err(|error| Failure::usage(format!("{}: {error}", place.dir.display())))?;
            (paths, name.clone(), made.pair().clone(), made.until_ms())
        }
        Cert::Node { id, hosts, cluster, place, days } => {
            if !is_cluster_name(cluster) {
                return Err(named_wrongly("--cluster", cluster));
            }
            let paths = place.paths(&format!("node-{id}"))?;
            let (authority, lifetime) = (place.authority()?, Lifetime::days(*days));
            let pair = authority.node(cluster, *id, hosts, lifetime).map_err(unmade)?;
            (paths, node_name(cluster, *id), pair, lifetime.until_ms.min(authority.until_ms()))
        }
        Cert::Client { name, place, days } => {
            // It is part of a file's name.
            if !is_cluster_name(name) {
                return Err(named_wrongly("NAME", name));
            }
            let paths = place.paths(&format!("client-{name}"))?;
            let (authority, lifetime) = (place.authority()?, Lifetime::days(*days));
            let pair = authority.client(name, lifetime).map_err(unmade)?;
            (paths, name.clone(), pair, lifetime.until_ms.min(authority.until_ms()))
        }
    };
    written(&paths, &pair)?;
    let made = Made {
        certificate: paths.certificate.display().to_string(),
        key: paths.key.display().to_string(),
        name,
        not_after_wall_time_ms: until_ms,
    };
    output.result(&made, |made| {
        let days = until_ms.saturating_sub(now_ms()).div_ceil(24 * 3600 * 1000);
        format!(
            "{} and {}: {}, until {} ({days} days)",
            made.certificate,
            made.key,
            made.name,
            date(until_ms)
        )
    })?;
    Ok(Exit::Done)
}

fn written(paths: &Paths, pair: &Pair) -> Result<(), Failure> {
    write_pair(paths, pair).map_err(|error| Failure::usage(error.to_string()))
}

fn named_wrongly(what: &str, name: &str) -> Failure {
    let name = crate::output::escaped(name);
    Failure::usage(format!("{what} {name:?}: 1 to 64 letters, digits, '-', '_' and '.' are a name"))
}
