//! What every scenario needs at hand: arguments, functions, the two sides, and how a measurement is made.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::arguments::{Arguments, Variable};
use crate::figures::Figures;
use crate::functions::{Function, Functions, Runtime, builtin};
use crate::generator::{self, Pace, Plan, Question};
use crate::server::{Contender, Server};
use crate::side::{Side, Task};
use crate::table::micros;
use crate::tools::skip;
use crate::workload::Work;
use crate::wrk;

/// What `nuclio:builtin` says to everybody, here and in the Go processor.
pub(crate) const BUILTIN_ANSWER: &[u8] = b"Built in handler called";

pub(crate) struct Harness {
    pub(crate) arguments: Arguments,
    pub(crate) functions: Functions,
    pub(crate) a: Contender,
    pub(crate) b: Option<Contender>,
}

impl Harness {
    pub(crate) fn new(arguments: Arguments) -> Self {
        let a = contender(&arguments.a, &arguments.a_env);
        let mut b = arguments.b.0.as_ref().map(|side| contender(side, &arguments.b_env));
        if let Some(b) = &mut b
            && b.name == a.name
        {
            b.name = format!("{}, B", b.name);
        }
        Self { arguments, functions: Functions::default(), a, b }
    }

    /// Starts a side that does this work.
    pub(crate) fn start(&self, contender: &Contender, task: &Task) -> Result<Server> {
        task.runtime.does(task.work)?;
        let function = match contender.side {
            Side::Processor(_) => self.functions.get(task.runtime, task.work, task.workers)?,
            Side::Preset(_) | Side::Command(_) => builtin(),
        };
        Server::start(contender, task, &function, &question(contender, task))
            .with_context(|| contender.name.clone())
    }

    /// Starts side A, which has to be a processor, with this function.
    pub(crate) fn start_function(&self, function: &Function) -> Result<Server> {
        if !matches!(self.a.side, Side::Processor(_)) {
            return skip(format!("{} is no processor: give one as --a", self.a.name));
        }
        let task = Task { runtime: Runtime::C, work: Work::Empty, workers: Some(function.workers) };
        let question = Question { answer: None, ..task.work.question() };
        Server::start(&self.a, &task, function, &question).with_context(|| self.a.name.clone())
    }

    /// Asks a server for that long. Whatever is not answered rightly is an error.
    pub(crate) fn sample(
        &self,
        server: &Server,
        questions: &[Question],
        connections: u32,
        pace: Pace,
        seconds: f64,
    ) -> Result<Figures> {
        let figures = self.observe(server, questions, connections, pace, seconds)?;
        match figures.failed() {
            Some(failed) => bail!("{failed}{}", server.last_words()),
            None => Ok(figures),
        }
    }

    /// The same, where failures are for the caller to tell.
    pub(crate) fn observe(
        &self,
        server: &Server,
        questions: &[Question],
        connections: u32,
        pace: Pace,
        seconds: f64,
    ) -> Result<Figures> {
        server.forget_log()?;
        let before = server.cpu_time();
        let asked = if self.arguments.wrk && pace == Pace::Closed && wrk::can_ask(questions) {
            wrk::run(server.http, questions, connections, seconds)
        } else {
            let length = Duration::from_secs_f64(seconds);
            let threads = self.arguments.generator_threads;
            generator::run(&Plan { target: server.http, questions, connections, pace, length, threads })
        };
        let outcome =
            asked.map_err(|error| error.context(format!("it stopped answering{}", server.last_words())))?;
        let cpu = server.cpu_time().saturating_sub(before);
        Ok(Figures::new(&outcome, pace, micros(cpu)))
    }
}

/// What a side is asked for this work, and what it has to answer.
pub(crate) fn question(contender: &Contender, task: &Task) -> Question {
    let question = task.work.question();
    match contender.side {
        Side::Processor(_) if task.runtime == Runtime::Builtin => {
            Question { answer: Some(BUILTIN_ANSWER.to_vec()), ..question }
        }
        _ => question,
    }
}

pub(crate) fn contender(side: &Side, environment: &[Variable]) -> Contender {
    let environment = environment.iter().map(|Variable(name, value)| (name.clone(), value.clone()));
    Contender { name: side.to_string(), side: side.clone(), environment: environment.collect() }
}
