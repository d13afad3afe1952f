//! The line editor at a terminal: keys, history, completion. It is rustyline's; here is what it has to know of us.

use std::{
    env,
    ffi::OsString,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::{Completer, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::DefaultHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};

use super::{
    complete::{Names, offers},
    grammar,
    line::lines,
    settings::Settings,
};

/// Lines that are remembered.
const HISTORY_MAX: usize = 2000;

/// What the editor asks of the shell.
struct Ours {
    names: Arc<Names>,
}

impl Helper for Ours {}
impl Highlighter for Ours {}

impl Hinter for Ours {
    type Hint = String;
}

impl Validator for Ours {
    /// Enter ends what is complete, and else begins another line of it.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match lines(context.input()) {
            Some(_) => ValidationResult::Valid(None),
            None => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Ours {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        // Which defaults options have makes no difference to what they are called.
        let settings = Settings::new("10s".to_owned(), false);
        let definition = grammar::definition(&settings, None);
        let (start, offers) = offers(&line[..at], definition, &self.names);
        let pairs = offers.into_iter().map(|it| Pair { display: it.shown, replacement: it.text });
        Ok((start, pairs.collect()))
    }
}

/// What came from the keyboard.
pub(super) enum Typed {
    Text(String),
    /// Ctrl-C: what was typed so far is dropped.
    Nothing,
    /// Ctrl-D.
    End,
}

pub(super) struct LineEditor {
    editor: Editor<Ours, DefaultHistory>,
    /// Where lines are remembered; nowhere if there is none.
    history: Option<PathBuf>,
}

impl LineEditor {
    /// Also says what is wrong with the history's file, if something is. One can do without.
    pub(super) fn open(
        names: Arc<Names>,
        history: Option<PathBuf>,
    ) -> Result<(Self, Option<String>), ReadlineError> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_MAX)?
            // Of two equal lines one is enough.
            .history_ignore_dups(true)?
            // As bash has it: a line that nobody shall find later.
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Ours { names }));
        let (mut history, mut problem) = (history, None);
        if let Some(path) = &history {
            match load(&mut editor, path) {
                Ok(()) => {}
                Err(error) => {
                    problem = Some(format!("{}: {error}; lines are not kept", path.display()));
                    history = None;
                }
            }
        }
        Ok((Self { editor, history }, problem))
    }

    pub(super) fn read(&mut self, prompt: &str) -> Result<Typed, ReadlineError> {
        match self.editor.readline(prompt) {
            Ok(text) => Ok(Typed::Text(text)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Nothing),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error),
        }
    }

    /// Keeps a line, at once: shells end in many ways.
    pub(super) fn remember(&mut self, text: &str) -> Result<(), ReadlineError> {
        self.editor.add_history_entry(text.trim_end())?;
        match &self.history {
            Some(path) => self.editor.append_history(path),
            None => Ok(()),
        }
    }
}

fn load(editor: &mut Editor<Ours, DefaultHistory>, path: &Path) -> Result<(), ReadlineError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // What somebody types is nobody else's business; the editor makes the file like that, too.
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if path.exists() { editor.load_history(path) } else { Ok(()) }
}

/// Where lines are remembered: `TALLY_SHELL_HISTORY`, or the user's state folder. Nowhere if the variable is
/// empty, or nobody knows where that folder is.
pub(super) fn history_path() -> Option<PathBuf> {
    history_path_from(|name| env::var_os(name))
}

fn history_path_from(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(path) = variable("TALLY_SHELL_HISTORY") {
        return (!path.is_empty()).then(|| path.into());
    }
    // A path that is not absolute is to be ignored, says the specification of these folders.
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(home?.join(".local/state")))?;
    Some(state.join("tally/history"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn history_is_where_state_is_and_can_be_elsewhere_or_nowhere() {
        let path = |variables: &[(&str, &str)]| {
            history_path_from(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        let home = ("HOME", "/home/a");
        assert_eq!(path(&[home]), Some("/home/a/.local/state/tally/history".into()));
        assert_eq!(path(&[home, ("XDG_STATE_HOME", "/s")]), Some("/s/tally/history".into()));
        let relative = path(&[home, ("XDG_STATE_HOME", "s")]);
        assert_eq!(relative, Some("/home/a/.local/state/tally/history".into()));
        assert_eq!(path(&[home, ("TALLY_SHELL_HISTORY", "/x")]), Some("/x".into()));
        assert_eq!(path(&[home, ("TALLY_SHELL_HISTORY", "")]), None);
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn lines_are_kept_for_the_next_shell_and_for_nobody_else() {
        let folder = std::env::temp_dir().join(format!("tally-history-{}", std::process::id()));
        let path = folder.join("tally/history");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let names = Arc::new(Names::new(runtime.handle().clone()));
        let open = || {
            let (editor, problem) = LineEditor::open(names.clone(), Some(path.clone())).unwrap();
            assert_eq!(problem, None);
            editor
        };
        let mut editor = open();
        for line in ["counter add a", "counter add a", " kv put password x", "kv put k 'a\nb'"] {
            editor.remember(line).unwrap();
        }
        let kept = open();
        let kept: Vec<_> = kept.editor.history().iter().cloned().collect();
        assert_eq!(kept, ["counter add a", "kv put k 'a\nb'"]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.join("tally"))), (0o600, 0o700));
        // A place where nothing can be kept is said, and does not end the shell.
        let (_, problem) = LineEditor::open(names.clone(), Some(path.join("below"))).unwrap();
        assert!(problem.is_some_and(|why| why.contains("lines are not kept")));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
