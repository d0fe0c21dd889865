//! How many event threads take turns while calls are short. One that is never blocked does most for what it costs: it
//! wakes nobody and finds several requests whenever it looks. Another one helps when the first has no time left, and if
//! there is a CPU for it: where clients, other processes or a limit take the CPUs, it makes everything dearer instead.
//! Nothing tells beforehand, so it is tried: one more while those there are have no time left, one fewer while they wait
//! for CPUs, and what is worth it stays.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::locked;

/// How long is measured before anything is decided. The kernel counts the time of a thread that runs in steps of a
/// timer tick, 10 ms at most.
const WINDOW: Duration = Duration::from_millis(100);
/// Share of the time of all threads that take turns from which on one more is tried.
const SATURATED: f64 = 0.9;
/// Threads whose work fits into so much of the time of one fewer are one fewer.
const FITTING: f64 = 0.7;
/// Share of the time they want to run that threads wait for a CPU: from there on others want the CPUs, too.
const CONTENDED: f64 = 0.2;
/// More threads where CPUs are contended have to do so much more.
const WORTH: f64 = 1.1;
/// Fewer threads may do so much less.
const AS_GOOD: f64 = 0.95;
/// After a change that was no good, or one to fewer: so long there is none. Each time twice as long, while there is
/// much to do.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(32);

/// Threads that take turns, as the kernel numbers them.
#[derive(Debug, Default)]
pub struct Awake(Mutex<Vec<i32>>);

impl Awake {
    /// The calling thread takes turns from now on.
    pub fn join(&self) {
        locked(&self.0).push(own_number());
    }

    /// It does so no more.
    pub fn leave(&self) {
        let own = own_number();
        locked(&self.0).retain(|number| *number != own);
    }

    /// Nothing: the kernel does not say.
    fn times(&self) -> Option<Vec<Times>> {
        locked(&self.0).iter().map(|number| Times::of(*number)).collect()
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

    /// Time on a CPU and time spent waiting for one, nanoseconds; see `Documentation/scheduler/sched-stats.rst` of
    /// Linux.
    fn read(thread: i32, text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
        let (running, waiting): (u64, u64) = (numbers.next()??, numbers.next()??);
        Some(Self { thread, running: running as f64 / 1e9, waiting: waiting as f64 / 1e9 })
    }
}

/// What was measured in a window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Events per second.
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
}

impl Balance {
    /// Of one thread and `most` more, so many of which take turns at first: none, or all of them if the kernel does not
    /// say what becomes of them.
    pub fn new(most: usize) -> Self {
        let known = Times::of(own_number()).is_some();
        let decision = Decision {
            most,
            more: if known { 0 } else { most },
            trial: None,
            pause: PAUSE,
            not_before: Instant::now(),
        };
        Self { decision, since: Instant::now(), times: Vec::new(), events: 0 }
    }

    /// How many take turns beside the first.
    pub fn more(&self) -> usize {
        self.decision.more
    }

    /// So many events have come since this was last called. `blocked`: calls block threads, and others are up for them,
    /// so that nothing can be told. Returns how many are to take turns beside the first.
    pub fn look(&mut self, now: Instant, events: u64, blocked: bool, awake: &Awake) -> usize {
        self.events += events;
        let window = now.saturating_duration_since(self.since);
        if window >= WINDOW
            && let Some(times) = awake.times()
        {
            // Nobody looks while nothing is to do, so a window may be long and say little.
            if window < 2 * WINDOW && !blocked {
                let seen = self.seen(&times, window.as_secs_f64());
                self.decision.look(now, &seen);
            } else {
                self.decision.begin_trial_anew();
            }
            (self.since, self.times, self.events) = (now, times, 0);
        }
        self.decision.more
    }

    fn seen(&self, times: &[Times], seconds: f64) -> Seen {
        let (mut running, mut waiting) = (0.0, 0.0);
        for now in times {
            // One that has joined since has not been there for the whole of it.
            if let Some(before) = self.times.iter().find(|before| before.thread == now.thread) {
                running += now.running - before.running;
                waiting += now.waiting - before.waiting;
            }
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
    pause: Duration,
    /// When the next trial may begin.
    not_before: Instant,
}

#[derive(Debug)]
struct Trial {
    /// How many more there were before, and how many events they had per second.
    from: usize,
    rate: f64,
    /// The threads have taken their places.
    settled: bool,
}

impl Decision {
    /// A window is over.
    fn look(&mut self, now: Instant, seen: &Seen) {
        let threads = (self.more + 1) as f64;
        if let Some(trial) = &mut self.trial {
            if trial.settled {
                self.end_trial(now, seen);
            } else {
                trial.settled = true;
            }
        } else if seen.load < FITTING * self.more as f64 {
            self.more -= 1;
        } else if seen.load < threads / 2.0 {
            self.pause = PAUSE;
        } else if now < self.not_before {
        } else if seen.load >= SATURATED * threads && self.more < self.most {
            self.begin_trial((2 * self.more + 1).min(self.most), seen.rate);
        } else if seen.is_contended() && self.more > 0 {
            self.begin_trial(self.more - 1, seen.rate);
        }
    }

    fn begin_trial(&mut self, more: usize, rate: f64) {
        self.trial = Some(Trial { from: self.more, rate, settled: false });
        self.more = more;
    }

    /// What was seen of it is worth nothing.
    fn begin_trial_anew(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.settled = false;
        }
    }

    fn end_trial(&mut self, now: Instant, seen: &Seen) {
        let Some(Trial { from, rate, .. }) = self.trial.take() else { return };
        let fewer = self.more < from;
        let good = if fewer {
            seen.rate >= AS_GOOD * rate
        } else {
            seen.rate >= WORTH * rate || !seen.is_contended()
        };
        if !good {
            self.more = from;
        }
        if !good || fewer {
            self.not_before = now + self.pause;
            self.pause = (2 * self.pause).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that serves `alone` events per second with one thread and `with` more for each further one.
    struct Machine {
        decision: Decision,
        now: Instant,
        wanted: f64,
        capacity: fn(usize) -> f64,
        contended: bool,
    }

    impl Machine {
        fn new(most: usize, capacity: fn(usize) -> f64, contended: bool) -> Self {
            let now = Instant::now();
            let decision = Decision { most, more: 0, trial: None, pause: PAUSE, not_before: now };
            Self { decision, now, wanted: f64::INFINITY, capacity, contended }
        }

        /// The numbers of threads during so many windows.
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
        let mut machine = Machine::new(7, |threads| 100.0 * threads as f64, false);
        assert_eq!(machine.run(12), [2, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]);
        machine.wanted = 120.0;
        assert_eq!(machine.run(8), [7, 6, 5, 4, 3, 2, 2, 2], "as many as the work needs");
        machine.wanted = 60.0;
        assert_eq!(machine.run(3), [1, 1, 1]);
    }

    #[test]
    fn a_thread_that_only_takes_cpus_away_is_tried_less_and_less() {
        let mut machine = Machine::new(1, |threads| if threads == 1 { 100.0 } else { 90.0 }, true);
        assert_eq!(machine.run(5), [2, 2, 1, 1, 1]);
        let ups = |seen: &[usize]| seen.iter().filter(|threads| **threads == 2).count();
        let (first, later) = (machine.run(300), machine.run(3000));
        assert!((4..=8).contains(&ups(&first)), "in 30 s: {first:?}");
        assert!((10..=20).contains(&ups(&later)), "in 300 s: {}", ups(&later));
        machine.wanted = 40.0;
        assert_eq!(ups(&machine.run(10)), 0);
        machine.wanted = f64::INFINITY;
        machine.now += PAUSE_MAX;
        assert_eq!(ups(&machine.run(30)), 4, "after a calm time it is tried as at first");
    }

    #[test]
    fn where_cpus_are_contended_more_threads_stay_if_they_do_more() {
        let mut machine = Machine::new(1, |threads| if threads == 1 { 100.0 } else { 130.0 }, true);
        assert_eq!(machine.run(6), [2, 2, 2, 1, 1, 2], "one fewer was worse");
        let fewer = machine.run(300).iter().filter(|threads| **threads == 1).count();
        assert!((4..=12).contains(&fewer), "{fewer}");
    }

    #[test]
    fn threads_that_begin_to_be_in_the_way_get_fewer() {
        let mut machine = Machine::new(1, |threads| 100.0 * threads as f64, false);
        machine.run(10);
        machine.contended = true;
        machine.capacity = |threads| if threads == 1 { 100.0 } else { 95.0 };
        assert_eq!(machine.run(5), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn a_trial_that_was_disturbed_begins_anew() {
        let mut machine = Machine::new(1, |threads| 100.0 * threads as f64, true);
        assert_eq!(machine.run(2), [2, 2]);
        machine.decision.begin_trial_anew();
        machine.wanted = 50.0;
        machine.run(1);
        assert!(machine.decision.trial.is_some(), "threads have to take their places first");
        machine.run(1);
        assert_eq!((machine.decision.more, machine.decision.trial.is_some()), (0, false));
    }

    #[test]
    fn the_kernel_says_how_long_a_thread_ran_and_waited() {
        let read = |text| Times::read(7, text);
        assert_eq!(read("1500000000 250000000 12\n"), Some(Times { thread: 7, running: 1.5, waiting: 0.25 }));
        assert_eq!((read(""), read("1 x 2"), read("1")), (None, None, None));
        if Times::of(own_number()).is_none() {
            return; // A kernel without schedstat.
        }
        let awake = Awake::default();
        awake.join();
        let mut balance = Balance::new(1);
        balance.look(balance.since + WINDOW, 0, false, &awake);
        let before = Instant::now();
        while before.elapsed() < Duration::from_millis(50) {}
        let seen = balance.seen(&awake.times().unwrap(), 0.05);
        assert!(seen.load > 0.5 && seen.load < 20.0, "{seen:?}");
        awake.leave();
        assert_eq!(awake.times(), Some(Vec::new()));
    }

    #[test]
    fn nothing_is_decided_while_calls_block_threads_or_nobody_looked() {
        let (awake, mut balance) = (Awake::default(), Balance::new(4));
        balance.decision.more = 4;
        let at = |balance: &Balance, windows: f64| balance.since + WINDOW.mul_f64(windows);
        let mut look = |windows, blocked| balance.look(at(&balance, windows), 0, blocked, &awake);
        assert_eq!([look(0.5, false), look(1.5, true), look(3.0, false)], [4, 4, 4]);
        assert_eq!(look(1.5, false), 3);
    }
}
