//! CPU time and memory of a process and all that it started, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The kernel counts CPU time for user space in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Resident and proportional memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
}

/// What must not grow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Size {
    pub(crate) memory: Memory,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    pub(crate) processes: u64,
}

/// Where the kernel says it.
const PROC: Proc<'static> = Proc("/proc");

/// The process and its living descendants; itself first.
pub(crate) fn members(root: u32) -> Vec<u32> {
    PROC.members(root)
}

/// CPU time of the tree so far, of children that have ended and been waited for too.
pub(crate) fn cpu_time(root: u32) -> Duration {
    PROC.cpu_time(root)
}

pub(crate) fn memory(root: u32) -> Memory {
    PROC.memory(root)
}

pub(crate) fn size(root: u32) -> Size {
    PROC.size(root)
}

/// Gone, or waiting for its parent to notice.
pub(crate) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(PROC.file(pid, "stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// A folder like `/proc`.
#[derive(Clone, Copy)]
struct Proc<'a>(&'a str);

impl Proc<'_> {
    fn members(self, root: u32) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in self.all() {
            if let Some(parent) = self.stat_field(pid, 4) {
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

    fn cpu_time(self, root: u32) -> Duration {
        let fields = |pid| (14..=17).map(move |field| self.stat_field(pid, field).unwrap_or_default());
        let ticks: u64 = self.members(root).into_iter().flat_map(fields).sum();
        TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    fn memory(self, root: u32) -> Memory {
        self.members(root).into_iter().map(|pid| self.memory_of(pid)).fold(Memory::default(), |sum, one| {
            Memory { rss_kib: sum.rss_kib + one.rss_kib, pss_kib: sum.pss_kib + one.pss_kib }
        })
    }

    fn size(self, root: u32) -> Size {
        let entries =
            |pid: u32, folder: &str| fs::read_dir(self.file(pid, folder)).map_or(0, |all| all.count() as u64);
        self.members(root).into_iter().fold(Size::default(), |mut sum, pid| {
            let memory = self.memory_of(pid);
            sum.memory.rss_kib += memory.rss_kib;
            sum.memory.pss_kib += memory.pss_kib;
            sum.descriptors += entries(pid, "fd");
            sum.threads += entries(pid, "task");
            sum.processes += 1;
            sum
        })
    }

    fn memory_of(self, pid: u32) -> Memory {
        // A process that has just ended counts nothing.
        let rollup = fs::read_to_string(self.file(pid, "smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
        };
        Memory { rss_kib: field("Rss:"), pss_kib: field("Pss:") }
    }

    fn all(self) -> Vec<u32> {
        let entries = fs::read_dir(self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// A numeric field of `stat`, counted from 1 as in the manual; the name before it may hold anything.
    fn stat_field(self, pid: u32, number: usize) -> Option<u64> {
        let stat = fs::read_to_string(self.file(pid, "stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split_whitespace().nth(number - 3)?.parse().ok()
    }

    fn file(self, pid: u32, name: &str) -> std::path::PathBuf {
        Path::new(self.0).join(pid.to_string()).join(name)
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// A process with this parent, user and system ticks, those of its ended children, and memory.
    fn process(proc: &Path, pid: u32, parent: u32, ticks: [u64; 4], [rss, pss]: [u64; 2]) {
        let folder = proc.join(pid.to_string());
        fs::create_dir_all(folder.join("task/1")).unwrap();
        fs::create_dir_all(folder.join("fd/0")).unwrap();
        let [user, system, children_user, children_system] = ticks;
        // A name with all that could mislead who reads it.
        let stat = format!(
            "{pid} (a) b (c 9) R {parent} 1 1 0 -1 4194304 11 12 13 14 {user} {system} {children_user} \
             {children_system} 20 0 1 0 77 1 2\n"
        );
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("smaps_rollup"), format!("x [rollup]\nRss: {rss} kB\nPss: {pss} kB\n"))
            .unwrap();
    }

    #[test]
    fn times_and_memory_of_a_tree_are_those_of_all_its_members_and_of_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        process(path, 10, 1, [1, 2, 4, 8], [100, 10]);
        process(path, 11, 10, [16, 0, 0, 0], [200, 20]);
        process(path, 12, 11, [0, 32, 0, 64], [300, 30]);
        process(path, 13, 1, [1000, 1000, 1000, 1000], [1000, 1000]);
        fs::create_dir(path.join("self")).unwrap();
        let proc = Proc(path.to_str().unwrap());
        assert_eq!(proc.members(10), [10, 11, 12]);
        assert_eq!(proc.cpu_time(10), Duration::from_millis(10 * (1 + 2 + 4 + 8 + 16 + 32 + 64)));
        let memory = Memory { rss_kib: 600, pss_kib: 60 };
        assert_eq!(proc.memory(10), memory);
        assert_eq!(proc.size(10), Size { memory, descriptors: 3, threads: 3, processes: 3 });
        assert_eq!(proc.cpu_time(13), Duration::from_secs(40));
        assert_eq!((proc.cpu_time(99), proc.memory(99)), (Duration::ZERO, Memory::default()));
    }

    /// A grandchild that has ended and one that lives have both burnt what they say; the kernel counts at least as much.
    #[test]
    fn the_kernel_counts_ended_and_living_descendants() {
        let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let script = format!("sh -c '{burn}; times'; sh -c '{burn}; times; read wait'");
        let mut child = Command::new("sh")
            .args(["-c", &format!("{script}; :")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(4);
        // `times` prints two lines: of the shell itself, and of its children.
        let own: f64 = lines.step_by(2).map(|line| seconds(&line.unwrap())).sum();
        let counted = cpu_time(child.id()).as_secs_f64();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(own > 0.02, "{own}");
        assert!(counted >= own - 0.05 && counted <= own + 1.0, "{counted} of {own}");
    }

    /// Of `0m0.123000s 0m0.010000s`.
    fn seconds(line: &str) -> f64 {
        let one = |text: &str| {
            let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
            minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
        };
        line.split_whitespace().map(one).sum()
    }
}
