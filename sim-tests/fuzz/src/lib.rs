//! Fuzz targets for all that Tally reads from the wire and from disks.
//!
//! A target is a function of bytes that panics where a promise is broken: bytes are read or refused with an
//! error; what was read is written as the same value, or the same bytes where there is one encoding only; and
//! no more memory is asked for than a multiple of what came ([`allocation::bounded`]). `docs/fuzzing.md` tells
//! how they are run.
//!
//! Nothing of libFuzzer is here: the same functions are replayed over the kept corpora by an ordinary test.

pub mod allocation;
mod api;
mod authority;
mod backup;
mod history;
mod log;
mod machine;
mod metadata;
mod peer;
pub mod seeds;
mod settings;
mod snapshot;

/// A target: looks at bytes, and panics.
pub type Target = fn(&[u8]);

/// All targets: a function of each, so that a program has no other's code, and the list of them.
macro_rules! targets {
    ($($name:ident = $target:path,)*) => {
        /// All targets, by the names of their corpora.
        pub const TARGETS: &[(&str, Target)] = &[$((stringify!($name), $name)),*];

        $(
            #[doc = concat!("The target `", stringify!($name), "`.")]
            pub fn $name(bytes: &[u8]) {
                $target(bytes);
            }
        )*
    };
}

targets! {
    api_request = api::request,
    api_pack = api::pack,
    api_token = api::token,
    api_error = api::error,
    peer_message = peer::message,
    wal_frame = log::frame,
    wal_segment = log::segment,
    snapshot_file = snapshot::file,
    log_entry = machine::entry,
    state_record = machine::record,
    config = settings::config,
    identity = settings::identity,
    history_file = history::file,
    authority = authority::connection,
    backup_file = backup::file,
    metadata = metadata::metadata,
}

/// Runs a future over a simulated disk, which never waits.
fn now<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime of one thread can be made");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Takes the first byte off: targets with several kinds of input choose by it.
fn choose(bytes: &[u8], among: usize) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((usize::from(*first) % among, rest))
}

/// Takes pieces off the front, each behind its length: one byte, or two if it is 255.
struct Pieces<'a>(&'a [u8]);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&short, mut rest) = self.0.split_first()?;
        let mut length = usize::from(short);
        if short == u8::MAX {
            let (long, behind) = rest.split_first_chunk::<2>()?;
            (length, rest) = (usize::from(u16::from_le_bytes(*long)), behind);
        }
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        self.0 = behind;
        Some(piece)
    }
}

/// A corpus in one file, as thousands of small ones would be in everybody's way.
pub fn pack<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut packed = Vec::new();
    inputs.into_iter().for_each(|input| piece(&mut packed, input));
    packed
}

/// The inputs of such a file.
pub fn unpack(packed: &[u8]) -> impl Iterator<Item = &[u8]> {
    Pieces(packed)
}

/// The opposite of [`Pieces`].
fn piece(to: &mut Vec<u8>, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(short) if short < u8::MAX => to.push(short),
        _ => {
            to.push(u8::MAX);
            let length = u16::try_from(bytes.len()).expect("a piece of a seed is short");
            to.extend_from_slice(&length.to_le_bytes());
        }
    }
    to.extend_from_slice(bytes);
}
