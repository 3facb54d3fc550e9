//! How much memory there is, so that a job that cannot fit is refused before it begins.

/// Taken for the memory of a machine that does not tell.
const USUAL: u64 = 64 << 30;

/// The memory of this machine in bytes, or of the part of it that this process may use, where the system tells it.
pub fn of_this_machine() -> Option<u64> {
    let of_group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .min();
    let of_all = total()?;
    Some(of_group.map_or(of_all, |of_group: u64| of_all.min(of_group)))
}

/// All memory of this machine in bytes, where the system tells it in `/proc`.
pub fn total() -> Option<u64> {
    total_of(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// The line `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(about: &str) -> Option<u64> {
    let line = about.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Refuses to hold `count` things of `bytes` each if there is no such memory.
pub fn check(count: usize, bytes: usize) -> Result<(), String> {
    let (needed, there) = (count as u128 * bytes as u128, of_this_machine().unwrap_or(USUAL));
    if needed <= u128::from(there) {
        return Ok(());
    }
    Err(format!("about {} of memory are needed, and there are {}", in_words(needed), in_words(u128::from(there))))
}

fn in_words(bytes: u128) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_can_hold_is_refused_with_both_numbers() {
        check(1000, 1000).unwrap();
        let said = check(usize::MAX, 1 << 20).unwrap_err();
        assert!(said.contains("EiB of memory are needed") && said.contains("and there are"), "{said}");
    }

    #[test]
    fn the_total_is_read() {
        assert_eq!(total_of("MemTotal:       24 kB\nMemFree: 3 kB\n"), Some(24 * 1024));
        assert_eq!(total_of("MemFree: 3 kB\n"), None);
        assert_eq!(in_words(1536), "1.5 KiB");
    }
}
