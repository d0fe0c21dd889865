use nuclio_handler::{Context, Error, Event, Handler, Level, Response, export_handler, main};

pub struct Log;

impl Handler for Log {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, context: &Context, _: Event<'_>) -> Result<Response, Error> {
        context.debug("d");
        context.log(Level::Info, "i", &[("number", 1.into()), ("text", "grüß".into())]);
        context.warn("w");
        context.error("e");
        Ok(Response::text("logged"))
    }
}

export_handler!(Log);
main!(Log);
