//! Which of several backups is restored: the newest that is not above a revision, or not after a minute.
//!
//! A backup is a state at one revision, and there is no way to a revision between two of them: what was written in
//! between is in neither. So what is restored is said, with how far it is from what was asked for. A file counts only
//! if it is whole and right; one that is not is named and passed over.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use clap::Args;
use tally_backup_store::{Error, Location};
use tally_client::backup_format::{Header, Reader};

use super::{
    at,
    store::{self, Fetched, StoreOptions},
    verify,
};
use crate::output::{Failure, escaped, note};

/// What it is not to be above.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Point {
    /// FILE is a directory of backups (a node's `backup_dir`, or its `backup_to`): restore the newest of them that is not above this revision.
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["at_time", "abort"])]
    at_revision: Option<u64>,
    /// FILE is a directory of backups: restore the newest of them that was not made after this minute, UTC, as
    /// 2026-11-29T11:13Z.
    #[arg(long, value_name = "TIME", value_parser = minute, conflicts_with = "abort")]
    at_time: Option<String>,
}

/// `2026-11-29 11:13`, as backups show when they were made.
fn minute(text: &str) -> Result<String, String> {
    let is_digits = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parsed = (|| {
        let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
        let [year, month, date] = <[&str; 3]>::try_from(day.split('-').collect::<Vec<_>>()).ok()?;
        let (hour, minute) = time.split_once(':')?;
        let is_right = is_digits(year, 4)
            && [month, date, hour, minute].iter().all(|part| is_digits(part, 2))
            && ("01"..="12").contains(&month)
            && ("01"..="31").contains(&date)
            && ("00"..="23").contains(&hour)
            && ("00"..="59").contains(&minute);
        is_right.then(|| format!("{day} {time}"))
    })();
    parsed.ok_or_else(|| "it is a minute in UTC, as 2026-11-29T11:13Z".to_owned())
}

/// A backup by its header.
struct Candidate {
    path: PathBuf,
    header: Header,
}

impl Candidate {
    fn read(path: PathBuf) -> Result<Candidate, Failure> {
        let mut reader = Reader::new();
        let mut file = File::open(&path).map_err(|error| at(&path, error))?;
        reader.next_block_of(&mut file).map_err(|error| at(&path, error))?;
        match reader.header() {
            Some(header) => Ok(Candidate { header: header.clone(), path }),
            None => Err(at(&path, "it has no header")),
        }
    }

    fn made_at(&self) -> String {
        tally_certificates::date(self.header.wall_time_ms)
    }
}

impl Point {
    fn is_given(&self) -> bool {
        self.at_revision.is_some() || self.at_time.is_some()
    }

    fn holds(&self, candidate: &Candidate) -> bool {
        let is_below = self.at_revision.is_none_or(|most| candidate.header.revision <= most);
        let made_at = candidate.made_at();
        let is_before = self.at_time.as_ref().is_none_or(|last| {
            made_at.get(..last.len()).is_some_and(|made_at| made_at <= last.as_str())
        });
        is_below && is_before
    }

    fn shown(&self) -> String {
        match (&self.at_revision, &self.at_time) {
            (Some(revision), _) => format!("not above revision {revision}"),
            (None, time) => format!("not made after {} UTC", time.as_deref().unwrap_or_default()),
        }
    }

    /// The file to restore.
    pub(super) fn file(&self, path: &Path) -> Result<PathBuf, Failure> {
        let shown = escaped(&path.display().to_string());
        match (self.is_given(), path.is_dir()) {
            (false, false) => return Ok(path.to_owned()),
            (false, true) => {
                return Err(Failure::unable(format!(
                    "{shown} is a directory: name a file in it, or say --at-revision or --at-time"
                )));
            }
            (true, false) => {
                return Err(Failure::unable(format!(
                    "{shown} is no directory: --at-revision and --at-time choose among the backups of one"
                )));
            }
            (true, true) => {}
        }
        let all = candidates(path)?;
        of_one_cluster(&shown, &all)?;
        for candidate in all.iter().filter(|candidate| self.holds(candidate)) {
            match verify(&candidate.path) {
                Ok(_) => {
                    self.say(&candidate.path.display().to_string(), candidate);
                    return Ok(candidate.path.clone());
                }
                Err(failure) => note(&format!("passed over: {}", failure.text)),
            }
        }
        Err(self.none(&shown, &all))
    }

    /// The object to restore, or, below a prefix, the one that holds the point: fetched, and found right.
    pub(super) async fn object(
        &self,
        location: Location,
        options: &StoreOptions,
    ) -> Result<Fetched, Failure> {
        if !self.is_given() {
            let (store, name) = options.open_object(&location)?;
            return store::fetch(&store, &name).await.map_err(store::failure);
        }
        let store = options.open(location)?;
        let mut all = Vec::new();
        let names = store.names(|name| name.ends_with(".backup")).await;
        for name in names.map_err(store::failure)? {
            match store.header(&name).await {
                Ok((header, _)) => all.push(Candidate { path: name.into(), header }),
                Err(error @ Error::Wrong { .. }) => pass_over(&error),
                Err(error) => return Err(store::failure(error)),
            }
        }
        newest_first(&mut all);
        let shown = store.shown("");
        of_one_cluster(&shown, &all)?;
        for candidate in all.iter().filter(|candidate| self.holds(candidate)) {
            let name = candidate.path.to_str().expect("it was a name");
            match store::fetch(&store, name).await {
                Ok(fetched) => {
                    self.say(&fetched.from, candidate);
                    return Ok(fetched);
                }
                Err(error @ Error::Wrong { .. }) => pass_over(&error),
                Err(error) => return Err(store::failure(error)),
            }
        }
        Err(self.none(&shown, &all))
    }

    fn say(&self, place: &str, candidate: &Candidate) {
        note(&format!(
            "{}: revision {}, made at {}, the newest {}. What was written after it is not in it",
            escaped(place),
            candidate.header.revision,
            candidate.made_at(),
            self.shown(),
        ));
    }

    /// There is none. Those that hold the point were read, and are not right; of the others only the header was, which
    /// says nothing of what comes after it.
    fn none(&self, shown: &str, all: &[Candidate]) -> Failure {
        let (wrong, others): (Vec<_>, Vec<_>) = all.iter().partition(|it| self.holds(it));
        let wrong = match wrong.len() {
            0 => String::new(),
            wrong => format!(" that is whole and right ({wrong} passed over)"),
        };
        let others = match others[..] {
            [newest, .., oldest] => format!(
                "by their headers alone there are {} others, of revisions {} (made at {}) to {}",
                others.len(),
                oldest.header.revision,
                oldest.made_at(),
                newest.header.revision
            ),
            [one] => format!(
                "by its header alone there is one other, of revision {} (made at {})",
                one.header.revision,
                one.made_at()
            ),
            [] => "there are no others whose header can be read".to_owned(),
        };
        Failure::unable(format!("{shown}: no backup {}{wrong}; {others}", self.shown()))
    }
}

fn pass_over(error: &Error) {
    note(&format!("passed over: {}", escaped(&error.to_string())));
}

/// Which of two clusters is meant nobody can know.
fn of_one_cluster(shown: &str, all: &[Candidate]) -> Result<(), Failure> {
    match all.iter().find(|it| it.header.cluster_id != all[0].header.cluster_id) {
        Some(other) => Err(Failure::unable(format!(
            "{shown} has backups of more than one cluster ({:032x} and {:032x}): name a file",
            all[0].header.cluster_id, other.header.cluster_id
        ))),
        None => Ok(()),
    }
}

fn newest_first(all: &mut [Candidate]) {
    all.sort_by_key(|it| std::cmp::Reverse((it.header.revision, it.header.wall_time_ms)));
}

/// All backups of a directory, the newest first.
fn candidates(path: &Path) -> Result<Vec<Candidate>, Failure> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| at(path, error))? {
        let file = entry.map_err(|error| at(path, error))?.path();
        if file.extension().is_none_or(|extension| extension != "backup") {
            continue;
        }
        match Candidate::read(file) {
            Ok(candidate) => all.push(candidate),
            Err(failure) => note(&format!("passed over: {}", failure.text)),
        }
    }
    newest_first(&mut all);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use tally_client::backup_format::Writer;

    use super::*;

    fn backup(dir: &Path, cluster_id: u128, revision: u64, wall_time_ms: u64) -> PathBuf {
        let header = Header { cluster_id, revision, wall_time_ms, ..Header::default() };
        let mut writer = Writer::new(&header);
        writer.record(b"key", b"value");
        writer.finish();
        let path = dir.join(format!("r{revision}.backup"));
        fs::write(&path, writer.take()).unwrap();
        path
    }

    fn at_revision(revision: u64) -> Point {
        Point { at_revision: Some(revision), at_time: None }
    }

    fn at_time(text: &str) -> Point {
        Point { at_revision: None, at_time: Some(minute(text).unwrap()) }
    }

    #[test]
    fn the_newest_that_is_not_above_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        // 2026-09-21 14:14 UTC, and one and two minutes later.
        let times = [1_790_000_061_000, 1_790_000_121_000, 1_790_000_181_000];
        let made: Vec<_> = (1..)
            .zip(times)
            .map(|(n, wall_time_ms)| backup(dir.path(), 7, 10 * n, wall_time_ms))
            .collect();
        fs::write(dir.path().join("notes"), "x").unwrap();
        let of = |point: &Point| point.file(dir.path()).ok();
        for (revision, expected) in
            [(9, None), (10, Some(0)), (19, Some(0)), (20, Some(1)), (u64::MAX, Some(2))]
        {
            assert_eq!(of(&at_revision(revision)), expected.map(|n: usize| made[n].clone()));
        }
        for (time, expected) in [
            ("2026-09-21T14:13Z", None),
            ("2026-09-21T14:14Z", Some(0)),
            ("2026-09-21T14:15Z", Some(1)),
            ("2027-01-01T00:00Z", Some(2)),
        ] {
            assert_eq!(of(&at_time(time)), expected.map(|n: usize| made[n].clone()), "{time}");
        }
        // One that is not right any more is passed over.
        let mut bytes = fs::read(&made[1]).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&made[1], bytes).unwrap();
        assert_eq!(of(&at_revision(29)), Some(made[0].clone()));
        // Which of two clusters is meant nobody can know.
        backup(dir.path(), 8, 25, times[2]);
        assert_eq!(of(&at_revision(29)), None);
    }

    #[test]
    fn of_what_is_not_taken_no_more_is_said_than_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let made = [10, 20, 30].map(|revision| backup(dir.path(), 7, revision, 1_790_000_061_000));
        let none = |revision| at_revision(revision).file(dir.path()).unwrap_err().text;
        // Their ends are damaged, and nobody has looked.
        for path in &made[..2] {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }
        let said = none(1);
        assert!(!said.contains("can be read"), "{said}");
        assert!(
            said.ends_with(
                "no backup not above revision 1; by their headers alone there are 3 others, of revisions 10 (made at \
                 2026-09-21 14:14 UTC) to 30"
            ),
            "{said}"
        );
        let said = none(20);
        assert!(
            said.contains("not above revision 20 that is whole and right (2 passed over)"),
            "{said}"
        );
        assert!(said.contains("there is one other, of revision 30 ("), "{said}");
    }

    #[test]
    fn a_directory_needs_a_point_and_a_file_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = backup(dir.path(), 7, 10, 0);
        let none = Point { at_revision: None, at_time: None };
        assert_eq!(none.file(&file).ok(), Some(file.clone()));
        assert!(none.file(dir.path()).is_err());
        assert!(at_revision(10).file(&file).is_err());
    }

    #[test]
    fn a_minute_is_understood_and_nothing_else() {
        assert_eq!(minute("2026-11-29T11:13Z").as_deref(), Ok("2026-11-29 11:13"));
        for wrong in [
            "2026-11-29",
            "2026-11-29T11:13",
            "2026-11-29T24:13Z",
            "2026-13-29T11:13Z",
            "26-11-29T11:13Z",
        ] {
            assert!(minute(wrong).is_err(), "{wrong}");
        }
    }
}
