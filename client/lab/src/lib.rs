//! `tallyd lab`: a cluster to break and to watch in a browser.
//!
//! It starts real nodes, each a process of its own, puts a proxy on every link between them and towards the
//! clients, and serves a page on loopback. The page shows what the nodes say of themselves and what clients are
//! answered, and can cut, slow, kill and pause. No part of a node knows the lab: a node is told by which addresses it
//! reaches its peers (`peer_via`), and those are the lab's.
//!
//! What the page says is measured. A read counts as stale when it misses a write that had been acknowledged, over
//! this lab, before the read began; nothing is judged by a node's word alone.

mod calls;
pub mod chaos;
mod clients;
mod commands;
mod ends;
mod files;
mod lab;
mod links;
mod meters;
mod nodes;
mod proxy;
mod record;
mod server;
mod watching;
pub mod wire;

use std::{
    io::{self, Write as _},
    path::Path,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::net::TcpListener;

use crate::{
    calls::Ask,
    ends::Ends,
    lab::{Call, Lab},
};

/// Flags of `tallyd lab`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of nodes: 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = three_or_five)]
    nodes: u64,
    /// Port of the page, on loopback. 0: any that is free.
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// Print the address alone, and open no browser.
    #[arg(long)]
    no_browser: bool,
}

fn three_or_five(text: &str) -> Result<u64, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("3 or 5: of an even number no more may fail than of one less".to_owned()),
    }
}

/// Runs the lab until it is told to stop. `tallyd` is the program whose `serve` is a node.
pub fn run(arguments: &Arguments, tallyd: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made while the process starts");
    match runtime.block_on(serve(arguments, tallyd)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tallyd lab: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments, tallyd: &Path) -> io::Result<()> {
    // Before anything is made that would have to be removed again.
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await.map_err(|error| {
        let port = arguments.port;
        io::Error::new(
            error.kind(),
            format!("port {port}: {error}; --port 0 takes one that is free"),
        )
    })?;
    let mut ends = Ends::caught()?;
    let port = listener.local_addr()?.port();
    let lab = Lab::start(arguments.nodes, tallyd).await?;
    tokio::spawn(meters::keep(Arc::clone(&lab)));
    tokio::spawn(first_value(Arc::clone(&lab)));

    let address = format!("http://127.0.0.1:{port}/");
    let directory = lab.nodes.directory().display();
    let told = format!(
        "{} nodes, their files in {directory} until the lab ends\nThe lab: {address}   (Ctrl-C ends it)",
        arguments.nodes
    );
    // Nobody listening is no reason to stop.
    let _ = writeln!(io::stdout(), "{told}");
    if !arguments.no_browser {
        open_browser(&address);
    }
    let server = server::Server::new(Arc::clone(&lab), port)?;
    let served = tokio::select! {
        served = server.serve(listener) => served,
        () = ends.come() => Ok(()),
    };
    let _ = writeln!(io::stdout(), "Stopping the nodes");
    lab.clients.remove(None);
    lab.nodes.stop().await;
    served
}

/// Makes the counter of the first picture, as soon as there is a leader.
async fn first_value(lab: Arc<Lab>) {
    let ask = Ask::Add { delta: 0, key: Some("the lab's first".to_owned()) };
    loop {
        let patience = Duration::from_secs(1);
        let call = Call { client: 0, node: 1, counter: "hits", ask: &ask, patience };
        if lab.call(call).await.value.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Opens the page where there is a desktop. Where there is none, the address is printed in any case.
fn open_browser(address: &str) {
    let has_desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = match std::env::consts::OS {
        "macos" => "open",
        _ if has_desktop => "xdg-open",
        _ => return,
    };
    let mut command = tokio::process::Command::new(program);
    let _ = command.arg(address).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}
