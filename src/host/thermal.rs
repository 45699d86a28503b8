//! The temperature of the CPU package, and nothing else: a sensor of a disk, graphics or radio device is never read,
//! because the read may wake the device. Sensors are found once (their names and labels cost no wake-up) and read each tick.

use super::files::{self, read_word};
use std::path::{Path, PathBuf};

/// Sensors without a value say 0, 255 or a negative number; a CPU at 150 °C is none.
const PLAUSIBLE_MILLIDEGREES: std::ops::Range<u64> = 1_000..150_000;

/// Drivers of CPU sensors, and what the label of the package's input starts with, the best first. A driver
/// without labels has one input. (Tdie before Tctl, which some AMD models raise by up to 27 °C.)
const DRIVERS: [(&str, &[&str]); 5] = [
    ("coretemp", &["Package id", "Core "]),
    ("k10temp", &["Tdie", "Tctl"]),
    ("zenpower", &["Tdie", "Tctl"]),
    ("cpu_thermal", &[]),
    ("cpu-thermal", &[]),
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sensors {
    inputs: Vec<PathBuf>,
}

impl Sensors {
    /// Finds the CPU's sensors among the hwmon devices, else among the thermal zones.
    pub fn discover(root: &Path) -> Sensors {
        let class = root.join("sys/class/hwmon");
        let devices = files::read_names(&class).into_iter();
        let mut inputs: Vec<PathBuf> = devices
            .flat_map(|name| find_inputs(&class.join(name)))
            .collect();
        if inputs.is_empty() {
            let class = root.join("sys/class/thermal");
            let zones = files::read_names(&class).into_iter();
            inputs = zones
                .map(|name| class.join(name))
                .filter(|zone| read_word(&zone.join("type")).is_some_and(|t| is_cpu_zone(&t)))
                .map(|zone| fixed(&zone).join("temp"))
                .collect();
        }
        Sensors { inputs }
    }

    /// Of the hottest package, in °C; `None` where no sensor gives a plausible value.
    pub fn read_celsius(&self) -> Option<f64> {
        let readings = self.inputs.iter().filter_map(|path| {
            files::read_u64(path).filter(|value| PLAUSIBLE_MILLIDEGREES.contains(value))
        });
        Some(crate::units::float(readings.max()?) / 1000.0)
    }
}

/// The package inputs of one hwmon device; none for a device that is not a CPU.
fn find_inputs(device: &Path) -> Vec<PathBuf> {
    let name = read_word(&device.join("name")).unwrap_or_default();
    let Some((_, wanted)) = DRIVERS.iter().find(|(driver, _)| *driver == name) else {
        return Vec::new();
    };
    let device = fixed(device);
    let labels: Vec<(PathBuf, String)> = files::read_names(&device)
        .iter()
        .filter_map(|file| {
            let sensor = file
                .strip_suffix("_label")
                .filter(|s| s.starts_with("temp"))?;
            let label = read_word(&device.join(file))?;
            Some((device.join(format!("{sensor}_input")), label))
        })
        .collect();
    let with = |start: &&str| -> Vec<PathBuf> {
        let matching = labels.iter().filter(|(_, label)| label.starts_with(start));
        matching.map(|(input, _)| input.clone()).collect()
    };
    let labelled = wanted.iter().map(with).find(|inputs| !inputs.is_empty());
    labelled.unwrap_or_else(|| vec![device.join("temp1_input")])
}

fn is_cpu_zone(kind: &str) -> bool {
    let is_cpu = kind.starts_with("cpu") && kind.ends_with("thermal");
    is_cpu || kind == "x86_pkg_temp"
}

/// The device's own directory: the number in hwmon3 may be another device's after a module was loaded again, which must not be read.
fn fixed(class_entry: &Path) -> PathBuf {
    std::fs::canonicalize(class_entry).unwrap_or_else(|_| class_entry.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    /// "hwmon/hwmon0 name=coretemp temp1_label=Package_id_0" is one device below /sys/class.
    fn machine(devices: &[&str]) -> Tree {
        let tree = Tree::new(&[("sys/class/", "")]);
        for device in devices {
            let (dir, files) = device.split_once(' ').unwrap();
            for file in files.split(' ') {
                let (name, content) = file.split_once('=').unwrap();
                let path = format!("sys/class/{dir}/{name}");
                tree.put(&path, content.replace('_', " ") + "\n");
            }
        }
        tree
    }

    const PACKAGE_0: &str = "hwmon/hwmon0 name=coretemp temp1_label=Package_id_0 temp1_input=51000 temp2_label=Core_0 temp2_input=90000";
    const PACKAGE_1: &str = "hwmon/hwmon1 name=coretemp temp1_label=Package_id_1 temp1_input=62500";
    const CORES: &str = "hwmon/hwmon0 name=coretemp temp2_label=Core_0 temp2_input=41000 temp3_label=Core_1 temp3_input=43000";
    const AMD: &str = "hwmon/hwmon0 name=k10temp temp1_label=Tctl temp1_input=90000 temp2_label=Tdie temp2_input=70000";
    const OLD_AMD: &str = "hwmon/hwmon0 name=k10temp temp1_input=44000";
    const DISK: &str = "hwmon/hwmon2 name=nvme temp1_input=80000";
    const OLD_DISK: &str = "hwmon/hwmon3 name=drivetemp temp1_input=80000";
    const GRAPHICS: &str = "hwmon/hwmon4 name=amdgpu temp1_label=Package_id_9 temp1_input=81000";
    const RADIO: &str = "thermal/thermal_zone0 type=iwlwifi_1 temp=66000";
    const BOARD: &str = "thermal/thermal_zone1 type=acpitz temp=67000";
    const ZONE: &str = "thermal/thermal_zone2 type=cpu0-thermal temp=48000";
    const GRAPHICS_ZONE: &str = "thermal/thermal_zone3 type=gpu-thermal temp=58000";

    #[test]
    fn machines() {
        let cases: [(&[&str], Option<f64>); 9] = [
            (&[], None),
            (&[PACKAGE_0, PACKAGE_1, DISK, GRAPHICS, ZONE], Some(62.5)),
            (&[PACKAGE_0], Some(51.0)),
            (&[AMD, OLD_DISK], Some(70.0)),
            (&[OLD_AMD], Some(44.0)),
            (&[CORES], Some(43.0)),
            (&[OLD_DISK, RADIO, BOARD, ZONE, GRAPHICS_ZONE], Some(48.0)),
            (&[DISK, OLD_DISK, GRAPHICS, RADIO, BOARD], None),
            (&["hwmon/hwmon0 name=coretemp"], None),
        ];
        for (devices, expected) in cases {
            let tree = machine(devices);
            let sensors = Sensors::discover(tree.root());
            assert_eq!(sensors.read_celsius(), expected, "{devices:?}");
        }
    }

    #[test]
    fn the_zone_of_intel_packages() {
        let tree = Tree::new(&[
            ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone0/temp", "55000\n"),
        ]);
        assert_eq!(Sensors::discover(tree.root()).read_celsius(), Some(55.0));
    }

    #[test]
    fn implausible_readings_are_none() {
        let tree = Tree::new(&[("sys/class/hwmon/hwmon0/name", "cpu_thermal\n")]);
        let sensors = Sensors::discover(tree.root());
        let input = "sys/class/hwmon/hwmon0/temp1_input";
        let bad = ["0", "255", "255000", "150000", "-8000", "999", "max", "4.5"];
        for content in bad.map(str::as_bytes).into_iter().chain(GARBAGE) {
            tree.put(input, content);
            assert_eq!(sensors.read_celsius(), None, "{content:?}");
        }
        tree.put(input, "149999\n");
        assert_eq!(sensors.read_celsius(), Some(149.999));
        tree.remove(input);
        assert_eq!(sensors.read_celsius(), None);
        tree.fifo(input);
        assert_eq!(sensors.read_celsius(), None);
    }

    #[test]
    fn a_device_that_takes_the_number_is_not_read() {
        let tree = Tree::new(&[
            (
                "sys/devices/platform/coretemp.0/hwmon/hwmon0/name",
                "coretemp",
            ),
            (
                "sys/devices/platform/coretemp.0/hwmon/hwmon0/temp1_input",
                "50000",
            ),
            ("sys/devices/pci/nvme0/hwmon0/name", "nvme"),
            ("sys/devices/pci/nvme0/hwmon0/temp1_input", "40000"),
            ("sys/class/hwmon/", ""),
        ]);
        let link = "sys/class/hwmon/hwmon0";
        tree.link(link, "../../devices/platform/coretemp.0/hwmon/hwmon0");
        let sensors = Sensors::discover(tree.root());
        tree.remove(link);
        tree.link(link, "../../devices/pci/nvme0/hwmon0");
        assert_eq!(sensors.read_celsius(), Some(50.0));
    }

    #[test]
    fn garbage_in_names_and_types() {
        for content in GARBAGE {
            let tree = Tree::new(&[]);
            tree.put("sys/class/hwmon/hwmon0/name", content);
            tree.put("sys/class/hwmon/hwmon1/name", "coretemp");
            tree.put("sys/class/hwmon/hwmon1/temp1_label", content);
            tree.fifo("sys/class/hwmon/hwmon2/name");
            tree.put("sys/class/thermal/thermal_zone0/type", content);
            let sensors = Sensors::discover(tree.root());
            assert_eq!(sensors.inputs.len(), 1);
            assert_eq!(sensors.read_celsius(), None);
        }
    }
}
