//! `tallyd chaos`: its exit code is the command's, unless the cluster is what failed, and it leaves nothing.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::support::nodes::TALLYD;

fn chaos(directory: &Path, arguments: &[&str], command: &str) -> Output {
    Command::new(TALLYD)
        .arg("chaos")
        .args(arguments)
        .args(["--", "sh", "-c", command])
        // Its nodes' directories are in here, so what it leaves would be seen.
        .env("TMPDIR", directory)
        .output()
        .expect("it can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plan(directory: &Path, text: &str) -> String {
    let file = directory.join("plan");
    fs::write(&file, text).expect("it can be written");
    file.to_str().expect("a path").to_owned()
}

fn left(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tally-lab-")).collect()
}

#[test]
fn the_command_finds_the_nodes_and_its_exit_code_is_the_result() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let (page, junit) = (at.join("out.html"), at.join("out.xml"));
    let plan = plan(at, "every 3s\nat 200ms for 300ms kill leader\nat 1s for 500ms cut follower\n");
    let outputs = ["--report", page.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let arguments = [&["--seed", "5", "--plan", &plan], &outputs[..]].concat();
    let output = chaos(at, &arguments, "echo $TALLY_ENDPOINTS; sleep 4; exit 3");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("kept its promises"), "{told}");
    assert!(told.contains("tallyd chaos --seed 5 --plan"), "how to have it again: {told}");
    assert!(
        told.contains("-- sh -c 'echo $TALLY_ENDPOINTS; sleep 4; exit 3'"),
        "for a shell: {told}"
    );
    let endpoints = String::from_utf8_lossy(&output.stdout);
    let endpoints: Vec<&str> = endpoints.trim().split(',').collect();
    assert!(endpoints.len() == 3 && endpoints.iter().all(|one| one.starts_with("127.0.0.1:")));
    let junit = fs::read_to_string(junit).expect("it was written");
    assert!(junit.contains("tests=\"6\" failures=\"1\""), "the command's own: {junit}");
    assert!(fs::read_to_string(page).expect("it was written").contains("id=\"window-0\""));
    assert_eq!(left(at), Vec::<String>::new());
}

#[test]
fn a_cluster_that_breaks_a_promise_is_the_result_whatever_the_command_says() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let plan = plan(at, "every 20s\nat 1s for 2s kill all\n");
    // Two disks of three are lost while no process runs: what was acknowledged can't be answered for any more.
    let command =
        "sleep 2; rm -rf \"$TMPDIR\"/tally-lab-*/node-2 \"$TMPDIR\"/tally-lab-*/node-3; sleep 2";
    let output = chaos(at, &["--plan", &plan], command);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(99), "{told}");
    assert!(told.contains("BROKEN: all is answered once everything is mended"), "{told}");
    assert_eq!(left(at), Vec::<String>::new());
}

#[test]
fn what_can_t_be_tested_says_why() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let plan = plan(at, "at 1s for 1s explode leader\n");
    for (arguments, says) in [
        (vec!["--plan", &plan], "line 1: \"explode\" is none of kill"),
        (vec!["--plan", "nowhere"], "the plan nowhere: No such file"),
        (vec!["--report", "nowhere/page.html"], "nowhere/page.html: No such file"),
        (vec!["--junit", "nowhere/out.xml"], "nowhere/out.xml: No such file"),
    ] {
        let output = chaos(at, &arguments, "true");
        assert_eq!(output.status.code(), Some(125));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    let printed = |seed: &str| {
        let output = Command::new(TALLYD)
            .args(["chaos", "--print-plan", "--plan", "rough", "--seed", seed])
            .output()
            .expect("it can be started");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(printed("7"), printed("7"));
    assert_ne!(printed("7"), printed("8"));
    assert!(printed("7").starts_with("every 60s\nat "), "{}", printed("7"));
}
