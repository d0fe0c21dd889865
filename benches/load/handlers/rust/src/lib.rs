//! All that the harness asks for; the path says what (see ../../../workload.rs).

use std::thread;
use std::time::Duration;

use nuclio_handler::{Context, Error, Event, Handler, Level, Response, export_handler};
use rustix::time::{ClockId, clock_gettime};

/// The function.
pub struct Work;

impl Handler for Work {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, context: &Context, event: Event<'_>) -> Result<Response, Error> {
        match event.path() {
            b"/echo" => return Ok(Response::new().body(event.share(event.body()))),
            b"/cpu" => burn(Duration::from_micros(100)),
            b"/sleep" => thread::sleep(Duration::from_millis(10)),
            b"/log" => {
                context.info("first");
                context.log(Level::Info, "second", &[("number", 7.into())]);
                context.info("third");
            }
            b"/stream" => return Ok(Response::stream((0..10).map(|_| Ok(vec![b'x'; 1024])))),
            _ => {}
        }
        Ok(Response::new().body(&b"hello"[..]).content_type("text/plain"))
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn burn(time: Duration) {
    let end = cpu_time() + time;
    while cpu_time() < end {}
}

export_handler!(Work);
