//! The real binary on machines that are made up, with engines and servers that do everything wrong. Most of it waits, so that
//! all runs at once.
// wants: minisign openssl
// threads: 24
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;
mod made_up {
    mod bad_input;
    mod faulty;
    mod golden;
    mod hard;
    mod history;
    mod metrics;
    mod remote;
}
