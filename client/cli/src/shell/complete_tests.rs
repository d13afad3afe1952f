//! Without a cluster: what comes from the definition. Names are in `tests/it/shell.rs`.

use std::sync::Arc;

use super::*;
use crate::shell::{grammar, settings::Settings};

fn offered(text: &str) -> (usize, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let names = Arc::new(Names::new(runtime.handle().clone()));
    let settings = Settings::new("10s".to_owned(), false);
    let (start, offers) = offers(text, grammar::definition(&settings, None), &names);
    (start, offers.into_iter().map(|offer| offer.text).collect())
}

fn words(text: &str) -> Vec<String> {
    offered(text).1
}

#[test]
fn commands_options_and_values() {
    assert_eq!(offered("coun"), (0, vec!["counter ".to_owned()]));
    assert_eq!(offered("tally coun"), (6, vec!["counter ".to_owned()]));
    assert_eq!(offered("counter con"), (8, vec!["configure ".to_owned()]));
    let all = words("");
    for command in ["counter ", "kv ", "session ", "apply ", "status ", "version ", "help "] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
    for elsewhere in ["bench ", "demo ", "fill ", "shell ", "man ", "bench-echo-server "] {
        assert!(!all.iter().any(|word| word == elsewhere), "{elsewhere}: {all:?}");
    }
    assert_eq!(words("counter add hits --fl"), ["--floor "]);
    assert_eq!(words("counter get hits --read b"), ["bounded:200ms "]);
    assert_eq!(words("counter get hits --dead"), ["--deadline "], "global ones, too");
    assert!(words("counter get hits --").len() > 5);
    assert_eq!(words("status # che"), [] as [&str; 0], "a comment is no option");
    assert_eq!(words("status\ncounter con"), ["configure "]);
}

#[test]
fn own_commands_and_their_values() {
    assert_eq!(offered("\\ti"), (0, vec!["\\timing ".to_owned()]));
    assert_eq!(offered("\\read l"), (6, vec!["linearizable ".to_owned(), "local ".to_owned()]));
    assert_eq!(words("\\timing "), ["on ", "off "]);
    assert_eq!(words("\\").len(), settings::OWN.len());
    assert_eq!(words("\\node a"), ["any "]);
}

#[test]
fn what_needs_quotes_gets_them() {
    let text = |word: &str| offer(word).map(|offer| offer.text);
    assert_eq!(text("hits"), Some("hits ".to_owned()));
    assert_eq!(text("page views"), Some("'page views' ".to_owned()));
    assert_eq!(text("it's").and_then(|text| shlex::split(&text)), Some(vec!["it's".to_owned()]));
    assert_eq!(text("folder/"), Some("folder/".to_owned()));
    assert_eq!(text("a\u{1b}[2J"), None, "what moves the cursor is not typed");
}

#[test]
fn a_cluster_that_says_nothing_costs_a_moment() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let names = Arc::new(Names::new(runtime.handle().clone()));
    names.ask(Client::builder([silent]).one_shot().build().unwrap());
    let settings = Settings::new("10s".to_owned(), false);
    let began = tokio::time::Instant::now();
    let (start, offers) = offers("counter get st", grammar::definition(&settings, None), &names);
    assert_eq!((start, offers), (12, vec![]));
    // Far less than a call's deadline.
    assert!(began.elapsed() < ANSWERS_WITHIN * 10, "{:?}", began.elapsed());
}
