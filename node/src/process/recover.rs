//! `tallyd recover`: the documented last resort of a cluster that has lost its quorum for good.
//!
//! It takes what `tallyd serve` takes, so that it works on the same directory and asks the same members over the same TLS.
//! It first says what it finds and what would be lost, and does it only if the flag says that this is wanted.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::{EXIT_FATAL, EXIT_REFUSED, recent::RecentLines, serve, telemetry};
use crate::{
    config::Config,
    env::Env,
    machine::version::FormatRange,
    node::{
        recover::{self, Found, RecoverError, There, ids},
        system_error_needs_a_person,
    },
    storage::real_disk::RealDisk,
};

/// Flags of `tallyd recover`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Arguments {
    /// Do it: writes that only the lost nodes hold are lost, acknowledged ones among them, and the lost nodes must never
    /// come back.
    #[arg(long)]
    unsafe_lose_what_only_the_lost_nodes_hold: bool,
    #[command(flatten)]
    node: serve::Arguments,
}

/// The flag that says the loss.
const FLAG: &str = "--unsafe-lose-what-only-the-lost-nodes-hold";

/// Looks, says what is found, and does it if that is wanted.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { unsafe_lose_what_only_the_lost_nodes_hold: wanted, node } = arguments;
    let formats = node.formats();
    let config = match node.config() {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("tallyd: configuration: {problem}");
            return ExitCode::from(2);
        }
    };
    if let Err(problem) = telemetry::start(&config, RecentLines::default()) {
        eprintln!("tallyd: configuration: {problem}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made while the process starts");
    let code = runtime.block_on(recover(&config, formats, wanted));
    runtime.shutdown_background();
    code
}

fn ended(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).expect("the code fits"))
}

/// Nothing was done, and why.
fn refused(problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("tallyd: {problem}");
    ended(EXIT_REFUSED)
}

async fn recover(config: &Config, formats: FormatRange, wanted: bool) -> ExitCode {
    let of_system = |error: &io::Error| match system_error_needs_a_person(error) {
        true => refused(error),
        false => {
            eprintln!("tallyd: {error}");
            ended(EXIT_FATAL)
        }
    };
    // A directory that is not there would be made.
    if !config.data_dir.is_dir() {
        return refused(&format!(
            "there is no directory {} (data_dir). Nothing was changed",
            config.data_dir.display()
        ));
    }
    let _lock = match RealDisk::new(config.data_dir.clone()).and_then(|disk| disk.lock()) {
        Ok(lock) => lock,
        Err(error) => return of_system(&error),
    };
    let env = match Env::real(&config.data_dir, config.store_cache_bytes()) {
        Ok(env) => Env { formats, ..env },
        Err(error) => return of_system(&error),
    };
    let opened = match recover::open(config, &env).await {
        Ok(opened) => opened,
        Err(error) => return failed(&error),
    };
    let said = say(opened.found(), wanted);
    let done = match (said, wanted) {
        (Err(error), _) => Err(RecoverError::from(error)),
        (Ok(()), false) => Err(RecoverError::Refused(format!(
            "nothing was done. If all this is so, and the lost nodes are gone for good, give the same command with {FLAG}"
        ))),
        (Ok(()), true) => opened.recover().await,
    };
    let closed = opened.close().await;
    match done.and(closed) {
        Ok(()) => {
            let done = format!(
                "done: node {} is the only voter of a new epoch. Start it (`tallyd serve`), and add nodes with empty data \
                 directories (`tallyd serve --join ADDRESS`, then `tally cluster promote ID`)\n",
                config.node_id
            );
            serve::printed(io::stdout().write_all(done.as_bytes()))
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &RecoverError) -> ExitCode {
    match error {
        RecoverError::Node(error) if !error.needs_a_person() => {
            eprintln!("tallyd: {error}");
            ended(EXIT_FATAL)
        }
        error => refused(error),
    }
}

/// What is found, what would be done, and what would be lost.
fn say(found: &Found, wanted: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text(found, wanted).as_bytes())?;
    out.flush()
}

fn text(found: &Found, wanted: bool) -> String {
    let Found { node_id, cluster_id, epoch, last, committed, applied, revision, .. } = found;
    let vote = if found.is_voter { "a voter" } else { "a learner, without a vote" };
    let mut text = format!(
        "node {node_id} of cluster {cluster_id}, epoch {epoch}, {vote}\n  \
         last log entry     index {}, term {}\n  \
         known committed    index {committed}\n  \
         state on the disk  index {applied}, revision {revision}\n  \
         last membership    voters {} (log entry {})\n",
        last.1,
        last.0,
        ids(&found.voters),
        found.membership_at,
    );
    for other in &found.others {
        let what = if other.is_voter { "voter  " } else { "learner" };
        let said = match &other.answered {
            Ok(There { held_index, last: Some((term, index)), .. }) => format!(
                "answers; its log ends at index {index}, term {term}, and is known committed up to {held_index}"
            ),
            Ok(There { held_index, last: None, .. }) => {
                format!("answers; holds the log up to committed entry {held_index}")
            }
            Err(why) => format!("does not answer ({why})"),
        };
        text += &format!(
            "  {what} {:<11} {} {said}\n",
            format!("node {}", other.node_id),
            other.address
        );
    }
    let lost: BTreeSet<u64> = found.others.iter().map(|other| other.node_id).collect();
    text += &format!(
        "\n{}\n  \
         - node {node_id} becomes the only voter of epoch {}, with all of its log, entries behind {committed} included\n  \
         - the nodes {lost} are refused from then on, by their ids, whatever their directories hold\n\
         What is lost, or may be\n  \
         - every write that only the nodes {lost} hold is gone, also one that was acknowledged. How many there were \
         nobody here can know\n  \
         - a client that waited for an answer has to see it as unknown. A retry under an idempotency key is applied \
         once; sessions and session tokens of before are refused (SESSION_EXPIRED, TOKEN_OF_ANOTHER_CLUSTER)\n  \
         - the nodes {lost} must not run on: where a quorum of them is started again without reaching node {node_id}, it \
         is the old cluster, beside this one. Wipe their directories\n\n",
        if wanted { "What is done" } else { "What would be done" },
        epoch + 1,
        lost = ids(&lost),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::recover::Lost;

    #[test]
    fn it_says_what_is_found_and_what_is_lost() {
        let found = Found {
            node_id: 3,
            cluster_id: "0ac1".to_owned(),
            epoch: 1,
            last: (4, 90),
            committed: 88,
            applied: 60,
            revision: 70,
            membership_at: 2,
            is_voter: true,
            voters: BTreeSet::from([1, 2, 3]),
            others: [1, 2]
                .map(|node_id| Lost {
                    node_id,
                    address: format!("n{node_id}:7402"),
                    is_voter: true,
                    answered: Err("no answer in time".to_owned()),
                })
                .to_vec(),
        };
        let said = text(&found, false);
        for part in [
            "node 3 of cluster 0ac1, epoch 1, a voter",
            "index 90, term 4",
            "index 88",
            "voters 1, 2, 3 (log entry 2)",
            "node 1      n1:7402 does not answer (no answer in time)",
            "What would be done",
            "the only voter of epoch 2",
            "every write that only the nodes 1, 2 hold is gone, also one that was acknowledged",
        ] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert!(text(&found, true).contains("What is done"));
    }
}
