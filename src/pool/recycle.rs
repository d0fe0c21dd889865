//! When a worker has served long enough: so many events, so much memory, such an age. Knows neither how it is replaced
//! nor by whom.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::PoolCounters;
use crate::metrics::process::resident_tree;

/// How often the memory of a worker is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same for one that has more than three quarters of its limit.
const LOOK_CLOSELY: Duration = Duration::from_millis(200);

/// When workers are replaced by fresh ones.
#[derive(Debug, Clone, Copy)]
pub struct Recycling {
    /// After so many events.
    pub events: Option<u64>,
    /// Once a worker and what it has started have more bytes of memory.
    pub memory: Option<u64>,
    /// So long after it was ready.
    pub age: Option<Duration>,
    /// Each of them is up to this share smaller, anew for each worker.
    pub jitter: f64,
    /// How long a worker may take to end once no event is in work.
    pub allowed: Duration,
}

impl Recycling {
    /// Lasts until the worker of this process, which is ready now, has reached one of its limits; says which.
    pub(super) async fn due(&self, pid: i32, worker: usize, counters: &PoolCounters) -> String {
        let scale = || 1.0 - self.jitter * fastrand::f64();
        let events = async {
            match self.events.map(|events| ((events as f64 * scale()) as u64).max(1)) {
                Some(events) => {
                    counters.handled(worker, events).await;
                    format!("it has handled {events} events")
                }
                None => std::future::pending().await,
            }
        };
        let memory = async {
            match self.memory.map(|bytes| (bytes as f64 * scale()) as u64) {
                Some(limit) => {
                    let found = outgrown(pid, limit).await;
                    format!("it has {} MiB of memory, more than {} MiB", found >> 20, limit >> 20)
                }
                None => std::future::pending().await,
            }
        };
        let age = async {
            match self.age.map(|age| age.mul_f64(scale())) {
                Some(age) => {
                    tokio::time::sleep_until(Instant::now() + age).await;
                    format!("it is {age:.1?} old")
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            cause = events => cause,
            cause = memory => cause,
            cause = age => cause,
        }
    }
}

/// Lasts until a process and what it has started have more bytes of memory; how many.
async fn outgrown(pid: i32, limit: u64) -> u64 {
    // Workers that started together are not looked at together.
    tokio::time::sleep(LOOK_EVERY.mul_f64(fastrand::f64())).await;
    loop {
        let found = resident_tree(pid);
        if found > limit {
            return found;
        }
        tokio::time::sleep(if found > limit / 4 * 3 { LOOK_CLOSELY } else { LOOK_EVERY }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Recycling {
        Recycling { events: None, memory: None, age: None, jitter: 0.1, allowed: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_comes_up_to_its_share_sooner_and_never_later() {
        let counters = PoolCounters::new(1);
        for _ in 0..50 {
            let begun = Instant::now();
            let limits = Recycling { age: Some(Duration::from_secs(100)), ..limits() };
            let cause = limits.due(1, 0, &counters).await;
            let taken = begun.elapsed();
            assert!((89.9..=100.1).contains(&taken.as_secs_f64()), "{taken:?}");
            assert!(cause.contains("old"), "{cause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_limit_counts() {
        let counters = PoolCounters::new(1);
        let own = std::process::id() as i32;
        let limits = Recycling { memory: Some(1), age: Some(Duration::from_secs(100)), ..limits() };
        let cause = limits.due(own, 0, &counters).await;
        assert!(cause.contains("memory"), "{cause}");
        let limits = Recycling { memory: Some(1 << 50), age: Some(Duration::from_secs(100)), ..limits };
        let cause = limits.due(own, 0, &counters).await;
        assert!(cause.contains("old"), "{cause}");
    }
}
