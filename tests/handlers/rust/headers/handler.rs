use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct Headers;

impl Handler for Headers {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        let seen = event.header("X-Ask").unwrap_or_default().to_vec();
        let response = Response::text("<p>").content_type("text/html").header("X-Seen", seen);
        Ok(response.header("X-Number", 7).header("X-Twice", "a").header("X-Twice", "b"))
    }
}

export_handler!(Headers);
main!(Headers);
