//! The real binary against a real engine: each verb, and each promise that users and scripts rely on.
//! Only what this machine's other users cannot disturb is asked exactly; what is wanted is polled for.
// threads: 6
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;
mod live {
    mod commands;
    mod contained;
    mod containers;
    mod ends;
    mod handed;
    mod looks;
    mod restarts;
}
