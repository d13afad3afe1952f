//! Trying a command out.

use super::{
    apply,
    command::{Batch, Command, Reply},
    view::{Overlay, View, Writes},
};

/// What would become of a command now: it is applied to a state that is thrown away.
pub fn dry_run<V: View + ?Sized>(view: &V, command: Command) -> Reply {
    let mut writes = Writes::default();
    // No session can have this id, and time does not go on.
    let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
    apply(&mut Overlay::new(view, &mut writes), u64::MAX, &batch).remove(0)
}
