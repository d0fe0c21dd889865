use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};
use std::process::Command;

pub struct Crash;

impl Handler for Crash {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        match event.path() {
            b"/exit" => std::process::exit(7),
            b"/signal" => drop(Command::new("kill").args(["-9", &std::process::id().to_string()]).status()),
            // SAFETY: there is none: it faults, on purpose.
            b"/fault" => unsafe { std::ptr::with_exposed_provenance_mut::<u8>(8).write_volatile(1) },
            _ => {}
        }
        Ok(Response::text("alive"))
    }
}

export_handler!(Crash);
main!(Crash);
