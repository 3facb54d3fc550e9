//! What is measured of the project itself: how fast it trains and samples, and whether a device computes what it should.
//!
//! Next to the trainer and not in it, so that who trains does not compile it.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where nobody can read any more")]

pub mod bench;
pub mod conformance;
