use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};

pub struct Hang;

impl Handler for Hang {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        while event.path() == b"/hang" {
            std::hint::spin_loop();
        }
        Ok(Response::text("back"))
    }
}

export_handler!(Hang);
main!(Hang);
