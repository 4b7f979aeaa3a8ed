//! What tests do between two steps of a command that runs in their thread.

use std::cell::RefCell;

thread_local! {
    static ACTION: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// Runs `command`, and `action` before each of its steps. Returns the result and the number of
/// steps.
pub fn acting<R>(
    mut action: impl FnMut(usize) + 'static,
    command: impl FnOnce() -> R,
) -> (R, usize) {
    let steps = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = steps.clone();
    ACTION.set(Some(Box::new(move || {
        action(counted.get());
        counted.set(counted.get() + 1);
    })));
    let result = command();
    ACTION.set(None);
    (result, steps.get())
}

/// A step begins.
pub fn step() {
    ACTION.with_borrow_mut(|action| {
        if let Some(action) = action {
            action();
        }
    });
}
