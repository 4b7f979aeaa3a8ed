//! `lora-kernels` on the command line.

fn main() -> std::process::ExitCode {
    lora_kernels_cli::main()
}
