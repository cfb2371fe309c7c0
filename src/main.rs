//! The program: parse, run, print the error, exit code.

use autofit::commands::{self, Request};
use autofit::exit::{self, Exit};

fn main() {
    // First of all, while there is one thread: the helper makes namespaces.
    if std::env::args_os().nth(1).is_some_and(|word| word == autofit::process::helper::ARGUMENT) {
        autofit::process::helper::main();
    }
    std::process::exit(match autofit::cli::parse(std::env::args_os()) {
        Ok(request) => perform(request).unwrap_or_else(|e| report(&e)),
        // Help and version are no errors.
        Err(e) if e.status == exit::TUNED => {
            println!("{}", e.message.trim_end());
            e.status
        }
        Err(e) => report(&e.into()),
    });
}

fn perform(request: Request) -> anyhow::Result<i32> {
    match request {
        Request::Run(request) => commands::run::run(&request),
        Request::Diagnose(request) => commands::diagnose::run(&request.file, request.json),
        _ => Err(Exit::new(exit::USAGE, "this version cannot do that yet").into()),
    }
}

/// One sentence, and the status that goes with it.
fn report(error: &anyhow::Error) -> i32 {
    eprintln!("autofit: {error:#}");
    error.downcast_ref::<Exit>().map_or(1, |e| e.status)
}
