//! `tally apply`: an atomic step from JSON.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Deserialize;
use tally_client::{
    Applied, Client, OperationResult,
    apply::{Compare, Condition, Operation},
    counter::Expect,
};

use crate::{
    args::{self, Write},
    counter::with,
    input,
    output::{Failure, Output, word},
};

const APPLY_HELP: &str = r#"Format: one JSON object; unknown fields are refused.
  conditions  all must hold. Each names a `counter` or a `key`, and one of
              `exists` (true or false), `value`, `revision`. A value or revision is
              compared for equality, or as {">=": 1} with == != < <= > >=.
  operations  run if they do, all or none. Later ones see earlier ones.
  else        run if a condition does not hold. Without it the step is refused.

Operations:
  {"counter_add": {"name", "delta", "floor"?, "ceiling"?, "saturate"?, "fail_if_missing"?}}
  {"counter_get": {"name"}}
  {"counter_set": {"name", "value"}}
  {"counter_compare_and_set": {"name", "value",
      "expect_value" or "expect_revision" or "expect_absent": true}}
  {"counter_delete": {"name"}}
  {"counter_configure": {"name", "floor"?, "ceiling"?}}
  {"key_put": {"key", "value" or "value_base64",
      "if_absent"? or "if_present"? or "if_revision"? or "if_value"?}}
  {"key_get": {"key"}}
  {"key_delete": {"key", "if_present"? or "if_revision"? or "if_value"?}}

Example: take one unit of stock and write the order, or count who was turned away.
  tally apply --idempotency-key order-4711 <<'END'
  {"conditions": [{"counter": "stock", "value": {">=": 1}}],
   "operations": [{"counter_add": {"name": "stock", "delta": -1}},
                  {"key_put": {"key": "order/4711", "value": "1 unit"}}],
   "else":       [{"counter_add": {"name": "turned-away", "delta": 1}}]}
  END"#;

#[derive(Debug, Args)]
#[command(after_help = APPLY_HELP)]
pub(crate) struct Apply {
    /// The file; `-` is standard input.
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    conditions: Vec<When>,
    operations: Vec<Op>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Op>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    counter: Option<String>,
    key: Option<String>,
    exists: Option<bool>,
    revision: Option<Test<u64>>,
    value: Option<serde_json::Value>,
    value_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Test<T> {
    Equal(T),
    Compare(BTreeMap<String, T>),
}

impl<T> Test<T> {
    fn parse(self) -> Result<(Compare, T), String> {
        let comparisons = match self {
            Self::Equal(value) => return Ok((Compare::Equal, value)),
            Self::Compare(comparisons) => comparisons,
        };
        let mut all = comparisons.into_iter();
        let (Some((sign, value)), None) = (all.next(), all.next()) else {
            return Err("a comparison is one of == != < <= > >= with a value".to_owned());
        };
        let compare = match sign.as_str() {
            "==" => Compare::Equal,
            "!=" => Compare::NotEqual,
            "<" => Compare::Less,
            "<=" => Compare::LessOrEqual,
            ">" => Compare::Greater,
            ">=" => Compare::GreaterOrEqual,
            _ => return Err(format!("{sign:?} is no comparison: == != < <= > >= are")),
        };
        Ok((compare, value))
    }
}

impl When {
    fn parse(self) -> Result<Condition, String> {
        let tests = [
            self.exists.is_some(),
            self.revision.is_some(),
            self.value.is_some(),
            self.value_base64.is_some(),
        ];
        if tests.iter().filter(|given| **given).count() != 1 {
            return Err("a condition has one of exists, value, revision".to_owned());
        }
        match (self.counter, self.key) {
            (Some(name), None) => {
                if let Some(exists) = self.exists {
                    return Ok(Condition::counter_exists(name, exists));
                }
                if let Some(test) = self.revision {
                    let (compare, revision) = test.parse()?;
                    return Ok(Condition::counter_revision(name, compare, revision));
                }
                let (compare, value) = test::<i64>(self.value, "an integer")?.parse()?;
                Ok(Condition::counter_value(name, compare, value))
            }
            (None, Some(key)) => {
                if let Some(exists) = self.exists {
                    return Ok(Condition::key_exists(key, exists));
                }
                if let Some(test) = self.revision {
                    let (compare, revision) = test.parse()?;
                    return Ok(Condition::key_revision(key, compare, revision));
                }
                if let Some(text) = self.value_base64 {
                    return Ok(Condition::key_value(key, Compare::Equal, base64(&text)?));
                }
                let (compare, value) = test::<String>(self.value, "a text")?.parse()?;
                Ok(Condition::key_value(key, compare, value))
            }
            _ => Err("a condition names a counter or a key".to_owned()),
        }
    }
}

fn test<T: serde::de::DeserializeOwned>(
    value: Option<serde_json::Value>,
    what: &str,
) -> Result<Test<T>, String> {
    serde_json::from_value(value.unwrap_or_default())
        .map_err(|_| format!("the value is {what}, or {{\">=\": ..}} with one"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    CounterAdd(Add),
    CounterGet(Name),
    CounterSet(Set),
    CounterCompareAndSet(CompareAndSet),
    CounterDelete(Name),
    CounterConfigure(Configure),
    KeyPut(Put),
    KeyGet(Key),
    KeyDelete(Delete),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    delta: i64,
    floor: Option<i64>,
    ceiling: Option<i64>,
    #[serde(default)]
    saturate: bool,
    #[serde(default)]
    fail_if_missing: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    key: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    name: String,
    value: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareAndSet {
    name: String,
    value: i64,
    expect_value: Option<i64>,
    expect_revision: Option<u64>,
    #[serde(default)]
    expect_absent: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configure {
    name: String,
    floor: Option<i64>,
    ceiling: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    if_absent: bool,
    #[serde(default)]
    if_present: bool,
    if_revision: Option<u64>,
    if_value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    key: String,
    #[serde(default)]
    if_present: bool,
    if_revision: Option<u64>,
    if_value: Option<String>,
}

impl Op {
    fn parse(self) -> Result<Operation, String> {
        Ok(match self {
            Self::CounterAdd(add) => {
                let mut operation = Operation::counter_add(add.name, add.delta);
                if add.saturate {
                    operation = operation.saturate();
                }
                if add.fail_if_missing {
                    operation = operation.fail_if_missing();
                }
                bounded(operation, add.floor, add.ceiling)
            }
            Self::CounterGet(get) => Operation::counter_get(get.name),
            Self::CounterSet(set) => Operation::counter_set(set.name, set.value),
            Self::CounterCompareAndSet(cas) => {
                let expect = match (cas.expect_value, cas.expect_revision, cas.expect_absent) {
                    (Some(value), None, false) => Expect::Value(value),
                    (None, Some(revision), false) => Expect::Revision(revision),
                    (None, None, true) => Expect::Absent,
                    _ => return Err("one of expect_value, _revision, _absent is needed".to_owned()),
                };
                Operation::counter_compare_and_set(cas.name, expect, cas.value)
            }
            Self::CounterDelete(delete) => Operation::counter_delete(delete.name),
            Self::CounterConfigure(configure) => bounded(
                Operation::counter_configure(configure.name),
                configure.floor,
                configure.ceiling,
            ),
            Self::KeyPut(put) => {
                let value = match (put.value, put.value_base64) {
                    (Some(text), None) => text.into_bytes(),
                    (None, Some(text)) => base64(&text)?,
                    _ => return Err("a put has a value or a value_base64".to_owned()),
                };
                let put_it = Operation::key_put(put.key, value);
                conditional(put_it, put.if_absent, put.if_present, put.if_revision, put.if_value)?
            }
            Self::KeyGet(get) => Operation::key_get(get.key),
            Self::KeyDelete(delete) => {
                let delete_it = Operation::key_delete(delete.key);
                let Delete { if_present, if_revision, if_value, .. } = delete;
                conditional(delete_it, false, if_present, if_revision, if_value)?
            }
        })
    }
}

fn bounded(mut operation: Operation, floor: Option<i64>, ceiling: Option<i64>) -> Operation {
    if let Some(floor) = floor {
        operation = operation.floor(floor);
    }
    if let Some(ceiling) = ceiling {
        operation = operation.ceiling(ceiling);
    }
    operation
}

fn conditional(
    operation: Operation,
    absent: bool,
    present: bool,
    revision: Option<u64>,
    value: Option<String>,
) -> Result<Operation, String> {
    match (absent, present, revision, value) {
        (false, false, None, None) => Ok(operation),
        (true, false, None, None) => Ok(operation.if_absent()),
        (false, true, None, None) => Ok(operation.if_present()),
        (false, false, Some(revision), None) => Ok(operation.if_revision(revision)),
        (false, false, None, Some(value)) => Ok(operation.if_value(value)),
        _ => Err("at most one of if_absent, if_present, if_revision, if_value".to_owned()),
    }
}

/// Standard base64 with padding.
fn base64(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{text:?} is not base64");
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return Err(wrong());
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong()),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if bits != 0 { Err(wrong()) } else { Ok(bytes) }
}

/// Conditions, operations, and those that run otherwise.
type Parsed = (Vec<Condition>, Vec<Operation>, Vec<Operation>);

/// A step out of its JSON; errors name the part.
fn parse(text: &str) -> Result<Parsed, String> {
    let step: Step = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let at = |part: &str, index: usize, why: String| format!("{part}[{index}]: {why}");
    let operations = |part: &str, all: Vec<Op>| {
        let all = all.into_iter().enumerate();
        all.map(|(index, op)| op.parse().map_err(|why| at(part, index, why))).collect()
    };
    let conditions = step.conditions.into_iter().enumerate();
    let conditions: Result<Vec<_>, _> = conditions
        .map(|(index, when)| when.parse().map_err(|why| at("conditions", index, why)))
        .collect();
    let (then, otherwise): (Result<Vec<_>, _>, Result<Vec<_>, _>) =
        (operations("operations", step.operations), operations("else", step.otherwise));
    Ok((conditions?, then?, otherwise?))
}

fn read(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        return String::from_utf8(input::read()?)
            .map_err(|error| Failure::usage(error.to_string()));
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

pub(crate) async fn run(client: &Client, arguments: &Apply, output: Output) -> Result<(), Failure> {
    let (conditions, then, otherwise) = parse(&read(&arguments.file)?).map_err(Failure::usage)?;
    let mut apply = client.apply();
    for condition in conditions {
        apply = apply.when(condition);
    }
    for operation in then {
        apply = apply.then(operation);
    }
    for operation in otherwise {
        apply = apply.otherwise(operation);
    }
    output.written(&with!(apply, &arguments.write).await?, show)
}

fn show(applied: &Applied) -> String {
    let branch = format!("{:?}", applied.branch).to_lowercase();
    let mut text = format!("{branch}, revision {}", applied.revision);
    if applied.write.replayed {
        text += "  (done before; nothing was done now)";
    }
    for (index, result) in applied.results.iter().enumerate() {
        let result = match result {
            OperationResult::CounterChange(change) => {
                format!("{} -> {}", change.value_before, change.value)
            }
            OperationResult::Counter(counter) => {
                format!("{}  {}", word(&counter.name), counter.value)
            }
            OperationResult::KeyChange(change) => format!("revision {}", change.revision),
            OperationResult::Item(item) => {
                format!("{}  {} bytes", word(&item.key), item.value.len())
            }
            OperationResult::Missing => "does not exist".to_owned(),
        };
        text += &format!("\n  {index}: {result}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_the_help_is_right() {
        let start = APPLY_HELP.find("<<'END'").unwrap() + "<<'END'".len();
        let example = APPLY_HELP[start..].trim_end_matches("END").trim();
        let (conditions, then, otherwise) = parse(example).unwrap();
        let enough = Condition::counter_value("stock", Compare::GreaterOrEqual, 1);
        assert_eq!(conditions, [enough]);
        let order = Operation::key_put("order/4711", "1 unit");
        assert_eq!(then, [Operation::counter_add("stock", -1), order]);
        assert_eq!(otherwise, [Operation::counter_add("turned-away", 1)]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, why) in [
            (r#"{"operations": [], "then": []}"#, "then"),
            (r#"{"conditions": []}"#, "operations"),
            (r#"{"operations": [{"counter_add": {"name": "a"}}]}"#, "delta"),
            (r#"{"operations": [{"counter_add": {"name": "a", "delta": 1, "by": 2}}]}"#, "by"),
            (r#"{"operations": [{"counter_multiply": {"name": "a"}}]}"#, "counter_multiply"),
            (r#"{"operations": [{"key_put": {"key": "a"}}]}"#, "operations[0]: a put has"),
            (
                r#"{"operations": [], "conditions": [{"counter": "a", "value": {"=": 1}}]}"#,
                "conditions[0]: \"=\" is no comparison",
            ),
            (r#"{"operations": [], "conditions": [{"counter": "a", "value": "b"}]}"#, "an integer"),
            (r#"{"operations": [], "conditions": [{"value": 1}]}"#, "a counter or a key"),
            (r#"{"operations": [], "conditions": [{"key": "a"}]}"#, "one of exists"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn base64_is_read_strictly() {
        assert_eq!(base64("Zm9vYg=="), Ok(b"foob".to_vec()));
        assert_eq!(base64("//79"), Ok(vec![0xff, 0xfe, 0xfd]));
        for wrong in ["Zg", "Zg=", "Z===", "Zh==", "Z g=", "Zm9v=Zg="] {
            assert!(base64(wrong).is_err(), "{wrong}");
        }
    }
}
