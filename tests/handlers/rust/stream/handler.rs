use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler, main};
struct Pieces {
    number: usize,
    path: String,
    file: String,
}

impl Iterator for Pieces {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let broken = self.path == "/broken";
        if self.path == "/five" && self.number == 5 {
            return None;
        }
        if broken && std::fs::exists(&self.file).unwrap_or(false) {
            return Some(Err(Error::new("broken on purpose")));
        }
        if broken && self.number > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.number += 1;
        let piece = if self.path == "/flood" { "x".repeat(100_000) } else { format!("{}\n", self.number - 1) };
        Some(Ok(piece.into_bytes()))
    }
}

/// Says when the processor has let the stream go.
impl Drop for Pieces {
    fn drop(&mut self) {
        println!("stream closed");
    }
}

pub struct Stream;

impl Handler for Stream {
    fn init(_: &Context) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, _: &Context, event: Event<'_>) -> Result<Response, Error> {
        let pieces = Pieces { number: 0, path: event.path_text().into(), file: String::from_utf8(event.body().to_vec())? };
        Ok(Response::stream(pieces).status(201).content_type("text/csv").header("X-Kind", "pieces"))
    }
}

export_handler!(Stream);
main!(Stream);
