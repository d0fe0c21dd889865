//! Counts the bytes of a body while it arrives.

use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler};

struct Counter;

impl Handler for Counter {
    const STREAMS_BODY: bool = true;

    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        let total = std::io::copy(&mut event.reader(), &mut std::io::sink())?;
        Ok(Response::text(format!("{total} rust")))
    }
}

export_handler!(Counter);
nuclio_handler::main!(Counter);
