//! Does the machine run on a battery, and how full is it: /sys/class/power_supply by the rule of systemd's
//! ConditionACPower. Batteries of mice and headsets (scope "Device") count for nothing; files that are missing or garbage
//! are passed over, and without any evidence of a battery in use the machine is on mains.

use super::files::{self, read_word};
use crate::units::{float, whole};
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// A UPS that feeds the machine counts as a battery in use.
    pub on_battery: bool,
    /// The machine has a battery of its own (a UPS is none): it is a laptop.
    pub has_battery: bool,
    /// Of all batteries together; of the UPS where there is no battery.
    pub charge_percent: Option<u8>,
}

struct Battery {
    discharging: bool,
    /// Energy now and when full, in µWh.
    energy: Option<(u64, u64)>,
    capacity_percent: Option<u8>,
}

pub fn read_power(root: &Path) -> Power {
    let class = root.join("sys/class/power_supply");
    let (mut mains, mut batteries, mut upses) = (false, Vec::new(), Vec::new());
    for name in files::read_names(&class) {
        let supply = class.join(name);
        match read_word(&supply.join("type")).as_deref() {
            None => {}
            Some("Battery") => batteries.extend(read_battery(&supply)),
            Some("UPS") => upses.extend(read_battery(&supply)),
            Some(kind) => {
                mains |= files::read_u64(&supply.join("online")).is_some_and(|value| value > 0)
                    && !(kind == "USB" && gives_power(&supply))
            }
        }
    }
    let discharging = batteries.iter().chain(&upses).any(|b| b.discharging);
    Power {
        on_battery: discharging && !mains,
        has_battery: !batteries.is_empty(),
        charge_percent: charge_percent(if batteries.is_empty() {
            &upses
        } else {
            &batteries
        }),
    }
}

/// A USB supply whose type-C ports are all sources charges something else: it is no mains. Ports are found below the
/// supply's parent device; without one that says its role, the supply is taken for a sink.
fn gives_power(supply: &Path) -> bool {
    let ports = supply.join("device/typec");
    let names = files::read_names(&ports);
    let roles: Vec<String> = names
        .iter()
        .filter_map(|port| read_word(&ports.join(port).join("power_role")))
        .collect();
    let any = |role: &str| roles.iter().any(|text| text.contains(role));
    any("[source]") && !any("[sink]")
}

/// `None` for an empty slot and for a device's own battery.
fn read_battery(supply: &Path) -> Option<Battery> {
    let says = |name, word: &str| read_word(&supply.join(name)).is_some_and(|text| text == word);
    if says("scope", "Device") || says("present", "0") {
        return None;
    }
    let number = |name| files::read_u64(&supply.join(name));
    let full = number("energy_full").filter(|full| *full > 0);
    let capacity = number("capacity").filter(|percent| *percent <= 100);
    Some(Battery {
        discharging: says("status", "Discharging"),
        energy: number("energy_now").zip(full),
        capacity_percent: capacity.and_then(|percent| u8::try_from(percent).ok()),
    })
}

/// Weighted by energy where every battery says its own, else that of the emptiest one.
fn charge_percent(batteries: &[Battery]) -> Option<u8> {
    let energies: Option<Vec<(u64, u64)>> = batteries.iter().map(|b| b.energy).collect();
    match energies.filter(|all| !all.is_empty()) {
        Some(all) => {
            let now: f64 = all.iter().map(|(now, _)| float(*now)).sum();
            let full: f64 = all.iter().map(|(_, full)| float(*full)).sum();
            u8::try_from(whole((100.0 * now / full).min(100.0))).ok()
        }
        None => batteries.iter().filter_map(|b| b.capacity_percent).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    /// "AC type=Mains online=1" is one supply.
    fn machine(supplies: &[&str]) -> Tree {
        let tree = Tree::new(&[("sys/class/", "")]);
        for supply in supplies {
            let (name, files) = supply.split_once(' ').unwrap();
            for file in files.split(' ') {
                let (file, content) = file.split_once('=').unwrap();
                let content = content.replace('_', " ") + "\n";
                tree.put(&format!("sys/class/power_supply/{name}/{file}"), content);
            }
        }
        tree
    }

    const FULL: &str = "BAT0 type=Battery status=Full present=1 capacity=100";
    const LOW: &str = "BAT0 type=Battery status=Discharging present=1 capacity=20";
    const BIG: &str =
        "BAT1 type=Battery status=Discharging energy_now=30000000 energy_full=40000000";
    const SMALL: &str =
        "BAT0 type=Battery status=Unknown energy_now=2000000 energy_full=20000000 capacity=10";
    const CHARGE_ONLY: &str =
        "BAT0 type=Battery status=Discharging charge_now=5 charge_full=50 capacity=10";
    const NO_CHARGE: &str = "BAT0 type=Battery status=Discharging capacity=255";
    const EMPTY_SLOT: &str = "BAT0 type=Battery present=0 status=Discharging capacity=5";
    const MOUSE: &str = "M type=Battery scope=Device status=Discharging capacity=5";
    const SOURCE: &str = "U type=USB online=1 device/typec/port0/power_role=[source]_sink";
    const SINK: &str = "U type=USB online=1 device/typec/port0/power_role=source_[sink]";
    const TWO_PORTS: &str = "U type=USB online=1 device/typec/port0/power_role=[source]_sink device/typec/port1/power_role=source_[sink]";
    const UPS_OUT: &str = "UPS0 type=UPS online=0 status=Discharging capacity=55";
    const UPS_FULL: &str = "UPS0 type=UPS online=1 status=Full capacity=100";
    const PLUGGED: &str = "AC type=Mains online=1";
    const UNPLUGGED: &str = "AC type=Mains online=0";

    #[test]
    fn machines() {
        let cases: [(&[&str], bool, bool, Option<u8>); 20] = [
            (&[], false, false, None),
            (&[PLUGGED], false, false, None),
            (&[UNPLUGGED, LOW], true, true, Some(20)),
            (&[PLUGGED, FULL], false, true, Some(100)),
            // A weak adapter: the battery is discharged beside it.
            (&[PLUGGED, LOW], false, true, Some(20)),
            (&[LOW], true, true, Some(20)),
            (&[FULL], false, true, Some(100)),
            // A USB-C laptop has no mains adapter, and its own ports show up as supplies.
            (&[SINK, LOW], false, true, Some(20)),
            (&[SOURCE, LOW], true, true, Some(20)),
            (&[TWO_PORTS, LOW], false, true, Some(20)),
            (&["U type=USB online=1", LOW], false, true, Some(20)),
            (&["U type=USB online=0", LOW], true, true, Some(20)),
            // Two batteries: 32 of 60 Wh.
            (&[SMALL, BIG], true, true, Some(53)),
            (&[LOW, BIG], true, true, Some(20)),
            (&[CHARGE_ONLY], true, true, Some(10)),
            (&[NO_CHARGE], true, true, None),
            (&[MOUSE], false, false, None),
            (&[EMPTY_SLOT], false, false, None),
            (&[UPS_OUT], true, false, Some(55)),
            (&[UPS_FULL], false, false, Some(100)),
        ];
        for (supplies, on_battery, has_battery, charge_percent) in cases {
            let expected = Power {
                on_battery,
                has_battery,
                charge_percent,
            };
            let found = read_power(machine(supplies).root());
            assert_eq!(found, expected, "{supplies:?}");
        }
    }

    #[test]
    fn garbage_is_no_evidence() {
        let files = ["type", "online", "status", "present", "capacity", "scope"];
        for content in GARBAGE {
            let tree = machine(&["AC type=Mains online=0"]);
            for name in files {
                tree.put(&format!("sys/class/power_supply/BAT0/{name}"), content);
            }
            assert_eq!(read_power(tree.root()), Power::default());
            tree.put("sys/class/power_supply/BAT0/type", "Battery");
            tree.put("sys/class/power_supply/BAT0/status", "Discharging");
            let power = read_power(tree.root());
            assert!(power.on_battery && power.charge_percent.is_none());
        }
        let tree = machine(&["AC type=Mains"]);
        tree.fifo("sys/class/power_supply/AC/online");
        tree.fifo("sys/class/power_supply/BAT0/type");
        assert_eq!(read_power(tree.root()), Power::default());
    }
}
