//! What the system tells of this process, read from `/proc`; where there is none, nothing is told.

use std::fs;

use crate::telemetry::picture::Process;

/// How many ticks a second has in `/proc`; the kernel says so whatever its own clock does (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Looks at this process. `None` where the system does not tell.
pub fn look() -> Option<Process> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).ok();
    let (stat, status) = (read("self/stat")?, read("self/status")?);
    // The name of the program stands in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).map(|ticks| ticks / TICKS);
    let booted: f64 = line(&read("stat")?, "btime ")?.parse().ok()?;
    let kib = |name| line(&status, name).and_then(|value| value.strip_suffix("kB")?.trim_end().parse::<u64>().ok());
    Some(Process {
        cpu_seconds: ticks(11)? + ticks(12)?,
        start_seconds: booted + ticks(19)?,
        virtual_bytes: kib("VmSize:")? * 1024,
        resident_bytes: kib("VmRSS:")? * 1024,
        threads: line(&status, "Threads:")?.parse().ok()?,
        // One of them is that by which they are counted.
        open_fds: u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?.saturating_sub(1),
        max_fds: line(&read("self/limits")?, "Max open files")?
            .split_whitespace()
            .next()
            .map_or(0, |most| most.parse().unwrap_or(u64::MAX)),
    })
}

/// What follows `name` on its line.
fn line<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_of_this_test_is_seen_to_run() {
        let process = super::look().expect("a process");
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.threads >= 1 && process.open_fds >= 3 && process.max_fds >= process.open_fds, "{process:?}");
        assert!(process.start_seconds > 1.6e9 && process.cpu_seconds >= 0.0, "{process:?}");
    }
}
