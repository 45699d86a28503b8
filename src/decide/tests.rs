//! Replayed ticks.
