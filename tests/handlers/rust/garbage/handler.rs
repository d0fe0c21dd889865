use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct Garbage;

impl Handler for Garbage {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        match event.path() {
            b"/throw" => panic!("thrown on purpose"),
            b"/status" => Ok(Response::text("x").status(42)),
            b"/header" => Ok(Response::text("x").header("bad name", "1").header("X-Split", "a\r\nb: c")),
            b"/text" => Ok(Response::text(String::from_utf8_lossy(b"\xff!"))),
            _ => Ok(Response::text("well")),
        }
    }
}

export_handler!(Garbage);
main!(Garbage);
