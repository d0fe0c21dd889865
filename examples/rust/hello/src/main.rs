//! The same handler as a program, one process per worker.

nuclio_handler::main!(hello::Hello);
