use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct BigBody;

impl Handler for BigBody {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        match event.method() {
            "PUT" => Ok(Response::text(event.body().len().to_string())),
            _ => Ok(Response::new().body(event.share(event.body()))),
        }
    }
}

export_handler!(BigBody);
main!(BigBody);
