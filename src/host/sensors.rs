//! What the owner's rules about heat and power go by.
//!
//! Heat is the temperature of the CPU package, and nothing else: a sensor of a disk, graphics or radio device is never
//! read, because the read may wake the device. Sensors are found once (their names and labels cost no wake-up).
//!
//! Power is /sys/class/power_supply by the rule of systemd's ConditionACPower, each supply by its own scope, status and
//! port. What belongs to a device (scope "Device": mice, headsets) counts for nothing; files that are missing or garbage
//! are passed over, and without any evidence of a battery in use the machine is on mains.

use super::files::{read_names, read_value};
use crate::units::float;
use std::path::{Path, PathBuf};

/// What words begin with in the names of zones of the chip that the processor is on.
const CHIP: [&str; 6] = ["soc", "package", "core", "cluster", "big", "little"];

pub struct Sensor {
    /// The least that gives a value is believed.
    rank: u8,
    /// The driver's or zone's.
    name: String,
    path: PathBuf,
}

/// Those of the processor and its chip, the best first.
pub fn find_sensors(root: &Path) -> Vec<Sensor> {
    let mut found = Vec::new();
    for class in ["hwmon", "thermal"].map(|class| root.join("sys/class").join(class)) {
        for device in read_names(&class).iter().map(|name| class.join(name)) {
            // Its own directory: the number in hwmon3 may be another device's after a module was loaded again.
            let device = std::fs::canonicalize(&device).unwrap_or(device);
            // A monitor has a name and inputs with labels, a zone a type and one temperature.
            let name = read_word(&device, "name") + &read_word(&device, "type");
            for file in read_names(&device) {
                let sensor = file.trim_end_matches("_input");
                if !sensor.starts_with("temp") || (sensor == file && file != "temp") {
                    continue;
                }
                let label = read_word(&device, &format!("{sensor}_label"));
                if let Some(rank) = rank_of(&name, &label) {
                    let (name, path) = (name.clone(), device.join(file));
                    found.push(Sensor { rank, name, path });
                }
            }
        }
    }
    found.sort_by_key(|sensor| sensor.rank);
    found
}

/// 0 to 2: a driver of the processor by its label (Tctl is up to 27 °C above the truth on some models). 3: by a name such as
/// "x86_pkg_temp" or "cpu0-thermal", or the input that a board's controller (of Dell, ThinkPad, Asus …) calls so. 4: the
/// chip that it is on, by a name such as "bigcore0-thermal" or "SOC0-therm".
fn rank_of(name: &str, label: &str) -> Option<u8> {
    let lower = name.to_lowercase();
    let both = format!("{lower} {}", label.to_lowercase());
    let mut words = both.split(|c: char| !c.is_ascii_alphabetic());
    let is_of_chip = |word: &str| CHIP.iter().any(|start| word.starts_with(start));
    match (name, label.split(' ').next().unwrap_or_default()) {
        ("coretemp", "Package") | ("k10temp" | "zenpower", "Tdie") => Some(0),
        ("coretemp", "Core") | ("k10temp" | "zenpower", "Tctl") => Some(1),
        ("coretemp" | "k8temp" | "k10temp" | "zenpower", _) => Some(2),
        _ if lower.contains("gpu") => None,
        (_, word) if word == "CPU" || lower.contains("cpu") || lower.contains("pkg") => Some(3),
        _ => words.any(is_of_chip).then_some(4),
    }
}

/// The hottest of the best sensors that give a plausible value, and its name.
pub fn read_celsius(sensors: &[Sensor]) -> Option<(f64, &str)> {
    let mut ranks = sensors.chunk_by(|a, b| a.rank == b.rank);
    let hottest = ranks.find_map(|equals| {
        let readings = equals.iter().filter_map(|sensor| {
            let millidegrees: u64 = read_value(&sensor.path)?;
            // Sensors without a value say 0, 255 or a negative number; a CPU at 150 °C is none.
            let is_plausible = (1_000..150_000).contains(&millidegrees);
            is_plausible.then_some((millidegrees, sensor.name.as_str()))
        });
        readings.max()
    });
    hottest.map(|(millidegrees, name)| (float(millidegrees) / 1000.0, name))
}

/// Does the machine have a battery of its own, so that it is a laptop? Does it run on it, or on a UPS? And the charge in
/// percent, of all batteries together; of the UPS where there is none.
pub fn read_power(root: &Path) -> (bool, bool, Option<u8>) {
    let class = root.join("sys/class/power_supply");
    let (mut on_mains, mut batteries, mut upses) = (false, Vec::new(), Vec::new());
    for name in read_names(&class) {
        let supply = class.join(&name);
        match read_word(&supply, "type").as_str() {
            "" => {}
            _ if read_word(&supply, "scope") == "Device" => {}
            _ if read_word(&supply, "present") == "0" => {}
            "Battery" => batteries.push(supply),
            "UPS" => upses.push(supply),
            kind => {
                let is_online = read_value(&supply.join("online")).is_some_and(|on: u64| on > 0);
                on_mains |= is_online && !(kind.starts_with("USB") && gives_power(&supply, &name));
            }
        }
    }
    let has_battery = !batteries.is_empty();
    let mut all = batteries.iter().chain(&upses);
    let is_discharging = all.any(|supply| read_word(supply, "status") == "Discharging");
    let charge = read_charge(if has_battery { &batteries } else { &upses });
    (has_battery, is_discharging && !on_mains, charge)
}

fn read_word(dir: &Path, file: &str) -> String {
    read_value(&dir.join(file)).unwrap_or_default()
}

/// A USB supply that charges something else is no mains. It says so itself, or its type-C port does: of those below its
/// parent device the one with its number ("…:002" is the second), else any of them. Without a word it is taken for a sink.
fn gives_power(supply: &Path, name: &str) -> bool {
    match read_word(supply, "status").as_str() {
        "Discharging" => return true,
        "Charging" | "Full" => return false,
        _ => {}
    }
    let ports = supply.join("device/typec");
    let read_role = |port: String| read_value(&ports.join(port).join("power_role"));
    let roles = read_names(&ports).into_iter().filter_map(read_role);
    let roles: Vec<String> = roles.collect();
    let gives = |role: &String| role.contains("[source]");
    let own = || {
        let number: usize = name.rsplit(':').next()?.parse().ok()?;
        roles.get(number.checked_sub(1)?)
    };
    own().map_or_else(|| roles.iter().any(gives), gives)
}

/// In percent: weighted by energy where every battery says its own, else that of the emptiest one.
fn read_charge(batteries: &[PathBuf]) -> Option<u8> {
    let energies = batteries.iter().map(|it| read_amount(it, "energy"));
    let energies: Option<Vec<_>> = energies.collect();
    let add = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
    let weighted = energies.and_then(|energies| energies.into_iter().reduce(add));
    let read = |battery: &PathBuf| {
        let capacity = read_value(&battery.join("capacity")).zip(Some(100));
        let amounts = ["energy", "charge"].map(|kind| read_amount(battery, kind));
        let amounts = amounts.into_iter().flatten();
        capacity.into_iter().chain(amounts).find_map(percent)
    };
    let emptiest = || batteries.iter().filter_map(read).min();
    weighted.and_then(percent).or_else(emptiest)
}

/// Of energy or charge: what there is, and when full.
fn read_amount(battery: &Path, kind: &str) -> Option<(u64, u64)> {
    let read = |what: &str| read_value(&battery.join(format!("{kind}_{what}")));
    read("now").zip(read("full").or_else(|| read("full_design")))
}

/// `None` for what no battery has.
fn percent((now, full): (u64, u64)) -> Option<u8> {
    let percent = now.saturating_mul(100).checked_div(full)?;
    let is_possible = percent <= 110;
    u8::try_from(percent.min(100)).ok().filter(|_| is_possible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    /// Degrees and the sensor; then the devices. Two are shared/cases/heat-soc-zones (RK3588, RK3328), then boards by
    /// NVIDIA, Qualcomm, MediaTek, Intel (Bay Trail) and a Dell laptop; never a disk, graphics or radio device. The last are a
    /// Ryzen under zenpower (Nortank12/deepcool-digital-linux #2), one whose board's zone stands still
    /// (tuxedocomputers/tuxedo-control-center #471), a Raspberry Pi, what the kernel's Documentation/hwmon has of old, of ARM
    /// and of POWER processors and of graphics, and a machine with nothing but guesses (IceWhaleTech/CasaOS #727).
    const SENSORS: &str = "
        - | 
        62.5 coretemp | PACKAGE; hwmon/hwmon1 name=coretemp temp1_label=Package+id+1 temp1_input=62500; NVME; AMD; ZONE
        51 coretemp | PACKAGE; NVME
        70 k10temp | hwmon/hwmon0 name=k10temp temp1_label=Tctl temp1_input=90000 temp2_label=Tdie temp2_input=70000
        44 k10temp | hwmon/hwmon0 name=k10temp temp1_input=44000
        43 coretemp | hwmon/hwmon0 name=coretemp temp2_label=Core+0 temp2_input=41000 temp3_label=Core+1 temp3_input=43000
        48 cpu0-thermal | NVME; RADIO; BOARD; ZONE; thermal/thermal_zone3 type=gpu-thermal temp=58000
        48 cpu0-thermal | hwmon/hwmon0 name=coretemp temp1_input=255; ZONE
        55 x86_pkg_temp | thermal/thermal_zone0 type=x86_pkg_temp temp=55000; BOARD
        - | NVME; hwmon/hwmon3 name=drivetemp temp1_input=80000; AMD; RADIO; BOARD; thermal/cooling_device0 type=cpufreq-cpu0 cur_state=9000
        - | hwmon/hwmon0 name=coretemp
        92.5 bigcore0-thermal | hwmon/hwmon0 name=package_thermal temp1_input=91000; thermal/thermal_zone1 type=bigcore0-thermal temp=92500; thermal/thermal_zone0 type=package-thermal temp=91000; hwmon/hwmon3 name=gpu_thermal temp1_input=98000
        88 soc_thermal | thermal/thermal_zone0 type=soc-thermal temp=88000; hwmon/hwmon0 name=soc_thermal temp1_input=88000
        61 CPU-therm | thermal/thermal_zone0 type=CPU-therm temp=61000; thermal/thermal_zone1 type=GPU-therm temp=70000; thermal/thermal_zone2 type=tj-thermal temp=75000
        77 cpu-1-2-usr | thermal/thermal_zone0 type=cpu-0-0-usr temp=70000; thermal/thermal_zone1 type=cpu-1-2-usr temp=77000; thermal/thermal_zone2 type=modem temp=90000
        66 mtktscpu | thermal/thermal_zone0 type=mtktspmic temp=90000; thermal/thermal_zone1 type=mtktscpu temp=66000
        58 soc_dts1 | thermal/thermal_zone0 type=soc_dts0 temp=57000; thermal/thermal_zone1 type=soc_dts1 temp=58000
        64 dell_smm | hwmon/hwmon2 name=dell_smm temp1_label=CPU temp1_input=64000 temp2_label=Ambient temp2_input=70000; BOARD
        43 zenpower | hwmon/hwmon3 name=zenpower temp1_label=Tdie temp1_input=43000 temp2_label=Tctl temp2_input=63000 temp3_label=Tccd1 temp3_input=42250
        33.75 k10temp | hwmon/hwmon1 name=acpitz temp1_input=32000; hwmon/hwmon6 name=k10temp temp1_label=Tctl temp1_input=33750
        61.3 cpu-thermal | hwmon/hwmon0 name=cpu_thermal temp1_input=60836; thermal/thermal_zone0 type=cpu-thermal temp=61300; hwmon/hwmon1 name=rpi_volt in0_lcrit_alarm=0
        57 k8temp | hwmon/hwmon0 name=k8temp temp1_input=57000
        51 xgene_hwmon | hwmon/hwmon0 name=xgene_hwmon temp1_label=SoC+Temperature temp1_input=51000
        44 ibmpowernv | hwmon/hwmon0 name=ibmpowernv temp1_label=Chip+0+Core+8 temp1_input=44000 temp2_label=Membuf+12 temp2_input=90000
        49 macsmc_hwmon | hwmon/hwmon0 name=macsmc_hwmon temp1_label=CPU+P-core+1 temp1_input=49000 temp2_label=NAND+Temp temp2_input=70000
        52 pkg-temp-0 | thermal/thermal_zone0 type=pkg-temp-0 temp=52000
        57 via_cputemp | hwmon/hwmon0 name=via_cputemp temp1_input=57000
        62 cpuss-0-usr | thermal/thermal_zone0 type=cpuss-0-usr temp=62000; thermal/thermal_zone1 type=ddr-usr temp=70000; thermal/thermal_zone2 type=gpuss-0-usr temp=90000
        - | hwmon/hwmon0 name=xe temp1_label=pkg temp1_input=80000 temp2_label=vram temp2_input=90000
        - | thermal/thermal_zone0 type=acpitz temp=16000; thermal/thermal_zone1 type=acpitz temp=40000; thermal/thermal_zone2 type=iwlwifi_1 temp=45000";

    const SHORT: &str = "NVME hwmon/hwmon2 name=nvme temp1_input=80000
        AMD hwmon/hwmon4 name=amdgpu temp1_label=Package+id+9 temp1_input=81000
        RADIO thermal/thermal_zone0 type=iwlwifi_1 temp=66000
        BOARD thermal/thermal_zone1 type=acpitz temp=67000
        ZONE thermal/thermal_zone2 type=cpu0-thermal temp=48000
        PACKAGE hwmon/hwmon0 name=coretemp temp1_label=Package+id+0 temp1_input=51000 temp2_label=Core+0 temp2_input=90000";

    #[test]
    fn temperatures() {
        for line in SENSORS.trim().lines() {
            let (expected, devices) = line.split_once('|').unwrap();
            let whole = |text: String, line: &str| {
                let (short, long) = line.trim().split_once(' ').unwrap();
                text.replace(short, long)
            };
            let devices = SHORT.lines().fold(devices.to_owned(), whole);
            let tree = Tree::of_devices("", &devices);
            let sensors = find_sensors(tree.root());
            let found = read_celsius(&sensors).map(|(value, name)| format!("{value} {name}"));
            assert_eq!(found.as_deref().unwrap_or("-"), expected.trim(), "{line}");
        }
    }

    #[test]
    fn implausible_readings_are_none() {
        let tree = Tree::of_devices("", "hwmon/hwmon0 name=cpu_thermal temp1_input=149999");
        let sensors = find_sensors(tree.root());
        assert_eq!(read_celsius(&sensors), Some((149.999, "cpu_thermal")));
        let bad = ["0", "255", "255000", "150000", "-8000", "999", "max", "4.5"];
        for content in bad.map(str::as_bytes).into_iter().chain(GARBAGE) {
            tree.put("sys/class/hwmon/hwmon0/temp1_input", content);
            assert_eq!(read_celsius(&sensors), None, "{content:?}");
        }
        for content in GARBAGE {
            tree.put("sys/class/hwmon/hwmon0/name", content);
            tree.put("sys/class/thermal/thermal_zone0/type", content);
            assert_eq!(read_celsius(&find_sensors(tree.root())), None);
        }
    }

    #[test]
    fn a_device_that_takes_the_number_is_not_read() {
        let tree = Tree::new(&[("sys/class/hwmon/", "")]);
        for (name, value) in [("coretemp", "50000"), ("nvme", "40000")] {
            tree.put(&format!("sys/devices/{name}/hwmon0/name"), name);
            tree.put(&format!("sys/devices/{name}/hwmon0/temp1_input"), value);
        }
        tree.link("sys/class/hwmon/hwmon0", "../../devices/coretemp/hwmon0");
        let sensors = find_sensors(tree.root());
        tree.remove("sys/class/hwmon/hwmon0");
        tree.link("sys/class/hwmon/hwmon0", "../../devices/nvme/hwmon0");
        assert_eq!(read_celsius(&sensors), Some((50.0, "coretemp")));
    }

    /// Expected: power, kind of machine, charge; then its supplies. Two are shared/cases/typec-idle-port as it is, and with
    /// the phone in the other port; the others are made up after what laptops, tablets and UPSes show. The last are a ThinkPad
    /// that drains its second battery first (jaor/xmobar #315), a tablet that counts charge (sebanc/brunch #117), two such
    /// batteries, a desktop with a mouse (AdnanHodzic/auto-cpufreq #327), and a laptop whose mains are not seen
    /// (rickysarraf/laptop-mode-tools #91).
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
        mains  desktop 100 | UPS0 type=UPS online=1 status=Full capacity=100
        battery laptop  5 | AC type=Mains online=0; BAT0 type=Battery status=Discharging present=1 capacity=9 energy_now=2420000 energy_full=25860000; BAT1 type=Battery status=Unknown present=1 capacity=0 energy_now=0 energy_full=20000000
        battery laptop 74 | BATC type=Battery status=Discharging present=1 capacity=74 charge_now=5920000 charge_full=8000000
        battery laptop 40 | BAT0 type=Battery status=Discharging charge_now=3000000 charge_full=4000000; BAT1 type=Battery status=Not+charging charge_now=800000 charge_full=2000000
        battery laptop 25 | B type=Battery status=Discharging energy_now=10000 energy_full=40000
        battery laptop - | B type=Battery status=Discharging capacity_level=Low
        mains laptop 80 | wireless type=Wireless online=1; B type=Battery status=Charging capacity=80
        battery laptop 47 | BATT type=Battery scope=System status=Discharging capacity=47; hid type=Battery capacity=90 status=Discharging scope=Device
        battery laptop 12 | ADP type=Mains online=0; BAT0 type=Battery status=Not+charging capacity=12 present=1; BAT1 type=Battery status=Discharging capacity=60 present=1
        mains   desktop - | hidpp_battery_0 type=Battery online=1 scope=Device status=Discharging capacity=5
        mains   laptop 60 | BAT0 type=Battery status=Not+charging capacity=60; hid type=Battery scope=Device present=1 status=Discharging capacity=9";

    fn shown(root: &Path) -> String {
        let (has_battery, on_battery, charge) = read_power(root);
        let charge = charge.map(|charge| charge.to_string());
        let feed = ["mains", "battery"][usize::from(on_battery)];
        let kind = ["desktop", "laptop"][usize::from(has_battery)];
        format!("{feed} {kind} {}", charge.as_deref().unwrap_or("-"))
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
            let files = "type online status present capacity scope energy_now";
            for name in files.split(' ') {
                tree.put(&format!("sys/class/power_supply/BAT0/{name}"), content);
            }
            assert_eq!(shown(tree.root()), "mains desktop -");
            tree.put("sys/class/power_supply/BAT0/type", "Battery");
            tree.put("sys/class/power_supply/BAT0/status", "Discharging");
            assert_eq!(shown(tree.root()), "battery laptop -");
        }
    }
}
