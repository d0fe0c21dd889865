//! What the kernel says of this process and of its children. Read by a scrape, on its thread; nothing is kept up to
//! date in between, so it costs nothing while nobody looks.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::reaper;

/// Processes that one worker is looked through, at most.
const TREE_MAX: usize = 256;

/// Remembers what must not be asked for, or must not go backwards, between two scrapes.
#[derive(Debug)]
pub struct Process {
    started: SystemTime,
    /// Clock ticks of all children so far, at least: one that ends between two looks is counted late, never twice.
    child_ticks: AtomicU64,
}

/// One look at the process.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Usage {
    /// Of the processor alone, user and system.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    /// Highest number of bytes of address space; `u64::MAX`: unlimited.
    pub(super) virtual_max_bytes: u64,
    pub(super) open_fds: u64,
    /// The soft limit; `u64::MAX`: unlimited.
    pub(super) max_fds: u64,
    /// Seconds since 1970.
    pub(super) started: f64,
    /// Children now.
    pub(super) children: u64,
    /// Of all children so far, user and system, with those they have waited for.
    pub(super) children_cpu_seconds: f64,
    /// Of all children now.
    pub(super) children_resident_bytes: u64,
}

/// What we use of `/proc/<pid>/stat`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// Clock ticks of its own, user and system.
    ticks: u64,
    /// Clock ticks of children it has waited for.
    waited_ticks: u64,
    /// Clock ticks from the start of the machine to its own.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Process {
    /// Of this process.
    pub fn new() -> Self {
        Self { started: started().unwrap_or_else(SystemTime::now), child_ticks: AtomicU64::new(0) }
    }

    /// Looks. What cannot be read, without `/proc` for example, is 0.
    pub(super) fn usage(&self) -> Usage {
        let own = stat("self").unwrap_or_default();
        // After our own: a child that ends in between is missing for once, not there twice.
        let children: Vec<Stat> = reaper::children().into_iter().filter_map(stat).collect();
        let ticks = children.iter().map(|child| child.ticks + child.waited_ticks).sum::<u64>();
        let child_ticks = own.waited_ticks + ticks;
        let child_ticks = self.child_ticks.fetch_max(child_ticks, Relaxed).max(child_ticks);
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        let resident = |stat: &Stat| stat.resident_pages * page_size() as u64;
        let limit = |resource| getrlimit(resource).current.unwrap_or(u64::MAX);
        Usage {
            cpu_seconds: seconds(own.ticks),
            resident_bytes: resident(&own),
            virtual_bytes: own.virtual_bytes,
            virtual_max_bytes: limit(Resource::As),
            open_fds: open_fds(),
            max_fds: limit(Resource::Nofile),
            started: self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            children: children.len() as u64,
            children_cpu_seconds: seconds(child_ticks),
            children_resident_bytes: children.iter().map(resident).sum(),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

/// When the kernel says that this process began.
fn started() -> Option<SystemTime> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let began = stat("self")?.start_ticks as f64 / clock_ticks_per_second() as f64;
    let age = Duration::try_from_secs_f64(uptime - began).ok()?;
    SystemTime::now().checked_sub(age)
}

/// Bytes of memory that a process and all it has started have now.
pub fn resident_tree(pid: i32) -> u64 {
    let mut pages = 0;
    let (mut left, mut seen) = (vec![pid], 0);
    while let Some(pid) = left.pop() {
        pages += stat(pid).map_or(0, |stat| stat.resident_pages);
        seen += 1;
        if seen < TREE_MAX {
            left.extend(children_of(pid));
        }
    }
    pages * page_size() as u64
}

/// What any thread of a process has started.
fn children_of(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn stat(pid: impl ToString) -> Option<Stat> {
    let path = Path::new("/proc").join(pid.to_string()).join("stat");
    parse(&std::fs::read_to_string(path).ok()?)
}

/// The name in the second field may hold blanks and brackets, so counting begins behind its last bracket: there stands
/// field 3 of proc_pid_stat(5).
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        ticks: field(14)? + field(15)?,
        waited_ticks: field(16)? + field(17)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// Descriptors now. Newer kernels (6.2) give the number as the size of the directory; elsewhere it is counted, without
/// the one that counts.
fn open_fds() -> u64 {
    let folder = "/proc/self/fd";
    match std::fs::metadata(folder).map_or(0, |meta| meta.len()) {
        0 => std::fs::read_dir(folder).map_or(0, |entries| (entries.count() as u64).saturating_sub(1)),
        count => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_brackets_and_blanks() {
        let text =
            "7 (odd ) name 1 2) S 1 7 7 0 -1 4194560 9 8 7 6 11 22 33 44 20 0 3 0 5000 4096000 55 1 2 3";
        let expected = Stat {
            ticks: 33,
            waited_ticks: 77,
            start_ticks: 5000,
            virtual_bytes: 4_096_000,
            resident_pages: 55,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("7 (cut) S 1 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_process_is_measured_with_what_it_has_started() {
        let own = resident_tree(std::process::id() as i32);
        assert!(own > 100_000, "{own}");
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 600 & wait"]).spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while children_of(pid).is_empty() {
            assert!(std::time::Instant::now() < deadline, "it starts nothing");
        }
        let grandchild = children_of(pid)[0];
        // Neither has all its memory at once: one of them may still be about to become another program.
        while resident_tree(pid) <= stat(pid).unwrap().resident_pages * page_size() as u64 {
            assert!(std::time::Instant::now() < deadline, "its child is not counted");
        }
        for pid in [grandchild, pid] {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
        }
        child.wait().unwrap();
        assert_eq!(resident_tree(pid), 0, "it is gone");
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let process = Process::new();
        let first = process.usage();
        assert!(first.resident_bytes > 100_000 && first.virtual_bytes >= first.resident_bytes, "{first:?}");
        assert!((1..=first.max_fds).contains(&first.open_fds), "{first:?}");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 3600.0..=now + 1.0).contains(&first.started), "{first:?} at {now}");
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(process.usage().open_fds >= 40, "{} files are open", files.len());
        // Burns time until the clock of the kernel has moved.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while process.usage().cpu_seconds <= first.cpu_seconds {
            assert!(std::time::Instant::now() < deadline, "the time of the processor stands still");
        }
    }
}
