//! `tallyd serve --join`: a new node gets its id from the cluster, and asks to be let in.
//!
//! **Claim.** However many nodes join at once, and whatever is lost on the way, no two directories have one id, and the
//! voters stay as they are: a node that joins is a learner.
//!
//! **It relies on** `Cluster.ClaimNodeId`, whose ids are given where a log entry is applied, to one directory each
//! (`machine::given_ids`), and on `IDENTITY`, which is written before the node takes part in anything.
//!
//! **The steps.** 1. An empty directory draws its incarnation and claims an id with it; an answer that is lost is asked
//! for again, of any member, and is the same. 2. `IDENTITY` is written with both. A crash before that leaves an empty
//! directory, which draws another incarnation and gets another id: the one before is nobody's, and costs a record of
//! some forty bytes. 3. The node starts as one that waits to be added, and meanwhile its own `Cluster.AddLearner` is asked
//! for until it is done; the leader looks for it at its address, as it does for anybody. Sent twice it changes nothing.
//! From then on the directory has a log, and no further start asks for anything.
//!
//! A node that is told its id (it has to be, where its certificate names it) leaves out the first two steps: nobody
//! else is added under that id, as the leader has the directory's incarnation from the node itself.
//!
//! **What breaks it:** an id that is taken from what a member shows as the next one, and not claimed. (Of the machine's
//! tests: `an_id_is_given_once`.)

use std::{path::PathBuf, sync::Arc, time::Duration};

use tally_proto::{
    reason,
    status::Details,
    v1::{self, cluster_client::ClusterClient},
};
use tonic::Request;

use super::ask::connect;
use crate::{
    config::Config,
    env::{Env, Random, identity::Identity},
    tls::{Asking, Trusted},
};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);

/// How long to wait before the next member is asked.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it is said what is in the way.
const TOLD_EVERY: u32 = 10;

/// Flags of a node that joins.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Join the cluster of these members (client ports, host:port, separated by commas): the node gets its id from
    /// them and becomes a learner. Started again it goes on, whether they are given or not.
    #[arg(long, env = "TALLY_JOIN", value_name = "HOST:PORT,...", value_delimiter = ',')]
    join: Vec<String>,
    /// File with the token of an admin, to be shown to these members.
    #[arg(long, env = "TALLY_JOIN_TOKEN_FILE", value_name = "FILE", requires = "join")]
    join_token_file: Option<PathBuf>,
    /// Ask them over TLS, and trust the CAs in this file (PEM).
    #[arg(long, env = "TALLY_JOIN_TLS_CA", value_name = "FILE", requires = "join")]
    join_tls_ca: Option<PathBuf>,
}

/// Whom to ask, and how.
#[derive(Clone)]
pub(super) struct Join {
    members: Vec<String>,
    token: Option<String>,
    tls: Option<Asking>,
}

impl Arguments {
    /// A node joins, or has joined: it need not say its id.
    pub(super) fn is_given(&self) -> bool {
        self.join.iter().any(|member| !member.is_empty())
    }

    pub(super) fn read(&self) -> Result<Option<Join>, String> {
        if !self.is_given() {
            return Ok(None);
        }
        let token = match &self.join_token_file {
            None => None,
            Some(path) => {
                let token = std::fs::read_to_string(path)
                    .map_err(|error| format!("join-token-file {}: {error}", path.display()))?;
                Some(token.trim().to_owned())
            }
        };
        let tls = match &self.join_tls_ca {
            None => None,
            Some(ca) => Some(Asking::new(Trusted::Ca(ca), None)?),
        };
        Ok(Some(Join { members: self.join.clone(), token, tls }))
    }
}

impl Join {
    /// The configuration with the node's id: the directory's, or one that is claimed now. And whether the node has
    /// still to be let in.
    pub(super) async fn identified(
        &self,
        env: &Env,
        config: Config,
    ) -> Result<(Config, bool), String> {
        let stored = Identity::stored(&*env.disk).await.map_err(|error| error.to_string())?;
        let (node_id, is_member) = match stored {
            Some(stored) => (stored.node_id, stored.is_member),
            None if config.node_id != 0 => (config.node_id, false),
            None if !config.peer_tls_cert_file.as_os_str().is_empty() => {
                return Err(
                    "with TLS between nodes a node's certificate names the id of its node, so it can't be given one: \
                     say --node-id, with the next free id (`tally cluster members` has it), and have the certificate \
                     made for that"
                        .to_owned(),
                );
            }
            None => (self.claim(env).await?, false),
        };
        if config.node_id != 0 && config.node_id != node_id {
            return Err(format!(
                "node_id is {}, and the directory of this node, which joins or has joined, has the id {node_id}: leave \
                 node_id out",
                config.node_id
            ));
        }
        let config = Config { node_id, ..config };
        config.validate().map_err(|error| error.to_string())?;
        Ok((config, !is_member))
    }

    async fn claim(&self, env: &Env) -> Result<u64, String> {
        let incarnation = random_incarnation(&*env.random);
        let request = v1::ClusterClaimNodeIdRequest { incarnation: format!("{incarnation:032x}") };
        let answer = self.until_answered("an id", |mut client, token| {
            let request = shown(request.clone(), token);
            async move { client.claim_node_id(request).await }
        });
        let node_id = answer.await?.into_inner().node_id;
        Identity::open(Arc::clone(&env.disk), node_id, incarnation)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(node_id, "the cluster gave this node its id");
        Ok(node_id)
    }

    /// Asks to be added, until it is.
    pub(super) async fn enter(self, node_id: u64, peer_address: String) {
        let request = v1::ClusterAddLearnerRequest { node_id, peer_address, preview: false };
        let answer = self.until_answered("to be added", |mut client, token| {
            let request = shown(request.clone(), token);
            async move { client.add_learner(request).await }
        });
        match answer.await {
            Ok(_) => tracing::info!(node_id, "the node is a learner of the cluster"),
            Err(problem) => tracing::error!(%problem, "the node can't be added to the cluster"),
        }
    }

    /// Asks one member after the other, until one does it, or says what asking again will not change.
    async fn until_answered<A, F>(
        &self,
        what: &str,
        ask: impl Fn(ClusterClient<tonic::transport::Channel>, Option<String>) -> F,
    ) -> Result<A, String>
    where
        F: Future<Output = Result<A, tonic::Status>>,
    {
        let mut asked = 0_u32;
        loop {
            for member in &self.members {
                let answered = tokio::time::timeout(QUESTION, async {
                    let channel = connect(member, self.tls.as_ref()).await?;
                    let answered = ask(ClusterClient::new(channel), self.token.clone()).await;
                    Ok::<_, String>(answered)
                });
                let problem = match answered.await {
                    Ok(Ok(Ok(answer))) => return Ok(answer),
                    Ok(Ok(Err(status))) => {
                        let problem = format!("{member}: {}", in_words(&status));
                        if is_final(&status) {
                            return Err(format!("it asks for {what}: {problem}"));
                        }
                        problem
                    }
                    Ok(Err(problem)) => problem,
                    Err(_) => format!("{member}: no answer in time"),
                };
                if asked.is_multiple_of(TOLD_EVERY) {
                    tracing::warn!(%problem, "this node joins, asks for {what}, and asks again");
                }
                asked = asked.wrapping_add(1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What answers on a port of another kind says nothing but a code.
fn in_words(status: &tonic::Status) -> String {
    match status.message() {
        "" => format!("{}; is it the client port of a node?", status.code()),
        message => message.to_owned(),
    }
}

/// Asked again it is the same: whoever may not ask, asks for what can't be, or runs a release that the cluster has left
/// behind. All else may pass, a refusal, too: a leader that does not find this node yet, as it is just starting.
fn is_final(status: &tonic::Status) -> bool {
    use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
    matches!(status.code(), InvalidArgument | PermissionDenied | Unauthenticated)
        || Details::parse(status).reason == reason::UPGRADE_REFUSED
}

/// Of an empty directory. 0 would be nobody's.
fn random_incarnation(random: &dyn Random) -> u128 {
    random.next_u128().max(1)
}

fn shown<T>(request: T, token: Option<String>) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(QUESTION);
    if let Some(Ok(bearer)) = token.map(|token| format!("Bearer {token}").parse()) {
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

#[cfg(test)]
mod tests {
    use tally_proto::status::StatusBuilder;
    use tonic::Code;

    use super::*;

    #[test]
    fn only_what_may_change_is_asked_for_again() {
        let said = |code, reason| StatusBuilder::new(code, reason, "no").into_tonic();
        let refused = Code::FailedPrecondition;
        assert!(is_final(&said(refused, reason::UPGRADE_REFUSED)), "an older release");
        assert!(is_final(&said(Code::PermissionDenied, reason::PERMISSION_DENIED)));
        assert!(!is_final(&said(refused, reason::MEMBERSHIP_REFUSED)), "it is not found yet");
        assert!(!is_final(&said(Code::Unavailable, reason::NO_QUORUM)));
    }
}
