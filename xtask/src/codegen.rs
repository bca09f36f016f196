//! `cargo xtask codegen`: from `proto/protos` to `proto/src/wire`, and from the services of the
//! examples and tests to their stubs.
//!
//! The result is committed, so that nobody who builds Sidestep needs a generator. Everything here is
//! deterministic: the same `.proto` files give the same bytes on every machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::FileDescriptorSet;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies inside the workspace")
}

/// Generated files by their path below the folder they belong to.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// gRPC services with stubs: their `.proto` folder, and where the stubs go.
const SERVICES: [(&str, &str); 5] = [
    ("benches/protos", "benches/src/generated"),
    ("benches/rpc/protos", "benches/rpc/rust/src/generated"),
    ("examples/protos", "examples/src/generated"),
    ("examples/protos", "cli/src/demo/generated"),
    ("tests/interop/protos", "tests/interop/src/generated"),
];

/// Writes what is stale and removes what is left over.
pub(crate) fn write() -> Result<()> {
    let wire = root().join("proto/src/wire");
    let wanted = generate()?;
    let stale = differences(&wanted, &committed(&wire)?);
    fs::create_dir_all(wire.join("generated"))?;
    for path in &stale {
        let target = wire.join(path);
        match wanted.get(path) {
            Some(content) => fs::write(&target, content),
            None => fs::remove_file(&target),
        }
        .with_context(|| target.display().to_string())?;
    }
    println!("{} files, {} changed", wanted.len(), stale.len());
    for (sources, target) in SERVICES {
        let target = root().join(target);
        fs::create_dir_all(&target)?;
        for (path, content) in generate_stubs(sources)? {
            fs::write(target.join(path), content)?;
        }
    }
    Ok(())
}

/// Fails, naming the files, when committed code differs from what would be generated.
pub(crate) fn check() -> Result<()> {
    let wire = Path::new("proto/src/wire");
    let mut stale: Vec<_> = differences(&generate()?, &committed(&root().join(wire))?)
        .into_iter()
        .map(|path| wire.join(path))
        .collect();
    for (sources, target) in SERVICES {
        let found = read_directory(&root().join(target), Path::new(""))?;
        let differ = differences(&generate_stubs(sources)?, &found);
        stale.extend(differ.into_iter().map(|path| Path::new(target).join(path)));
    }
    if stale.is_empty() {
        return Ok(());
    }
    for path in &stale {
        eprintln!("stale: {}", path.display());
    }
    bail!("run `cargo xtask codegen` and commit the result");
}

fn differences(wanted: &Files, found: &Files) -> Vec<PathBuf> {
    let mut paths: Vec<_> = wanted.keys().chain(found.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    paths.retain(|path| wanted.get(path) != found.get(path));
    paths
}

fn committed(wire: &Path) -> Result<Files> {
    let mut files = read_directory(&wire.join("generated"), Path::new("generated"))?;
    if let Ok(content) = fs::read(wire.join("descriptors.bin")) {
        files.insert("descriptors.bin".into(), content);
    }
    Ok(files)
}

fn read_directory(directory: &Path, prefix: &Path) -> Result<Files> {
    let mut files = Files::new();
    if directory.is_dir() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            files.insert(prefix.join(entry.file_name()), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

fn generate() -> Result<Files> {
    let mut descriptors = compile(&root().join("proto/protos"))?;

    let scratch = scratch()?;
    let outcome = prost_build::Config::new()
        .extern_path(".google.protobuf.Any", "crate::wire::Any")
        .bytes(["."])
        // Ordered maps make encoding a function of the content.
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("mod.rs")
        .out_dir(&scratch)
        .compile_fds(descriptors.clone())
        .context("generating Rust code")
        .and_then(|()| read_directory(&scratch, Path::new("generated")));
    fs::remove_dir_all(&scratch)?;
    let mut files = plain_names(outcome?)?;

    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    files.insert("descriptors.bin".into(), descriptors.encode_to_vec());
    Ok(files)
}

/// Stubs of the services below `sources`, one file for each package.
fn generate_stubs(sources: &str) -> Result<Files> {
    let descriptors = compile(&root().join(sources))?;
    let scratch = scratch()?;
    let outcome = tonic_prost_build::configure()
        .build_transport(false)
        // What is measured shall be the call, not copies of its payload.
        .bytes(".bench")
        .out_dir(&scratch)
        .compile_fds(descriptors)
        .context("generating stubs")
        .and_then(|()| read_directory(&scratch, Path::new("")));
    fs::remove_dir_all(&scratch)?;
    outcome
}

fn scratch() -> Result<PathBuf> {
    let scratch = root()
        .join("target/xtask")
        .join(format!("codegen-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

/// Takes the raw identifiers out of file names: a package called `type` is no keyword on disk.
fn plain_names(files: Files) -> Result<Files> {
    files
        .into_iter()
        .map(|(path, content)| {
            let text = String::from_utf8(content)?;
            let lines = text
                .lines()
                .map(|line| match line.trim_start().starts_with("include!(") {
                    true => line.replace("r#", ""),
                    false => line.to_owned(),
                });
            let text = lines.collect::<Vec<_>>().join("\n") + "\n";
            let path = path
                .to_str()
                .context("package names are text")?
                .replace("r#", "");
            Ok((path.into(), text.into_bytes()))
        })
        .collect()
}

/// Compiles every `.proto` file below `directory`, together with what they import.
fn compile(directory: &Path) -> Result<FileDescriptorSet> {
    let mut sources = Vec::new();
    collect(directory, &mut sources)?;
    sources.sort();
    let mut compiler = protox::Compiler::new([directory])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&sources)?;
    Ok(compiler.file_descriptor_set())
}

fn collect(directory: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            sources.push(path);
        }
    }
    Ok(())
}
