//! What every scenario needs at hand: arguments, functions, the two sides, and how a measurement is made.

use std::time::Duration;

use anyhow::Result;

use crate::arguments::{Arguments, Variable};
use crate::figures::Figures;
use crate::functions::{Function, Functions, Runtime, builtin};
use crate::generator::{self, Pace, Plan, Question};
use crate::server::{Contender, Server};
use crate::side::{Side, Task};
use crate::table::micros;
use crate::workload::Work;
use crate::wrk;

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
        let exchange = task.work.exchange();
        let answer = (task.runtime != Runtime::Builtin).then_some(&exchange.answer[..]);
        Server::start(contender, task, &function, &exchange.request, answer)
    }

    /// Starts side A with this function.
    pub(crate) fn start_function(&self, function: &Function) -> Result<Server> {
        let task = Task { runtime: Runtime::C, work: Work::Empty, workers: Some(function.workers) };
        Server::start(&self.a, &task, function, &task.work.exchange().request, None)
    }

    /// What is asked again and again; answers of a side that is not told what to say are not measured.
    pub(crate) fn question(&self, task: &Task) -> Question {
        let question = task.work.question();
        let answer_length = question.answer_length.filter(|_| task.runtime != Runtime::Builtin);
        Question { answer_length, ..question }
    }

    /// Asks a server for that long.
    pub(crate) fn sample(
        &self,
        server: &Server,
        questions: &[Question],
        connections: u32,
        pace: Pace,
        seconds: f64,
    ) -> Result<Figures> {
        server.forget_log()?;
        let before = server.cpu_time();
        let outcome = if self.arguments.wrk && pace == Pace::Closed && wrk::can_ask(questions) {
            wrk::run(server.http, questions, connections, seconds)?
        } else {
            let length = Duration::from_secs_f64(seconds);
            let threads = self.arguments.generator_threads;
            generator::run(&Plan { target: server.http, questions, connections, pace, length, threads })?
        };
        let cpu = server.cpu_time().saturating_sub(before);
        Ok(Figures::new(&outcome, pace, micros(cpu)))
    }
}

pub(crate) fn contender(side: &Side, environment: &[Variable]) -> Contender {
    let environment = environment.iter().map(|Variable(name, value)| (name.clone(), value.clone()));
    Contender { name: side.to_string(), side: side.clone(), environment: environment.collect() }
}
