//! CPU time and memory of a process and all that it started, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// The kernel counts CPU time for user space in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Resident and proportional memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
}

/// The process and its living descendants.
pub(crate) fn members(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all_processes() {
        if let Some(parent) = stat_field(pid, 4) {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// CPU time of the tree so far, of children that have ended and been waited for too.
pub(crate) fn cpu_time(root: u32) -> Duration {
    let ticks: u64 = members(root)
        .into_iter()
        .flat_map(|pid| (14..=17).map(move |field| stat_field(pid, field).unwrap_or_default()))
        .sum();
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

pub(crate) fn memory(root: u32) -> Memory {
    members(root).into_iter().map(memory_of).fold(Memory::default(), |sum, one| Memory {
        rss_kib: sum.rss_kib + one.rss_kib,
        pss_kib: sum.pss_kib + one.pss_kib,
    })
}

fn memory_of(pid: u32) -> Memory {
    // A process that has just ended counts nothing.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
    };
    Memory { rss_kib: field("Rss:"), pss_kib: field("Pss:") }
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A numeric field of `/proc/PID/stat`, counted from 1 as in the manual; the name before it may hold anything.
fn stat_field(pid: u32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}

/// What must not grow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Size {
    pub(crate) memory: Memory,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    pub(crate) processes: u64,
}

pub(crate) fn size(root: u32) -> Size {
    let entries = |pid: u32, folder: &str| {
        fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, |entries| entries.count() as u64)
    };
    members(root).into_iter().fold(Size::default(), |mut sum, pid| {
        let memory = memory_of(pid);
        sum.memory.rss_kib += memory.rss_kib;
        sum.memory.pss_kib += memory.pss_kib;
        sum.descriptors += entries(pid, "fd");
        sum.threads += entries(pid, "task");
        sum.processes += 1;
        sum
    })
}
