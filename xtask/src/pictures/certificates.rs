//! Certificates of one run, made by the `openssl` program: one root, and one for each service.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::process::output;

/// Writes `ca.pem` and `ca-key.pem`.
pub(super) fn make_root(directory: &Path) -> Result<()> {
    openssl(directory, "ca", &["-subj", "/CN=pictures"])
}

/// Writes `SERVICE.pem` and `SERVICE-key.pem` with this SPIFFE ID.
pub(super) fn issue(directory: &Path, service: &str, spiffe_id: &str) -> Result<()> {
    let name = format!("subjectAltName=URI:{spiffe_id}");
    let subject = format!("/CN={service}");
    let leaf = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca-key.pem",
        "-subj",
        &subject,
        "-addext",
        &name,
    ];
    let not_a_ca = ["-addext", "basicConstraints=critical,CA:FALSE"];
    openssl(directory, service, &[&leaf[..], &not_a_ca].concat())
}

fn openssl(directory: &Path, name: &str, more: &[&str]) -> Result<()> {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}-key.pem"));
    output(
        Command::new("openssl")
            .current_dir(directory)
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-keyout", &key, "-out", &certificate])
            .args(more),
        &[0],
    )?;
    Ok(())
}

/// The `certificate_providers` of a bootstrap whose process is part of `service`.
pub(super) fn providers(directory: &Path, service: &str) -> Value {
    json!({"default": {"plugin_name": "file_watcher", "config": {
        "certificate_file": directory.join(format!("{service}.pem")),
        "private_key_file": directory.join(format!("{service}-key.pem")),
        "ca_certificate_file": directory.join("ca.pem"),
        "refresh_interval": "600s",
    }}})
}
