//! The signals that ask a training to stop.

use std::io;

/// Calls `act` in a thread of its own whenever Ctrl-C, SIGTERM or SIGHUP comes. Where hang-ups are ignored, as `nohup`
/// has it, they still are.
#[cfg(unix)]
pub fn on_stop(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::low_level::pipe::register;

    let (mut came, signals) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if signal != SIGHUP || !is_ignored(SIGHUP) {
            register(signal, signals.try_clone()?)?;
        }
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while came.read_exact(&mut [0]).is_ok() {
            act();
        }
    })?;
    Ok(())
}

/// Whether the process was started with this signal ignored, where the system tells it in `/proc`.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Calls `act` in a thread of its own whenever Ctrl-C comes.
#[cfg(not(unix))]
pub fn on_stop(act: impl FnMut() + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(act).map_err(io::Error::other)
}
