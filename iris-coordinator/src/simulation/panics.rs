//! Notices panics, which end a task of the runtime and nothing else.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Returns how often this thread has panicked since it was first asked.
pub(super) fn count() -> u64 {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            COUNT.with(|count| count.set(count.get() + 1));
            before(info);
        }));
    });
    COUNT.with(Cell::get)
}
