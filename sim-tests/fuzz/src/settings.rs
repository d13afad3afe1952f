//! What an operator writes, and the file that says whose a directory is.

use std::sync::Arc;

use tally_node::{
    config::{Config, InitialCluster},
    env::identity::{Identity, Start},
};
use tally_storage::{
    disk::{Disk, OpenMode},
    simulated_disk::SimulatedDisk,
};

use crate::{allocation::bounded, choose, now};

/// A configuration file, or the value of `initial_cluster`.
pub(crate) fn config(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 2) else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if which == 1 {
        let read = bounded(text.len(), 256, 16 * 1024, || text.parse::<InitialCluster>());
        let Ok(cluster) = read else { return };
        assert_eq!(cluster.to_string().parse().as_ref(), Ok(&cluster));
        return;
    }
    // The parser keeps a tree of all that it read.
    let read = bounded(text.len(), 1024, 256 * 1024, || toml::from_str::<Config>(text));
    let Ok(config) = read else { return };
    let printed = toml::to_string(&config).expect("the configuration has only plain values");
    assert_eq!(toml::from_str::<Config>(&printed).as_ref(), Ok(&config), "{printed}");
    if let Err(wrong) = config.validate() {
        assert!(!wrong.key.is_empty() && !wrong.problem.is_empty());
        return;
    }
    // What the composition root makes of one that is valid.
    let _ = (config.client_address(), config.peer_address(), config.settings());
    let _ = (config.record_cache_bytes(), config.store_cache_bytes(), config.worker_threads());
    assert!(config.disk_reserve() > 0, "a valid configuration holds no reserve");
}

/// The file `IDENTITY`.
pub(crate) fn identity(bytes: &[u8]) {
    let disk = SimulatedDisk::new(1);
    now(async {
        let mount = disk.mount();
        let mut file = mount.open("IDENTITY", OpenMode::CreateNew).await.expect("it is not there");
        file.write_at(0, bytes).await.expect("there is room");
        file.sync().await.expect("it is there");
        mount.sync_dir("").await.expect("it is there");
    });
    // Of the node that the file names, as the check of that is not what is looked for.
    let named = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let node_id = named.and_then(|it| it.get("node_id")?.as_u64()).unwrap_or(1);
    let open = || {
        bounded(bytes.len(), 256, 256 * 1024, || {
            now(Identity::open(Arc::new(disk.mount()), node_id, 7))
        })
    };
    let Ok(identity) = open() else { return };
    let known = now(identity.known());
    let Ok(_) = identity.incarnation_number() else { return };
    let start = Start { number: 1, nonce: "1".to_owned() };
    let told = now(identity.saw_start(u64::MAX, start)).expect("there is room");
    now(identity.begin_run(7, 9)).expect("there is room");
    let ours =
        (now(identity.start()), now(identity.cluster_id()), identity.incarnation().to_owned());
    let Ok(again) = open() else { panic!("what was written can't be read") };
    assert_eq!((now(again.start()), now(again.cluster_id()), again.incarnation().to_owned()), ours);
    assert_eq!(now(again.known()), known);
    assert_eq!(now(again.peer_starts()).get(&u64::MAX), Some(&told));
}
