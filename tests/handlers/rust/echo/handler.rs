use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct Echo;

impl Handler for Echo {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        Ok(Response::new().body(event.share(event.body())))
    }
}

export_handler!(Echo);
main!(Echo);
