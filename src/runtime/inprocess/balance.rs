//! How many event threads take turns while calls are short. One that is never blocked does most for what it costs: it
//! wakes nobody and finds several requests whenever it looks. More of them help when it has no time left, and if there
//! are CPUs for them: where clients, other processes or a limit take the CPUs, they make everything dearer instead.
//! Nothing tells beforehand, so it is tried: twice as many while those there are have no time left, half as many while
//! they wait for CPUs, and what has proved itself after a window stays.

use std::cell::Cell;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;

/// How long is measured before anything is decided. The kernel counts the time of a thread that runs in steps of a
/// timer tick, 10 ms at most unless a CPU is kept free of ticks.
const WINDOW: Duration = Duration::from_millis(100);
/// Share of the time of all threads that take turns from which on more are tried.
const SATURATED: f64 = 0.9;
/// Threads whose work fits into so much of the time of one fewer are one fewer.
const FITTING: f64 = 0.7;
/// Share of the time they want to run that threads wait for a CPU: from there on others want the CPUs, too.
const CONTENDED: f64 = 0.2;
/// More threads where CPUs are contended have to do so much more.
const WORTH: f64 = 1.1;
/// Fewer threads, and more where CPUs are free, may do so much less.
const AS_GOOD: f64 = 0.95;
/// After a trial that was no good, or one with fewer that was no better: so long there is none. Each time twice as long,
/// while there is much to do.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// So many windows in a row with little to do, and trials begin as if there had been none.
const CALM_MIN: u32 = 10;
/// After so long a time with little to do threads are fewer; until then what was to do may come back.
const LULL: Duration = Duration::from_secs(5);
/// So many windows in a row in which calls block threads, of which nothing can be told: all take turns, lest one alone
/// has to do what the blocked ones do not.
const BLOCKED_MAX: u32 = 3;

thread_local! {
    static HAS_JOINED: Cell<bool> = const { Cell::new(false) };
}

/// Threads that take turns, with their times when they began to.
#[derive(Debug, Default)]
pub struct Awake(Mutex<Vec<Times>>);

impl Awake {
    /// The calling thread takes turns, if it did not before.
    pub fn join(&self) {
        if !HAS_JOINED.replace(true) {
            let own = own_number();
            let unknown = Times { thread: own, running: 0.0, waiting: 0.0 };
            let times = Times::of(own).unwrap_or(unknown);
            locked(&self.0).push(times);
        }
    }

    /// It does so no more.
    pub fn leave(&self) {
        if HAS_JOINED.replace(false) {
            let own = own_number();
            locked(&self.0).retain(|times| times.thread != own);
        }
    }

    /// When they began to take turns, and now. Nothing: the kernel does not say.
    fn times(&self) -> Option<Vec<(Times, Times)>> {
        let joined = locked(&self.0).clone(); // Reading takes longer than whoever gets up should wait.
        joined.into_iter().map(|times| Some((times, Times::of(times.thread)?))).collect()
    }
}

fn own_number() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Of a thread since it began, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    thread: i32,
    running: f64,
    waiting: f64,
}

impl Times {
    fn of(thread: i32) -> Option<Self> {
        Self::read(thread, &fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
    }

    /// Time on a CPU and time spent waiting for one, nanoseconds, and how often it got one, which is never where the
    /// kernel does not count; see `Documentation/scheduler/sched-stats.rst` of Linux.
    fn read(thread: i32, text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
        let (running, waiting, turns): (u64, u64, u64) =
            (numbers.next()??, numbers.next()??, numbers.next()??);
        (turns > 0).then_some(Self { thread, running: running as f64 / 1e9, waiting: waiting as f64 / 1e9 })
    }
}

/// What was measured in a window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Events per second that asked for a worker.
    rate: f64,
    /// How many threads would have been running all the time, had there been a CPU whenever one wanted to run.
    load: f64,
    /// Of that: waiting for a CPU.
    waiting: f64,
}

impl Seen {
    fn is_contended(&self) -> bool {
        self.waiting > CONTENDED * self.load
    }
}

/// See the module.
#[derive(Debug)]
pub struct Balance {
    decision: Decision,
    /// When the window began, what the threads' times were then, and the events since.
    since: Instant,
    times: Vec<Times>,
    events: u64,
    /// Windows in a row in which calls blocked threads.
    blocked: u32,
}

impl Balance {
    /// Of one thread and `most` more, none of which takes turns at first; all do, for good, if the kernel does not say
    /// what becomes of them.
    pub fn new(most: usize) -> Self {
        let most_tried = if Times::of(own_number()).is_some() { most } else { 0 };
        let mut decision = Decision::new(most_tried, Instant::now());
        decision.more = most - most_tried;
        Self { decision, since: Instant::now(), times: Vec::new(), events: 0, blocked: 0 }
    }

    /// How many take turns beside the first.
    pub fn more(&self) -> usize {
        self.decision.more
    }

    /// So many events have asked for a worker since this was last called. `blocked`: calls block threads, and others are
    /// up for them. Returns how many are to take turns beside the first.
    pub fn look(&mut self, now: Instant, events: u64, blocked: bool, awake: &Awake) -> usize {
        self.events += events;
        let window = now.saturating_duration_since(self.since);
        if self.decision.most == 0 || window < WINDOW {
            return self.more();
        }
        let times = if blocked { Vec::new() } else { awake.times().unwrap_or_default() };
        let seen = self.seen(&times, window.as_secs_f64());
        self.blocked = if blocked { self.blocked + 1 } else { 0 };
        if self.blocked >= BLOCKED_MAX {
            self.decision.take_all();
        } else if blocked || times.is_empty() || self.times.is_empty() {
            self.decision.drop_trial();
        } else if window < 2 * WINDOW {
            self.decision.look(now, &seen);
        } else if window < LULL {
            self.decision.drop_trial(); // Nobody looks while nothing is to do.
        } else {
            self.decision.look_back(now, &seen);
        }
        self.times = times.into_iter().map(|(_, now)| now).collect();
        (self.since, self.events) = (now, 0);
        self.more()
    }

    fn seen(&self, times: &[(Times, Times)], seconds: f64) -> Seen {
        let (mut running, mut waiting) = (0.0, 0.0);
        for (joined, now) in times {
            let before = self.times.iter().find(|before| before.thread == now.thread).unwrap_or(joined);
            running += now.running - before.running;
            waiting += now.waiting - before.waiting;
        }
        Seen {
            rate: self.events as f64 / seconds,
            load: (running + waiting) / seconds,
            waiting: waiting / seconds,
        }
    }
}

#[derive(Debug)]
struct Decision {
    most: usize,
    more: usize,
    trial: Option<Trial>,
    /// Whether the last trial was one with more.
    tried_more: bool,
    pause: Duration,
    /// When the next trial may begin.
    not_before: Instant,
    /// Windows in a row with little to do.
    calm: u32,
}

#[derive(Debug)]
struct Trial {
    /// How many more there were before, and how many events they had per second.
    from: usize,
    rate: f64,
}

impl Decision {
    fn new(most: usize, now: Instant) -> Self {
        Self { most, more: 0, trial: None, tried_more: false, pause: PAUSE, not_before: now, calm: 0 }
    }

    /// A window is over.
    fn look(&mut self, now: Instant, seen: &Seen) {
        if let Some(trial) = self.trial.take()
            && !self.has_proved_itself(&trial, now, seen)
        {
            self.more = trial.from;
            return;
        }
        if self.calm_down(now, seen) || now < self.not_before {
            return;
        }
        let more = seen.load >= SATURATED * (self.more + 1) as f64 && self.more < self.most;
        let fewer = seen.is_contended() && self.more > 0;
        match (more, fewer) {
            // Both may be better: by turns.
            (true, true) if self.tried_more => self.begin_trial(self.more / 2, seen),
            (true, _) => self.begin_trial((2 * self.more + 1).min(self.most), seen),
            (false, true) => self.begin_trial(self.more / 2, seen),
            (false, false) => {}
        }
    }

    /// A long time is over in which nothing was to do now and then.
    fn look_back(&mut self, now: Instant, seen: &Seen) {
        self.drop_trial();
        self.calm = CALM_MIN;
        self.calm_down(now, seen);
    }

    /// Whether there is so little to do that no trial is needed to tell.
    fn calm_down(&mut self, now: Instant, seen: &Seen) -> bool {
        let fits = seen.load < FITTING * self.more as f64;
        if fits {
            self.more -= 1;
        }
        let calm = fits || seen.load < (self.more + 1) as f64 / 2.0;
        self.calm = if calm { self.calm + 1 } else { 0 };
        if self.calm >= CALM_MIN {
            (self.pause, self.not_before) = (PAUSE, now);
        }
        calm
    }

    /// Calls block threads, for long.
    fn take_all(&mut self) {
        self.trial = None;
        self.more = self.most;
    }

    /// What would be seen of it is worth nothing.
    fn drop_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.more = trial.from;
        }
    }

    fn begin_trial(&mut self, more: usize, seen: &Seen) {
        self.trial = Some(Trial { from: self.more, rate: seen.rate });
        self.tried_more = more > self.more;
        self.more = more;
    }

    /// `seen`: in the window of the trial.
    fn has_proved_itself(&mut self, trial: &Trial, now: Instant, seen: &Seen) -> bool {
        let better = seen.rate >= WORTH * trial.rate;
        let dearer = self.tried_more && seen.is_contended();
        let good = better || !dearer && seen.rate >= AS_GOOD * trial.rate;
        if !good || !self.tried_more && !better {
            self.not_before = now + self.pause;
            self.pause = (2 * self.pause).min(PAUSE_MAX);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with so many threads, and what they serve per second.
    struct Machine {
        decision: Decision,
        now: Instant,
        wanted: f64,
        capacity: fn(usize) -> f64,
        contended: bool,
    }

    impl Machine {
        fn new(threads: usize, capacity: fn(usize) -> f64, contended: bool) -> Self {
            let now = Instant::now();
            Self {
                decision: Decision::new(threads - 1, now),
                now,
                wanted: f64::INFINITY,
                capacity,
                contended,
            }
        }

        /// The numbers of threads after each of so many windows.
        fn run(&mut self, windows: usize) -> Vec<usize> {
            let step = |_| {
                let threads = self.decision.more + 1;
                let rate = self.wanted.min((self.capacity)(threads));
                let load = threads as f64 * rate / (self.capacity)(threads);
                let waiting = if self.contended && threads > 1 { 0.4 * load } else { 0.05 * load };
                self.now += WINDOW;
                self.decision.look(self.now, &Seen { rate, load, waiting });
                self.decision.more + 1
            };
            (0..windows).map(step).collect()
        }
    }

    #[test]
    fn threads_with_work_get_all_the_cpus_there_are() {
        let mut machine = Machine::new(8, |threads| 100.0 * threads as f64, false);
        assert_eq!(machine.run(6), [2, 4, 8, 8, 8, 8]);
        machine.wanted = 120.0;
        assert_eq!(machine.run(8), [7, 6, 5, 4, 3, 2, 2, 2], "as many as the work needs");
        machine.wanted = 60.0;
        assert_eq!(machine.run(3), [1, 1, 1]);
    }

    #[test]
    fn a_thread_that_only_takes_cpus_away_is_tried_less_and_less() {
        let mut machine = Machine::new(2, |threads| if threads == 1 { 100.0 } else { 90.0 }, true);
        assert_eq!(machine.run(4), [2, 1, 1, 1]);
        let trials = |seen: &[usize]| seen.iter().filter(|threads| **threads == 2).count();
        let (first, later) = (machine.run(100), machine.run(1000));
        assert!((2..=4).contains(&trials(&first)), "in 10 s: {first:?}");
        assert!((10..=14).contains(&trials(&later)), "in 100 s: {}", trials(&later));
        let wanted = |machine: &mut Machine, wanted, windows| {
            machine.wanted = wanted;
            machine.run(windows)
        };
        machine.decision.not_before = machine.now + PAUSE_MAX;
        assert_eq!(wanted(&mut machine, 40.0, 3), [1, 1, 1]);
        assert_eq!(wanted(&mut machine, f64::INFINITY, 2), [1, 1], "a moment is no calm time");
        assert_eq!(trials(&wanted(&mut machine, 40.0, CALM_MIN as usize)), 0);
        assert_eq!(wanted(&mut machine, f64::INFINITY, 4), [2, 1, 1, 1], "after a calm time as at first");
    }

    #[test]
    fn where_cpus_are_contended_more_threads_stay_if_they_do_more() {
        let mut machine = Machine::new(2, |threads| if threads == 1 { 100.0 } else { 130.0 }, true);
        assert_eq!(machine.run(4), [2, 1, 2, 2], "one fewer was worse");
        let fewer = machine.run(1000).iter().filter(|threads| **threads == 1).count();
        assert!((10..=16).contains(&fewer), "{fewer}");
    }

    #[test]
    fn fewer_are_tried_though_there_could_be_more() {
        let mut machine = Machine::new(64, |threads| 100.0 * threads as f64, false);
        machine.run(5);
        machine.capacity = |threads| 1000.0 / threads as f64;
        machine.contended = true;
        let seen = machine.run(1000);
        assert_eq!(seen.iter().min(), Some(&1), "{seen:?}");
        let alone = seen[200..].iter().filter(|threads| **threads == 1).count();
        assert!(alone > 700, "{alone}");
    }

    #[test]
    fn more_threads_that_do_less_go_even_where_cpus_are_free() {
        let mut machine = Machine::new(4, |threads| 100.0 / threads as f64, false);
        assert_eq!(machine.run(4), [2, 1, 1, 1]);
    }

    #[test]
    fn a_trial_that_was_disturbed_was_none() {
        let mut machine = Machine::new(2, |threads| 100.0 * threads as f64, true);
        assert_eq!(machine.run(1), [2]);
        machine.decision.drop_trial();
        assert_eq!((machine.decision.more, machine.decision.trial.is_some()), (0, false));
        assert_eq!(machine.run(1), [2]);
    }

    #[test]
    fn the_kernel_says_how_long_a_thread_ran_and_waited() {
        let read = |text| Times::read(7, text);
        assert_eq!(read("1500000000 250000000 12\n"), Some(Times { thread: 7, running: 1.5, waiting: 0.25 }));
        for text in ["", "1 x 2", "1", "1 2", "0 0 0\n"] {
            assert_eq!(read(text), None, "{text}");
        }
        let awake = Awake::default();
        awake.join();
        awake.join();
        let Some(before) = awake.times() else { return }; // A kernel that does not count.
        assert_eq!(before.len(), 1);
        let begun = Instant::now();
        let ran = |since: &Times| awake.times().unwrap()[0].1.running - since.running;
        while ran(&before[0].1) < 0.05 {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        let mut balance = Balance::new(1);
        balance.events = 30;
        let seen = balance.seen(&awake.times().unwrap(), 0.1);
        assert!(seen.load >= 0.5 && (seen.rate - 300.0).abs() < 0.1, "it has joined since: {seen:?}");
        balance.times = awake.times().unwrap().into_iter().map(|(_, now)| now).collect();
        assert!(balance.seen(&awake.times().unwrap(), 0.1).load < seen.load, "it was there before");
        awake.leave();
        awake.leave();
        assert_eq!(awake.times(), Some(Vec::new()));
    }

    #[test]
    fn while_calls_block_threads_nothing_is_told_and_after_some_time_all_take_turns() {
        let awake = Awake::default();
        awake.join();
        let mut balance = Balance::new(4);
        if balance.decision.most == 0 {
            return; // A kernel that does not count.
        }
        let at = |balance: &Balance, windows: f64| balance.since + WINDOW.mul_f64(windows);
        let mut look = |windows, blocked| balance.look(at(&balance, windows), 0, blocked, &awake);
        assert_eq!([(); 3].map(|()| look(1.1, true)), [0, 0, 4]);
        assert_eq!(look(0.5, false), 4, "too early to tell");
        assert_eq!([look(1.1, false), look(1.1, false)], [4, 3], "one window to know where times begin");
        assert_eq!([look(1.1, true), look(1.1, false), look(1.1, false)], [3, 3, 2]);
        assert_eq!([look(40.0, false), look(60.0, false)], [2, 1], "a lull is long");
        awake.leave();
    }
}
