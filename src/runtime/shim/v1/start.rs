//! Starting a wrapper: sockets, process, and the lines until it is ready.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::crew::Crew;
use super::lines::Lines;
use super::socket::{Listener, Loopback, Port, Socket};
use super::transit::Transit;
use super::{Arguments, Shared, Transport, Wrapper};
use crate::config::SeveralFor;
use crate::event::WorkerId;
use crate::logging::{Logger, Origin};
use crate::runtime::StartError;
use crate::runtime::shim::answers::worker_logger;
use crate::runtime::shim::handshake::{HandshakeError, Hello};
use crate::runtime::shim::process::Process;
use crate::runtime::shim::protocol::v1::line::{
    Control, Line, is_ready_notice, parse, read_control, read_log,
};
use crate::runtime::shim::start::{Recipe, Running, answer_all};

/// Bytes of the buffer of a worker's only connection.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of the buffer of one connection of many.
const SMALL_BUFFER_BYTES: usize = 4 << 10;
/// Connections to an async wrapper that are opened at the start.
const FIRST_LANES: usize = 4;
/// Between two attempts to connect to a wrapper that does not listen yet.
const DIAL_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a line that are shown in a message.
const SHOWN_BYTES: usize = 120;

/// Where events go.
enum Endpoint {
    /// The wrapper connects.
    Listener(Listener),
    /// The same over TCP.
    Loopback(Loopback),
    /// We connect, over at most so many connections.
    Port(Port, usize),
}

impl Endpoint {
    fn text(&self) -> String {
        match self {
            Self::Listener(listener) => listener.path().display().to_string(),
            Self::Loopback(loopback) => loopback.address().to_string(),
            Self::Port(port, _) => port.address().to_string(),
        }
    }

    /// The wrapper's own connection.
    async fn accept(self) -> io::Result<Socket> {
        match self {
            Self::Listener(listener) => listener.accept().await.map(Socket::Left),
            Self::Loopback(loopback) => loopback.accept().await.map(Socket::Right),
            Self::Port(..) => Err(io::ErrorKind::Unsupported.into()), // The wrapper listens.
        }
    }
}

/// Starts a worker and waits until it is ready.
///
/// # Errors
/// It cannot be spawned, ends, fails to load, or takes too long; with its last words.
pub(in crate::runtime::shim) async fn start(
    recipe: &Recipe,
    wrapper: &Wrapper,
    id: &WorkerId,
) -> Result<Running, StartError> {
    let begun = Instant::now();
    // Wrappers serve functions only.
    let for_functions =
        !recipe.init.contains(&("max_inflight_for", SeveralFor::Applications.name().to_owned()));
    let many = for_functions && recipe.in_flight_max > 1 && wrapper.async_path.is_some();
    let explain = |error: io::Error| {
        StartError::new("cannot make the sockets of a wrapper", format!("{error}; is /tmp writable?"))
    };
    let control = wrapper.dialect.control.then(Listener::bind).transpose().map_err(explain)?;
    let events = match wrapper.dialect.transport {
        _ if many => Port::reserve().map(|port| Endpoint::Port(port, recipe.in_flight_max)),
        Transport::Unix => Listener::bind().map(Endpoint::Listener),
        Transport::Tcp => Loopback::bind().map(Endpoint::Loopback),
    };
    let events = events.map_err(explain)?;
    let arguments = arguments(recipe, wrapper, id, &events, control.as_ref())?;
    let mut process =
        Process::spawn_wrapper(&recipe.launch, &arguments, recipe.logger.writer(), &recipe.children)
            .map_err(|error| recipe.cannot_spawn(&error))?;
    let logger = worker_logger(&recipe.logger, &id.trigger_kind, id.index, recipe.language.name);
    let shared = shared(recipe, wrapper, id, many, logger.clone());
    let (mut ready, readied) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (commands, inbox) = mpsc::channel(4);
    let signals = process.signals();
    recipe.runtime.spawn(async move {
        let hands = tokio::select! {
            hands = handshake(&shared, events, control) => hands,
            // It has ended before it connected, which no socket tells.
            () = ready.closed() => return,
        };
        match hands {
            Err(error) => ready.send(Err(error)).unwrap_or_default(),
            Ok(Hands { first, control, more }) => {
                let mut crew = Crew::new(shared.clone(), control, signals, more, inbox);
                if ready.send(Ok(hello(&shared.wrapper, more.map_or(1, |(_, lanes)| lanes)))).is_err() {
                    return;
                }
                crew.begin(first);
                if let Err((_, waiting)) = end.send(crew.serve().await) {
                    answer_all(waiting, "the worker was stopped"); // Its keeper is gone: the processor ends.
                }
            }
        }
    });
    recipe.wait_ready(&mut process, readied, &logger, id, begun).await?;
    Ok(Running { process, commands, ended })
}

fn hello(wrapper: &Wrapper, in_flight_max: usize) -> Hello {
    let about = format!("wrapper of the Go processor, {}, protocol 1", wrapper.generation());
    Hello { about, in_flight_max, batch: true, ..Hello::default() }
}

fn shared(recipe: &Recipe, wrapper: &Wrapper, id: &WorkerId, many: bool, logger: Logger) -> Arc<Shared> {
    Arc::new(Shared {
        index: id.index,
        event_timeout: recipe.event_timeout,
        answer_bytes_max: recipe.launch.answer_bytes_max,
        encoding: wrapper.dialect.encoding,
        wrapper: wrapper.clone(),
        transit: many.then(Transit::new),
        queue: recipe.queue.clone(),
        logger,
        idle: Default::default(),
        none_idle: Default::default(),
        complaints: Default::default(),
        closing: Default::default(),
        signal_seen: Default::default(),
        callback_ended: Default::default(),
        callback_begun: Default::default(),
        last_record: Default::default(),
        started: Instant::now(),
    })
}

fn arguments(
    recipe: &Recipe,
    wrapper: &Wrapper,
    id: &WorkerId,
    events: &Endpoint,
    control: Option<&Listener>,
) -> Result<Vec<OsString>, StartError> {
    let setting = |name: &str| match name {
        "worker_id" => id.index.to_string(),
        "trigger_kind" => id.trigger_kind.clone(),
        "trigger_name" => id.trigger_name.clone(),
        _ => recipe
            .init
            .iter()
            .find(|(key, _)| *key == name)
            .map_or_else(String::new, |(_, value)| value.clone()),
    };
    let control = control.map_or_else(String::new, |control| control.path().display().to_string());
    let file = match (events, &wrapper.async_path) {
        (Endpoint::Port(..), Some(path)) => path,
        _ => &wrapper.path,
    };
    let from = Arguments { file, event: &events.text(), control: &control, setting: &setting };
    (wrapper.dialect.arguments)(&from)
}

/// The connections of a wrapper that is ready.
struct Hands {
    first: (Socket, Lines),
    control: Option<(UnixStream, Lines)>,
    more: Option<(SocketAddr, usize)>,
}

async fn handshake(
    shared: &Shared,
    events: Endpoint,
    control: Option<Listener>,
) -> Result<Hands, HandshakeError> {
    let failed = |_: io::Error| HandshakeError::Ended;
    let control = async {
        let Some(control) = control else { return Ok(None) };
        let lines = Lines::new(SMALL_BUFFER_BYTES, shared.answer_bytes_max);
        control.accept().await.map(|control| Some((control, lines)))
    };
    if let Endpoint::Port(port, lanes_max) = events {
        let mut control = control.await.map_err(failed)?;
        // It listens only after that.
        wait_ready(shared, &mut control).await?;
        let first = dial(port.address(), shared).await?;
        return Ok(Hands { first, control, more: Some((port.address(), lanes_max)) });
    }
    let (events, mut control) = tokio::try_join!(events.accept(), control).map_err(failed)?;
    let mut events = (events, Lines::new(BUFFER_BYTES, shared.answer_bytes_max));
    let long_enough = async {
        match shared.wrapper.dialect.notice_within {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    // One of them says that it is ready; what the others say then is taken for nothing more.
    tokio::select! {
        ready = wait_start(shared, &mut events) => ready?,
        ready = wait_ready(shared, &mut control) => ready?,
        () = long_enough => {}
    }
    Ok(Hands { first: events, control, more: None })
}

impl Crew {
    /// Lets the first connection serve, and opens a few more to an async wrapper.
    fn begin(&mut self, (socket, lines): (Socket, Lines)) {
        self.add(socket, lines);
        self.open(FIRST_LANES);
    }
}

/// Connects to an async wrapper and waits until it has begun to serve that connection.
pub(super) async fn dial(address: SocketAddr, shared: &Shared) -> Result<(Socket, Lines), HandshakeError> {
    let stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            // Not yet: it binds its port after it has said that it is ready.
            Err(_) => tokio::time::sleep(DIAL_PAUSE).await,
        }
    };
    stream.set_nodelay(true).map_err(|_| HandshakeError::Ended)?;
    let lines = Lines::new(SMALL_BUFFER_BYTES, shared.answer_bytes_max);
    let mut connection = (Socket::Right(stream), lines);
    wait_start(shared, &mut connection).await?;
    Ok(connection)
}

/// Reads the event connection until the start notice.
async fn wait_start(shared: &Shared, (socket, lines): &mut (Socket, Lines)) -> Result<(), HandshakeError> {
    loop {
        let wrong = |error| HandshakeError::Wrapper(format!("{error}"));
        while let Some(line) = lines.next_line().map_err(wrong)? {
            match parse(line) {
                (true, _) | (_, Line::Start) => return Ok(()),
                (_, Line::Empty) => {}
                (_, Line::Log(json)) => {
                    if let Some(log) = read_log(json) {
                        shared.record(log, Origin::default());
                    }
                }
                _ => return Err(not_a_wrapper(line)),
            }
        }
        let unfinished = lines.unfinished();
        if is_ready_notice(unfinished) {
            lines.forget_unfinished();
            return Ok(());
        }
        if unfinished.first().is_some_and(|letter| !b"sl{".contains(letter)) {
            return Err(not_a_wrapper(unfinished));
        }
        if matches!(poll_fn(|cx| lines.poll_fill(cx, socket)).await, Ok(0) | Err(_)) {
            return Err(HandshakeError::Ended);
        }
    }
}

fn not_a_wrapper(line: &[u8]) -> HandshakeError {
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
    let advice = "NUCLIO_SHIM_PROTOCOL chooses the protocol by hand";
    HandshakeError::Wrapper(format!(
        "its first words are {shown:?}, which are not those of protocol 1; {advice}"
    ))
}

/// Reads the control connection until the wrapper says that it is ready; for ever where there is none.
async fn wait_ready(
    shared: &Shared,
    control: &mut Option<(UnixStream, Lines)>,
) -> Result<(), HandshakeError> {
    let Some((socket, lines)) = control else { return std::future::pending().await };
    loop {
        while let Some(line) =
            lines.next_line().map_err(|error| HandshakeError::Wrapper(error.to_string()))?
        {
            match read_control(line) {
                Ok(Control::Ready) => return Ok(()),
                Ok(Control::Log(log)) => shared.record(log, Origin::default()),
                Ok(_) => {}
                Err(_) => return Err(not_a_wrapper(line)),
            }
        }
        if matches!(poll_fn(|cx| lines.poll_fill(cx, socket)).await, Ok(0) | Err(_)) {
            return Err(HandshakeError::Ended);
        }
    }
}
