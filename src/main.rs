//! The program: everything is in [`weft::app`].

use std::process::ExitCode;

fn main() -> ExitCode {
    weft::app::main()
}
