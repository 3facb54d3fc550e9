//! `ddpm-infer devices`: the backends of this build, and the devices of this machine.

use ddpm_console::output::print;
use ddpm_device::device::{self, Presence};

/// List the backends of this build and the devices of this machine.
#[derive(clap::Args, Debug)]
pub struct DevicesArgs {}

/// Prints a table: a row for each working device, and for each backend without one.
pub fn run(_: &DevicesArgs) -> anyhow::Result<()> {
    let mut rows = vec![["backend", "--device", "name", "memory"].map(String::from)];
    for (backend, presence) in device::survey() {
        match presence {
            Presence::NotCompiledIn => {
                let hint = format!("not compiled in: --features {backend}");
                rows.push([backend.into(), "-".into(), hint, "-".into()]);
            }
            Presence::NoDevice(reason) => {
                rows.push([backend.into(), "-".into(), format!("no device: {reason}"), "-".into()]);
            }
            Presence::Devices(devices) => rows.extend(devices.into_iter().map(|open| {
                let memory = open.memory_gib().map_or("unknown".into(), |gib| format!("{gib:.0} GiB"));
                [backend.into(), open.name.clone(), open.hardware(), memory]
            })),
        }
    }
    let widths: [usize; 4] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; 4]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        format!("{}\n", cells.trim_end())
    };
    print(&rows.iter().map(line).collect::<String>())
}
