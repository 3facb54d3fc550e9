//! The commands that sample from what was trained, evaluate it, and show what data hold.
//!
//! Nothing here knows the trainer.

pub mod commands;
