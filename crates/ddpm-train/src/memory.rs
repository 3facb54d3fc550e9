//! What this process keeps in memory.

/// The resident memory in MiB, where the system tells it in `/proc`.
pub fn resident_mib() -> Option<f64> {
    status_mib("VmRSS:")
}

/// The most resident memory so far in MiB, where the system tells it in `/proc`.
pub fn peak_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

fn status_mib(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        let before = resident_mib().unwrap();
        let touched = vec![1_u8; 64 << 20];
        assert!(resident_mib().unwrap() > before + 32.0, "{}", touched.len());
        drop(touched);
        assert!(peak_mib().unwrap() > before + 32.0);
    }
}
