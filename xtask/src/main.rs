//! Recurring work on this repository: `cargo xtask <verb>`.

use std::process::ExitCode;

mod bench;
mod bench_report;
mod check;
mod codegen;
mod deny;
mod descriptors;
mod footprint;
mod http;
mod interop;
mod ops;
mod pictures;
mod pilot;
mod resident;

const HELP: &str = "\
Recurring work on this repository.

Usage: cargo xtask <verb> [options]

Verbs:
  check                    formatting, lints, documentation, generated code, licences and layers
  deny                     licences, banned crates and the dependency rule alone
  codegen [--check]        generate wire types and stubs from the .proto files;
                           with --check, only say whether the committed ones are stale
  descriptors --from PATH  rebuild xds-server/data/envoy-descriptors.bin.gz from a descriptor set,
                           or from a directory with an unpacked `envoy-types` package
  interop                  real peers (grpc-go, C-core, grpc-node, grpc-java, go-control-plane,
                           Istio, Envoy, earlier tonics) against our programs; --only NAME[/CAST],
                           --full, --repeat N, --jobs N, --list, --json,
                           --write (README.md and docs/interop.md, after a green run of all; with --full also of what a short run leaves out)
  bench [--short] [--picks] [--micro] [--build] [--json]
                           what a call costs, against the bars (needs valgrind): counts always;
                           clocks unless --short; a cold build with --build
  bench-report [--short] [--only rpc|counts|push|micro|memory|footprint] [--again] [--write] [--out DIR]
                           all that is measured, beside the bars and beside peers: target/bench-report/report.html;
                           --again makes it of what was measured before; --write puts figures and
                           pictures into README.md
  bench-rpc [--short] [--only CASE,...] [--sets SET,...] [--rounds N]
                           whole calls by the clock beside tonic, tonic-xds, grpc-go and Envoy, into
                           target/bench-report/rpc.json (needs Go and Python)
  footprint [--short] [--check] [--json]
                           what the mesh adds to a tonic service: packages, MiB, memory beside a
                           real Envoy, and unless --short seconds of a cold build; with --check
                           a bar that does not hold is a failure
  ops                      the alert rules, their unit tests, the dashboard and the runbooks
                           (needs promtool, Debian package prometheus)
  pilot                    the README section on meshing a service, command by command, under load and
                           watched by a real Prometheus (the same package)
  polyglot                 examples/polyglot: callers in four languages, servers in two, one mesh
                           file (needs Go, Node.js and Python)
  pictures [NAME]          make the README's pictures from real runs: docs/data-flow.svg and
                           docs/demo.svg (which needs tmux); NAME is data-flow or demo
  help                     show this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["help" | "--help" | "-h"] | [_, "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["check"] => check::run(),
        ["bench", options @ ..] => match bench::Options::parse(options) {
            Some(options) => bench::run(&options),
            None => return usage("an option of bench is not known"),
        },
        ["bench-report", options @ ..] => match bench_report::Options::parse(options) {
            Some(options) => bench_report::run(&options),
            None => return usage("an option of bench-report is not known"),
        },
        ["bench-rpc", options @ ..] => match bench_report::rpc::Options::parse(options) {
            Some(options) => bench_report::rpc::run(&options),
            None => return usage("an option of bench-rpc is not known"),
        },
        ["footprint", options @ ..] => match footprint::Options::parse(options) {
            Some(options) => footprint::run(&options),
            None => return usage("an option of footprint is not known"),
        },
        ["ops"] => ops::run(),
        ["pilot"] => pilot::run(),
        ["deny"] => deny::check(),
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        ["descriptors", "--from", path] => descriptors::write(path.as_ref()),
        // Its last line is its verdict.
        ["interop", options @ ..] => match interop::run(options) {
            Ok(false) => return ExitCode::FAILURE,
            outcome => outcome.map(drop),
        },
        ["polyglot"] => interop::polyglot(),
        ["pictures"] => pictures::run(),
        ["pictures", "data-flow"] => pictures::build().and_then(|()| pictures::data_flow()),
        ["pictures", "demo"] => pictures::build().and_then(|()| pictures::demo()),
        [] => return usage("a verb is missing"),
        [verb, ..] => return usage(&format!("not understood: {verb} (or its options)")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reports a wrong call, which has an exit code of its own.
fn usage(problem: &str) -> ExitCode {
    eprint!("error: {problem}\n\n{HELP}");
    ExitCode::from(2)
}
