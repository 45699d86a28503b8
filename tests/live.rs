//! The real binary against a real engine: each verb, and each promise that users and scripts rely on.
//! Only what this machine's other users cannot disturb is asked exactly; what is wanted is polled for.
// threads: 4
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

#[path = "live/commands.rs"]
mod commands;
#[path = "live/contained.rs"]
mod contained;
#[path = "live/containers.rs"]
mod containers;
#[path = "live/ends.rs"]
mod ends;
#[path = "live/handed.rs"]
mod handed;
#[path = "live/looks.rs"]
mod looks;
#[path = "live/restarts.rs"]
mod restarts;
