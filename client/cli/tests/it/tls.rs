//! `tally cert`, and the command line over TLS with what it made.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::fake::Cluster;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("tally-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Dir(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

async fn beside(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let own = |text: &&str| (*text).to_owned();
    let arguments: Vec<String> = arguments.iter().map(own).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (own(name), own(value))).collect();
    // The nodes run in this process.
    let ran = tokio::task::spawn_blocking(move || {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        run(&arguments, &variables)
    });
    let ran = ran.await.unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    (ran.status.code().unwrap(), said)
}

fn make(arguments: &[&str], dir: &Dir) -> Output {
    run(&[&["cert"], arguments, &["--dir", dir.0.to_str().unwrap()]].concat(), &[])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_ca_and_what_it_signs_are_files_and_keys_are_their_owners() {
    let dir = Dir::new("cert");
    let early = make(&["client", "billing"], &dir);
    assert_eq!(early.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&early.stderr).contains("tally cert init"), "{early:?}");
    assert!(make(&["init"], &dir).status.success());
    let node = make(&["node", "3", "--hosts", "node3.example,10.0.0.3", "--json"], &dir);
    let node: Value = serde_json::from_slice(&node.stdout).unwrap();
    assert_eq!(node["name"], "tally://tally/node/3");
    assert_eq!(node["certificate"], dir.file("node-3.crt"));
    let client = make(&["client", "billing", "--days", "9"], &dir);
    let said = String::from_utf8_lossy(&client.stdout);
    assert!(said.contains("billing, until") && said.contains("(9 days)"), "{said}");
    for name in ["ca", "node-3", "client-billing"] {
        assert_eq!(mode(&dir.0.join(format!("{name}.key"))), 0o600, "{name}");
        assert!(dir.read(&format!("{name}.crt")).starts_with(b"-----BEGIN CERTIFICATE-----"));
    }
    // What is there stays, unless somebody says so.
    let before = dir.read("ca.key");
    let again = make(&["init"], &dir);
    assert_eq!((again.status.code(), dir.read("ca.key")), (Some(2), before.clone()));
    assert!(make(&["init", "--force"], &dir).status.success());
    assert_ne!(dir.read("ca.key"), before);
    for wrong in [vec!["client", "a/b"], vec!["node", "0", "--hosts", "x"], vec!["node", "1"]] {
        assert_eq!(make(&wrong, &dir).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn flags_and_variables_lead_to_nodes_with_tls() {
    let dir = Dir::new("tls");
    assert!(make(&["init"], &dir).status.success());
    assert!(make(&["node", "1", "--hosts", "127.0.0.1,tally.test"], &dir).status.success());
    assert!(make(&["client", "billing"], &dir).status.success());
    let cluster = Cluster::served_by(1, || {
        let identity = Identity::from_pem(dir.read("node-1.crt"), dir.read("node-1.key"));
        let ca = Certificate::from_pem(dir.read("ca.crt"));
        let config = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
        Server::builder().tls_config(config).unwrap()
    })
    .await;
    let endpoints = cluster.endpoints().join(",");
    let add = ["--endpoints", &endpoints, "--deadline", "3s", "counter", "add", "hits", "1"];
    let (ca, cert, key) =
        (dir.file("ca.crt"), dir.file("client-billing.crt"), dir.file("client-billing.key"));
    let flags = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let (exit, said) = beside(&[&flags[..], &add].concat(), &[]).await;
    assert_eq!(exit, 0, "{said}");
    let named = ["--tls-server-name", "tally.test"];
    let (exit, said) = beside(&[&flags[..], &named, &add].concat(), &[]).await;
    assert_eq!(exit, 0, "{said}");
    let variables = [("TALLY_TLS_CA", &*ca), ("TALLY_TLS_CERT", &*cert), ("TALLY_TLS_KEY", &*key)];
    let (exit, said) = beside(&add, &variables).await;
    assert_eq!(exit, 0, "{said}");
    assert_eq!(cluster.value("hits"), 3);

    // Each thing that is missing or wrong is named.
    let (exit, said) = beside(&add, &variables[..2]).await;
    assert!(exit == 2 && said.contains("--tls-key"), "{exit} {said}");
    let (exit, said) = beside(&add, &[("TALLY_TLS_CA", "/nowhere/ca.crt")]).await;
    assert!(exit == 2 && said.contains("/nowhere/ca.crt"), "{exit} {said}");
    let (exit, said) = beside(&add, &variables[..1]).await;
    assert!(exit != 0, "{said}");
    let wrong = ["--tls-server-name", "other.test"];
    let (exit, said) = beside(&[&flags[..], &wrong, &add].concat(), &[]).await;
    assert!(exit != 0 && said.contains("not valid for name"), "{exit} {said}");
    // The shell's lines go the same way.
    let shell = [&flags[..], &["--endpoints", &endpoints, "shell"]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tally"));
    let child =
        child.args(shell).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"counter add hits 1\n").unwrap();
    let ended =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(cluster.value("hits"), 4);
}
