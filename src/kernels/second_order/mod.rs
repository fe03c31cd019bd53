//! Second-order rounding on all threads: sums of products of a matrix's inputs, their factors, and
//! the rounding of rows by them.

mod factor;
mod gram;
mod lost;
mod round;
mod rows;

#[cfg(test)]
mod tests;

pub use factor::Damping;
pub use gram::{panels, Gram};
pub use lost::Lost;
pub use round::{round_rows, squares, Rounding};
pub use rows::RowFeedback;
