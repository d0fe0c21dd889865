//! The event threads that nobody needs while calls are short: they sleep, and get up when calls take long. A thread
//! that is only there to take its turn costs a wake-up whenever it is called, which is more than an empty handler
//! costs. Knows no calls: the monitors of the pools say how many threads they need, and [`Balance`] how many take turns.
//!
//! A thread sleeps inside a task that blocks it, so the runtime takes it for busy: it is not woken in vain, and what
//! was queued on it is taken by others, once [`hand_on`] has let go of the one task that a thread keeps for itself. But
//! it may have had the turn to wait for I/O and timers, so a monitor has to make another one look: see
//! [`Reserve::take_fallen_asleep`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::balance::{Awake, Balance};
use super::locked;
use crate::turns::{hand_on, own};

/// How long a thread stays up after it was needed: calls that take long seldom come alone.
const STAY_UP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Reserve {
    state: Mutex<State>,
    places: Box<[Place]>,
    fell_asleep: AtomicBool,
    awake: Arc<Awake>,
    balance: Mutex<Balance>,
}

#[derive(Debug, Default)]
struct State {
    /// Threads that somebody needs, beside the one that is always up; may be more than there are.
    needed: usize,
    /// Which of them sleep. One that was called may not have got up yet.
    asleep: Vec<bool>,
    dismissed: bool,
}

/// Of one thread.
#[derive(Debug, Default)]
struct Place {
    get_up: Condvar,
    lie_down: Notify,
}

impl Reserve {
    /// Sends `size` threads of the runtime, which has more, to sleep. `awake`: all that have joined it take turns, up
    /// to `cpus` of them while calls are short.
    pub fn start(events: &Handle, size: usize, cpus: usize, awake: Arc<Awake>) -> Arc<Self> {
        let places = (0..size).map(|_| Place::default()).collect();
        let balance = Balance::new(size.min(cpus.saturating_sub(1)));
        let state = State { asleep: vec![false; size], needed: balance.more(), ..State::default() };
        let reserve = Arc::new(Self {
            state: Mutex::new(state),
            places,
            fell_asleep: AtomicBool::new(false),
            awake,
            balance: Mutex::new(balance),
        });
        for rank in 0..size {
            events.spawn(own(reserve.clone().stand_by(rank)));
        }
        reserve
    }

    async fn stand_by(self: Arc<Self>, rank: usize) {
        loop {
            hand_on(); // After a turn of waiting for I/O it is a connection's, which would sleep as long as the thread.
            if !self.sleep(rank) {
                return;
            }
            self.places[rank].lie_down.notified().await;
        }
    }

    /// Blocks this thread until it is needed. False: for good.
    fn sleep(&self, rank: usize) -> bool {
        self.awake.leave();
        let mut state = locked(&self.state);
        while !state.dismissed && state.needed <= rank {
            state.asleep[rank] = true;
            self.fell_asleep.store(true, Ordering::Relaxed);
            state = self.places[rank].get_up.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep[rank] = false;
        }
        let dismissed = state.dismissed;
        drop(state);
        self.awake.join();
        !dismissed
    }

    /// Has as many threads take turns as are of use. `events`: how many have asked a pool for a worker since its monitor
    /// last said so.
    pub fn balance(&self, now: Instant, events: u64) {
        let mut balance = locked(&self.balance);
        let before = balance.more();
        let blocked = locked(&self.state).needed > before;
        let more = balance.look(now, events, blocked, &self.awake);
        if more != before {
            self.change(before, more); // Before another monitor looks.
        }
    }

    /// Whoever needed `before` threads needs `now` of them.
    fn change(&self, before: usize, now: usize) {
        let mut state = locked(&self.state);
        let up_before = self.up(&state);
        state.needed = state.needed - before + now;
        let up = self.up(&state);
        self.places.iter().take(up).skip(up_before).for_each(|place| place.get_up.notify_one());
        self.places.iter().take(up_before).skip(up).for_each(|place| place.lie_down.notify_one());
    }

    fn up(&self, state: &State) -> usize {
        state.needed.min(self.places.len())
    }

    /// Whether those sleep that nobody needs. Until then [`Reserve::take_fallen_asleep`] must be asked again.
    pub fn is_settled(&self) -> bool {
        let state = locked(&self.state);
        state.asleep[self.up(&state)..].iter().all(|asleep| *asleep)
    }

    /// Whether a thread has fallen asleep since this was last asked. Only a task that comes from outside the runtime
    /// makes sure then that another one waits for I/O and timers.
    pub fn take_fallen_asleep(&self) -> bool {
        self.fell_asleep.load(Ordering::Relaxed) && self.fell_asleep.swap(false, Ordering::Relaxed)
    }

    /// All get up, and none lies down any more.
    pub fn dismiss(&self) {
        locked(&self.state).dismissed = true;
        self.places.iter().for_each(|place| place.get_up.notify_one());
    }
}

/// How many threads one pool needs beside those that take turns.
pub struct Need {
    reserve: Arc<Reserve>,
    threads: usize,
    /// When it last was as many.
    at: Instant,
}

impl Need {
    /// None yet.
    pub fn of(reserve: Arc<Reserve>) -> Self {
        Self { reserve, threads: 0, at: Instant::now() }
    }

    /// More are there at once, fewer only after a while.
    pub fn set(&mut self, threads: usize, now: Instant) {
        if threads < self.threads && now.duration_since(self.at) < STAY_UP {
            return;
        }
        if threads != self.threads {
            self.reserve.change(self.threads, threads);
            self.threads = threads;
        }
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn threads(count: usize) -> Runtime {
        Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
    }

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// As a monitor does it.
    fn settle(reserve: &Reserve, events: &Handle) {
        wait_until("all have fallen asleep", || {
            if reserve.take_fallen_asleep() {
                drop(events.spawn(async {}));
            }
            reserve.is_settled()
        });
        drop(events.spawn(async {}));
    }

    #[test]
    fn as_many_calls_run_at_once_as_threads_are_up() {
        let events = threads(5);
        let reserve = Reserve::start(events.handle(), 3, 1, Arc::default());
        settle(&reserve, events.handle());
        let inside = Arc::new(AtomicUsize::new(0));
        let (mut ends, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let inside = inside.clone();
            calls.push(events.spawn(async move {
                inside.fetch_add(1, Ordering::SeqCst);
                assert!(ended.recv().is_err()); // Blocks the thread, as a handler does.
            }));
        }
        let mut need = Need::of(reserve.clone());
        for (needed, running) in [(0, 2), (1, 3), (7, 4)] {
            need.set(needed, need.at);
            wait_until("threads got up", || inside.load(Ordering::SeqCst) == running);
        }
        ends.clear();
        calls.into_iter().for_each(|call| events.block_on(call).unwrap());
        need.set(0, need.at);
        assert!(need.threads == 7, "they stay up for a while");
        need.set(0, need.at + STAY_UP);
        settle(&reserve, events.handle());
        assert_eq!(locked(&reserve.state).asleep, [true; 3]);
        reserve.dismiss();
        wait_until("all are up", || locked(&reserve.state).asleep == [false; 3]);
    }

    #[test]
    fn threads_get_up_to_take_turns_when_those_that_do_have_no_time_left() {
        let awake = Arc::new(Awake::default());
        let joining = awake.clone();
        let mut events = Builder::new_multi_thread();
        events.worker_threads(4).enable_all().on_thread_park(move || joining.join());
        let events = events.build().unwrap();
        let reserve = Reserve::start(events.handle(), 3, 4, awake.clone());
        settle(&reserve, events.handle());
        let up = || locked(&reserve.state).asleep.iter().filter(|asleep| !**asleep).count();
        if up() == 3 {
            return; // A kernel that does not count.
        }
        assert_eq!(up(), 0);
        let work = || async {
            loop {
                tokio::task::yield_now().await;
            }
        };
        let working: Vec<tokio::task::JoinHandle<()>> = (0..8).map(|_| events.spawn(work())).collect();
        wait_until("another thread takes turns", || {
            reserve.balance(Instant::now(), 100);
            up() > 0
        });
        working.iter().for_each(tokio::task::JoinHandle::abort);
        reserve.dismiss();
    }

    #[test]
    fn somebody_waits_for_sockets_and_timers_whoever_falls_asleep() {
        let events = threads(4);
        let reserve = Reserve::start(events.handle(), 3, 1, Arc::default());
        let mut need = Need::of(reserve.clone());
        for _ in 0..20 {
            need.set(3, need.at);
            need.set(0, need.at + STAY_UP);
            settle(&reserve, events.handle());
            events
                .block_on(events.spawn(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                    let (mut server, _) = listener.accept().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    server.write_all(b"x").await.unwrap();
                    assert_eq!(client.read_u8().await.unwrap(), b'x');
                }))
                .unwrap();
        }
        reserve.dismiss();
    }
}
