//! Failpoints: named places at which a test may end, break or stop the process (cargo feature `failpoints`).
//!
//! Promises that without the feature, which is off by default, there is nothing: no code, no name, no variable
//! (`tests/failpoints.rs` looks into the binary). Knows no station; each station says where its point is and why there.

/// A named place, `failpoint!(BeforeGet)`, or `failpoint!(MidBody if condition)`.
#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($point:ident) => {
        $crate::failpoint::hit($crate::failpoint::Point::$point)
    };
    ($point:ident if $condition:expr) => {
        if $condition {
            $crate::failpoint::hit($crate::failpoint::Point::$point)
        }
    };
}

/// Nothing at all.
#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($($anything:tt)*) => {};
}

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
mod child;

#[cfg(feature = "failpoints")]
pub use armed::{Mistake, POINTS, Point, VARIABLE, arm, hit};
#[cfg(feature = "failpoints")]
pub(crate) use child::misbehave;
