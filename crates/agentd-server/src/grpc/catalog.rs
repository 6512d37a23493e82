//! `ListCapabilities` and `GetCapability`.

use super::{failure::failure, page::page};
use agentd_engine::{Capability, CapabilityRegistry};
use agentd_proto::v1;
use tonic::Status;

/// Returns a page of the capabilities.
pub(super) fn list(
    registry: &CapabilityRegistry,
    request: &v1::ListCapabilitiesRequest,
) -> Result<v1::ListCapabilitiesResponse, Status> {
    let mut all: Vec<_> = registry.iter().map(|capability| (capability.id(), capability)).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    let message = |capability| {
        let described = describe(capability);
        let length = described.description.len()
            + described.parameters_schema_json.len()
            + described.result_schema_json.as_ref().map_or(0, String::len);
        (described, length)
    };
    let (capabilities, next_page_token) = page(all.into_iter(), (request.page_size, &request.page_token), message)?;
    Ok(v1::ListCapabilitiesResponse { capabilities, next_page_token })
}

/// Returns one capability.
pub(super) fn get(registry: &CapabilityRegistry, name: &str) -> Result<v1::GetCapabilityResponse, Status> {
    let capability = registry.find(name).map_err(|error| failure("unknown-capability", &error.to_string()))?;
    Ok(v1::GetCapabilityResponse { capability: Some(describe(capability)) })
}

fn describe(capability: &Capability) -> v1::Capability {
    v1::Capability {
        name: capability.id(),
        description: capability.description.clone(),
        annotations: Some(v1::Annotations {
            read_only: capability.annotations.read_only,
            destructive: capability.annotations.destructive,
            idempotent: capability.annotations.idempotent,
            open_world: capability.annotations.open_world,
        }),
        parameters_schema_json: capability.parameters.text().to_string(),
        result_schema_json: capability.result.as_ref().map(|schema| schema.text().to_string()),
        digest: capability.digest.to_string(),
    }
}
