//! Whether what Istio sent means the same to us after we have read and written it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use prost::Message as _;
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use sidestep_proto::wire::discovery::DiscoveryResponse;

/// Reads every response in `folder`. What we do not honour goes to `ignored.txt` beside them, for
/// whoever wants to know. Says how many types there were.
pub(super) fn check(folder: &Path) -> Result<usize> {
    let mut seen = BTreeMap::new();
    let mut ignored = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.display().to_string();
        // Envoy asks by delta, and is sent what is not for gRPC.
        if !name.contains("-sotw-") {
            continue;
        }
        let response =
            DiscoveryResponse::decode(fs::read(&path)?.as_slice()).with_context(|| name.clone())?;
        for any in &response.resources {
            let t = ResourceType::ALL
                .into_iter()
                .find(|t| t.type_url() == any.type_url)
                .with_context(|| format!("{name}: {}", any.type_url))?;
            ignored.extend(keeps_its_meaning(t, any).with_context(|| name.clone())?);
            *seen.entry(t.to_string()).or_insert(0_u32) += 1;
        }
    }
    ensure!(!seen.is_empty(), "Istio sent nothing");
    let ignored: Vec<String> = ignored.into_iter().collect();
    fs::write(folder.join("ignored.txt"), ignored.join("\n"))?;
    Ok(seen.len())
}

/// What we make of a resource is the same after a round through our encoding; says what of it is
/// not honoured.
fn keeps_its_meaning(t: ResourceType, any: &Any) -> Result<Vec<String>> {
    let read = |any: &Any| {
        let decoded = codec::decode(t, any, &Context::default())
            .map_err(|reason| anyhow!("not a {t}: {reason}"))?;
        let name = decoded.name;
        let resource = decoded.result.map_err(|e| anyhow!("{t} {name}: {e}"))?;
        anyhow::Ok((resource, decoded.ignored))
    };
    let (resource, ignored) = read(any)?;
    let (again, lost) = read(&codec::encode(&resource))?;
    ensure!(
        again == resource && lost.is_empty(),
        "{resource:?} became {again:?}"
    );
    let named = |i: &codec::Ignored| format!("{t}: {}: {}", i.path, i.note);
    Ok(ignored.iter().map(named).collect())
}
