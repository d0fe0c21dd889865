//! One process of a shim: spawned, watched, signalled, reaped. What it writes to standard error passes through us, so
//! that its last words can be quoted.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process, waitpid,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::logging::sink::{Stream, Writer};
use crate::metrics::RestartReason;
use crate::reaper::Children;
use crate::runtime::shim::fork_server::ForkServer;
use crate::runtime::shim::v1::Wrapper;

/// Where a shim finds its socket, unless its language cannot adopt that.
pub const SOCKET_FD: i32 = 3;
/// Where the files of an embedded shim begin.
const FIRST_FILE_FD: i32 = 4;
/// Path under which a child opens the first of them.
pub const PROGRAM_PATH: &str = "/proc/self/fd/4";
/// Descriptors of ours that go to a child are kept above those it will see.
const FIRST_FREE_FD: i32 = 10;
/// Bytes of each socket buffer.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;
/// Stack of the thread that has it compiled.
const COMPILE_STACK_BYTES: usize = 256 << 10;
/// Where files of an embedded shim go if they cannot be in memory alone.
const TEMPORARY_FOLDERS: [&str; 5] = ["/dev/shm", "/tmp", "/var/tmp", "/run", "/opt/nuclio"];
/// How often a process is looked at that is about to become our child.
const ADOPTION: Duration = Duration::from_millis(5);
/// Lines of standard error that are kept for messages.
const LAST_WORDS_LINES: usize = 20;
/// Bytes of a kept line.
const LAST_WORDS_LINE_BYTES: usize = 1000;

/// How to start a shim.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Interpreter.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Added to the inherited environment.
    pub environment: Vec<(String, OsString)>,
    /// The program is one of the Go processor's, which has to be driven over protocol 1.
    pub wrapper: Option<Wrapper>,
    /// Bytes of an answer over protocol 1, at most.
    pub answer_bytes_max: usize,
    /// Files of an embedded shim, given as descriptors from 4 on.
    pub files: Vec<Arc<OwnedFd>>,
    /// What workers are forked from; `None`: each is started by itself.
    pub fork_server: Option<Arc<ForkServer>>,
    /// The descriptor that its socket is given as.
    pub socket_fd: i32,
    /// Where its standard error goes.
    pub errors_to: Stream,
}

/// An anonymous file holding a part of an embedded shim.
pub fn anonymous_file(name: &str, content: &[u8]) -> io::Result<Arc<OwnedFd>> {
    match rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(file) => holding(File::from(file), content),
        // Some sandboxes forbid it.
        Err(error) => unlinked_file(&TEMPORARY_FOLDERS, content).ok_or_else(|| error.into()),
    }
}

/// A file without a name in the first of the folders that takes it.
fn unlinked_file(folders: &[&str], content: &[u8]) -> Option<Arc<OwnedFd>> {
    folders.iter().find_map(|folder| {
        let path = Path::new(folder).join(format!(".nuclio-shim-{:016x}", fastrand::u64(..)));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path).ok()?;
        std::fs::remove_file(&path).ok()?;
        holding(file, content).ok()
    })
}

fn holding(mut file: File, content: &[u8]) -> io::Result<Arc<OwnedFd>> {
    io::Write::write_all(&mut file, content)?;
    Ok(Arc::new(file.into()))
}

/// Runs the program of an embedded shim once with the argument `compile`, beside the first workers: it fills the last of
/// the files, whose lock it holds until it ends. Workers that find nothing there do without.
pub fn compile_ahead(program: &Path, options: &[&str], files: &[Arc<OwnedFd>]) -> io::Result<()> {
    let Some((code, others)) = files.split_last() else { return Ok(()) };
    // Opened anew: a lock belongs to an opening, and this one goes to the child alone.
    let code = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", code.as_raw_fd()))?;
    rustix::fs::flock(&code, rustix::fs::FlockOperation::LockExclusive)?;
    let dup = |file: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(file, FIRST_FREE_FD);
    let files = others.iter().map(|file| file.as_fd()).chain([code.as_fd()]).map(dup);
    let files = files.collect::<Result<Vec<OwnedFd>, _>>()?;
    let mut command = std::process::Command::new(program);
    command.args(options).arg(PROGRAM_PATH).arg("compile");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    prepare_child(
        &mut command,
        files.iter().map(AsRawFd::as_raw_fd).zip(FIRST_FILE_FD..FIRST_FREE_FD).collect(),
    );
    // The first worker is spawned at the same time.
    let run = move || {
        let spawned = command.spawn();
        drop((files, code));
        if let Ok(mut child) = spawned {
            drop(child.wait()); // As process 1 the reaper may have been quicker.
        }
    };
    std::thread::Builder::new().name("compile".into()).stack_size(COMPILE_STACK_BYTES).spawn(run)?;
    Ok(())
}

/// A running shim process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    status: watch::Receiver<Option<ExitStatus>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Spawns a shim; the second value is our end of its socket. Call it on a thread that lasts as long as the
    /// process: the kernel kills the child when that thread ends.
    pub fn spawn(launch: &Launch, output: &Writer, children: &Children) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = socket_pair()?;
        let socket = rustix::io::fcntl_dupfd_cloexec(&theirs, FIRST_FREE_FD)?;
        let dup = |file: &Arc<OwnedFd>| rustix::io::fcntl_dupfd_cloexec(file.as_fd(), FIRST_FREE_FD);
        let files = launch.files.iter().map(dup).collect::<Result<Vec<OwnedFd>, _>>()?;
        let mut command = launch.command();
        command.env("NUCLIO_SHIM_FD", launch.socket_fd.to_string());
        let targets = [(socket.as_raw_fd(), launch.socket_fd)].into_iter();
        let targets =
            targets.chain(files.iter().map(AsRawFd::as_raw_fd).zip(FIRST_FILE_FD..FIRST_FREE_FD)).collect();
        let output = (output.clone(), launch.errors_to);
        Ok((Self::watched(command, targets, output, children)?, ours))
    }

    /// Spawns a wrapper of protocol 1, which finds its sockets by these arguments. The thread matters as above.
    pub fn spawn_wrapper(
        launch: &Launch,
        arguments: &[OsString],
        output: &Writer,
        children: &Children,
    ) -> io::Result<Self> {
        let mut command = launch.command();
        command.args(arguments);
        Self::watched(command, Vec::new(), (output.clone(), launch.errors_to), children)
    }

    /// A child of this process that another one has forked for it, and what its standard error is read from. It leads
    /// a process group, and is in `children`.
    pub fn forked(
        pid: Pid,
        stderr: OwnedFd,
        launch: &Launch,
        output: &Writer,
        children: &Children,
    ) -> io::Result<Self> {
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = pipe::Receiver::from_owned_fd(stderr)?;
        let output = (output.clone(), launch.errors_to);
        let status =
            watch_exit(pid, wait_for(pid)?, Some(stderr), last_words.clone(), output, children.clone());
        Ok(Self { pid, status, last_words })
    }

    fn watched(
        mut command: std::process::Command,
        descriptors: Vec<(i32, i32)>,
        output: (Writer, Stream),
        children: &Children,
    ) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped());
        let (pid, mut child) = spawn_child(command, descriptors, children)?;
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = child.stderr.take();
        let ended = async move { child.wait().await.unwrap_or_default() };
        let status = watch_exit(pid, ended, stderr, last_words.clone(), output, children.clone());
        Ok(Self { pid, status, last_words })
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the end, at most `limit`.
    pub async fn exited(&mut self, limit: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(limit, self.exit()).await.ok()
    }

    /// Waits for the end.
    pub async fn exit(&mut self) -> ExitStatus {
        match self.status.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            Err(_) => ExitStatus::default(),
        }
    }

    /// Whether it still runs.
    pub fn running(&self) -> bool {
        self.status.borrow().is_none()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        if self.running() {
            kill_process(self.pid, signal).unwrap_or_default(); // Gone already is as good.
        }
    }

    /// Its status, once it has ended.
    pub fn status(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.status.clone()
    }

    /// What sends it signals from elsewhere.
    pub fn signals(&self) -> Signals {
        Signals { pid: self.pid, status: self.status.clone() }
    }

    /// Kills the process and all of its group.
    pub fn kill_group(&self) {
        kill_process_group(self.pid, Signal::KILL).unwrap_or_default(); // Gone already is as good.
    }

    /// The last lines it wrote to standard error.
    pub fn last_words(&self) -> String {
        let lines = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Sends signals to a process as long as it runs.
#[derive(Debug, Clone)]
pub struct Signals {
    pid: Pid,
    status: watch::Receiver<Option<ExitStatus>>,
}

impl Signals {
    /// Sends one.
    pub fn send(&self, signal: Signal) {
        if self.status.borrow().is_none() {
            kill_process(self.pid, signal).unwrap_or_default(); // Gone already is as good.
        }
    }
}

impl Launch {
    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whatever it forked goes with it.
        self.kill_group();
    }
}

/// Spawns a child in a process group of its own, which the kernel kills when this thread ends. `descriptors`: ours, from
/// 10 on (`FIRST_FREE_FD`), and the numbers under which it has them. Whoever waits for it tells `children` of its end.
pub fn spawn_child(
    mut command: std::process::Command,
    descriptors: Vec<(i32, i32)>,
    children: &Children,
) -> io::Result<(Pid, Child)> {
    command.process_group(0);
    prepare_child(&mut command, descriptors);
    let spawn = || {
        let child = Command::from(command).spawn()?;
        Ok::<_, io::Error>((child.id().map_or(0, |id| id as i32), child))
    };
    let (pid, child) = children.adopt(spawn)?;
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok((pid, child))
}

/// What the child does between fork and exec.
#[expect(unsafe_code, reason = "descriptors have to be put in place between fork and exec")]
fn prepare_child(command: &mut std::process::Command, descriptors: Vec<(i32, i32)>) {
    let parent = std::process::id();
    let prepare = move || {
        for (from, to) in &descriptors {
            // SAFETY: dup2 is async-signal-safe and takes plain numbers; `from` stays open in the parent until the
            // spawn returned, and is not one of the targets because it is at least FIRST_FREE_FD.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: prctl with these arguments only sets an attribute of the calling process.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid has no preconditions. The processor may have died before the attribute was set.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    };
    // SAFETY: the closure calls only async-signal-safe functions and neither allocates nor takes locks.
    unsafe { command.pre_exec(prepare) };
}

/// A socket for a worker: our end, and the one it gets.
pub fn socket_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    for end in [&ours, &theirs] {
        // The kernel may cap them; any size works.
        rustix::net::sockopt::set_socket_send_buffer_size(end, SOCKET_BUFFER_BYTES).unwrap_or_default();
        rustix::net::sockopt::set_socket_recv_buffer_size(end, SOCKET_BUFFER_BYTES).unwrap_or_default();
    }
    ours.set_nonblocking(true)?;
    Ok((ours, theirs))
}

/// Waits for a child that nobody here has spawned, and that may not be ours for another moment.
fn wait_for(pid: Pid) -> io::Result<impl Future<Output = ExitStatus>> {
    let mut child_ended = signal(SignalKind::child())?;
    Ok(async move {
        loop {
            let look_again = match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => return ExitStatus::from_raw(status.as_raw()),
                Ok(None) => Duration::MAX,
                // Not ours yet, or taken by somebody else.
                Err(_) if test_kill_process(pid).is_err() => return ExitStatus::default(),
                Err(_) => ADOPTION,
            };
            drop(tokio::time::timeout(look_again, child_ended.recv()).await);
        }
    })
}

fn watch_exit(
    pid: Pid,
    ended: impl Future<Output = ExitStatus> + Send + 'static,
    stderr: Option<impl AsyncRead + Unpin + Send + 'static>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    output: (Writer, Stream),
    children: Children,
) -> watch::Receiver<Option<ExitStatus>> {
    let (set, status) = watch::channel(None);
    let pump = tokio::spawn(async move {
        if let Some(stderr) = stderr {
            pump(stderr, &last_words, &output.0, output.1).await;
        }
    });
    tokio::spawn(async move {
        let ended = ended.await;
        children.release(pid.as_raw_nonzero().get());
        // What it wrote before it ended is there by now; what its own children still write is not waited for.
        drop(tokio::time::timeout(Duration::from_millis(50), pump).await);
        set.send_replace(Some(ended));
    });
    status
}

/// Passes standard error through and keeps its last lines. When our own output is stuck, so is the child's, as if it
/// wrote there itself.
async fn pump(
    mut stderr: impl AsyncRead + Unpin,
    last_words: &Mutex<VecDeque<String>>,
    output: &Writer,
    to: Stream,
) {
    let mut buffer = vec![0; 4096];
    let mut line = Vec::new();
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        for byte in &buffer[..read] {
            if *byte != b'\n' {
                line.push(*byte);
                line.truncate(LAST_WORDS_LINE_BYTES);
                continue;
            }
            let mut lines = last_words.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_back(String::from_utf8_lossy(&line).into_owned());
            if lines.len() > LAST_WORDS_LINES {
                lines.pop_front();
            }
            line.clear();
        }
        let mut bytes = buffer[..read].to_vec();
        while let Err(back) = output.write_to(to, bytes) {
            bytes = back;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// In words, with the likely cause.
pub fn describe(status: ExitStatus, oom: bool) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(libc::SIGKILL)) if oom => "killed by the kernel: out of memory".to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal} ({})", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

/// Which counter the end belongs to.
pub fn restart_reason(status: ExitStatus, oom: bool) -> RestartReason {
    match status.signal() {
        Some(libc::SIGKILL) if oom => RestartReason::Oom,
        Some(_) => RestartReason::Signal,
        None => RestartReason::Exit,
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGHUP => "SIGHUP",
        _ => "see signal(7)",
    }
}

/// Where a container sees what its control group counts: of version 2, of version 1.
const OOM_COUNTERS: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];

/// How often the kernel has killed for memory in our control group so far.
pub fn oom_kills() -> u64 {
    let text = OOM_COUNTERS.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn without_memory_files_the_shim_goes_into_the_first_folder_that_takes_it_and_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let file = unlinked_file(&["/nonexistent", path], b"text").unwrap();
        // As the child opens it.
        let reopened = std::fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(reopened, "text");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
        assert!(unlinked_file(&["/nonexistent"], b"text").is_none());
    }
}
