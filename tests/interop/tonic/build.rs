//! Generates the interop service's client with this version of tonic, without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../protos";
    let descriptors = protox::compile(["grpc/testing/test.proto"], [root])?;
    println!("cargo:rerun-if-changed={root}");
    tonic_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
