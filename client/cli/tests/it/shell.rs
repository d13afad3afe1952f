//! `tally shell`: lines from a pipe, what Ctrl-C leaves, and keys at a terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tally_client::{proto as v1, reason};
use tokio::time::Instant;

use crate::{
    exit_status::not_applied_and_wait,
    fake::{Act, Cluster, PATIENCE},
    runs::{Run, run, with_input},
};

/// Runs lines.
async fn shell(cluster: &Cluster, input: &str) -> Run {
    with_input(cluster, &["shell"], input).await
}

#[tokio::test]
async fn lines_are_run_one_after_the_other_over_one_client() {
    let cluster = Cluster::start(1).await;
    let lines = "counter add hits 2\n\n# nothing\ntally counter add hits 'three'\n";
    let run = shell(&cluster, lines).await;
    assert_eq!((run.exit, run.stdout.as_str()), (2, "2\n"), "{}", run.stderr);
    assert!(run.stderr.contains("-- line 4: status 2"), "{}", run.stderr);

    let lines =
        "counter add hits \\\n  1\ncounter add 'page views' -3\ncounter get hits \"page views\"";
    let run = shell(&cluster, lines).await;
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "the last line needs no end");
    assert_eq!(run.stdout, "3\n-3\nhits  3\npage views  -3\n");
    // No session, and a key of its own for each write.
    let seen = cluster.nodes[0].seen.lock().unwrap();
    let keys: std::collections::BTreeSet<_> = seen.keys.iter().map(|(key, _)| key).collect();
    assert_eq!((seen.stamps.len(), keys.len()), (0, 3));
    assert!(keys.iter().all(|key| key.starts_with("shell-")), "{keys:?}");
}

#[tokio::test]
async fn the_first_that_fails_ends_it_unless_it_is_to_go_on() {
    let cluster = Cluster::start(1).await;
    let lines =
        "counter add hits 1\ncounter get none\ncounter add hits 1\ncounter add hits -5 --floor 0\n";
    let run = shell(&cluster, lines).await;
    assert_eq!((run.exit, run.stdout.as_str()), (9, "1\n"));
    assert!(run.stderr.contains(reason::COUNTER_NOT_FOUND), "{}", run.stderr);
    assert!(run.stderr.contains("-- line 2: status 9"), "{}", run.stderr);
    assert!(run.stderr.ends_with("what follows was not run\n"), "{}", run.stderr);
    assert_eq!(cluster.value("hits"), 1);

    let run = with_input(&cluster, &["shell", "--keep-going"], lines).await;
    assert_eq!((run.exit, run.stdout.as_str()), (9, "2\n3\n"), "the status of the first");
    assert!(run.stderr.contains("-- line 4: status 3"), "{}", run.stderr);

    let run = shell(&cluster, "counter add hits 1\nquit\ncounter add hits 1\n").await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "4\n"));
}

#[tokio::test]
async fn settings_hold_for_the_lines_that_follow() {
    let cluster = Cluster::start(3).await;
    cluster.elect(1);
    let lines = "counter add hits 5\n\\read local\n\\verbose\n\\node 3\ncounter get hits\n\\timing\nstatus --local\n\
                 \\read linearizable\n\\node any\ncounter get hits --read local\n\\set\n";
    let run = shell(&cluster, lines).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("5\n\\verbose on\n5\n\\timing on\n"), "{}", run.stdout);
    assert!(run.stdout.contains("as node 3 sees it"), "{}", run.stdout);
    let set = "\\read linearizable\n\\node any\n\\deadline 10s\n\\timing on\n\\verbose on\n\\history on\n";
    assert!(run.stdout.ends_with(set), "{}", run.stdout);
    let levels = |node: usize| {
        let seen = cluster.nodes[node].seen.lock().unwrap();
        seen.read_options.iter().flatten().map(|it| it.level()).collect::<Vec<_>>()
    };
    assert!(levels(2).contains(&v1::ReadLevel::Local), "node 3 was asked: {:?}", levels(2));
    assert_eq!(run.stderr.matches("Time: ").count(), 2, "{}", run.stderr);

    let run = shell(&cluster, "\\node 7\n").await;
    assert_eq!(run.exit, 2);
    assert!(run.stderr.contains("there is no node 7: 1, 2, 3"), "{}", run.stderr);
    for wrong in ["\\read strong", "\\nothing", "\\node 99999", "\\node a:b:c"] {
        assert_eq!(shell(&cluster, &format!("{wrong}\n")).await.exit, 2, "{wrong}");
    }
}

#[tokio::test]
async fn what_was_seen_is_not_unseen_by_another_client() {
    let cluster = Cluster::start(2).await;
    let lines = "counter add hits 5\n\\node 2\ncounter get hits --read session\n";
    let run = shell(&cluster, lines).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "5\n5\n"), "{}", run.stderr);
    let seen = cluster.nodes[1].seen.lock().unwrap();
    let options = seen.read_options.last().unwrap().clone().unwrap();
    assert!(!options.session_token.is_empty(), "{options:?}");
}

#[tokio::test]
async fn each_command_of_one_call_works_unchanged() {
    let cluster = Cluster::start(1).await;
    let lines =
        "session list\nstatus --check\nversion --client\nhelp counter add\n\\help\n\\help status\n";
    let run = shell(&cluster, lines).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    for told in
        ["sessions are open", "healthy: 1 of 1", "commit: ", "--floor", "\\timing", "--watch"]
    {
        assert!(run.stdout.contains(told), "{told}: {}", run.stdout);
    }
    // What was given to the shell holds for its lines.
    let run =
        with_input(&cluster, &["shell", "--json"], "counter add hits 3\ncounter get none\n").await;
    let objects: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((run.exit, &objects[0]["value"]), (9, &3.into()));
    assert_eq!(objects[1]["error"]["reason"], reason::COUNTER_NOT_FOUND);

    for elsewhere in [
        "bench add-hot",
        "bench",
        "--json demo",
        "tally --json bench add-hot",
        "demo",
        "fill",
        "shell",
        "man",
        "completions bash",
    ] {
        let run = shell(&cluster, &format!("{elsewhere}\n")).await;
        assert_eq!((run.exit, run.stdout.as_str()), (2, ""), "{elsewhere}");
        assert!(run.stderr.contains("is not run in the shell"), "{}", run.stderr);
    }
}

#[tokio::test]
async fn the_shell_s_own_input_is_not_a_command_s() {
    let cluster = Cluster::start(1).await;
    let run = shell(&cluster, "kv put k -\nthis is no value\n").await;
    assert_eq!(run.exit, 2, "{}", run.stderr);
    assert!(run.stderr.contains("<<END"), "{}", run.stderr);
    // It comes behind the line: here something that is read, and wrong.
    let run = shell(&cluster, "apply <<'END'\n{\"then\": []}\nEND\nstatus\n").await;
    assert!(run.stderr.contains("unknown field `then`"), "{}", run.stderr);
    assert!(run.stderr.contains("-- line 3: status 2"), "{}", run.stderr);
    for open in
        ["counter add 'hits\ncounter add hits\n", "apply <<END\n{}\n", "counter add hits \\"]
    {
        let run = shell(&cluster, open).await;
        assert_eq!((run.exit, run.stdout.as_str()), (2, ""), "{open}");
        assert!(run.stderr.contains("not closed, and was not run"), "{}", run.stderr);
    }
    assert_eq!(cluster.writes(), 0);
}

#[tokio::test]
async fn an_unknown_outcome_is_told_with_its_key() {
    let cluster = Cluster::start(1).await;
    cluster.script(0, [Act::ExecuteAndBreak, not_applied_and_wait()]);
    let run = shell(&cluster, "counter add hits\n").await;
    assert_eq!((run.exit, run.stdout.as_str()), (5, ""));
    let key = key(&run.stderr);
    let run = shell(&cluster, &format!("counter add hits --idempotency-key {key}\n")).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stdout.contains("counted before"), "{}", run.stdout);

    // Nothing can have been applied under a key that nobody had before.
    cluster.script(0, [not_applied_and_wait()]);
    let run = shell(&cluster, "counter add hits\n").await;
    assert_eq!(run.exit, 4);
    assert!(run.stderr.contains("It was not applied; sending it again is safe"), "{}", run.stderr);
    cluster.script(0, [not_applied_and_wait()]);
    let run = shell(&cluster, "counter add hits --idempotency-key mine\n").await;
    assert_eq!(run.exit, 4);
    assert!(run.stderr.contains("an earlier one under this key"), "{}", run.stderr);
}

/// The key that a text says to send again under.
fn key(text: &str) -> String {
    let (_, behind) = text.split_once("--idempotency-key ").expect(text);
    behind.split(':').next().unwrap().to_owned()
}

fn start(cluster: &Cluster) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.arg("shell").env("TALLY_ENDPOINTS", cluster.endpoints().join(","));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn interrupt(child: &Child) {
    send(child, Signal::INT);
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A command that listens for SIGTERM has run, and its shell is not deaf to it afterwards.
#[tokio::test]
async fn sigterm_ends_it_behind_a_command_that_took_it_for_itself() {
    let cluster = Cluster::start(1).await;
    let mut child = start(&cluster);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"counter delete --prefix none\ncounter add hits 1\n").unwrap();
    let ended = move || {
        let mut output = [0; 1];
        while output != *b"1" {
            child.stdout.as_mut().unwrap().read_exact(&mut output).unwrap();
        }
        send(&child, Signal::TERM);
        child.wait().unwrap()
    };
    let status = tokio::task::spawn_blocking(ended).await.unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
    drop(stdin);
}

#[tokio::test]
async fn ctrl_c_tells_what_is_known_of_a_write() {
    let cluster = Cluster::start(1).await;
    cluster.script(0, [Act::ExecuteSilently]);
    let mut child = start(&cluster);
    let lines = b"counter add hits 1\ncounter add hits 1\n";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    cluster.has_seen(1).await;
    interrupt(&child);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("cut short") && stderr.contains("UNKNOWN"), "{stderr}");
    // It was applied, and its key says so.
    let again = format!("counter add hits 1 --idempotency-key {}\n", key(&stderr));
    let run = shell(&cluster, &again).await;
    assert_eq!((run.exit, cluster.value("hits")), (0, 1), "{}", run.stderr);

    // While it waits for a line, it ends like any other program.
    let mut child = start(&cluster);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"counter get hits\n").unwrap();
    let ended = move || {
        let mut answer = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        interrupt(&child);
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(ended).await.unwrap();
    // By its own hand, or by the signal itself in the moment in which nobody listens for it.
    assert!(output.status.code().is_none_or(|code| code == 130), "{output:?}");
    drop(stdin);
}

#[tokio::test]
async fn without_a_cluster_it_says_so_and_goes_on() {
    let cluster = Cluster::start(1).await;
    let arguments = ["shell", "-k", "--endpoints", "127.0.0.1:1"];
    let lines = "counter add hits 1\n\\node 2\nversion\n";
    let run = with_input(&cluster, &arguments, lines).await;
    assert_eq!(run.exit, 4, "{}", run.stderr);
    assert!(run.stderr.contains("nothing listens at 127.0.0.1:1"), "{}", run.stderr);
    assert!(run.stderr.contains("where node 2 is, no node says"), "{}", run.stderr);
    assert!(run.stdout.starts_with("tally "), "{}", run.stdout);
    // A line can say that it is elsewhere.
    let elsewhere = format!("counter add hits 1 --endpoints {}\n", cluster.endpoints().join(","));
    let run = with_input(&cluster, &arguments, &elsewhere).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "1\n"), "{}", run.stderr);
}

#[tokio::test]
async fn nobody_who_reads_ends_it_quietly() {
    let cluster = Cluster::start(1).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let lines = "counter add hits 1\ncounter add hits 1\n";
    let run = run(&cluster, &["shell"], lines, writer.into()).await;
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""));
    assert_eq!(cluster.value("hits"), 1);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let run = self::run(&cluster, &["shell", "-k"], lines, full.into()).await;
    assert_eq!((run.exit, cluster.value("hits")), (6, 2));
    assert!(run.stderr.contains("WAS APPLIED"), "{}", run.stderr);
}

/// A shell at a terminal of its own, and what it shows.
struct Terminal {
    child: Child,
    keys: File,
    shown: mpsc::Receiver<Vec<u8>>,
    screen: String,
}

impl Terminal {
    fn open(endpoints: &str, state: &std::path::Path) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal: OwnedFd = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
        command.arg("shell").env("TALLY_ENDPOINTS", endpoints);
        command.env("TERM", "xterm").env("XDG_STATE_HOME", state).env_remove("TALLY_SHELL_HISTORY");
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap());
        let child = command.stderr(terminal).spawn().unwrap();
        let keys = File::from(keys);
        let mut screen = keys.try_clone().unwrap();
        let (show, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails when nobody has the other side open any more.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                let _ = show.send(bytes[..count].to_vec());
            }
        });
        Self { child, keys, shown, screen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until it shows something, and forgets what came before.
    fn shows(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen.find(text) {
                self.screen.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.screen += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("{text:?} is not in {:?}", self.screen),
            }
        }
    }

    /// Waits for its end, and returns its exit status.
    fn ends(mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        // The other side of the terminal is closed with it.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.child.kill().unwrap();
                    panic!("it does not end");
                }
            }
        }
        self.child.wait().unwrap().code()
    }
}

fn state(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tally-shell-{name}-{}", std::process::id()))
}

#[tokio::test]
async fn keys_at_a_terminal() {
    let cluster = Cluster::start(3).await;
    cluster.model().counters.extend([("stock/blue".into(), 1), ("stock/red".into(), 3)]);
    let state = state("keys");
    let folder = state.clone();
    let play = move |cluster: Cluster| {
        let endpoints = cluster.endpoints().join(",");
        let mut shell = Terminal::open(&endpoints, &folder);
        shell.shows("Tally shell");
        shell.shows("healthy: 3 of 3");
        shell.shows("tally> ");
        // A command, and a name that the cluster has.
        shell.press("cou\tge\tsto\t");
        shell.shows("counter get stock/");
        shell.press("r\t");
        shell.shows("stock/red ");
        shell.press("\r");
        shell.shows("\n3\r\n");
        shell.shows("tally> ");
        shell.press("\\read local\r");
        shell.shows("tally [local]> ");
        shell.press("\\node 2\r");
        shell.shows("tally [local, node 2]> ");
        // What is not there has its status shown, and ends nothing.
        shell.press("counter get none\r");
        shell.shows("-- status 9");
        shell.shows("tally [local, node 2]> ");
        // Ctrl-C drops what is typed; the arrow brings the line before.
        shell.press("counter add x\u{3}");
        shell.shows("tally [local, node 2]> ");
        shell.press(" \\node any\r");
        shell.shows("tally [local]> ");
        shell.press(" counter add secret 1\r");
        shell.shows("\n1\r\n");
        shell.press("\u{1b}[A");
        shell.shows("counter get none");
        shell.press("\u{15}\u{4}");
        assert_eq!(shell.ends(), Some(0));

        // Another shell has the lines, but for the one that began with a space.
        let mut shell = Terminal::open(&endpoints, &folder);
        shell.shows("tally> ");
        shell.press("\u{1b}[A\r");
        shell.shows("-- status 9");
        shell.shows("tally> ");
        shell.press("\\history off\r");
        shell.shows("\\history off");
        shell.press("counter add quiet 7\r");
        shell.shows("\n7\r\n");
        shell.press("\\quit\r");
        assert_eq!(shell.ends(), Some(0));
        cluster
    };
    let cluster = tokio::task::spawn_blocking(move || play(cluster)).await.unwrap();
    assert_eq!((cluster.value("secret"), cluster.value("x")), (1, 0));
    let kept = std::fs::read_to_string(state.join("tally/history")).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    assert!(kept.contains("counter get stock/red"), "{kept}");
    assert!(!kept.contains("secret") && !kept.contains("quiet"), "{kept}");
}

#[tokio::test]
async fn at_a_terminal_too_it_begins_without_a_cluster() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    let state = state("alone");
    let folder = state.clone();
    let play = move || {
        let began = Instant::now();
        let mut shell = Terminal::open(&nobody, &folder);
        shell.shows("no cluster yet: nothing listens at 127.0.0.1:");
        shell.shows("`tallyd dev`");
        shell.shows("tally> ");
        // Completion does not wait for what is not there.
        shell.press("counter get sto\t");
        shell.press("ck\r");
        shell.shows("-- status 4");
        shell.shows("tally> ");
        shell.press("\u{4}");
        assert_eq!(shell.ends(), Some(0));
        began.elapsed()
    };
    let took = tokio::task::spawn_blocking(play).await.unwrap();
    assert!(took < PATIENCE, "{took:?}");
    let _ = std::fs::remove_dir_all(&state);
}
