//! The HTTP/1.1 loop that triggers and side servers share: listen, serve connections, close them without cutting an
//! answer. What a request means is its service's business.

mod connection;
mod listener;
mod socket;
mod stream;

pub use connection::{Activity, Phase, Service};
pub use listener::{Limits, Server};
pub use stream::{Listener, UNIX_PREFIX, bind, bind_tcp, collide};
