//! `cargo xtask descriptors`: the official xDS descriptors, reduced to names, numbers and types.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// Where the descriptor set lies inside the `envoy-types` package.
const IN_PACKAGE: &str = "src/generated/types.bin";

/// Files that only define annotations; the wire format is the same without them.
const ANNOTATIONS: [&str; 5] = [
    "validate/",
    "udpa/annotations/",
    "xds/annotations/",
    "envoy/annotations/",
    "google/api/annotations.proto",
];

pub(crate) fn write(from: &Path) -> Result<()> {
    let source = if from.is_dir() {
        from.join(IN_PACKAGE)
    } else {
        from.to_owned()
    };
    let bytes = fs::read(&source).with_context(|| source.display().to_string())?;
    // Decoding drops the annotations themselves: prost-types does not model option extensions.
    let official = FileDescriptorSet::decode(bytes.as_slice()).context("not a descriptor set")?;
    let reduced = reduce(official);
    ensure!(
        !reduced.file.is_empty(),
        "no xDS file in {}",
        source.display()
    );

    protox::prost_reflect::DescriptorPool::from_file_descriptor_set(reduced.clone())
        .context("the reduced set does not stand on its own")?;

    let target = crate::codegen::root().join("xds-server/data/envoy-descriptors.bin.gz");
    fs::create_dir_all(target.parent().expect("a file has a parent"))?;
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
    packed.write_all(&reduced.encode_to_vec())?;
    let packed = packed.finish()?;
    fs::write(&target, &packed)?;
    println!(
        "{} files, {} bytes: {}",
        reduced.file.len(),
        packed.len(),
        target.display()
    );
    Ok(())
}

/// Keeps the xDS files and what they import, each import ahead of its importer.
fn reduce(official: FileDescriptorSet) -> FileDescriptorSet {
    let mut files: BTreeMap<String, FileDescriptorProto> = official
        .file
        .into_iter()
        .filter(|file| !is_annotation(file.name()))
        .map(|mut file| {
            strip(&mut file);
            (file.name().to_owned(), file)
        })
        .collect();
    let roots: Vec<String> = files
        .keys()
        .filter(|name| {
            ["envoy/", "xds/", "udpa/"]
                .iter()
                .any(|folder| name.starts_with(folder))
        })
        .cloned()
        .collect();
    let mut kept = Vec::new();
    for name in &roots {
        take(name, &mut files, &mut kept);
    }
    FileDescriptorSet { file: kept }
}

fn take(
    name: &str,
    files: &mut BTreeMap<String, FileDescriptorProto>,
    kept: &mut Vec<FileDescriptorProto>,
) {
    let Some(file) = files.remove(name) else {
        return;
    };
    for import in &file.dependency {
        take(import, files, kept);
    }
    kept.push(file);
}

fn strip(file: &mut FileDescriptorProto) {
    file.source_code_info = None;
    file.options = None;
    // Positions in the list of imports would shift; nobody reads these two for us.
    file.public_dependency.clear();
    file.weak_dependency.clear();
    file.dependency
        .retain(|import| !is_annotation(import) && import != "google/protobuf/descriptor.proto");
}

fn is_annotation(path: &str) -> bool {
    ANNOTATIONS.iter().any(|start| path.starts_with(start))
}
