//! What a daemon knows from its start to its end: this machine, its engine, its directories. Shared by the loop and its jobs.

use crate::engine::Engine;
use crate::state::Dirs;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
pub struct Site {
    pub engine: Arc<Engine>,
    pub dirs: Dirs,
    pub instance: String,
    /// Name of this machine, as pilots are told.
    pub host: String,
    /// Where /proc and /sys are read.
    pub root: PathBuf,
    pub boot_id: String,
    /// Tag of the built-in image.
    pub builtin_tag: String,
    /// The pull under way: written by its job, read by the loop.
    pulling: Mutex<Option<Pull>>,
}

/// A pull under way, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pull {
    pub image: String,
    /// Bytes that came over the network, and that will in all as far as is known.
    pub bytes: u64,
    pub total: u64,
}

impl Site {
    pub fn new(engine: Arc<Engine>, dirs: Dirs, instance: String, builtin_tag: String) -> Site {
        let root = machine_root();
        Site {
            engine,
            dirs,
            instance,
            host: crate::host::name(),
            boot_id: crate::host::boot_id(&root),
            root,
            builtin_tag,
            pulling: Mutex::default(),
        }
    }

    pub fn pull(&self) -> Option<Pull> {
        let pulling = self.pulling.lock();
        pulling.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_pull(&self, pull: Option<Pull>) {
        *self.pulling.lock().unwrap_or_else(PoisonError::into_inner) = pull;
    }
}

/// Builds for tests can be shown a made-up machine; a release sees only its own.
pub fn machine_root() -> PathBuf {
    let made_up = std::env::var_os("PLANCTON_MADE_UP_ROOT").filter(|_| cfg!(debug_assertions));
    made_up.map_or_else(|| PathBuf::from("/"), PathBuf::from)
}
