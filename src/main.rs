//! The program: parse, run, print the error, exit code.

fn main() {
    // First of all, while there is one thread: the helper makes namespaces.
    if std::env::args_os().nth(1).is_some_and(|word| word == autofit::process::helper::ARGUMENT) {
        autofit::process::helper::main();
    }
}
