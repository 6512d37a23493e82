//! From a spec to the size of a machine, and what of a spec no machine can give.

use agentd_core::{IsolationError, Network, Root, SandboxSpec, Writable};

/// Memory of the guest's kernel and of the agent, beside what the sandbox may take, MiB.
const OWN_MIB: u64 = 96;
/// Memory of a sandbox that has no limit of its own, MiB.
const USUAL_MIB: u64 = 512;
/// The most processors that Firecracker gives (`MAX_SUPPORTED_VCPUS`).
const MOST_VCPUS: u32 = 32;
/// Processors of a sandbox that has no limit of its own, where there are as many.
const USUAL_VCPUS: u32 = 2;
/// The most that can be written to a machine's own disk where a spec does not say. What is not written takes no room.
const USUAL_DISK: u64 = 8 << 30;

/// How big a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Processors.
    pub vcpus: u8,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Bytes of its own disk.
    pub disk: u64,
}

impl Size {
    /// That of a machine for `spec`, on a host with so many processors. `program` is the size of the agent, bytes.
    pub(super) fn of(spec: &SandboxSpec, processors: u32, program: u64) -> Result<Self, IsolationError> {
        let refuse = |what: &str, reason: &str| Err(IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() });
        if spec.network != Network::Off {
            return refuse("network", "a machine of firecracker's has no network card");
        }
        if spec.root != Root::Host {
            return refuse("root", "firecracker's machines have the root that was built for them: agentd vm build --image REF");
        }
        let disk = match &spec.writable {
            Writable::Memory | Writable::Layers => USUAL_DISK,
            Writable::Volume(bytes) => bytes.0,
            Writable::Disk(_) => return refuse("writable", "firecracker keeps no layers on the host: use its snapshots"),
        };
        let wanted = spec.limits.memory.map_or(USUAL_MIB, |bytes| bytes.0.div_ceil(1 << 20));
        let cpu = spec.limits.cpu_quota.map_or(0, |quota| quota.0);
        let vcpus = if cpu > 0 { cpu.div_ceil(1000) } else { USUAL_VCPUS };
        let vcpus = vcpus.min(processors).clamp(1, MOST_VCPUS);
        // The agent is in memory twice: what is executed, and what is executed in the sandbox to attack it.
        let own = OWN_MIB + 2 * program.div_ceil(1 << 20);
        Ok(Self { vcpus: u8::try_from(vcpus).unwrap_or(1), memory_mib: wanted.saturating_add(own), disk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{Bytes, CpuQuota, Limits};

    fn size(memory: Option<u64>, cpu: Option<u32>) -> (u64, u8) {
        let limits = Limits { memory: memory.map(Bytes), cpu_quota: cpu.map(CpuQuota), ..Limits::default() };
        let size = Size::of(&SandboxSpec { limits, ..SandboxSpec::default() }, 4, 9 << 20).unwrap();
        (size.memory_mib, size.vcpus)
    }

    #[test]
    fn a_machine_has_room_for_its_sandbox_and_itself() {
        assert_eq!(size(None, None), (626, 2));
        assert_eq!(size(Some(1 << 20), Some(500)), (115, 1));
        assert_eq!(size(Some((1 << 30) + 1), Some(2500)), (1139, 3));
        assert_eq!(size(None, Some(64_000)), (626, 4));
    }

    #[test]
    fn what_no_machine_can_give_is_refused() {
        for spec in [
            SandboxSpec { network: Network::Host, ..SandboxSpec::default() },
            SandboxSpec { root: Root::Layers(Vec::new()), ..SandboxSpec::default() },
        ] {
            assert!(matches!(Size::of(&spec, 4, 0), Err(IsolationError::Invalid { .. })), "{spec:?}");
        }
    }
}
