//! Which node to ask: the configured endpoints, the members that nodes told of, and the leader.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tally_proto::v1::{ClusterStatusResponse, LeaderHint, ResponseHeader, Role};
use tokio::time::Instant;

use crate::node::Node;

/// A leader that could not be reached is not believed in again for this long, unless in a newer
/// term: followers name the dead one until they have elected another.
const DISTRUST: Duration = Duration::from_millis(500);

/// Members are asked for at most this often.
const DISCOVER_EVERY: Duration = Duration::from_millis(500);

/// Where a call wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the leader, if it is known.
    Leader,
    /// To the endpoint that this client has settled on.
    Any,
}

#[derive(Debug)]
pub(crate) struct Router {
    endpoints: Vec<Arc<Node>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leader: Option<Leader>,
    /// Nodes that are no configured endpoint, by address.
    learned: BTreeMap<String, Arc<Node>>,
    /// Addresses of members by id.
    members: BTreeMap<u64, String>,
    /// The endpoint to ask when nothing better is known.
    cursor: usize,
    unreachable: Option<Unreachable>,
    discover_after: Option<Instant>,
}

#[derive(Debug)]
struct Leader {
    node: Arc<Node>,
    node_id: u64,
    term: u64,
}

#[derive(Debug)]
struct Unreachable {
    address: String,
    term: u64,
    until: Instant,
}

impl Router {
    /// Starts at the endpoint of this number.
    pub(crate) fn new(endpoints: Vec<String>, start: usize) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().map(|at| Arc::new(Node::new(at))).collect();
        let cursor = start % endpoints.len().max(1);
        Self { endpoints, state: Mutex::new(State { cursor, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes there are to try.
    pub(crate) fn nodes(&self) -> usize {
        self.endpoints.len()
    }

    /// The node to send to.
    pub(crate) fn pick(&self, target: Target) -> Arc<Node> {
        let state = self.lock();
        match &state.leader {
            Some(leader) if target == Target::Leader => leader.node.clone(),
            _ => self.endpoints[state.cursor].clone(),
        }
    }

    /// A node that was not asked yet: the leader first, then the endpoints.
    pub(crate) fn pick_other(&self, asked: &[Arc<Node>]) -> Option<Arc<Node>> {
        let state = self.lock();
        let leader = state.leader.as_ref().map(|leader| &leader.node);
        let (behind, ahead) = self.endpoints.split_at(state.cursor);
        let all = leader.into_iter().chain(ahead).chain(behind);
        let was_asked = |node: &Node| asked.iter().any(|asked| asked.address == node.address);
        all.into_iter().find(|node| !was_asked(node)).cloned()
    }

    /// All that was known of the cluster is of one that is gone: its terms count for nothing.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        *state = State { cursor: state.cursor, ..State::default() };
    }

    /// This node may lead, but is behind: ask another endpoint next time.
    pub(crate) fn avoid(&self, node: &Node) {
        let mut state = self.lock();
        if self.endpoints[state.cursor].address == node.address {
            state.cursor = (state.cursor + 1) % self.endpoints.len();
        }
    }

    /// This node did not do what was asked of it: ask another next time.
    pub(crate) fn failed(&self, node: &Node) {
        let mut state = self.lock();
        if let Some(leader) = state.leader.take_if(|leader| leader.node.address == node.address) {
            state.unreachable = Some(Unreachable {
                address: leader.node.address.clone(),
                term: leader.term,
                until: Instant::now() + DISTRUST,
            });
        }
        drop(state);
        self.avoid(node);
    }

    /// A node refused and said who leads.
    pub(crate) fn saw_hint(&self, hint: &LeaderHint) {
        self.saw_leader(&mut self.lock(), hint.node_id, &hint.address, hint.term);
    }

    /// An answer says whether the node that gave it leads.
    pub(crate) fn saw_header(&self, header: &ResponseHeader) {
        let mut state = self.lock();
        if header.role() != Role::Leader {
            // The node that led forwards to another now, which works but costs a detour.
            state
                .leader
                .take_if(|leader| leader.node_id == header.node_id && leader.term < header.term);
            return;
        }
        if state.leader.as_ref().is_some_and(|leader| leader.term >= header.term) {
            return;
        }
        if let Some(address) = state.members.get(&header.node_id).cloned() {
            self.saw_leader(&mut state, header.node_id, &address, header.term);
        }
    }

    /// A node told of all members.
    pub(crate) fn saw_members(&self, status: &ClusterStatusResponse) {
        let mut state = self.lock();
        for node in &status.nodes {
            if !node.address.is_empty() {
                state.members.insert(node.id, node.address.clone());
            }
        }
        for node in status.nodes.iter().filter(|node| node.role() == Role::Leader) {
            self.saw_leader(&mut state, node.id, &node.address, node.term);
        }
    }

    /// Members should be asked for now: nobody knows who leads, and nobody asks already.
    pub(crate) fn wants_members(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        if state.leader.is_some() || state.discover_after.is_some_and(|after| now < after) {
            return false;
        }
        state.discover_after = Some(now + DISCOVER_EVERY);
        true
    }

    fn saw_leader(&self, state: &mut State, node_id: u64, address: &str, term: u64) {
        let address = match state.members.get(&node_id) {
            Some(known) if address.is_empty() => known.clone(),
            _ => strip_scheme(address).to_owned(),
        };
        let is_older = state.leader.as_ref().is_some_and(|leader| leader.term > term);
        let is_distrusted = state.unreachable.as_ref().is_some_and(|gone| {
            gone.address == address && gone.term >= term && Instant::now() < gone.until
        });
        if address.is_empty() || is_older || is_distrusted {
            return;
        }
        let node = self.node(state, &address);
        state.leader = Some(Leader { node, node_id, term });
    }

    fn node(&self, state: &mut State, address: &str) -> Arc<Node> {
        if let Some(node) = self.endpoints.iter().find(|node| node.address == address) {
            return node.clone();
        }
        // Only members that nodes name come in here, and a cluster has a handful of them.
        let new = || Arc::new(Node::new(address.to_owned()));
        state.learned.entry(address.to_owned()).or_insert_with(new).clone()
    }
}

/// Endpoints are compared as `host:port`.
pub(crate) fn strip_scheme(endpoint: &str) -> &str {
    let endpoint = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    endpoint.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], 0)
    }

    fn hint(address: &str, term: u64) -> LeaderHint {
        LeaderHint { node_id: 9, address: address.into(), term }
    }

    #[tokio::test]
    async fn follows_the_leader_of_the_highest_term() {
        let router = router();
        assert_eq!(router.pick(Target::Leader).address, "a:1");
        router.saw_hint(&hint("c:1", 4));
        router.saw_hint(&hint("b:1", 3));
        assert_eq!(router.pick(Target::Leader).address, "c:1");
        router.saw_hint(&hint("http://d:1/", 5));
        assert_eq!(router.pick(Target::Leader).address, "d:1");
        assert_eq!(router.pick(Target::Any).address, "a:1");
    }

    #[tokio::test]
    async fn a_leader_that_steps_down_is_left() {
        let router = router();
        router.saw_hint(&hint("c:1", 4));
        let header = |role: Role, term| ResponseHeader {
            node_id: 9,
            role: role as i32,
            term,
            ..Default::default()
        };
        router.saw_header(&header(Role::Leader, 4));
        router.saw_header(&header(Role::Follower, 3));
        assert_eq!(router.pick(Target::Leader).address, "c:1");
        router.saw_header(&header(Role::Follower, 5));
        assert_eq!(router.pick(Target::Leader).address, "a:1");
    }

    #[tokio::test]
    async fn a_dead_leader_is_not_believed_in_at_once() {
        let router = router();
        router.saw_hint(&hint("c:1", 4));
        router.failed(&router.pick(Target::Leader));
        router.saw_hint(&hint("c:1", 4));
        assert_eq!(router.pick(Target::Leader).address, "a:1");
        router.saw_hint(&hint("c:1", 5));
        assert_eq!(router.pick(Target::Leader).address, "c:1");
        router.failed(&router.pick(Target::Leader));
        tokio::time::sleep(DISTRUST).await;
        router.saw_hint(&hint("c:1", 5));
        assert_eq!(router.pick(Target::Leader).address, "c:1");
    }

    #[tokio::test]
    async fn failures_go_round_all_endpoints() {
        let router = router();
        let mut asked = Vec::new();
        for _ in 0..4 {
            let node = router.pick(Target::Any);
            router.failed(&node);
            asked.push(node.address.clone());
        }
        assert_eq!(asked, ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[tokio::test]
    async fn each_other_node_is_picked_once_and_the_leader_first() {
        let router = router();
        router.saw_hint(&hint("d:1", 4));
        let mut asked = vec![router.pick(Target::Any)];
        router.avoid(&asked[0]);
        while let Some(node) = router.pick_other(&asked) {
            asked.push(node);
        }
        let asked: Vec<_> = asked.iter().map(|node| node.address.as_str()).collect();
        assert_eq!(asked, ["a:1", "d:1", "b:1", "c:1"]);
    }

    #[tokio::test]
    async fn a_new_cluster_has_terms_of_its_own() {
        let router = router();
        router.saw_hint(&hint("b:1", 40));
        router.forget();
        router.saw_hint(&hint("c:1", 1));
        assert_eq!(router.pick(Target::Leader).address, "c:1");
    }

    #[tokio::test]
    async fn members_are_asked_for_rarely_and_only_without_a_leader() {
        let router = router();
        assert!(router.wants_members());
        assert!(!router.wants_members());
        tokio::time::sleep(DISCOVER_EVERY).await;
        assert!(router.wants_members());
        router.saw_hint(&hint("b:1", 1));
        tokio::time::sleep(DISCOVER_EVERY).await;
        assert!(!router.wants_members());
    }
}
