//! A node among its peers: the peer port, and meeting them until this node may take part.
//!
//! Nothing of Raft begins before a node that must not run could learn so from its peers. Leaves out:
//! what is said when nodes meet (`peer::hello`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tally_proto::seeded_bugs;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{LOGS, NodeError, listen, starting::Starting};
use crate::{
    audit::AuditLog,
    config::Config,
    consensus::{
        cluster_id::{ClusterId, format_cluster_id},
        compare::Comparisons,
        membership::LastIn,
    },
    env::{Env, descriptors, identity::Identity, shares::ShareRule},
    machine::{given_ids::node_id_record, query},
    peer::{
        self,
        hello::{self, Admission, Greeter, NotWelcome, Roster},
        peers::Peers,
        roster::Members,
        service::PeerService,
    },
    port::Slots,
    storage::{state::StateStore, wal::Wal},
    tls::Secured,
};

/// With room for fewer connections of clients than this a node says so when it starts.
const CLIENT_CONNECTIONS_FEW: usize = 500;

/// What a node among its peers has, once it may take part.
pub(super) struct Met {
    pub(super) peers: Peers,
    pub(super) cluster_id: ClusterId,
    pub(super) greeter: Arc<Greeter>,
    pub(super) members: Arc<Members>,
    pub(super) service: PeerService,
    pub(super) peer_address: String,
    pub(super) peer_server: JoinHandle<()>,
    pub(super) stop_peers: watch::Sender<bool>,
    /// The task that goes on greeting.
    pub(super) greeting: JoinHandle<()>,
    /// Says when peers refuse this node later.
    pub(super) refused: mpsc::Receiver<NotWelcome>,
    /// Connections that clients may have.
    pub(super) clients_max: usize,
}

/// What a node brings along.
pub(super) struct Newcomer<'a> {
    pub(super) identity: &'a Arc<Identity>,
    pub(super) log: &'a Wal,
    pub(super) state: &'a Arc<StateStore>,
    pub(super) comparisons: &'a Comparisons,
    /// Neither log nor state held anything.
    pub(super) started_empty: bool,
}

/// Listens on the peer port and greets the peers until this node may take part.
pub(super) async fn meet(
    config: &Config,
    env: &Env,
    newcomer: Newcomer<'_>,
    starting: &Starting,
    tls: Option<Arc<Secured>>,
    audit: Option<Arc<AuditLog>>,
) -> Result<Met, NodeError> {
    let Newcomer { identity, log, state, comparisons, started_empty } = newcomer;
    let election_timeout_max = Duration::from_millis(config.election_timeout_ms_max);
    let network = Arc::clone(&env.network);
    let incarnation = identity.incarnation();
    let cluster_id = ClusterId::default();
    let connect_timeout = election_timeout_max;
    let peers = Peers::new(
        config.node_id,
        incarnation,
        network,
        connect_timeout,
        cluster_id.clone(),
        tls.clone(),
        (env.formats, config.peer_via.0.clone()),
    );
    for (id, incarnation) in identity.known().await {
        peers.set_incarnation(id, &incarnation);
    }
    let records = Arc::clone(state);
    peers.set_recorded(Arc::new(move |node_id| {
        let record = node_id_record(&records.view(), node_id)?;
        Some(record.incarnation).filter(|incarnation| !incarnation.is_empty())
    }));
    peers.set_lost(identity.lost().await);
    learn_known_cluster(&cluster_id, identity, state).await?;

    let greeter = Greeter::new(hello::Foundation {
        identity: Arc::clone(identity),
        peers: peers.clone(),
        log: log.clone(),
        client_address: config.client_address(),
        peer_address: config.peer_address_on_purpose(),
        admission: admission(config, started_empty),
        comparisons: comparisons.clone(),
    });
    let (first, last_in) = (config.initial_cluster.0.clone(), LastIn::new(config.node_id));
    let members = Members::new(first, Arc::clone(state), last_in);
    greeter.set_roster(Arc::clone(&members) as Arc<dyn Roster>);
    starting.greets(&greeter);

    let service = PeerService::new(Arc::clone(&greeter));
    let listener = listen(env, "peer_listen", &config.peer_listen).await?;
    let peer_address = listener.local_address();
    let (stop_peers, peers_stopped) = watch::channel(false);
    let sockets = env.network.sockets();
    if sockets.clients_max < CLIENT_CONNECTIONS_FEW {
        tracing::warn!(
            target: LOGS,
            clients_max = sockets.clients_max,
            wanted = descriptors::ENOUGH + CLIENT_CONNECTIONS_FEW,
            "few file descriptors: raise the limit on open files of this process, or a snapshot \
             may not be installed, and few clients can connect"
        );
    }
    let peer_server = tokio::spawn(peer::server::serve(
        service.clone(),
        listener,
        Arc::clone(&env.clock),
        Slots::new(sockets.peers_max, ShareRule::NONE),
        (tls, audit),
        peers_stopped,
    ));

    let (refuse, mut refused) = mpsc::channel(1);
    let greeting = tokio::spawn(Arc::clone(&greeter).run(election_timeout_max, move |reason| {
        drop(refuse.try_send(reason));
    }));
    tokio::select! {
        biased;
        Some(reason) = refused.recv() => return Err(reason.into()),
        () = greeter.admitted() => {}
    }
    Ok(Met {
        peers,
        cluster_id,
        greeter,
        members,
        service,
        peer_address,
        peer_server,
        stop_peers,
        greeting,
        refused,
        clients_max: sockets.clients_max,
    })
}

/// When a node takes part.
fn admission(config: &Config, started_empty: bool) -> Admission {
    let first = &config.initial_cluster.0;
    if !started_empty {
        return Admission::WithData;
    }
    if first.is_empty() {
        return Admission::Joins;
    }
    let others: BTreeSet<u64> = first.keys().copied().filter(|id| *id != config.node_id).collect();
    // Itself and these make a majority.
    let majority = first.len() / 2;
    let without_all = config.form_without_all || seeded_bugs::is_on("wiped-majority-forms");
    let needed = if without_all { majority } else { others.len() };
    Admission::Forms { others, needed }
}

/// A restarted node knows its cluster from its own files.
async fn learn_known_cluster(
    cluster_id: &ClusterId,
    identity: &Identity,
    state: &StateStore,
) -> Result<(), NodeError> {
    let in_state = query::meta(&state.view()).cluster_id;
    if in_state != 0 {
        identity.learn_cluster(&format_cluster_id(in_state)).await?;
    }
    if let Some(known) = identity.cluster_id().await
        && let Ok(id) = u128::from_str_radix(&known, 16)
    {
        cluster_id.set(id);
    }
    Ok(())
}
