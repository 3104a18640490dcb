//! Reading a partition up to a known end.

use std::time::Duration;

use runtime::log::{Delivery, LogError, Tail};

/// The end of a partition may hold no record (an unclean stop leaves a gap): the tail jumps
/// over it without yielding anything, which is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The next records before offset `high`; none when all were read. Records behind `high` may
/// come along with the last ones.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(crate) async fn next(tail: &mut Tail, high: i64) -> Result<Option<Vec<Delivery>>, LogError> {
    while tail.position() < high {
        tokio::select! {
            biased;
            deliveries = tail.recv() => return deliveries.map(Some),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(None)
}
