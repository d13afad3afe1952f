//! The command line's own definition, as the lines of the shell see it: the same commands, with the settings as
//! defaults, and without what makes no sense there.

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use tally_client::SessionToken;

use super::{clients::with_token, settings::Settings};
use crate::{Arguments, args, key, output::escaped};

/// Why a command is not run in the shell.
pub(super) fn elsewhere(command: &str) -> Option<&'static str> {
    match command {
        "bench" | "bench-echo-server" | "demo" | "fill" => {
            Some("it has many clients of its own, and takes the terminal for long")
        }
        "completions" | "man" => Some("what it prints is for the shell of your system"),
        "shell" => Some("this is one"),
        _ => None,
    }
}

/// What a line asks for.
pub(super) struct Understood {
    /// The command, without what is below it.
    pub(super) name: String,
    pub(super) arguments: Arguments,
    pub(super) effect: Effect,
}

/// What may have happened when nobody waits for the end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only looks.
    Nothing,
    /// A write, and the key that settles what became of it.
    Write(String),
    /// A part of it, and doing it again does the rest.
    Part,
    /// A part of it, and the command listens for Ctrl-C itself, and says which.
    ToldByItself,
}

/// The definition for a line.
pub(super) fn definition(settings: &Settings, token: Option<&SessionToken>) -> Command {
    let read = settings.read.clone().unwrap_or_else(|| "linearizable".to_owned());
    let key = key::draw();
    let deadline = settings.deadline.clone();
    let definition = Arguments::command().no_binary_name(true);
    let definition = definition.mut_arg("deadline", |argument| argument.default_value(deadline));
    with_defaults(definition, &read, &key, token)
}

fn with_defaults(
    mut command: Command,
    read: &str,
    key: &str,
    token: Option<&SessionToken>,
) -> Command {
    if elsewhere(command.get_name()).is_some() {
        command = command.hide(true);
    }
    let has = |command: &Command, id: &str| command.get_arguments().any(|it| it.get_id() == id);
    if has(&command, "read") {
        let token = token.cloned();
        let level =
            move |text: &str| args::read_level(text).map(|level| with_token(level, token.as_ref()));
        command =
            command.mut_arg("read", |it| it.default_value(read.to_owned()).value_parser(level));
    }
    if has(&command, "idempotency_key") {
        let key = key.to_owned();
        command = command
            .mut_arg("idempotency_key", |it| it.default_value(key).hide_default_value(true))
            .mut_arg("idempotency_window", |it| it.default_value(WINDOW).hide_default_value(true));
    }
    command.mut_subcommands(|command| with_defaults(command, read, key, token))
}

/// How long a drawn key is remembered: time enough for a person to read, think, and send it again.
const WINDOW: &str = "10m";

/// Takes a line apart.
pub(super) fn understand(
    mut definition: Command,
    words: &[String],
) -> Result<Understood, clap::Error> {
    // Lines of the documentation begin with it.
    let words = words.strip_prefix(&["tally".to_owned()]).unwrap_or(words);
    let matches = definition.try_get_matches_from_mut(words).map_err(|error| {
        let plain = words.iter().map(|word| escaped(word));
        definition.try_get_matches_from_mut(plain).err().unwrap_or(error)
    })?;
    let arguments =
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?;
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    Ok(Understood { name, arguments, effect: effect(&matches) })
}

fn effect(matches: &ArgMatches) -> Effect {
    let (mut path, mut leaf) = (Vec::new(), matches);
    while let Some((name, next)) = leaf.subcommand() {
        path.push(name);
        leaf = next;
    }
    let given = |id: &str| leaf.try_get_raw(id).ok().flatten().and_then(|mut it| it.next());
    match (path.as_slice(), given("idempotency_key")) {
        // All with a prefix, or all of an owner: several writes.
        ([_, "delete"], _) if given("prefix").is_some() => Effect::ToldByItself,
        (["session", "close"], _) => Effect::Part,
        (_, Some(key)) => Effect::Write(key.to_string_lossy().into_owned()),
        _ => Effect::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use tally_client::ReadLevel;

    use super::*;
    use crate::{Command as Parsed, counter::Counter};

    fn line(settings: &Settings, line: &str) -> Result<Understood, clap::Error> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        understand(definition(settings, None), &words)
    }

    fn level(settings: &Settings, text: &str) -> ReadLevel {
        let parsed = line(settings, text).map(|line| line.arguments.command);
        let Ok(Parsed::Counter { command: Counter::Get { read, .. } }) = parsed else {
            panic!("{text} is a read")
        };
        read.read
    }

    #[test]
    fn a_line_is_a_command_line_with_the_settings_as_defaults() {
        let mut settings = Settings::new("3s".to_owned(), false);
        assert_eq!(level(&settings, "counter get a"), ReadLevel::Linearizable);
        assert_eq!(level(&settings, "tally counter get a"), ReadLevel::Linearizable);
        settings.read = Some("local".to_owned());
        assert_eq!(level(&settings, "counter get a"), ReadLevel::Local);
        assert_eq!(level(&settings, "counter get a --read linearizable"), ReadLevel::Linearizable);
        let common = line(&settings, "status").unwrap().arguments.common;
        assert_eq!(common.deadline.0.as_secs(), 3);
        let common = line(&settings, "status --deadline 1s").unwrap().arguments.common;
        assert_eq!(common.deadline.0.as_secs(), 1);
        assert!(line(&settings, "counter add").is_err());
        let window = line(&settings, "counter add a --idempotency-window 1m");
        assert!(window.is_err(), "a window is for a key of one's own, here as there");
    }

    #[test]
    fn each_write_has_a_key() {
        let settings = Settings::new("3s".to_owned(), false);
        let effect = |text: &str| line(&settings, text).unwrap().effect;
        let key = |text: &str| match effect(text) {
            Effect::Write(key) => key,
            other => panic!("{text}: {other:?}"),
        };
        assert!(key::is_drawn(Some(&key("counter add a"))));
        assert_ne!(key("apply"), key("apply"));
        assert_eq!(key("kv put k v --idempotency-key mine"), "mine");
        assert!(!key::is_drawn(Some("mine")));
        assert_eq!(effect("counter list"), Effect::Nothing);
        assert_eq!(effect("status"), Effect::Nothing);
        assert_eq!(effect("session close 5"), Effect::Part);
        assert_eq!(effect("counter delete --prefix a"), Effect::ToldByItself);
        assert!(matches!(effect("counter delete a"), Effect::Write(_)));
    }
}
