//! From an edit of the mesh file to the first call that goes where it says.
//!
//! The file is real and so is everything behind it: file watch, compiler, ADS, channel. Each round
//! moves the one route to the other server and calls until that one answers.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidestep::{CallInfo, Mesh};
use sidestep_benches::echo::Message;
use sidestep_benches::echo::echo_client::EchoClient;
use sidestep_benches::lab;
use sidestep_server::{FileSource, ManagementServer};

/// Odd, so that the median is a round.
const ROUNDS: usize = 21;

const BAR: Duration = Duration::from_millis(150);

/// A change that is not there by then is lost.
const LIMIT: Duration = Duration::from_secs(5);

/// Longer than the file's settling time, so that rounds do not run into each other.
const BETWEEN: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let servers = [lab::serve().await?, lab::serve().await?];
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("mesh.yaml");
    write(&file, &servers, 0)?;
    let control = ManagementServer::builder()
        .source(FileSource::new([&file]))
        .start()
        .await?;
    let bootstrap = lab::bootstrap(&control.address().to_string(), "web");
    let mesh = Mesh::builder().bootstrap_json(&bootstrap)?.build()?;
    let channel = mesh.channel("xds:///echo")?;
    channel.ready().await;
    let mut client = EchoClient::new(channel);

    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        tokio::time::sleep(BETWEEN).await;
        let start = Instant::now();
        write(&file, &servers, round)?;
        while answered_by(&mut client).await? != servers[round % 2] {
            ensure!(start.elapsed() < LIMIT, "round {round}: the change is lost");
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let median = times[ROUNDS / 2];
    let most = times[ROUNDS - 1];
    println!(
        "edit to first call on the new route, {ROUNDS} rounds: median {median:.1?}, most {most:.1?}, bar {BAR:?}"
    );
    control.shutdown().await;
    ensure!(median <= BAR, "the median is above the bar");
    Ok(())
}

/// Replaces the file as an editor does: the new one is written beside it and renamed.
fn write(file: &Path, servers: &[String; 2], round: usize) -> Result<()> {
    let [a, b] = servers;
    let to = ["first", "second"][round % 2];
    let text = format!(
        "mesh: v1\ndefaults: {{mtls: off}}\nservices:\n  web: {{}}\n  echo:\n    endpoints:\n      static:\n        - {{address: \"{a}\", version: a}}\n        - {{address: \"{b}\", version: b}}\n    versions: {{first: a, second: b}}\n    routes:\n      - {{name: main, to: {to}, timeout: 5s}}\n"
    );
    let beside = file.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, file)?)
}

async fn answered_by(client: &mut EchoClient<sidestep::Channel>) -> Result<String> {
    let answer = client.unary(Message::default()).await?;
    let info = answer.extensions().get::<CallInfo>();
    Ok(info
        .map(|info| info.endpoint.to_string())
        .unwrap_or_default())
}
