//! `handle_batch` as the processor calls it.
#![expect(unsafe_code, reason = "plays the processor's side of the boundary")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]

use std::mem::size_of;
use std::ptr;

use nuclio_handler::{Context, Error, Event, Handler, Response, abi, export};

/// Answers each event with its body and its place; words ask for something else.
struct Places;

impl Handler for Places {
    const BATCHES: bool = true;

    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        match event.body() {
            b"fail" => Err(Error::new("no")),
            b"not found" => Err(Error::with_status(404, "nowhere")),
            b"panic" => panic!("all of you"),
            _ => Ok(Response::new().body(event.share(event.body()))),
        }
    }

    fn handle_batch(&mut self, context: &Context, events: &[Event<'_>]) -> Vec<Result<Response, Error>> {
        match events[0].body() {
            b"short" => Vec::new(),
            b"swapped" => events.iter().rev().map(|event| self.handle(context, *event)).collect(),
            _ => events.iter().map(|event| self.handle(context, *event)).collect(),
        }
    }
}

/// The result of one call, and status and body of each answer.
fn call(bodies: &[&'static str]) -> (abi::CallResult, Vec<(u16, String)>) {
    let table = export::table::<Places>();
    // SAFETY: all-zero bytes are valid for these: no functions, empty texts.
    let (mut host, mut config, mut start) = unsafe {
        (
            std::mem::zeroed::<abi::Host>(),
            std::mem::zeroed::<abi::Config>(),
            std::mem::zeroed::<abi::WorkerConfig>(),
        )
    };
    (host.size, config.size) = (size_of::<abi::Host>() as u32, size_of::<abi::Config>() as u32);
    start.size = size_of::<abi::WorkerConfig>() as u32;
    let event = |body: &&'static str| {
        // SAFETY: as above.
        let mut event = unsafe { std::mem::zeroed::<abi::Event>() };
        event.size = size_of::<abi::Event>() as u32;
        event.body = abi::Str::new(body.as_bytes());
        event
    };
    let events: Vec<abi::Event> = bodies.iter().map(event).collect();
    let mut answers = vec![abi::Response::EMPTY; events.len()];
    let pointers: Vec<*const abi::Event> = events.iter().map(ptr::from_ref).collect();
    let places: Vec<*mut abi::Response> = answers.iter_mut().map(ptr::from_mut).collect();
    let (mut plugin, mut worker, mut error) = (ptr::null_mut(), ptr::null_mut(), abi::Response::EMPTY);
    // SAFETY: the life of a worker in the order that the ABI has it.
    unsafe {
        assert_eq!(table.start.unwrap()(&host, &config, &mut plugin, &mut error), abi::OK);
        assert_eq!(table.worker_start.unwrap()(plugin, &start, &mut worker, &mut error), abi::OK);
        let result = table.handle_batch.unwrap()(worker, pointers.as_ptr(), pointers.len(), places.as_ptr());
        let seen = answers
            .iter()
            .map(|answer| (answer.status, String::from_utf8_lossy(answer.body.bytes()).into_owned()));
        let seen = seen.collect();
        for answer in &answers {
            if let Some(release) = answer.release {
                release(answer.owner);
            }
        }
        table.worker_stop.unwrap()(worker);
        table.stop.unwrap()(plugin);
        (result, seen)
    }
}

fn check(bodies: &[&'static str], expected: &[(u16, &str)]) {
    let (result, answers) = call(bodies);
    let expected: Vec<(u16, String)> =
        expected.iter().map(|(status, text)| (*status, (*text).to_owned())).collect();
    assert_eq!((result, answers), (abi::OK, expected), "{bodies:?}");
}

#[test]
fn each_event_gets_the_answer_in_its_place() {
    check(&["a"], &[(0, "a")]);
    check(&["a", "fail", "not found", "d"], &[(0, "a"), (500, "no"), (404, "nowhere"), (0, "d")]);
    let missing = "the handler has no answer to this event of a batch";
    check(&["short", "b"], &[(500, missing), (500, missing)]);
}

#[test]
fn bytes_of_another_event_are_no_answer() {
    let other = "the answer holds bytes of another event";
    let (result, answers) = call(&["swapped", "x"]);
    assert_eq!(result, abi::OK);
    assert_eq!(answers.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), [other, other]);
    assert!(answers.iter().all(|(status, _)| *status == 500), "{answers:?}");
}

#[test]
fn a_panic_fails_all() {
    let (result, answers) = call(&["a", "panic", "c"]);
    assert_eq!(result, abi::PANIC);
    assert_eq!(answers[0].1, "Caught panic: all of you");
}
