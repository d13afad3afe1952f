//! What holds for all lines that follow: settings, and the shell's own commands, which change them.

use tally_client::ReadLevel;

use crate::args::{self, Time};

/// The shell's own commands: the name, what follows, and what it does.
pub(super) const OWN: [(&str, &str, &str); 9] = [
    (
        "read",
        "[LEVEL]",
        "how reads read that do not say so: linearizable, bounded:200ms, session, local",
    ),
    ("node", "[ID|HOST:PORT|any]", "send everything to one node, or to any again"),
    ("deadline", "[TIME]", "how long a call may take in all"),
    ("timing", "[on|off]", "say how long each command took"),
    ("verbose", "[on|off]", "say what each read is worth"),
    ("history", "[on|off]", "remember lines; one that begins with a space never is"),
    ("set", "", "show these settings"),
    ("help", "[COMMAND]", "this, or the help of a command"),
    ("quit", "", "leave; Ctrl-D does, too"),
];

/// A node that everything is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Its id, where it was named by that.
    pub(super) id: Option<u64>,
    pub(super) address: String,
}

impl Pinned {
    /// As the prompt has it.
    pub(super) fn name(&self) -> String {
        self.id.map_or_else(|| self.address.clone(), |id| format!("node {id}"))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The level of reads that name none, as it is written. Linearizable if there is none.
    pub(super) read: Option<String>,
    pub(super) node: Option<Pinned>,
    pub(super) deadline: String,
    pub(super) timing: bool,
    pub(super) verbose: bool,
    pub(super) history: bool,
}

/// What one of the shell's own commands asks for, besides changing a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// A word to whoever typed it.
    Say(String),
    /// To find out where a node is, and to send everything there.
    Node(String),
    /// The help of this shell, or of a command.
    Help(Vec<String>),
    Quit,
}

impl Settings {
    pub(super) fn new(deadline: String, verbose: bool) -> Self {
        Self { read: None, node: None, deadline, timing: false, verbose, history: true }
    }

    /// Shows what is not as it usually is.
    pub(super) fn prompt(&self) -> String {
        let node = self.node.as_ref().map(Pinned::name);
        let unusual: Vec<String> = self.read.iter().cloned().chain(node).collect();
        match unusual.as_slice() {
            [] => "tally> ".to_owned(),
            unusual => format!("tally [{}]> ", unusual.join(", ")),
        }
    }

    /// Does one of the shell's own commands, or says what is wrong with it.
    pub(super) fn own(&mut self, words: &[String]) -> Result<Asked, String> {
        let (name, values) = match words.split_first() {
            Some((name, values)) => (name.as_str(), values),
            None => ("help", words),
        };
        if name == "help" || name == "?" || name == "h" {
            return Ok(Asked::Help(values.to_vec()));
        }
        let value = match values {
            [] => None,
            [value] => Some(value.as_str()),
            _ => return Err(format!("\\{name} takes one word")),
        };
        match (name, value) {
            ("quit" | "q", None) => return Ok(Asked::Quit),
            ("set", None) => return Ok(Asked::Say(self.text())),
            ("timing", value) => self.timing = on_or_off(name, value.or(toggled(self.timing)))?,
            ("verbose", value) => self.verbose = on_or_off(name, value.or(toggled(self.verbose)))?,
            ("history", value) => self.history = on_or_off(name, value.or(toggled(self.history)))?,
            ("read", None) => return Ok(Asked::Say(self.line("read"))),
            ("read", Some(level)) => {
                let is_usual = args::read_level(level)? == ReadLevel::Linearizable;
                self.read = (!is_usual).then(|| level.to_owned());
                return Ok(Asked::Nothing);
            }
            ("deadline", None) => {}
            ("deadline", Some(time)) => {
                time.parse::<Time>()?;
                self.deadline = time.to_owned();
            }
            ("node", None) => return Ok(Asked::Say(self.line("node"))),
            ("node", Some("any")) => {
                self.node = None;
                return Ok(Asked::Nothing);
            }
            ("node", Some(node)) => return Ok(Asked::Node(node.to_owned())),
            ("quit" | "q" | "set", Some(_)) => return Err(format!("\\{name} takes no word")),
            _ => return Err(format!("there is no \\{name}: \\help shows what there is")),
        }
        Ok(Asked::Say(self.line(name)))
    }

    /// A setting as the command that sets it.
    fn line(&self, name: &str) -> String {
        let on_or_off = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
        let value = match name {
            "read" => self.read.clone().unwrap_or_else(|| "linearizable".to_owned()),
            "node" => self.node.as_ref().map_or("any".to_owned(), |node| match node.id {
                Some(id) => format!("{id}  ({})", node.address),
                None => node.address.clone(),
            }),
            "deadline" => self.deadline.clone(),
            "timing" => on_or_off(self.timing),
            "verbose" => on_or_off(self.verbose),
            _ => on_or_off(self.history),
        };
        format!("\\{name} {value}")
    }

    fn text(&self) -> String {
        let names = ["read", "node", "deadline", "timing", "verbose", "history"];
        names.map(|name| self.line(name)).join("\n")
    }
}

/// As psql has it: without a value a switch goes to its other side.
fn toggled(is_on: bool) -> Option<&'static str> {
    Some(if is_on { "off" } else { "on" })
}

fn on_or_off(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(format!("\\{name} is on or off")),
    }
}

/// What `\help` says.
pub(super) fn help() -> String {
    let mut text = "Commands are those of the command line: `counter add hits 1`, `status`; `help` lists them, and\n\
                    `help counter add` explains one. Words are quoted as in a shell. The shell's own:\n"
        .to_owned();
    for (name, value, does) in OWN {
        text += &format!("  {:<26}{does}\n", format!("\\{name} {value}"));
    }
    text + "Tab completes commands, options, and names that the cluster has. Ctrl-C ends the command that runs."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("10s".to_owned(), false)
    }

    fn own(settings: &mut Settings, line: &str) -> Result<Asked, String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        settings.own(&words)
    }

    #[test]
    fn the_prompt_shows_what_is_not_as_usual() {
        let mut settings = settings();
        assert_eq!(settings.prompt(), "tally> ");
        assert_eq!(own(&mut settings, "read bounded:5s"), Ok(Asked::Nothing));
        assert_eq!(settings.prompt(), "tally [bounded:5s]> ");
        settings.node = Some(Pinned { id: Some(2), address: "a:7402".into() });
        assert_eq!(settings.prompt(), "tally [bounded:5s, node 2]> ");
        own(&mut settings, "read linearizable").unwrap();
        assert_eq!(settings.prompt(), "tally [node 2]> ");
        settings.node = Some(Pinned { id: None, address: "b:1".into() });
        assert_eq!(settings.prompt(), "tally [b:1]> ");
        own(&mut settings, "node any").unwrap();
        assert_eq!(settings.prompt(), "tally> ");
    }

    #[test]
    fn switches_and_values() {
        let mut settings = settings();
        assert_eq!(own(&mut settings, "timing"), Ok(Asked::Say("\\timing on".into())));
        assert_eq!(own(&mut settings, "timing"), Ok(Asked::Say("\\timing off".into())));
        assert_eq!(own(&mut settings, "history off"), Ok(Asked::Say("\\history off".into())));
        assert!(!settings.history && !settings.timing);
        assert_eq!(own(&mut settings, "deadline 200ms"), Ok(Asked::Say("\\deadline 200ms".into())));
        assert_eq!(own(&mut settings, "node 3"), Ok(Asked::Node("3".into())));
        assert_eq!(own(&mut settings, "q"), Ok(Asked::Quit));
        assert_eq!(own(&mut settings, ""), Ok(Asked::Help(vec![])));
        assert!(
            matches!(own(&mut settings, "set"), Ok(Asked::Say(all)) if all.lines().count() == 6)
        );
        for wrong in
            ["timing maybe", "read strong", "deadline 5", "node 1 2", "nothing", "quit now"]
        {
            assert!(own(&mut settings, wrong).is_err(), "{wrong}");
        }
        assert_eq!(settings.deadline, "200ms", "what is wrong changes nothing");
    }

    #[test]
    fn the_help_has_all_of_them() {
        for (name, ..) in OWN {
            assert!(help().contains(&format!("\\{name} ")), "{name}");
            let known = own(&mut settings(), name);
            assert!(known.is_ok(), "{name}: {known:?}");
        }
    }
}
