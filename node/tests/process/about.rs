//! What the program says of itself.

use std::process::{Command, Output};

use crate::support::nodes::TALLYD;

fn tallyd(arguments: &[&str]) -> Output {
    Command::new(TALLYD).args(arguments).output().unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = tallyd(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn version_completions_and_manual_pages() {
    let version = printed(&["version"]);
    let lines: Vec<_> = version.lines().collect();
    assert_eq!(lines[0], concat!("tallyd ", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].starts_with("commit: ") && lines[2].starts_with("built: "), "{version}");
    assert!(printed(&["--version"]).starts_with(concat!(
        "tallyd ",
        env!("CARGO_PKG_VERSION"),
        " ("
    )));

    for shell in ["bash", "zsh", "fish"] {
        assert!(printed(&["completions", shell]).contains("heartbeat-interval-ms"), "{shell}");
    }

    let dir = std::env::temp_dir().join(format!("tallyd-man-{}", std::process::id()));
    printed(&["man", "--dir", dir.to_str().unwrap()]);
    let mut pages: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let commands =
        ["chaos", "completions", "dev", "health", "lab", "man", "recover", "serve", "version"];
    let mut expected: Vec<_> = commands.map(|command| format!("tallyd-{command}.8")).to_vec();
    expected.push("tallyd.8".to_owned());
    assert_eq!(pages, expected);
    let serve = std::fs::read_to_string(dir.join("tallyd-serve.8")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(printed(&["man", "serve"]), serve);
    assert!(serve.contains("TALLY_NODE_ID") && serve.contains("10 or more"), "{serve}");

    let wrong = tallyd(&["man", "none"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
