//! Does the machine run on a battery, and how full is it: /sys/class/power_supply by the rule of systemd's
//! ConditionACPower, each supply by its own scope, status and port. What belongs to a device (scope "Device": mice,
//! headsets) counts for nothing; files that are missing or garbage are passed over, and without any evidence of a battery
//! in use the machine is on mains.

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
    /// Now and when full, in µWh.
    energy: Option<(u64, u64)>,
    percent: Option<u8>,
}

pub fn read_power(root: &Path) -> Power {
    let class = root.join("sys/class/power_supply");
    let (mut mains, mut batteries, mut upses) = (false, Vec::new(), Vec::new());
    for name in files::read_names(&class) {
        let supply = class.join(&name);
        if says(&supply, "scope", "Device") {
            continue;
        }
        match read_word(&supply.join("type")).as_deref() {
            None => {}
            Some("Battery") => batteries.extend(read_battery(&supply)),
            Some("UPS") => upses.extend(read_battery(&supply)),
            Some(kind) => {
                let is_online = files::read_u64(&supply.join("online")).is_some_and(|on| on > 0);
                mains |= is_online && !(kind.starts_with("USB") && gives_power(&supply, &name));
            }
        }
    }
    let discharging = batteries.iter().chain(&upses).any(|b| b.discharging);
    let has_battery = !batteries.is_empty();
    Power {
        on_battery: discharging && !mains,
        has_battery,
        charge_percent: charge_percent(if has_battery { &batteries } else { &upses }),
    }
}

fn says(supply: &Path, file: &str, word: &str) -> bool {
    read_word(&supply.join(file)).is_some_and(|text| text == word)
}

/// A USB supply that charges something else is no mains. It says so itself, or its type-C port does: of those below its
/// parent device the one with its number ("…:002" is the second), else any of them. Without a word it is taken for a sink.
fn gives_power(supply: &Path, name: &str) -> bool {
    match read_word(&supply.join("status")).as_deref() {
        Some("Discharging") => return true,
        Some("Charging" | "Full") => return false,
        _ => {}
    }
    let dir = supply.join("device/typec");
    let read_role = |port: &String| read_word(&dir.join(port).join("power_role"));
    let roles: Vec<String> = files::read_names(&dir)
        .iter()
        .filter_map(read_role)
        .collect();
    let number = name
        .rsplit_once(':')
        .and_then(|(_, number)| number.parse::<usize>().ok());
    let own = number.and_then(|number| roles.get(number.checked_sub(1)?));
    let gives = |role: &String| role.contains("[source]");
    own.map_or_else(|| roles.iter().any(gives), gives)
}

/// `None` for an empty slot.
fn read_battery(supply: &Path) -> Option<Battery> {
    if says(supply, "present", "0") {
        return None;
    }
    let number = |name: String| files::read_u64(&supply.join(name));
    let amount = |kind: &str| {
        let full = number(format!("{kind}_full")).or_else(|| number(format!("{kind}_full_design")));
        number(format!("{kind}_now")).zip(full)
    };
    let energy = amount("energy");
    let capacity = number("capacity".to_owned()).map(|percent| (percent, 100));
    let known = [capacity, energy, amount("charge")];
    Some(Battery {
        discharging: says(supply, "status", "Discharging"),
        energy,
        percent: known
            .into_iter()
            .flatten()
            .find_map(|amount| percent(&[amount])),
    })
}

/// Weighted by energy where every battery says its own, else that of the emptiest one.
fn charge_percent(batteries: &[Battery]) -> Option<u8> {
    let energies: Option<Vec<(u64, u64)>> = batteries.iter().map(|b| b.energy).collect();
    let weighted = energies.and_then(|energies| percent(&energies));
    weighted.or_else(|| batteries.iter().filter_map(|b| b.percent).min())
}

/// `None` for what no battery has.
fn percent(amounts: &[(u64, u64)]) -> Option<u8> {
    let now: f64 = amounts.iter().map(|(now, _)| float(*now)).sum();
    let full: f64 = amounts.iter().map(|(_, full)| float(*full)).sum();
    let percent = 100.0 * now / full;
    let is_possible = full > 0.0 && percent <= 110.0;
    is_possible.then(|| u8::try_from(whole(percent.min(100.0))).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};
    /// Expected: power, kind of machine, charge; then its supplies. Two are shared/cases/typec-idle-port as it is, and with
    /// the phone in the other port; the others are made up after what laptops, tablets and UPSes show.
    const LOW: &str = "BAT0 type=Battery status=Discharging present=1 capacity=20";
    const PORTS: &str = "device/typec/port0/power_role=[source]+sink device/typec/port0-partner/x= \
        device/typec/port1/power_role=source+[sink]";
    const MACHINES: &str = "
        mains   desktop - |
        mains   desktop - | AC type=Mains online=1
        battery laptop 20 | AC type=Mains online=0; LOW
        mains  laptop 100 | AC type=Mains online=1; BAT0 type=Battery status=Full present=1 capacity=100
        mains   laptop 20 | AC type=Mains online=1; LOW
        battery laptop 20 | LOW
        mains  laptop 100 | BAT0 type=Battery status=Full present=1 capacity=100
        mains   laptop 20 | U type=USB online=1 device/typec/port0/power_role=source+[sink]; LOW
        battery laptop 20 | U type=USB online=1 device/typec/port0/power_role=[source]+sink; LOW
        mains   laptop 20 | U type=USB online=1; LOW
        mains   laptop 20 | U type=USB_PD online=1 status=Charging; LOW
        battery laptop 20 | U type=USB online=0; LOW
        battery laptop 20 | ucsi:001 type=USB online=1 status=Discharging PORTS; ucsi:002 type=USB online=0 status=Not+charging PORTS; LOW
        battery laptop 20 | ucsi:001 type=USB online=1 PORTS; ucsi:002 type=USB online=0 PORTS; LOW
        mains   laptop 20 | ucsi:001 type=USB online=0 PORTS; ucsi:002 type=USB online=1 PORTS; LOW
        battery laptop 20 | dock type=Mains online=1 scope=Device; LOW
        battery laptop 53 | B1 type=Battery status=Discharging energy_now=30000 energy_full=40000; B0 type=Battery status=Unknown energy_now=2000 energy_full=20000 capacity=9
        battery laptop 20 | LOW; B1 type=Battery status=Discharging energy_now=30000 energy_full=40000
        battery laptop 10 | B type=Battery status=Discharging charge_now=5 charge_full=50
        battery laptop 40 | B type=Battery status=Discharging charge_now=20 charge_full_design=50 capacity=255
        battery laptop  - | B type=Battery status=Discharging capacity=255 energy_now=5 energy_full=0
        mains   desktop - | M type=Battery scope=Device status=Discharging capacity=5
        mains   desktop - | B type=Battery present=0 status=Discharging capacity=5
        battery desktop 55 | UPS0 type=UPS online=0 status=Discharging capacity=55
        mains  desktop 100 | UPS0 type=UPS online=1 status=Full capacity=100";

    fn shown(root: &Path) -> String {
        let power = read_power(root);
        let charge = power
            .charge_percent
            .map_or("-".to_owned(), |charge| charge.to_string());
        let feed = if power.on_battery { "battery" } else { "mains" };
        let kind = if power.has_battery {
            "laptop"
        } else {
            "desktop"
        };
        format!("{feed} {kind} {charge}")
    }

    #[test]
    fn machines() {
        for line in MACHINES.trim().lines() {
            let (expected, supplies) = line.split_once('|').unwrap();
            let supplies = supplies.replace("LOW", LOW).replace("PORTS", PORTS);
            let expected: Vec<&str> = expected.split_whitespace().collect();
            let tree = Tree::of_devices("power_supply/", &supplies);
            assert_eq!(shown(tree.root()), expected.join(" "), "{line}");
        }
    }

    #[test]
    fn garbage_is_no_evidence() {
        for content in GARBAGE {
            let tree = Tree::of_devices("power_supply/", "AC type=Mains online=0");
            for name in [
                "type",
                "online",
                "status",
                "present",
                "capacity",
                "scope",
                "energy_now",
            ] {
                tree.put(&format!("sys/class/power_supply/BAT0/{name}"), content);
            }
            assert_eq!(shown(tree.root()), "mains desktop -");
            tree.put("sys/class/power_supply/BAT0/type", "Battery");
            tree.put("sys/class/power_supply/BAT0/status", "Discharging");
            assert_eq!(shown(tree.root()), "battery laptop -");
        }
    }
}
