//! Sees changes of a handler's sources: its folder with all below, the files it has loaded from elsewhere, files of
//! variables, and what was asked for. By inotify; where the kernel refuses that, by looking now and then.
//!
//! Knows nothing of handlers but the names of their sources.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A burst of saves has ended when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(30);
/// Nor does it last longer.
const BURST_MAX: Duration = Duration::from_millis(150);
/// A handler's file that has gone is expected back for so long: some editors delete and write anew.
const BACK: Duration = Duration::from_millis(500);
/// How often is looked at what inotify does not tell.
const LOOK: Duration = Duration::from_millis(100);
/// The same, where every source has to be looked at.
const LOOK_AT_ALL: Duration = Duration::from_millis(300);
/// Folders that are watched at most; those near the handler come first.
const FOLDERS_MAX: usize = 4096;
/// Files beyond are not looked at, where looking is all there is.
const FILES_MAX: usize = 2000;
/// Files from elsewhere that are watched at most.
const NAMED_MAX: usize = 10_000;
/// Bytes of the list of loaded sources that are read.
const LIST_BYTES_MAX: usize = 4 << 20;
/// Folders that hold no sources of the user's.
const SKIPPED: &[&str] = &["__pycache__", "node_modules", "target", "venv", "site-packages"];

/// What of a folder counts; more includes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// Files that are named.
    Named,
    /// Sources, also in folders below.
    Sources,
    /// Every file, also in folders below.
    Everything,
}

/// What to watch.
#[derive(Debug, Default)]
pub(super) struct Subject {
    /// The handler's file or folder; without it nothing ever changes.
    pub(super) handler: Option<PathBuf>,
    /// Endings of its sources.
    pub(super) endings: Vec<String>,
    /// The folder that its sources are below; none: that of the handler.
    pub(super) root: Option<PathBuf>,
    /// Files that count whatever they are called, and folders in which every file does.
    pub(super) more: Vec<PathBuf>,
    /// The file in which the shim lists what it has loaded, one path a line.
    pub(super) source_list: Option<PathBuf>,
}

/// Watches a subject.
pub(super) struct Watch {
    subject: Subject,
    named: HashSet<PathBuf>,
    folders: HashMap<i32, (PathBuf, Scope)>,
    inotify: Option<AsyncFd<OwnedFd>>,
    /// Where inotify does not tell all.
    seen: Option<Vec<(PathBuf, SystemTime, u64)>>,
    /// A change that nobody has been told of.
    pending: Option<PathBuf>,
    /// The handler's file was not there at the start.
    absent: bool,
}

impl Watch {
    /// Watches from now on.
    pub(super) fn new(subject: Subject) -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io::Error::from);
        let inotify = inotify.and_then(register).ok();
        let absent = subject.handler.as_ref().is_some_and(|file| !file.exists());
        let mut watch = Self {
            named: HashSet::new(),
            folders: HashMap::new(),
            seen: None,
            pending: None,
            absent,
            inotify,
            subject,
        };
        if let Some(handler) = watch.subject.handler.clone() {
            // The name that was given may be a link, which may get another target.
            watch.name(&handler);
            if let Some(root) = watch.root() {
                watch.add(&root, Scope::Sources);
            }
        }
        for path in watch.subject.more.clone() {
            if path.is_dir() { watch.add(&path, Scope::Everything) } else { watch.name(&path) }
        }
        if let Some(list) = watch.subject.source_list.clone() {
            watch.name(&list);
        }
        if watch.inotify.is_none() {
            watch.look_at_all();
        }
        watch
    }

    fn root(&self) -> Option<PathBuf> {
        if let Some(root) = &self.subject.root {
            return Some(root.clone());
        }
        let handler = self.subject.handler.as_ref()?.canonicalize().ok()?;
        if handler.is_dir() { Some(handler) } else { handler.parent().map(Path::to_owned) }
    }

    /// Watches files that a message names by their whole path, as tracebacks do.
    pub(super) fn add_named_in(&mut self, message: &str) {
        let separators = |c: char| c.is_whitespace() || "\"'(),<>`".contains(c);
        for word in message.split(separators).filter(|word| word.starts_with('/')) {
            let numbers = |c: char| c.is_ascii_digit() || c == ':';
            let path = Path::new(word.trim_end_matches(numbers));
            if path.is_file() && !is_foreign(path) {
                self.name(path);
            }
        }
    }

    /// A file that counts, whatever it is called, and the one behind it if it is a link.
    fn name(&mut self, file: &Path) {
        let real = file.canonicalize().ok().filter(|real| real != file);
        for path in std::iter::once(file).chain(real.as_deref()) {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            let (Ok(folder), Some(name)) = (folder.canonicalize(), path.file_name()) else { continue };
            if self.named.len() < NAMED_MAX && self.named.insert(folder.join(name)) {
                self.add(&folder, Scope::Named);
            }
        }
    }

    /// Watches a folder; of sources also what is below, what is near first. Links are followed; a folder is watched once.
    fn add(&mut self, folder: &Path, scope: Scope) {
        let Ok(folder) = folder.canonicalize() else { return };
        let mut folders = VecDeque::from([folder]);
        while let Some(folder) = folders.pop_front() {
            if self.folders.len() >= FOLDERS_MAX || !self.register(&folder, scope) || scope == Scope::Named {
                continue;
            }
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let is_folder = entry
                    .file_type()
                    .is_ok_and(|kind| kind.is_dir() || kind.is_symlink() && entry.path().is_dir());
                if is_folder && !is_skipped(&entry.path()) {
                    folders.push_back(entry.path());
                }
            }
        }
    }

    /// Whether it is new, or more of it counts now.
    fn register(&mut self, folder: &Path, scope: Scope) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(inotify.get_ref(), folder, flags) {
            Ok(descriptor) => {
                let before = self.folders.get(&descriptor).map(|(_, scope)| *scope);
                let scope = before.map_or(scope, |before| before.max(scope));
                self.folders.insert(descriptor, (folder.to_owned(), scope));
                before.is_none_or(|before| before < scope)
            }
            // A folder that has gone, or may not be read, holds no sources. All else is a limit of the kernel's.
            Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => false,
            Err(_) => {
                if self.seen.is_none() {
                    self.look_at_all();
                }
                false
            }
        }
    }

    fn look_at_all(&mut self) {
        self.seen = Some(self.snapshot());
    }

    /// All sources with what tells a change.
    fn snapshot(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let mut found: Vec<PathBuf> = self.named.iter().cloned().collect();
        let mut folders = VecDeque::from_iter(self.root());
        let mut looked_into = 0;
        while let Some(folder) = folders.pop_front() {
            looked_into += 1;
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if looked_into < FOLDERS_MAX && !is_skipped(&path) {
                        folders.push_back(path);
                    }
                } else if found.len() < FILES_MAX && self.is_source(&path) {
                    found.push(path);
                }
            }
        }
        let mut seen: Vec<_> = found
            .into_iter()
            .filter_map(|path| {
                let metadata = std::fs::metadata(&path).ok()?;
                Some((path, metadata.modified().ok()?, metadata.len()))
            })
            .collect();
        seen.sort();
        seen.dedup();
        seen
    }

    fn is_source(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let ending = path.extension().unwrap_or_default();
        !name.starts_with(b".") && self.subject.endings.iter().any(|source| ending == OsStr::new(source))
    }

    /// Waits until a source has changed, appeared or gone, and the burst is over that the change belongs to. Without a
    /// handler, for ever. May be dropped and called again; nothing is lost.
    pub(super) async fn changed(&mut self) -> PathBuf {
        if self.subject.handler.is_none() {
            std::future::pending::<()>().await;
        }
        while self.pending.is_none() {
            self.wait().await;
        }
        let end = Instant::now() + BURST_MAX;
        while Instant::now() < end {
            // More may come, whatever it is.
            if timeout(QUIET, self.wait()).await.is_err() {
                break;
            }
        }
        let back = Instant::now() + BACK;
        let handler = self.subject.handler.clone().unwrap_or_default();
        while !handler.exists() && Instant::now() < back {
            drop(timeout_at(back, sleep(QUIET)).await);
        }
        self.pending.take().unwrap_or(handler)
    }

    /// Waits until there is something to look at, and looks.
    async fn wait(&mut self) {
        let pause = match (self.absent, &self.seen) {
            (true, _) => Some(LOOK),
            (false, Some(_)) => Some(LOOK_AT_ALL),
            (false, None) => None,
        };
        let events = tokio::select! {
            events = read(self.inotify.as_ref()) => events,
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => Vec::new(),
        };
        for event in events {
            if let Some(changed) = self.judge(event) {
                self.pending.get_or_insert(changed);
            }
        }
        if self.absent
            && let Some(handler) = self.subject.handler.as_ref().filter(|file| file.exists())
        {
            self.pending.get_or_insert(handler.clone());
        }
        if let Some(seen) = &self.seen {
            let now = self.snapshot();
            if let Some(changed) = difference(seen, &now) {
                self.pending.get_or_insert(changed);
                self.seen = Some(now);
            }
        }
    }

    /// What has changed by that, if it matters.
    fn judge(&mut self, event: Happened) -> Option<PathBuf> {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.subject.handler.clone();
        }
        let (folder, scope) = self.folders.get(&event.descriptor)?.clone();
        if event.flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            self.folders.remove(&event.descriptor);
            return self.subject.handler.clone().filter(|file| !file.exists());
        }
        let path = folder.join(OsStr::from_bytes(&event.name));
        if event.flags.contains(ReadFlags::ISDIR) {
            return self.judge_folder(&path, scope, event.flags);
        }
        if self.subject.source_list.as_ref().is_some_and(|list| list.file_name() == path.file_name()) {
            self.read_list();
            return None;
        }
        // A file that is being written is complete when it is closed; a link is complete at once.
        let unfinished = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
        };
        if event.flags.contains(ReadFlags::CREATE) && unfinished(&path) {
            return None;
        }
        let counts = match scope {
            Scope::Named => self.named.contains(&path),
            Scope::Sources => self.named.contains(&path) || self.is_source(&path),
            Scope::Everything => !is_skipped(&path),
        };
        counts.then_some(path)
    }

    fn judge_folder(&mut self, path: &Path, scope: Scope, flags: ReadFlags) -> Option<PathBuf> {
        if scope == Scope::Named || is_skipped(path) {
            return None;
        }
        if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            return flags.contains(ReadFlags::MOVED_FROM).then(|| path.to_owned());
        }
        self.add(path, scope);
        // What is in it may have come before it was watched.
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && !is_skipped(&entry.path()) {
                    folders.push(entry.path());
                } else if !is_folder && (scope == Scope::Everything || self.is_source(&entry.path())) {
                    return Some(entry.path());
                }
            }
        }
        None
    }

    fn read_list(&mut self) {
        let Some(list) = &self.subject.source_list else { return };
        let bytes = std::fs::read(list).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(LIST_BYTES_MAX)];
        // The last line may still be being written.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        for line in bytes[..end].split(|byte| *byte == b'\n') {
            let path = Path::new(OsStr::from_bytes(line));
            if path.is_absolute() && !is_foreign(path) {
                self.name(path);
            }
        }
        if self.seen.is_some() {
            self.look_at_all();
        }
    }
}

/// What the kernel says.
struct Happened {
    descriptor: i32,
    flags: ReadFlags,
    name: Vec<u8>,
}

/// Waits for something to happen; for ever where nothing tells.
async fn read(inotify: Option<&AsyncFd<OwnedFd>>) -> Vec<Happened> {
    let Some(inotify) = inotify else { return std::future::pending().await };
    loop {
        let Ok(mut guard) = inotify.readable().await else { return std::future::pending().await };
        if let Ok(Ok(events)) = guard.try_io(|inotify| read_all(inotify.get_ref())) {
            return events;
        }
    }
}

#[expect(
    deprecated,
    reason = "the other way is unsafe; this descriptor is owned, and neither replaced nor closed before"
)]
fn register(inotify: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(inotify)
}

fn read_all(inotify: &OwnedFd) -> io::Result<Vec<Happened>> {
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push(Happened {
                descriptor: event.wd(),
                flags: event.events(),
                name: event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default(),
            }),
            Err(Errno::INTR) => {}
            Err(_) if !events.is_empty() => return Ok(events),
            Err(error) => return Err(error.into()),
        }
    }
}

fn difference(before: &[(PathBuf, SystemTime, u64)], now: &[(PathBuf, SystemTime, u64)]) -> Option<PathBuf> {
    let added = now.iter().find(|source| before.binary_search(source).is_err());
    let gone = || before.iter().find(|(path, ..)| !now.iter().any(|(other, ..)| other == path));
    added.or_else(gone).map(|(path, ..)| path.clone())
}

/// Folders that hold none of the user's sources, and hidden ones, such as those of version control.
fn is_skipped(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_bytes().starts_with(b".")
        || SKIPPED.iter().any(|skipped| name == *skipped)
        || path.join("pyvenv.cfg").exists()
}

/// A file of a package or of the language itself.
fn is_foreign(path: &Path) -> bool {
    let part = |name: &str| path.components().any(|part| part.as_os_str() == name);
    part("node_modules") || part("site-packages") || part("dist-packages") || path.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(handler: &Path) -> Subject {
        Subject { handler: Some(handler.to_owned()), endings: vec!["py".to_owned()], ..Subject::default() }
    }

    async fn sees(watch: &mut Watch, what: &Path, change: impl FnOnce()) {
        change();
        let changed = timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
        assert_eq!(changed, what);
    }

    /// That it saw nothing: a change that counts, made afterwards, is the first it tells of.
    async fn overlooks(watch: &mut Watch, handler: &Path, change: impl FnOnce()) {
        change();
        sees(watch, handler, || std::fs::write(handler, "x").unwrap()).await;
    }

    /// With inotify, and without.
    fn watches(handler: &Path) -> [Watch; 2] {
        let mut without = Watch::new(subject(handler));
        without.inotify = None;
        without.look_at_all();
        [Watch::new(subject(handler)), without]
    }

    #[tokio::test]
    async fn sources_that_change_appear_and_go_are_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let handler = root.join("main.py");
        std::fs::write(&handler, "1").unwrap();
        std::fs::create_dir_all(root.join("package/deep")).unwrap();
        for mut watch in watches(&handler) {
            sees(&mut watch, &handler, || std::fs::write(&handler, "longer").unwrap()).await;
            let (new, moved) = (root.join("new"), root.join("package/deep/moved.py"));
            sees(&mut watch, &moved, || {
                std::fs::write(&new, "1").unwrap();
                std::fs::rename(&new, &moved).unwrap();
            })
            .await;
            sees(&mut watch, &moved, || std::fs::remove_file(&moved).unwrap()).await;
            overlooks(&mut watch, &handler, || {
                std::fs::write(root.join("data.txt"), "1").unwrap();
                std::fs::write(root.join(".main.py.swp"), "1").unwrap();
                std::fs::write(root.join(".hidden.py"), "1").unwrap();
                std::fs::create_dir_all(root.join("node_modules/x")).unwrap();
                std::fs::write(root.join("node_modules/x/y.py"), "1").unwrap();
            })
            .await;
        }
    }

    #[tokio::test]
    async fn folders_that_are_new_files_from_elsewhere_and_what_was_asked_for_count() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, other) = (folder.path().canonicalize().unwrap(), other.path().canonicalize().unwrap());
        let (handler, shared, list) = (root.join("main.py"), other.join("shared.cfg"), other.join("list"));
        for file in [&handler, &shared, &list] {
            std::fs::write(file, "").unwrap();
        }
        std::fs::create_dir(root.join("templates")).unwrap();
        let more = vec![root.join("templates")];
        let mut watch = Watch::new(Subject { more, source_list: Some(list.clone()), ..subject(&handler) });
        let inside = root.join("a/b/new.py");
        sees(&mut watch, &inside, || {
            std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
            std::fs::write(&inside, "").unwrap();
        })
        .await;
        let page = root.join("templates/page.html");
        sees(&mut watch, &page, || std::fs::write(&page, "").unwrap()).await;
        overlooks(&mut watch, &handler, || std::fs::write(&list, format!("{}\n", shared.display())).unwrap())
            .await;
        sees(&mut watch, &shared, || std::fs::write(&shared, "2").unwrap()).await;
        watch.add_named_in(&format!(
            "File \"{}\", line 3\n  at x ({}:3:4)",
            inside.display(),
            shared.display()
        ));
        assert!(watch.named.contains(&inside));
    }

    #[tokio::test]
    async fn a_handler_that_goes_and_comes_back_is_seen_also_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("project");
        let handler = root.join("main.py");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(&handler, "").unwrap();
        let mut watch = Watch::new(subject(&handler));
        std::fs::remove_dir_all(&root).unwrap();
        let changed = timeout(Duration::from_secs(20), watch.changed()).await.unwrap();
        assert_eq!(changed, handler);
        let mut watch = Watch::new(subject(&handler));
        sees(&mut watch, &handler, || {
            std::fs::create_dir(&root).unwrap();
            std::fs::write(&handler, "").unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_link_that_gets_another_target_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["v1", "v2"] {
            std::fs::create_dir(root.join(name)).unwrap();
            std::fs::write(root.join(name).join("main.py"), name).unwrap();
        }
        let link = root.join("main.py");
        std::os::unix::fs::symlink("v1/main.py", &link).unwrap();
        let mut watch = Watch::new(subject(&link));
        sees(&mut watch, &link, || {
            std::os::unix::fs::symlink("v2/main.py", root.join("next")).unwrap();
            std::fs::rename(root.join("next"), &link).unwrap();
        })
        .await;
        let mut watch = Watch::new(subject(&link));
        let target = root.join("v2/main.py");
        sees(&mut watch, &target, || std::fs::write(&target, "3").unwrap()).await;
    }
}
