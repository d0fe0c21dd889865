//! Greets whoever the body names. Builds to `handler.so` with
//! `cargo build --release && cp target/release/libhello.so handler.so`.

use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler};

/// The function.
pub struct Hello {
    greeted: u64,
}

impl Handler for Hello {
    fn init(context: &Context) -> Result<Self, Error> {
        context.debug("ready");
        Ok(Self { greeted: 0 })
    }

    fn handle(&mut self, context: &Context, event: Event<'_>) -> Result<Response, Error> {
        let name = std::str::from_utf8(event.body()).map_err(|_| Error::with_status(400, "not a name"))?;
        self.greeted += 1;
        context.info("greeting");
        Ok(Response::text(format!("Hello, {name}! You are number {}.", self.greeted)))
    }
}

export_handler!(Hello);
