//! The examples of JSON in docs/command-line.md: each command is run, and has the fields that the page shows,
//! no more and no fewer.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    fake::Cluster,
    runs::{tally, with_input},
};

const PAGE: &str = include_str!("../../../../docs/command-line.md");

/// What the page writes for a part that another example shows.
const ELSEWHERE: &str = "…";

/// Commands and what the page shows of them: blocks of the section on JSON.
fn examples() -> Vec<(String, Value)> {
    let (_, section) = PAGE.split_once("\n## JSON\n").expect("a section on JSON");
    let section = section.split("\n## ").next().unwrap();
    let mut examples = Vec::new();
    for block in section.split("```json\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (command, shown) = block.split_once('\n').unwrap();
        let command = command.strip_prefix("// tally ").expect("the command stands first");
        let shown =
            serde_json::from_str(shown).unwrap_or_else(|error| panic!("{command}: {error}"));
        examples.push((command.to_owned(), shown));
    }
    examples
}

/// Names of fields with where they are. Items of a list are one kind. What is null, empty or elsewhere in one of
/// the two says nothing of what is in it.
fn fields(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let at = format!("{at}.{name}");
                into.insert(at.clone());
                fields(value, &at, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{at}[]"), into)),
        _ => {}
    }
}

fn is_open(value: &Value) -> bool {
    value.is_null() || *value == ELSEWHERE || value.as_array().is_some_and(Vec::is_empty)
}

/// Drops from both what one of them leaves open.
fn align(one: &mut Value, other: &mut Value) {
    if is_open(one) || is_open(other) {
        (*one, *other) = (Value::Null, Value::Null);
    } else if let (Value::Object(one), Value::Object(other)) = (&mut *one, &mut *other) {
        // Figures of servers are of nodes on this machine, and here there are none. What these nodes refuse
        // they refuse with less around it than real ones.
        let is_of_a_node = |name: &str| name.starts_with("server_") || name == "request_id";
        let is_error = one.contains_key("decided");
        for map in [&mut *one, &mut *other] {
            map.retain(|name, _| !(is_of_a_node(name) || is_error && name == "header"));
        }
        for (name, value) in one.iter_mut() {
            if let Some(other) = other.get_mut(name) {
                align(value, other);
            }
        }
    } else if let (Value::Array(one), Value::Array(other)) = (one, other) {
        one.iter_mut().zip(other).for_each(|(one, other)| align(one, other));
    }
}

#[tokio::test]
async fn commands_print_the_fields_that_the_page_shows() {
    let cluster = Cluster::start(1).await;
    let examples = examples();
    let mut shown_of = BTreeSet::new();
    for (command, mut shown) in examples {
        let words: Vec<&str> = command.split_whitespace().collect();
        shown_of.insert(words[0].to_owned());
        if words[0] == "demo" {
            // It kills leaders, and there are none here: a test beside it compares its report.
            continue;
        }
        if words[1] == "list" && words[0] == "session" {
            cluster.model().sessions.insert(12, Default::default());
        }
        let run = match command.split_once(" <<< ") {
            Some((arguments, input)) => {
                let arguments: Vec<_> = arguments.split(' ').collect();
                with_input(&cluster, &arguments, input.trim_matches('\'')).await
            }
            None => tally(&cluster, &words).await,
        };
        let mut printed = run.json();
        align(&mut shown, &mut printed);
        let (mut in_the_page, mut in_the_answer) = (BTreeSet::new(), BTreeSet::new());
        fields(&shown, "", &mut in_the_page);
        fields(&printed, "", &mut in_the_answer);
        let differing: Vec<_> = in_the_page.symmetric_difference(&in_the_answer).collect();
        assert!(differing.is_empty(), "{command}: the page and the answer differ in {differing:?}");
    }
    let all = [
        "apply", "bench", "counter", "demo", "fill", "kv", "quota", "session", "status", "version",
    ];
    assert_eq!(shown_of.iter().map(String::as_str).collect::<Vec<_>>(), all);
}
