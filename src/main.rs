//! The program: parse, run, print the error, exit code.

use autofit::exit::{self, Exit};

fn main() {
    // First of all, while there is one thread: the helper makes namespaces.
    if std::env::args_os().nth(1).is_some_and(|word| word == autofit::process::helper::ARGUMENT) {
        autofit::process::helper::main();
    }
    let status = match autofit::cli::parse(std::env::args_os()) {
        Ok(request) => autofit::commands::run(request),
        Err(exit) => Err(exit.into()),
    };
    std::process::exit(status.unwrap_or_else(|error| explain(&error)));
}

/// Prints an error; the exit status.
fn explain(error: &anyhow::Error) -> i32 {
    match error.downcast_ref::<Exit>() {
        Some(e) if e.status == exit::TUNED => {
            print!("{e}");
            e.status
        }
        Some(e) => {
            eprintln!("autofit: {e}");
            e.status
        }
        None => {
            eprintln!("autofit: {error:#}");
            exit::PLACE
        }
    }
}
