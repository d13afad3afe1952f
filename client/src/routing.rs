//! Which node to ask: the leader, the configured endpoints, and the members that nodes told of.
//!
//! Endpoints come first, since whoever configured them knows that they can be reached from here; the
//! addresses that members go by may be good within the cluster only. But members come and go, and a
//! client that runs for months must not be lost with the last of its endpoints: so in each round
//! through the endpoints one of the other members has its turn.

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

/// They are asked for this often though the leader is known: it may be the only one left of those that
/// this client has heard of. With the next answer that comes, so an idle client asks for nothing.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

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
    /// Nodes that are no configured endpoint: members, and leaders that were named.
    others: Vec<Arc<Node>>,
    /// Addresses of members by id.
    members: BTreeMap<u64, String>,
    /// Whom to ask when nothing better is known.
    turn: Turn,
    unreachable: Option<Unreachable>,
    discover_after: Option<Instant>,
    refresh_after: Option<Instant>,
}

/// Whose turn it is: each endpoint once, then one of the others, and again.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Of the endpoints; their number stands for one of the others.
    endpoint: usize,
    other: usize,
}

impl Turn {
    fn next(self, endpoints: usize, others: usize) -> Turn {
        let at = self.endpoint + 1;
        match self.endpoint {
            last if last >= endpoints => {
                Turn { endpoint: 0, other: (self.other + 1) % others.max(1) }
            }
            _ if at == endpoints && others == 0 => Turn { endpoint: 0, other: 0 },
            _ => Turn { endpoint: at, ..self },
        }
    }
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
        let turn = Turn { endpoint: start % endpoints.len().max(1), other: 0 };
        Self { endpoints, state: Mutex::new(State { turn, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes there are to try.
    pub(crate) fn nodes(&self) -> usize {
        self.endpoints.len()
    }

    /// The addresses that were given.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.endpoints.iter().map(|node| node.address.clone()).collect()
    }

    fn in_turn<'a>(&'a self, state: &'a State) -> &'a Arc<Node> {
        let Turn { endpoint, other } = state.turn;
        // Others may have become fewer since.
        let known = self.endpoints.get(endpoint).or_else(|| state.others.get(other));
        known.unwrap_or(&self.endpoints[0])
    }

    /// The node to send to.
    pub(crate) fn pick(&self, target: Target) -> Arc<Node> {
        let state = self.lock();
        match &state.leader {
            Some(leader) if target == Target::Leader => leader.node.clone(),
            _ => self.in_turn(&state).clone(),
        }
    }

    /// A node that was not asked yet: the leader first, then the endpoints, then whoever else is connected.
    pub(crate) fn pick_other(&self, asked: &[Arc<Node>]) -> Option<Arc<Node>> {
        let state = self.lock();
        let leader = state.leader.as_ref().map(|leader| &leader.node);
        let in_turn = state.turn.endpoint.min(self.endpoints.len());
        let (behind, ahead) = self.endpoints.split_at(in_turn);
        let others = state.others.iter().filter(|node| node.is_connected());
        let all = leader.into_iter().chain(ahead).chain(behind).chain(others);
        let was_asked = |node: &Node| asked.iter().any(|asked| asked.address == node.address);
        all.into_iter().find(|node| !was_asked(node)).cloned()
    }

    /// Another node than this one is taken for the leader.
    pub(crate) fn leads_elsewhere(&self, address: &str) -> bool {
        self.lock().leader.as_ref().is_some_and(|leader| leader.node.address != address)
    }

    /// All known nodes but this one.
    pub(crate) fn others(&self, address: &str) -> Vec<Arc<Node>> {
        let state = self.lock();
        let all = self.endpoints.iter().chain(&state.others);
        all.filter(|node| node.address != address).cloned().collect()
    }

    /// All that was known of the cluster is of one that is gone: its terms count for nothing.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        let turn = Turn { endpoint: state.turn.endpoint % self.endpoints.len(), other: 0 };
        *state = State { turn, ..State::default() };
    }

    /// This node may lead, but is behind: ask another one next time.
    pub(crate) fn avoid(&self, node: &Node) {
        let mut state = self.lock();
        if self.in_turn(&state).address == node.address {
            state.turn = state.turn.next(self.endpoints.len(), state.others.len());
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
        let state = &mut *state;
        let with_address = status.nodes.iter().filter(|node| !node.address.is_empty());
        let told: BTreeMap<u64, String> =
            with_address.map(|node| (node.id, strip_scheme(&node.address).to_owned())).collect();
        if !told.is_empty() {
            state.others.retain(|node| told.values().any(|address| *address == node.address));
            for address in told.values() {
                self.node(state, address);
            }
            state.members = told;
        }
        state.refresh_after = Some(Instant::now() + REFRESH_EVERY);
        self.saw_leaders(state, status);
    }

    /// A node told of itself.
    pub(crate) fn saw_roles(&self, status: &ClusterStatusResponse) {
        self.saw_leaders(&mut self.lock(), status);
    }

    fn saw_leaders(&self, state: &mut State, status: &ClusterStatusResponse) {
        for node in status.nodes.iter().filter(|node| node.role() == Role::Leader) {
            self.saw_leader(state, node.id, &node.address, node.term);
        }
    }

    /// Members should be asked for now: nobody knows who leads, or what is known is old; and nobody asks
    /// already.
    pub(crate) fn wants_members(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let is_fresh =
            state.leader.is_some() && state.refresh_after.is_some_and(|after| now < after);
        if is_fresh || state.discover_after.is_some_and(|after| now < after) {
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
        if let Some(node) = state.others.iter().find(|node| node.address == address) {
            return node.clone();
        }
        let node = Arc::new(Node::new(address.to_owned()));
        state.others.push(node.clone());
        node
    }
}

/// What an endpoint asks for by what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    None,
    Http,
    Https,
}

/// An endpoint without what stands before it, and what that was.
pub(crate) fn split_scheme(endpoint: &str) -> (Scheme, &str) {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        _ => (Scheme::None, endpoint),
    };
    (scheme, rest.trim_end_matches('/'))
}

/// Endpoints are compared as `host:port`.
fn strip_scheme(endpoint: &str) -> &str {
    split_scheme(endpoint).1
}

#[cfg(test)]
mod tests {
    use tally_proto::v1;

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

    fn members(addresses: &[&str]) -> ClusterStatusResponse {
        let member = |(at, address): (usize, &&str)| v1::NodeStatus {
            id: at as u64 + 1,
            address: (*address).to_owned(),
            ..Default::default()
        };
        let nodes = addresses.iter().enumerate().map(member).collect();
        ClusterStatusResponse { nodes, ..Default::default() }
    }

    /// Whom a client asks if nobody answers.
    fn asked_in_vain(router: &Router, times: usize) -> Vec<String> {
        let ask = |_| {
            let node = router.pick(Target::Any);
            router.failed(&node);
            node.address.clone()
        };
        (0..times).map(ask).collect()
    }

    #[tokio::test]
    async fn other_members_have_a_turn_in_each_round_through_the_endpoints() {
        let router = Router::new(vec!["a:1".into(), "b:1".into()], 1);
        router.saw_members(&members(&["b:1", "http://d:1", "e:1"]));
        let asked = asked_in_vain(&router, 8);
        assert_eq!(asked, ["b:1", "d:1", "a:1", "b:1", "e:1", "a:1", "b:1", "d:1"]);
    }

    #[tokio::test]
    async fn who_answers_is_asked_again_though_it_is_no_endpoint() {
        let router = Router::new(vec!["a:1".into()], 0);
        router.saw_members(&members(&["b:1"]));
        asked_in_vain(&router, 1);
        assert_eq!(router.pick(Target::Any).address, "b:1");
        router.saw_members(&members(&["b:1", "c:1"]));
        assert_eq!(router.pick(Target::Any).address, "b:1");
        // And when it is a member no more, one that is known has its turn.
        router.saw_members(&members(&["c:1"]));
        assert_eq!(router.pick(Target::Any).address, "c:1");
        router.forget();
        assert_eq!(router.pick(Target::Any).address, "a:1");
    }

    #[tokio::test(start_paused = true)]
    async fn members_are_asked_for_rarely_while_the_leader_is_known() {
        let router = router();
        assert!(router.wants_members());
        assert!(!router.wants_members());
        tokio::time::sleep(DISCOVER_EVERY).await;
        assert!(router.wants_members());
        router.saw_hint(&hint("b:1", 1));
        router.saw_members(&members(&["a:1", "b:1", "c:1"]));
        tokio::time::sleep(REFRESH_EVERY - Duration::from_millis(1)).await;
        assert!(!router.wants_members());
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(router.wants_members());
        assert!(!router.wants_members());
    }
}
