//! A power cut at every step, and at random ones.

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::harness::*;
use crate::{
    simulated_disk::{CrashMode, SimulatedDisk},
    wal::{LogId, Wal},
};

/// One thing asked of the log.
#[derive(Debug, Clone)]
enum Ask {
    Append(usize, usize),
    /// An append that nobody waits for.
    Start(usize, usize),
    Vote,
    Committed,
    /// Truncates so many entries, but none that was said to be committed.
    Truncate(u64),
    Purge(u64),
    Jump(u64),
    Flush,
    Pause,
}

/// What was asked in all lives of a log, and how much of it is sure.
struct Driver {
    /// The states that the log went through, in order; the last is what it holds.
    states: Vec<Model>,
    /// The newest of them that is durable for sure.
    sure: usize,
    term: u64,
    generation: u64,
    committed: Option<LogId>,
    /// Every hint that was ever given.
    hints: BTreeSet<LogId>,
}

impl Driver {
    fn new() -> Driver {
        Driver {
            states: vec![Model::default()],
            sure: 0,
            term: 1,
            generation: 0,
            committed: None,
            hints: BTreeSet::new(),
        }
    }

    fn now(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }

    fn change(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Asks one thing. An error is the crash.
    async fn ask(&mut self, wal: &Wal, ask: &Ask) -> Result<(), ()> {
        self.generation += 1;
        let sure = match ask {
            Ask::Append(count, len) | Ask::Start(count, len) => {
                let (start, term, generation) = (self.now().end(), self.term, self.generation);
                let entries: Vec<_> = (start..start + *count as u64)
                    .map(|index| entry(term, index, generation, *len))
                    .collect();
                // One at a time: a crash may leave any prefix of an append.
                for one in &entries {
                    self.change(|model| model.entries.push(one.clone()));
                }
                if matches!(ask, Ask::Start(..)) {
                    return wal.append(entries, Box::new(|_| ())).await.map_err(drop);
                }
                append(wal, entries).await
            }
            Ask::Vote => {
                self.term += 1;
                let vote = ballot(self.term);
                self.change(|model| model.vote = Some(vote));
                wal.save_vote(vote).await
            }
            Ask::Committed => {
                self.committed = self.now().last();
                self.hints.extend(self.committed);
                return wal.save_committed(self.committed).map_err(drop);
            }
            Ask::Truncate(count) => {
                let floor = self.committed.max(self.now().purged);
                let Some(keep) = self.now().end().checked_sub(count + 1) else { return Ok(()) };
                let Some(keep) = wal.log_id(keep).filter(|keep| Some(*keep) >= floor) else {
                    return Ok(());
                };
                self.change(|model| model.truncate(Some(keep)));
                return wal.truncate_after(Some(keep)).await.map_err(drop);
            }
            Ask::Purge(keep) => {
                let Some(upto) = self.now().end().checked_sub(keep + 1) else { return Ok(()) };
                let Some(upto) = wal.log_id(upto).filter(|upto| Some(*upto) > self.now().purged)
                else {
                    return Ok(());
                };
                self.change(|model| model.purge(upto));
                return wal.purge(upto).await.map_err(drop);
            }
            Ask::Jump(far) => {
                let upto = id(self.term, self.now().end() + far);
                self.change(|model| model.purge(upto));
                return wal.purge(upto).await.map_err(drop);
            }
            Ask::Flush => wal.flush().await,
            Ask::Pause => {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                return Ok(());
            }
        };
        sure.map_err(drop)?;
        self.sure = self.states.len() - 1;
        Ok(())
    }

    /// Compares what came back with what may: some state between the newest sure one and the last.
    fn check(&mut self, found: Model, recovered: Option<LogId>) {
        let may = &self.states[self.sure..];
        let Some(at) = may.iter().rposition(|state| *state == found) else {
            panic!(
                "the log came back as {found:?}\nnone of {} states that it may have, from {:?}\nto {:?}",
                may.len(),
                may[0],
                may[may.len() - 1]
            );
        };
        if let Some(hint) = recovered {
            assert!(hint.index < found.end(), "the committed hint {hint} is beyond the log");
            // One that had to be clamped stood on disk before the entries that it speaks of.
            assert!(self.hints.contains(&hint), "the committed hint {hint} was never given");
            self.committed = Some(hint);
        } else {
            self.committed = None;
        }
        // What came back is durable: the open synced it.
        self.states = vec![self.states[self.sure + at].clone()];
        self.sure = 0;
    }
}

/// Opens (again and again, if the crash is in there), checks and returns.
async fn reopen(disk: &SimulatedDisk, driver: &mut Driver) -> Running {
    let running = open(disk).await.unwrap_or_else(|error| panic!("does not open: {error}"));
    let spares = disk.contents().into_keys().filter(|file| file.ends_with(".spare")).count();
    assert!(spares <= options().spare_segments, "spares of earlier lives stay behind");
    let found = read_all(&running.wal).await;
    driver.check(found, running.recovered.committed);
    running
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Runs the workload with a crash at each step, then goes on after it in a second life.
fn crash_at_every_step(name: &str, work: &[Ask], seeds: u64, mode: CrashMode) {
    let mut steps = BTreeSet::new();
    for seed in 0..seeds {
        for step in 0.. {
            assert!(step < 5000, "{name}: the workload never ends");
            let survived = runtime().block_on(async {
                let disk = SimulatedDisk::new(seed * 10_007 + step);
                disk.set_crash_mode(mode);
                disk.crash_after_steps(step);
                let mut driver = Driver::new();
                if let Ok(log) = open(&disk).await {
                    for ask in work {
                        if driver.ask(&log.wal, ask).await.is_err() {
                            break;
                        }
                    }
                    let _ = log.wal.close().await;
                }
                let survived = !disk.is_dead();
                disk.crash();
                // A crash while it opens again, then a life that ends well, then a look.
                disk.crash_after_steps(step % 7);
                let _ = open(&disk).await;
                disk.crash();
                let log = reopen(&disk, &mut driver).await;
                for ask in work.iter().take(10) {
                    driver.ask(&log.wal, ask).await.unwrap();
                }
                log.wal.flush().await.unwrap();
                driver.sure = driver.states.len() - 1;
                disk.crash();
                reopen(&disk, &mut driver).await;
                survived
            });
            if survived {
                steps.insert(step);
                break;
            }
        }
    }
    assert!(steps.first().is_some_and(|fewest| *fewest > 20), "{name}: too few steps: {steps:?}");
}

fn mixed() -> Vec<Ask> {
    use Ask::*;
    vec![
        Append(1, 10),
        Vote,
        Append(5, 100),
        Committed,
        Pause,
        Start(3, 700),
        Committed,
        Pause,
        Append(2, 700),
        Truncate(2),
        Vote,
        Append(4, 200),
        Truncate(3),
        Truncate(1),
        Append(2, 50),
        Purge(3),
        Append(1, 5000),
        Append(1, 5000),
        Committed,
        Append(6, 3000),
        Purge(2),
        Flush,
        Pause,
        Append(2, 30),
        Jump(5),
        Vote,
        Append(3, 20),
        Flush,
    ]
}

#[test]
fn a_crash_at_every_step_of_mixed_work() {
    crash_at_every_step("mixed", &mixed(), 12, CrashMode::Harsh);
    crash_at_every_step("mixed", &mixed(), 1, CrashMode::LoseUnsynced);
}

#[test]
fn a_crash_at_every_step_of_segment_changes() {
    let mut work = Vec::new();
    for round in 0..12 {
        work.push(Ask::Append(3, 1500));
        if round % 3 == 2 {
            work.extend([Ask::Truncate(2), Ask::Append(1, 2500)]);
        }
        if round % 4 == 3 {
            work.push(Ask::Purge(2));
        }
    }
    work.push(Ask::Flush);
    crash_at_every_step("segments", &work, 8, CrashMode::Harsh);
}

#[test]
fn a_crash_at_every_step_of_jumps() {
    let work = [
        Ask::Append(3, 5000),
        Ask::Jump(10),
        Ask::Flush,
        Ask::Jump(3),
        Ask::Append(4, 4000),
        Ask::Vote,
        Ask::Append(4, 4000),
        Ask::Jump(0),
        Ask::Append(1, 10),
        Ask::Flush,
    ];
    crash_at_every_step("jumps", &work, 8, CrashMode::Harsh);
}

fn random_ask(rng: &mut SmallRng) -> Ask {
    match rng.random_range(0..20) {
        kind @ 0..9 => {
            let long = rng.random_bool(0.1);
            let len = rng.random_range(1..if long { 5000 } else { 400 });
            let count = rng.random_range(1..5);
            if kind < 3 { Ask::Start(count, len) } else { Ask::Append(count, len) }
        }
        9..11 => Ask::Vote,
        11..13 => Ask::Committed,
        13..16 => Ask::Truncate(rng.random_range(1..6)),
        16..18 => Ask::Purge(rng.random_range(0..8)),
        18 if rng.random_bool(0.3) => Ask::Jump(rng.random_range(0..10)),
        18 => Ask::Flush,
        _ => Ask::Pause,
    }
}

#[test]
fn random_work_with_random_crashes_follows_the_model() {
    for seed in 0..150 {
        runtime().block_on(async {
            let mut rng = SmallRng::seed_from_u64(seed);
            let disk = SimulatedDisk::new(seed);
            let mut driver = Driver::new();
            for _life in 0..12 {
                let log = reopen(&disk, &mut driver).await;
                disk.crash_after_steps(rng.random_range(1..120));
                loop {
                    let ask = random_ask(&mut rng);
                    if driver.ask(&log.wal, &ask).await.is_err() {
                        break;
                    }
                    if rng.random_bool(0.02) {
                        assert_eq!(
                            read_all_or_crash(&log.wal, &disk).await,
                            disk_model(&driver, &disk)
                        );
                    }
                }
                disk.crash();
            }
        });
    }
}

async fn read_all_or_crash(wal: &Wal, disk: &SimulatedDisk) -> Option<Model> {
    if disk.is_dead() { None } else { Some(read_all(wal).await) }
}

fn disk_model(driver: &Driver, disk: &SimulatedDisk) -> Option<Model> {
    (!disk.is_dead()).then(|| driver.now().clone())
}
