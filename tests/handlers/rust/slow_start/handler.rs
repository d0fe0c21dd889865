use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct SlowStart(&'static str);

impl Handler for SlowStart {
    fn init(_: &Context) -> Result<Self, Error> {
        std::thread::sleep(std::time::Duration::from_secs(1));
        Ok(Self("ready"))
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        let _ = event;
        Ok(Response::text(self.0))
    }
}

export_handler!(SlowStart);
main!(SlowStart);
