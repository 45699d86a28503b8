//! The temperature of the CPU package, and nothing else: a sensor of a disk, graphics or radio device is never read,
//! because the read may wake the device. Sensors are found once (their names and labels cost no wake-up) and read each
//! tick: those that are known to be the processor's, else the zones of the chip that it is on.

use super::files::{self, read_word};
use crate::units::float;
use std::path::{Path, PathBuf};

/// Sensors without a value say 0, 255 or a negative number; a CPU at 150 °C is none.
const PLAUSIBLE_MILLIDEGREES: std::ops::Range<u64> = 1_000..150_000;

/// What words begin with in the names of zones of the chip that the processor is on.
const CHIP: [&str; 6] = ["soc", "package", "core", "cluster", "big", "little"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Input {
    /// The least one that gives a value is believed.
    rank: u8,
    name: String,
    path: PathBuf,
}

/// By rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sensors {
    inputs: Vec<Input>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading<'a> {
    pub celsius: f64,
    /// The driver's or zone's name.
    pub sensor: &'a str,
}

impl Sensors {
    pub fn discover(root: &Path) -> Sensors {
        let class = root.join("sys/class/hwmon");
        let mut inputs = Vec::new();
        for device in files::read_names(&class) {
            inputs.extend(find_inputs(&class.join(device)));
        }
        let class = root.join("sys/class/thermal");
        let names = files::read_names(&class).into_iter();
        for zone in names.filter(|name| name.starts_with("thermal_zone")) {
            let name = read_word(&class.join(&zone).join("type")).unwrap_or_default();
            let path = fixed(&class.join(zone)).join("temp");
            inputs.extend(rank_of(&name).map(|rank| Input { rank, name, path }));
        }
        inputs.sort_by_key(|input| input.rank);
        Sensors { inputs }
    }

    /// The hottest of the best sensors; `None` where none gives a plausible value.
    pub fn read(&self) -> Option<Reading<'_>> {
        let read = |input: &Input| {
            let value = files::read_u64(&input.path);
            value.filter(|value| PLAUSIBLE_MILLIDEGREES.contains(value))
        };
        let mut ranks = self.inputs.chunk_by(|a, b| a.rank == b.rank);
        ranks.find_map(|inputs| {
            let readings = inputs
                .iter()
                .filter_map(|input| read(input).zip(Some(input)));
            let (value, input) = readings.max_by_key(|(value, _)| *value)?;
            Some(Reading {
                celsius: float(value) / 1000.0,
                sensor: &input.name,
            })
        })
    }
}

/// The processor's inputs of one hwmon device: those with the best label; none for a device that is not of it.
fn find_inputs(device: &Path) -> Vec<Input> {
    let name = read_word(&device.join("name")).unwrap_or_default();
    let (rank, labels): (u8, &[&str]) = match (name.as_str(), rank_of(&name)) {
        ("coretemp", _) => (0, &["Package id", "Core ", ""]),
        // Tctl is up to 27 °C above the truth on some models.
        ("k10temp" | "zenpower", _) => (0, &["Tdie", "Tctl", ""]),
        (_, Some(rank)) => (rank, &[""]),
        // The controller of a board (of Dell, ThinkPad, Asus …) may say so of one of its inputs.
        (_, None) => (1, &["CPU "]),
    };
    let device = fixed(device);
    let input_of = |sensor: &str| Input {
        rank,
        name: name.clone(),
        path: device.join(format!("{sensor}_input")),
    };
    let files = files::read_names(&device);
    let sensors = files.iter().filter_map(|file| file.strip_suffix("_input"));
    let with = |start: &&str| -> Vec<Input> {
        let is_labelled = |sensor: &&str| {
            let label = read_word(&device.join(format!("{sensor}_label"))).unwrap_or_default();
            sensor.starts_with("temp") && (label + " ").starts_with(start)
        };
        sensors.clone().filter(is_labelled).map(input_of).collect()
    };
    let mut found = labels.iter().map(with);
    found.find(|inputs| !inputs.is_empty()).unwrap_or_default()
}

/// By a name such as "x86_pkg_temp", "cpu0-thermal" (1: the processor), "bigcore0-thermal", "SOC0-therm" (2: its chip).
fn rank_of(name: &str) -> Option<u8> {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphabetic());
    let is_of_chip = |word: &str| CHIP.iter().any(|start| word.starts_with(start));
    match name {
        _ if name.contains("gpu") => None,
        _ if name.contains("cpu") || name.contains("pkg") => Some(1),
        _ if words.any(is_of_chip) => Some(2),
        _ => None,
    }
}

/// The device's own directory: the number in hwmon3 may be another device's after a module was loaded again, which must not be read.
fn fixed(class_entry: &Path) -> PathBuf {
    std::fs::canonicalize(class_entry).unwrap_or_else(|_| class_entry.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};
    /// Degrees and the sensor; then the devices. Two are shared/cases/heat-soc-zones (RK3588, RK3328), then boards by
    /// NVIDIA, Qualcomm, MediaTek, Intel (Bay Trail) and a Dell laptop; never a disk, graphics or radio device.
    const MACHINES: &str = "
        - | 
        62.5 coretemp | PACKAGE; hwmon/hwmon1 name=coretemp temp1_label=Package+id+1 temp1_input=62500; NVME; AMD; ZONE
        51 coretemp | PACKAGE; NVME
        70 k10temp | hwmon/hwmon0 name=k10temp temp1_label=Tctl temp1_input=90000 temp2_label=Tdie temp2_input=70000
        44 k10temp | hwmon/hwmon0 name=k10temp temp1_input=44000
        43 coretemp | hwmon/hwmon0 name=coretemp temp2_label=Core+0 temp2_input=41000 temp3_label=Core+1 temp3_input=43000
        48 cpu0-thermal | NVME; RADIO; BOARD; ZONE; thermal/thermal_zone3 type=gpu-thermal temp=58000
        48 cpu0-thermal | hwmon/hwmon0 name=coretemp temp1_input=255; ZONE
        55 x86_pkg_temp | thermal/thermal_zone0 type=x86_pkg_temp temp=55000; BOARD
        - | NVME; hwmon/hwmon3 name=drivetemp temp1_input=80000; AMD; RADIO; BOARD; thermal/cooling_device0 type=cpufreq-cpu0 temp=9000
        - | hwmon/hwmon0 name=coretemp
        92.5 bigcore0-thermal | hwmon/hwmon0 name=package_thermal temp1_input=91000; thermal/thermal_zone1 type=bigcore0-thermal temp=92500; thermal/thermal_zone0 type=package-thermal temp=91000; hwmon/hwmon3 name=gpu_thermal temp1_input=98000
        88 soc-thermal | thermal/thermal_zone0 type=soc-thermal temp=88000; hwmon/hwmon0 name=soc_thermal temp1_input=88000
        61 CPU-therm | thermal/thermal_zone0 type=CPU-therm temp=61000; thermal/thermal_zone1 type=GPU-therm temp=70000; thermal/thermal_zone2 type=tj-thermal temp=75000
        77 cpu-1-2-usr | thermal/thermal_zone0 type=cpu-0-0-usr temp=70000; thermal/thermal_zone1 type=cpu-1-2-usr temp=77000; thermal/thermal_zone2 type=modem temp=90000
        66 mtktscpu | thermal/thermal_zone0 type=mtktspmic temp=90000; thermal/thermal_zone1 type=mtktscpu temp=66000
        58 soc_dts1 | thermal/thermal_zone0 type=soc_dts0 temp=57000; thermal/thermal_zone1 type=soc_dts1 temp=58000
        64 dell_smm | hwmon/hwmon2 name=dell_smm temp1_label=CPU temp1_input=64000 temp2_label=Ambient temp2_input=70000; BOARD";

    const SHORT: [(&str, &str); 6] = [
        ("NVME", "hwmon/hwmon2 name=nvme temp1_input=80000"),
        (
            "AMD",
            "hwmon/hwmon4 name=amdgpu temp1_label=Package+id+9 temp1_input=81000",
        ),
        ("RADIO", "thermal/thermal_zone0 type=iwlwifi_1 temp=66000"),
        ("BOARD", "thermal/thermal_zone1 type=acpitz temp=67000"),
        ("ZONE", "thermal/thermal_zone2 type=cpu0-thermal temp=48000"),
        (
            "PACKAGE",
            "hwmon/hwmon0 name=coretemp temp1_label=Package+id+0 temp1_input=51000 temp2_label=Core+0 temp2_input=90000",
        ),
    ];

    #[test]
    fn machines() {
        for line in MACHINES.trim().lines() {
            let (expected, devices) = line.split_once('|').unwrap();
            let whole = |text: String, (short, long): (&str, &str)| text.replace(short, long);
            let devices = SHORT.into_iter().fold(devices.to_owned(), whole);
            let tree = Tree::of_devices("", &devices);
            let sensors = Sensors::discover(tree.root());
            let found = sensors
                .read()
                .map(|found| format!("{} {}", found.celsius, found.sensor));
            assert_eq!(found.as_deref().unwrap_or("-"), expected.trim(), "{line}");
        }
    }

    #[test]
    fn implausible_readings_are_none() {
        let tree = Tree::of_devices("", "hwmon/hwmon0 name=cpu_thermal temp1_input=149999");
        let sensors = Sensors::discover(tree.root());
        assert_eq!(sensors.read().map(|found| found.celsius), Some(149.999));
        let bad = ["0", "255", "255000", "150000", "-8000", "999", "max", "4.5"];
        for content in bad.map(str::as_bytes).into_iter().chain(GARBAGE) {
            tree.put("sys/class/hwmon/hwmon0/temp1_input", content);
            assert_eq!(sensors.read(), None, "{content:?}");
        }
        for content in GARBAGE {
            tree.put("sys/class/hwmon/hwmon0/name", content);
            tree.put("sys/class/thermal/thermal_zone0/type", content);
            assert_eq!(Sensors::discover(tree.root()).read(), None);
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
        let sensors = Sensors::discover(tree.root());
        tree.remove("sys/class/hwmon/hwmon0");
        tree.link("sys/class/hwmon/hwmon0", "../../devices/nvme/hwmon0");
        assert_eq!(sensors.read().map(|found| found.celsius), Some(50.0));
    }
}
