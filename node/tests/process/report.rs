//! What a process says of itself for a debug bundle has nothing in it that only some may know.

use std::time::Duration;

use tally_client::Client;

use crate::support::{eventually, nodes::Cluster};

/// Names and values are in a log at the level debug, and secrets in what callers send. None may be in what a
/// bundle is made of.
#[tokio::test]
async fn no_secret_and_no_stored_value_is_told() {
    let flags = ["--authentication", "true", "--log-filter", "tally_node=trace"];
    let mut cluster = Cluster::new("report", 1, &flags);
    cluster.start_all();
    let token_file = cluster.nodes[0].data.join("admin-token");
    let token = eventually("the first token is there", || async {
        std::fs::read_to_string(&token_file).ok().filter(|token| token.ends_with('\n'))
    })
    .await;
    let token = token.trim();
    let builder = Client::builder(cluster.addresses()).bearer_token(token);
    let client = builder.deadline(Duration::from_secs(10)).build().unwrap();
    client.counter("planted-counter").set(735_911_427).await.unwrap();
    client
        .keys()
        .put("planted-key", "planted-value")
        .idempotency_key("planted-order")
        .await
        .unwrap();
    // Whoever mistakes one field for another: what callers name is in the log.
    let secret = token.rsplit('_').next().unwrap();
    client.counter(token).add(1).idempotency_key(token).await.unwrap();

    let log = cluster.nodes[0].log_text();
    assert!(log.contains("planted-counter"), "it is logged at this level:\n{log}");
    let told = client.diagnose(0).await.unwrap();
    let metrics = client.metrics(0).await.unwrap();
    assert_eq!(told.files.len(), 5);
    let texts = told.files.iter().map(|file| (&*file.name, &*file.text));
    for (name, text) in texts.chain([("metrics", &*metrics.text)]) {
        for planted in ["planted", "735911427", secret] {
            assert!(!text.contains(planted), "{planted} is in {name}:\n{text}");
        }
    }
    let text = |name: &str| &told.files.iter().find(|file| file.name == name).unwrap().text;
    assert!(text("log.txt").contains("the node answers"), "{}", text("log.txt"));
    assert!(text("machine.txt").contains("tallyd "), "{}", text("machine.txt"));
    assert!(text("config.toml").contains("authentication = true"), "{}", text("config.toml"));
}
