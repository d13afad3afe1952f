//! What the program says of itself: versions, manual pages, help.

use std::{path::Path, process::Command};

use crate::{fake::Cluster, runs::tally};

#[allow(dead_code, reason = "the build scripts use the rest")]
#[path = "../../../../node/build/version.rs"]
mod version;

#[tokio::test]
async fn the_version_is_this_program_s_and_those_of_the_nodes() {
    let cluster = Cluster::start(3).await;
    let run = tally(&cluster, &["version"]).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[0], concat!("tally ", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].starts_with("commit: ") && lines[2].starts_with("built: "), "{}", run.stdout);
    assert_eq!(lines.iter().filter(|line| line.starts_with("node ")).count(), 3, "{}", run.stdout);
    let run = tally(&cluster, &["version", "--json"]).await;
    assert_eq!(run.json()["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(run.json()["nodes"].as_array().unwrap().len(), 3);
    let run = tally(&cluster, &["version", "--client", "--json"]).await;
    assert!(run.json()["nodes"].is_null(), "{}", run.stdout);
    let run = tally(&cluster, &["--version"]).await;
    assert!(run.stdout.starts_with(concat!("tally ", env!("CARGO_PKG_VERSION"), " (")));

    // Without a cluster it is this program's, at once.
    let nobody = ["version", "--endpoints", "127.0.0.1:1"];
    let run = tally(&cluster, &nobody).await;
    assert_eq!((run.exit, run.stdout.lines().count()), (0, 3), "{}", run.stdout);
    assert!(run.stderr.contains("no node says"), "{}", run.stderr);
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let cluster = Cluster::start(1).await;
    let dir = std::env::temp_dir().join(format!("tally-man-{}", std::process::id()));
    let run = tally(&cluster, &["man", "--dir", dir.to_str().unwrap()]).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    for page in ["tally.1", "tally-counter-add.1", "tally-status.1", "tally-man.1"] {
        let page = std::fs::read_to_string(dir.join(page)).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(!dir.join("tally-bench-echo-server.1").exists(), "what is hidden has none");
    assert!(!dir.join("tally-help.1").exists());
    let add = std::fs::read_to_string(dir.join("tally-counter-add.1")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let run = tally(&cluster, &["man", "counter", "add"]).await;
    assert_eq!((run.exit, run.stdout), (0, add), "one page is the same alone");
    let run = tally(&cluster, &["man", "counter", "multiply"]).await;
    assert_eq!(run.exit, 2, "{}", run.stderr);
    assert!(run.stderr.contains("no command \"counter multiply\""), "{}", run.stderr);
}

fn git(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_build_knows_its_commit_and_where_there_is_none_says_so() {
    let folder = std::env::temp_dir().join(format!("tally-build-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("vendored")).unwrap();
    std::fs::write(folder.join("build.rs"), "fn main() {}").unwrap();
    assert_eq!(version::commit(&folder), None);
    git(&folder, &["init", "--quiet"]);
    assert_eq!(version::commit(&folder), None, "it is not under version control yet");
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "--message", "first"]);
    let first = version::commit(&folder).unwrap();
    assert!(first.len() == 40 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    std::fs::write(folder.join("build.rs"), "fn main() { }").unwrap();
    assert_eq!(version::commit(&folder), Some(format!("{first} modified")));
    std::fs::write(folder.join("vendored/build.rs"), "").unwrap();
    assert_eq!(version::commit(&folder.join("vendored")), None, "that commit is somebody else's");
    // What cargo watches is there, or it would build again each time.
    let watched = version::git_files(&folder);
    assert_eq!(watched.len(), 2, "{watched:?}");
    for path in watched {
        assert!(folder.join(&path).exists(), "{path}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_time_of_a_build_can_be_given() {
    assert_eq!(version::date(version::build_time(Some("0"))), "1970-01-01T00:00:00Z");
    assert_eq!(version::date(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(version::date(1_798_761_599), "2026-12-31T23:59:59Z");
    assert_eq!(version::date(1_798_761_600), "2027-01-01T00:00:00Z");
    assert!(version::build_time(None) > 1_700_000_000);
    assert!(version::build_time(Some("soon")) > 1_700_000_000, "what is no number is not used");
}
