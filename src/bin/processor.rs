//! The program in a function's container: arguments, configuration, start, stop, exit code.

use std::io::Write;
use std::process::ExitCode;

use nuclio_processor::cli::{self, Command, Exit, Stream};
use nuclio_processor::config::Env;
use nuclio_processor::{blueprint, check, dev, invoke, run};

fn main() -> ExitCode {
    match cli::parse(std::env::args().skip(1)) {
        Ok(command) => obey(command),
        Err(Exit { text, code, stream }) => {
            print(stream, &text);
            ExitCode::from(code)
        }
    }
}

fn obey(command: Command) -> ExitCode {
    match command {
        Command::Schema(schema) => print(Stream::Stdout, schema.text()),
        Command::ListRuntimes => print(Stream::Stdout, &cli::runtimes()),
        Command::Version => print(Stream::Stdout, &cli::version()),
        Command::Run { config, platform_config, ignored } => {
            let hint = ignored.map(|word| cli::unknown_command(&word));
            return run::run(&config, &platform_config, hint.as_deref());
        }
        Command::Dev(arguments) => return dev::run(&arguments),
        Command::Invoke(arguments) => return invoke::run(&arguments),
        Command::Blueprint(arguments) => {
            let Err(error) = blueprint::write(&arguments, &mut std::io::stdout().lock()) else {
                return ExitCode::SUCCESS;
            };
            print(Stream::Stderr, &format!("processor blueprint: {:#}\n", anyhow::Error::from(error)));
            return ExitCode::FAILURE;
        }
        Command::Check { config, platform_config } => {
            let env = match Env::from_process() {
                Ok(env) => env,
                Err(error) => return run::refuse(&error),
            };
            let good = check::check(&config, &platform_config, env, &mut std::io::stdout().lock());
            // A closed standard output is nobody's mistake.
            return if good.unwrap_or(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
    ExitCode::SUCCESS
}

/// A closed stream is nobody's mistake.
fn print(stream: Stream, text: &str) {
    match stream {
        Stream::Stdout => std::io::stdout().write_all(text.as_bytes()).unwrap_or_default(),
        Stream::Stderr => std::io::stderr().write_all(text.as_bytes()).unwrap_or_default(),
    }
}
