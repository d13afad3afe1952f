//! The live view's loop: keys, looks, and the terminal.
//!
//! Keys are read on a thread of their own, which ends with the process or when nobody listens any more; the nodes
//! are asked beside, so that a key is answered at once while a node is not.

use std::{collections::VecDeque, time::Duration};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tally_client::Client;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Top, columns,
    columns::Column,
    figures::{Figures, Look},
    look,
};
use crate::{
    interrupts::Interrupts,
    output::{Exit, Failure, escaped},
};

/// How many looks the small graph has.
const HISTORY_MAX: usize = 240;

/// Keys that wait: more than anybody types in a frame.
const KEYS_MAX: usize = 64;

/// Steps of the interval, in ms.
const INTERVALS_MS: [u64; 8] = [100, 250, 500, 1000, 2000, 5000, 10_000, 30_000];

/// What the view shows.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) figures: Option<Figures>,
    /// Operations a second of all nodes, the newest last.
    pub(crate) history: VecDeque<u64>,
    pub(crate) sort: Column,
    pub(crate) reversed: bool,
    pub(crate) selected: usize,
    pub(crate) page: Page,
    pub(crate) paused: bool,
    pub(crate) interval: Duration,
    /// Why the last look failed.
    pub(crate) problem: Option<String>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Nodes,
    /// Into one.
    Node(u64),
    Keys,
}

/// What a key leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Stay,
    Leave,
}

impl Screen {
    pub(crate) fn new(sort: Column, reversed: bool, interval: Duration) -> Screen {
        Screen {
            figures: None,
            history: VecDeque::new(),
            sort,
            reversed,
            selected: 0,
            page: Page::Nodes,
            paused: false,
            interval,
            problem: None,
        }
    }

    /// Takes what was seen.
    pub(crate) fn show(&mut self, mut figures: Figures) {
        if let Some(rate) = figures.operations_per_second {
            self.history.push_back(rate as u64);
            while self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        // Who is selected stays so where the order changes.
        let id = self.selected_id();
        columns::sort(&mut figures.nodes, self.sort, self.reversed);
        self.figures = Some(figures);
        self.select(id);
        self.problem = None;
    }

    fn selected_id(&self) -> Option<u64> {
        self.figures.as_ref()?.nodes.get(self.selected).map(|node| node.id)
    }

    fn select(&mut self, id: Option<u64>) {
        let Some(figures) = &self.figures else { return };
        let found = figures.nodes.iter().position(|node| Some(node.id) == id);
        self.selected = found.unwrap_or(0);
    }

    fn sort_again(&mut self) {
        let id = self.selected_id();
        if let Some(figures) = &mut self.figures {
            columns::sort(&mut figures.nodes, self.sort, self.reversed);
        }
        self.select(id);
    }

    fn step_interval(&mut self, by: isize) {
        let ms = self.interval.as_millis() as u64;
        let at = INTERVALS_MS.iter().position(|step| *step >= ms).unwrap_or(INTERVALS_MS.len() - 1);
        let to = at.saturating_add_signed(by).min(INTERVALS_MS.len() - 1);
        self.interval = Duration::from_millis(INTERVALS_MS[to]);
    }

    /// Does what a key says.
    pub(crate) fn press(&mut self, key: KeyEvent) -> Then {
        let nodes = self.figures.as_ref().map_or(0, |figures| figures.nodes.len());
        match (key.code, self.page) {
            (KeyCode::Char('q'), _) => return Then::Leave,
            (KeyCode::Char('?' | 'h'), Page::Keys) => self.page = Page::Nodes,
            (KeyCode::Char('?' | 'h'), _) => self.page = Page::Keys,
            (KeyCode::Esc | KeyCode::Backspace, Page::Nodes) => {}
            (KeyCode::Esc | KeyCode::Backspace | KeyCode::Enter, Page::Node(_) | Page::Keys) => {
                self.page = Page::Nodes;
            }
            (KeyCode::Enter, Page::Nodes) => {
                if let Some(id) = self.selected_id() {
                    self.page = Page::Node(id);
                }
            }
            (KeyCode::Down | KeyCode::Char('j'), _) => {
                self.selected = (self.selected + 1).min(nodes.saturating_sub(1));
                self.follow();
            }
            (KeyCode::Up | KeyCode::Char('k'), _) => {
                self.selected = self.selected.saturating_sub(1);
                self.follow();
            }
            (KeyCode::Right | KeyCode::Char('>' | 's'), _) => {
                self.sort = self.sort.step(1);
                self.sort_again();
            }
            (KeyCode::Left | KeyCode::Char('<' | 'S'), _) => {
                self.sort = self.sort.step(-1);
                self.sort_again();
            }
            (KeyCode::Char('r'), _) => {
                self.reversed = !self.reversed;
                self.sort_again();
            }
            (KeyCode::Char('p' | ' '), _) => self.paused = !self.paused,
            (KeyCode::Char('+'), _) => self.step_interval(1),
            (KeyCode::Char('-'), _) => self.step_interval(-1),
            _ => {}
        }
        Then::Stay
    }

    /// The page of one node goes along with the selection.
    fn follow(&mut self) {
        if let (Page::Node(_), Some(id)) = (self.page, self.selected_id()) {
            self.page = Page::Node(id);
        }
    }
}

/// Draws it.
pub(crate) type Draw = fn(&mut ratatui::Frame<'_>, &Screen);

/// Shows the view until somebody leaves it.
pub(crate) async fn run(client: &Client, top: &Top, draw: Draw) -> Result<Exit, Failure> {
    let mut terminal = ratatui::try_init().map_err(|error| {
        ratatui::restore();
        Failure::unable(format!("the terminal can't be used: {error}"))
    })?;
    let mut screen = Screen::new(top.sort, top.reverse, top.interval.0);
    let shown = show(client, &mut terminal, &mut screen, draw).await;
    ratatui::restore();
    shown
}

async fn show(
    client: &Client,
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    draw: Draw,
) -> Result<Exit, Failure> {
    let interrupts = Interrupts::listen();
    let (sender, mut events) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    let unable = |error: std::io::Error| Failure::unable(format!("the terminal: {error}"));
    let mut before: Option<Look> = None;
    let mut asked = None;
    let mut next = Instant::now();
    loop {
        terminal.draw(|frame| draw(frame, screen)).map_err(unable)?;
        let is_due = asked.is_none() && !screen.paused;
        tokio::select! {
            () = interrupts.first() => return Ok(Exit::CutShort),
            event = events.recv() => match event {
                None => return Err(Failure::unable("the keys can't be read".to_owned())),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    // A raw terminal sends no signal.
                    if key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL {
                        return Ok(Exit::CutShort);
                    }
                    let interval = screen.interval;
                    if screen.press(key) == Then::Leave {
                        return Ok(Exit::Done);
                    }
                    if screen.interval != interval {
                        next = next.min(Instant::now() + screen.interval);
                    }
                }
                // Another size is drawn anew in any case.
                Some(_) => {}
            },
            () = sleep_until(next), if is_due => {
                next = Instant::now() + screen.interval;
                asked = Some(Box::pin(look(client)));
            }
            looked = async { asked.as_mut().expect("it is asked for").await }, if asked.is_some() => {
                asked = None;
                match looked {
                    Ok(now) => {
                        screen.show(Figures::of(&now, before.as_ref()));
                        before = Some(now);
                    }
                    Err(error) => screen.problem = Some(escaped(error.message())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{BEFORE, NOW, look as looked};
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_select_sort_and_look_into_a_node() {
        let mut screen = Screen::new(Column::Node, false, Duration::from_secs(1));
        assert_eq!(screen.press(key(KeyCode::Enter)), Then::Stay);
        assert_eq!(screen.page, Page::Nodes, "there is no node yet");
        let began = Instant::now();
        let figures = || Figures::of(&looked(began, &[(1, BEFORE), (2, NOW)]), None);
        screen.show(figures());
        screen.press(key(KeyCode::Down));
        assert_eq!(screen.selected_id(), Some(2));
        for _ in 0..usize::from(Column::Lag as u8) {
            screen.press(key(KeyCode::Char('s')));
        }
        assert_eq!((screen.sort, screen.selected), (Column::Lag, 0), "who is selected stays so");
        screen.press(key(KeyCode::Char('r')));
        assert_eq!((screen.selected_id(), screen.selected), (Some(2), 1));
        screen.show(figures());
        assert_eq!(screen.selected_id(), Some(2), "and with the next look, too");
        screen.press(key(KeyCode::Enter));
        assert_eq!(screen.page, Page::Node(2));
        screen.press(key(KeyCode::Up));
        assert_eq!(screen.page, Page::Node(1));
        screen.press(key(KeyCode::Esc));
        screen.press(key(KeyCode::Char('?')));
        assert_eq!(screen.page, Page::Keys);
        screen.press(key(KeyCode::Char('?')));
        screen.press(key(KeyCode::Char('+')));
        assert_eq!(screen.interval, Duration::from_secs(2));
        screen.press(key(KeyCode::Char('-')));
        screen.press(key(KeyCode::Char('-')));
        assert_eq!(screen.interval, Duration::from_millis(500));
        screen.press(key(KeyCode::Char('p')));
        assert!(screen.paused);
        assert_eq!(screen.press(key(KeyCode::Char('q'))), Then::Leave);
    }
}
