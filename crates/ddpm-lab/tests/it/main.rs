//! The integration tests of ddpm-lab: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod conformance;
