//! Scripts beside the code: commands, `---`, and the replies as recorded.
//!
//! A script is a list of blocks, separated by an empty line. Each line of a block is one log entry
//! with one command; several commands in one entry are joined by ` & `. Its recorded output shows
//! each command as logs do and its reply. To record again after a change that is meant, set
//! `UPDATE_TESTSCRIPTS=1`, and read the difference.
//!
//! The language is that of [`super::display`], without most of the quotes:
//! - `add NAME DELTA [floor=N] [ceiling=N] [saturate] [must_exist]`, `set NAME VALUE`,
//!   `cas NAME VALUE value=N|revision=N|absent`, `delete NAME`, `configure NAME [floor=N]
//!   [ceiling=N]`, `counter NAME`;
//! - `put KEY VALUE [absent|present|revision=N]` (`*N` as the value: N bytes), `remove KEY [...]`,
//!   `key KEY`;
//! - `apply [if counter|key NAME exists|absent|revision OP N|value OP X]... [do OPERATION]...
//!   [else OPERATION]...`;
//! - `open [for=ADDRESS] [share=PERCENT] [IDLE]`, `renew ID [LOWEST]`, `close ID`, `tick`,
//!   `create [sessions=N] [idle=N] [window=N] [bytes=N]`;
//! - `quota counters|keys PREFIX|* [soft_items=N] [hard_items=N] [soft_bytes=N] [hard_bytes=N]`,
//!   `no_quota counters|keys PREFIX|*`;
//! - in front of a write `s=ID/SEQUENCE[/LOWEST]` and `k=KEY[/WINDOW]`;
//! - about the run: `time MS` (log time of what follows), `state` (everything visible), `counts`
//!   (what is stored, visible or not), `fill ID FROM TO` (adds 1 to `filled` under each number,
//!   without output), `fill_keys PREFIX FROM TO` (puts `x` into as many keys, in one entry, without
//!   output), `# comment`.

use std::{fmt::Write as _, fs, path::Path, str::FromStr};

use super::{
    apply,
    command::*,
    limits::{ANSWER_BYTES_MAX, PAGE_SIZE_MAX},
    memory::MemoryView,
    query::{self, PageLimits, Range},
    quota::{Over, QuotaLimits, Scope},
    quotas::quotas,
    view::{Overlay, Writes},
};

#[test]
fn counter() {
    run_all("counter");
}

#[test]
fn key() {
    run_all("key");
}

#[test]
fn apply_step() {
    run_all("apply");
}

#[test]
fn session() {
    run_all("session");
}

#[test]
fn idempotency() {
    run_all("idempotency");
}

#[test]
fn time() {
    run_all("time");
}

#[test]
fn quota() {
    run_all("quota");
}

fn run_all(group: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testscripts").join(group);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no scripts", folder.display());
    let update = std::env::var_os("UPDATE_TESTSCRIPTS").is_some();
    for path in paths {
        let script = fs::read_to_string(&path).unwrap();
        let output = run(&script);
        if update {
            fs::write(&path, output).unwrap();
        } else if let Some((number, (is, was))) =
            output.lines().zip(script.lines()).enumerate().find(|(_, (is, was))| is != was)
        {
            let path = path.display();
            panic!("{path}:{}\n  recorded: {was}\n  now:      {is}\n\n{output}", number + 1);
        } else {
            assert_eq!(output, script, "{}", path.display());
        }
    }
}

fn run(script: &str) -> String {
    let mut runner = Runner::default();
    let mut blocks = Vec::new();
    for block in script.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let input = block.split("\n---").next().unwrap().trim_matches('\n');
        let mut output = format!("{input}\n---\n");
        for line in input.lines() {
            runner.line(line, &mut output);
        }
        blocks.push(output);
    }
    blocks.join("\n")
}

#[derive(Default)]
struct Runner {
    state: MemoryView,
    index: u64,
    log_time_ms: u64,
}

impl Runner {
    fn line(&mut self, line: &str, output: &mut String) {
        let mut words = Words(line.split_whitespace().peekable());
        match words.0.peek().copied() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some("time") => {
                words.next();
                self.log_time_ms = words.number();
            }
            Some("state") => self.show_state(output),
            Some("counts") => self.show_counts(output),
            Some("fill") => {
                words.next();
                let (session_id, from, to): (u64, u64, u64) =
                    (words.number(), words.number(), words.number());
                for sequence in from..=to {
                    let line = format!("s={session_id}/{sequence}/1 add filled 1");
                    self.entry(vec![command(&line)]);
                }
            }
            Some("fill_keys") => {
                words.next();
                let (prefix, from, to): (_, u64, u64) =
                    (words.text(), words.number(), words.number());
                let put = |number| command(&format!("put {prefix}{number:06} x"));
                self.entry((from..=to).map(put).collect());
            }
            Some(_) => {
                let commands: Vec<Command> = line.split(" & ").map(command).collect();
                let replies = self.entry(commands.clone());
                for (command, reply) in commands.iter().zip(replies) {
                    writeln!(output, "{} {command}", self.index).unwrap();
                    writeln!(output, "    {reply}").unwrap();
                }
            }
        }
    }

    fn entry(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let batch = Batch { log_time_ms: self.log_time_ms, wall_time_ms: 0, commands };
        let mut writes = Writes::default();
        let replies = apply(&mut Overlay::new(&self.state, &mut writes), self.index, &batch);
        self.state.commit(writes);
        replies
    }

    fn show_state(&self, output: &mut String) {
        let limits = PageLimits { items_max: PAGE_SIZE_MAX, bytes_max: ANSWER_BYTES_MAX };
        for (name, counter) in query::list_counters(&self.state, Range::default(), limits).items {
            writeln!(output, "counter {name:?} {counter}").unwrap();
        }
        for (name, key) in query::scan_keys(&self.state, Range::default(), limits, false).items {
            writeln!(output, "key {name:?} {key}").unwrap();
        }
        self.show_quotas(output);
        let meta = query::meta(&self.state);
        writeln!(output, "revision {} log time {}", meta.revision, meta.log_time_ms).unwrap();
    }

    fn show_quotas(&self, output: &mut String) {
        for (scope, prefix, quota) in quotas(&self.state) {
            writeln!(output, "quota on {}: {quota}", Over(scope, &prefix)).unwrap();
        }
    }

    fn show_counts(&self, output: &mut String) {
        let meta = query::meta(&self.state);
        writeln!(
            output,
            "counters {} keys {} sessions {} answers {} idempotency keys {}",
            meta.counters, meta.keys, meta.sessions, meta.session_answers, meta.idempotency_keys
        )
        .unwrap();
        for (owner, sessions) in query::owners(&self.state, 100) {
            writeln!(output, "{owner} holds {sessions}").unwrap();
        }
        self.show_quotas(output);
        let due = query::housekeeping_due(&self.state);
        let next = query::next_expiry_log_time(&self.state);
        writeln!(output, "housekeeping due: {due}, next expiry: {next:?}").unwrap();
    }
}

struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self) -> &'a str {
        self.0.next().expect("the line goes on")
    }

    fn number<T: FromStr>(&mut self) -> T {
        parse(self.next())
    }

    fn text(&mut self) -> String {
        self.next().to_owned()
    }

    /// Whether the next word is this one, which is then taken.
    fn take(&mut self, word: &str) -> bool {
        self.0.next_if(|next| *next == word).is_some()
    }

    /// The number behind `name=`, if that comes next.
    fn option<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let word = self
            .0
            .next_if(|next| next.split_once('=').is_some_and(|(before, _)| before == name))?;
        Some(parse(&word[name.len() + 1..]))
    }

    fn bounds(&mut self) -> Bounds {
        Bounds { floor: self.option("floor"), ceiling: self.option("ceiling") }
    }
}

fn parse<T: FromStr>(word: &str) -> T {
    match word {
        "MAX" => parse("9223372036854775807"),
        "MIN" => parse("-9223372036854775808"),
        _ => word.parse().unwrap_or_else(|_| panic!("{word:?} is no number")),
    }
}

fn command(line: &str) -> Command {
    let mut words = Words(line.split_whitespace().peekable());
    let mut session = None;
    if let Some(stamp) = words.option::<String>("s") {
        let numbers: Vec<u64> = stamp.split('/').map(parse).collect();
        session = Some(SessionStamp {
            session_id: numbers[0],
            sequence: numbers[1],
            lowest_unanswered: numbers.get(2).copied().unwrap_or(1),
        });
    }
    let idempotency = words.option::<String>("k").map(|key| {
        let (key, window) = key.split_once('/').unwrap_or((&key, "0"));
        IdempotencyKey { key: key.to_owned(), window_ms: parse(window) }
    });
    let action = action(&mut words);
    assert!(words.0.next().is_none(), "{line:?} has words left over");
    let fingerprint = Fingerprint::of(&action);
    Command { session, idempotency, fingerprint, action, caller: None }
}

fn action(words: &mut Words<'_>) -> Action {
    match *words.0.peek().expect("a command") {
        "apply" => {
            words.next();
            Action::Apply(step(words))
        }
        "open" => {
            words.next();
            let owner = words.option::<Owner>("for");
            let share_percent = words.option("share").unwrap_or(50);
            let idle_timeout_ms = words.0.next().map_or(0, parse);
            match owner {
                None => Action::OpenSession { idle_timeout_ms },
                Some(owner) => Action::OpenOwnedSession { idle_timeout_ms, owner, share_percent },
            }
        }
        "renew" => {
            words.next();
            let session_id = words.number();
            let lowest_unanswered = words.0.next().map_or(0, parse);
            Action::RenewSession { session_id, lowest_unanswered }
        }
        "close" => {
            words.next();
            Action::CloseSession { session_id: words.number() }
        }
        "tick" => {
            words.next();
            Action::Tick
        }
        "create" => {
            words.next();
            let default = Settings::default();
            let settings = Settings {
                sessions_max: words.option("sessions").unwrap_or(default.sessions_max),
                session_idle_ms: words.option("idle").unwrap_or(default.session_idle_ms),
                idempotency_window_ms: words
                    .option("window")
                    .unwrap_or(default.idempotency_window_ms),
                idempotency_bytes_max: words
                    .option("bytes")
                    .unwrap_or(default.idempotency_bytes_max),
            };
            Action::CreateCluster { cluster_id: 0xc0ffee, settings }
        }
        "quota" => {
            words.next();
            let (scope, prefix) = quota_of(words);
            let limits = QuotaLimits {
                soft_items: words.option("soft_items"),
                hard_items: words.option("hard_items"),
                soft_bytes: words.option("soft_bytes"),
                hard_bytes: words.option("hard_bytes"),
            };
            Action::Quota(QuotaCommand::Set { scope, prefix, limits })
        }
        "no_quota" => {
            words.next();
            let (scope, prefix) = quota_of(words);
            Action::Quota(QuotaCommand::Delete { scope, prefix })
        }
        _ => Action::Single(operation(words)),
    }
}

fn quota_of(words: &mut Words<'_>) -> (Scope, String) {
    let scope = match words.next() {
        "counters" => Scope::Counters,
        "keys" => Scope::Keys,
        other => panic!("{other:?} is neither counters nor keys"),
    };
    (scope, words.text().replace('*', ""))
}

fn step(words: &mut Words<'_>) -> ApplyStep {
    let mut step =
        ApplyStep { conditions: Vec::new(), operations: Vec::new(), else_operations: Vec::new() };
    while words.take("if") {
        let target = match words.next() {
            "counter" => Target::Counter(words.text()),
            "key" => Target::Key(words.text()),
            other => panic!("{other:?} is neither counter nor key"),
        };
        let test = match words.next() {
            "exists" => Test::Exists(true),
            "absent" => Test::Exists(false),
            "revision" => Test::Revision(comparison(words.next()), words.number()),
            "value" => match (comparison(words.next()), &target) {
                (comparison, Target::Counter(_)) => Test::CounterValue(comparison, words.number()),
                (comparison, Target::Key(_)) => Test::KeyValue(comparison, words.text().into()),
            },
            other => panic!("{other:?} is no test"),
        };
        step.conditions.push(Condition { target, test });
    }
    while words.take("do") {
        step.operations.push(operation(words));
    }
    while words.take("else") {
        step.else_operations.push(operation(words));
    }
    step
}

fn comparison(word: &str) -> Comparison {
    match word {
        "==" => Comparison::Equal,
        "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        other => panic!("{other:?} is no comparison"),
    }
}

fn operation(words: &mut Words<'_>) -> Operation {
    let (verb, name) = (words.next(), words.text());
    match verb {
        "add" => Operation::CounterAdd(CounterAdd {
            name,
            delta: words.number(),
            bounds: words.bounds(),
            on_violation: match words.take("saturate") {
                true => OnViolation::Saturate,
                false => OnViolation::Reject,
            },
            must_exist: words.take("must_exist"),
        }),
        "counter" => Operation::CounterGet(CounterGet { name }),
        "set" => Operation::CounterSet(CounterSet { name, value: words.number() }),
        "cas" => {
            let value = words.number();
            let expect = match (words.option("value"), words.option("revision")) {
                (Some(value), _) => CounterExpectation::Value(value),
                (_, Some(revision)) => CounterExpectation::Revision(revision),
                _ => {
                    assert!(words.take("absent"), "cas expects something");
                    CounterExpectation::Absent
                }
            };
            Operation::CounterCompareAndSet(CounterCompareAndSet { name, expect, value })
        }
        "delete" => Operation::CounterDelete(CounterDelete { name }),
        "configure" => {
            Operation::CounterConfigure(CounterConfigure { name, bounds: words.bounds() })
        }
        "put" => {
            let value = words.next();
            let value = match value.strip_prefix('*') {
                Some(length) => vec![b'.'; parse(length)].into(),
                None => value.to_owned().into(),
            };
            Operation::KeyPut(KeyPut { key: name, value, expect: key_expectation(words) })
        }
        "key" => Operation::KeyGet(KeyGet { key: name }),
        "remove" => Operation::KeyDelete(KeyDelete { key: name, expect: key_expectation(words) }),
        other => panic!("{other:?} is no operation"),
    }
}

fn key_expectation(words: &mut Words<'_>) -> KeyExpectation {
    if words.take("absent") {
        return KeyExpectation::Absent;
    }
    if words.take("present") {
        return KeyExpectation::Present;
    }
    if let Some(value) = words.option::<String>("value") {
        return KeyExpectation::Value(value.into());
    }
    words.option("revision").map_or(KeyExpectation::Any, KeyExpectation::Revision)
}
