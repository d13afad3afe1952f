//! `tallyd serve --join`: a node gets its id and is let in by one command, also where both ports have TLS and callers
//! must show who they are.

use crate::support::{
    eventually,
    load::{Book, Load},
    nodes::Cluster,
};

use super::{members::Operator, refusal::REFUSED};

/// Two at the same moment, while clients write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_by_one_command() {
    let test = "nodes_join_by_one_command";
    let mut cluster = Cluster::started("joins", 3, &[]).await;
    let Some(operator) = Operator::of(test, &cluster.addresses()) else { return };
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    // One of those that are asked does not answer.
    let members = format!("127.0.0.1:1,{}", cluster.addresses().join(","));
    for newcomer in [14, 15] {
        cluster.newcomer(newcomer, &["--join", &members]);
    }
    for newcomer in [14, 15] {
        cluster.node(newcomer).start();
    }
    eventually("both are learners", || async {
        (operator.ids("learners").await == [4, 5]).then_some(())
    })
    .await;
    // Killed and started again with the same arguments, also before it has heard that it is in, it has the same id.
    cluster.node(14).kill();
    cluster.node(14).start();
    for id in ["4", "5"] {
        operator.gets_done(&["cluster", "promote", id]).await;
    }
    assert_eq!(operator.ids("voters").await, [1, 2, 3, 4, 5]);
    assert_eq!(operator.members().await["next_node_id"], 6);
    load.stop().await;
    cluster.assert_running();
    book.report(test);
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails");
}

/// A cluster of three with authentication, TLS on the client port and perhaps between nodes; its CA, and its admin.
struct Secured {
    cluster: Cluster,
    certificates: String,
    operator: Operator,
    token: String,
}

impl Secured {
    async fn start(test: &str, peers_too: bool) -> Option<Secured> {
        let cluster = Cluster::new(test, 3, &["--authentication", "true"]);
        let plain = Operator::of(test, &cluster.addresses())?;
        let certificates = cluster.dir.path().join("certificates").display().to_string();
        plain.runs(&["cert", "init", "--dir", &certificates]).await.done(&[]);
        let mut secured = Secured { operator: plain, token: String::new(), cluster, certificates };
        for id in 1..=3 {
            secured.certify(id, id, peers_too).await;
        }
        secured.cluster.start_all();
        let files = secured.cluster.nodes.iter().map(|node| node.data.join("admin-token"));
        let files: Vec<_> = files.collect();
        let token = eventually("one node has the first token", || async {
            let found = files.iter().find(|file| file.exists())?;
            Some(found.display().to_string())
        })
        .await;
        let ca = secured.ca();
        let operator = Operator::of(test, &secured.cluster.addresses())?;
        secured.operator = operator.with(&["--tls-ca", &ca, "--token-file", &token]);
        secured.token = token;
        secured.operator.members().await;
        Some(secured)
    }

    fn ca(&self) -> String {
        format!("{}/ca.crt", self.certificates)
    }

    /// Gives a node (of the test) a certificate as node `id`.
    async fn certify(&mut self, node: u64, id: u64, peers_too: bool) {
        let (dir, name) = (self.certificates.clone(), id.to_string());
        let make = ["cert", "node", &name, "--hosts", "127.0.0.1", "--dir", &dir];
        self.operator.runs(&make).await.done(&[]);
        let (cert, key) = (format!("{dir}/node-{id}.crt"), format!("{dir}/node-{id}.key"));
        let ca = self.ca();
        let node = self.cluster.node(node);
        node.with(&["--client-tls-cert-file", &cert, "--client-tls-key-file", &key]);
        if peers_too {
            node.with(&["--peer-tls-cert-file", &cert, "--peer-tls-key-file", &key]);
            node.with(&["--peer-tls-ca-file", &ca]);
        }
    }

    /// A node that joins, with these flags besides.
    fn joins(&mut self, node: u64, flags: &[&str]) {
        let members = self.cluster.addresses()[..3].join(",");
        let ca = self.ca();
        let node = self.cluster.newcomer(node, &["--authentication", "true"]);
        node.with(&["--join", &members, "--join-tls-ca", &ca]);
        node.with(flags);
    }

    /// It ends as one that must not run, with all of this in its log.
    async fn is_refused(&mut self, node: u64, parts: &[&str]) {
        self.cluster.node(node).start();
        let status = self.cluster.node(node).wait_ended().await;
        let log = self.cluster.node(node).log_text();
        assert_eq!(status.code(), Some(REFUSED), "{log}");
        for part in parts {
            assert!(log.contains(part), "{part:?} is not in: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_tls_with_the_token_of_an_admin() {
    let Some(mut secured) = Secured::start("joins-by-tls", false).await else { return };
    // Nobody, and somebody who may not, are told so, and cost no id.
    secured.joins(11, &[]);
    secured.is_refused(11, &["it asks for an id", "token"]).await;
    let user = ["auth", "user", "put", "guest"];
    secured.operator.runs(&user).await.done(&[]);
    let create = ["auth", "token", "create", "guest"];
    let tried = secured.operator.runs(&[&create[..], &["--dry-run"]].concat()).await;
    assert_eq!(tried.done(&[]).out(), "a token for guest (not done: it would be)\n");
    let made = secured.operator.runs(&create).await.done(&[]);
    let guests = secured.cluster.dir.path().join("guests-token");
    let token = made.out().lines().find(|line| line.starts_with("tally_")).map(str::to_owned);
    std::fs::write(&guests, token.expect("a token")).expect("a file");
    secured.joins(12, &["--join-token-file", &guests.display().to_string()]);
    secured.is_refused(12, &["it asks for an id", "lacks admin"]).await;
    assert_eq!(secured.operator.members().await["next_node_id"], 4);

    let token = secured.token.clone();
    secured.joins(13, &["--join-token-file", &token]);
    secured.certify(13, 4, false).await;
    secured.cluster.node(13).start();
    let operator = &secured.operator;
    operator.gets_done(&["cluster", "promote", "4"]).await;
    assert_eq!(operator.ids("voters").await, [1, 2, 3, 4]);
    operator.runs(&["counter", "add", "hits", "1"]).await.done(&["1"]);
    secured.cluster.node(13).kill();
    secured.cluster.node(13).start();
    eventually("it is back", || async {
        secured.operator.ids("unreachable").await.is_empty().then_some(())
    })
    .await;
}

/// A certificate between nodes names its node's id, so that is said; all else goes as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_nodes_that_have_certificates() {
    let Some(mut secured) = Secured::start("joins-peers", true).await else { return };
    let token = secured.token.clone();
    secured.joins(13, &["--join-token-file", &token]);
    secured.certify(13, 4, true).await;
    secured.is_refused(13, &["names the id of its node", "--node-id"]).await;
    assert_eq!(secured.operator.members().await["next_node_id"], 4, "no id was claimed");
    secured.cluster.node(13).with(&["--node-id", "4"]);
    secured.cluster.node(13).start();
    let operator = &secured.operator;
    operator.gets_done(&["cluster", "promote", "4"]).await;
    assert_eq!(operator.ids("voters").await, [1, 2, 3, 4]);
    operator.runs(&["counter", "add", "hits", "1"]).await.done(&["1"]);
}
