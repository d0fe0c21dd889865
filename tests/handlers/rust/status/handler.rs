use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct Status;

impl Handler for Status {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        let status = event.path_text()[1..].parse()?;
        Ok(Response::text("as asked").status(status))
    }
}

export_handler!(Status);
main!(Status);
