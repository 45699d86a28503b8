//! Plancton gives a machine's idle time to science. The modules, in reading order.

mod units;

fn main() {}
