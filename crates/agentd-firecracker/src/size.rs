//! Computes the size of a machine from a spec, and refuses specs that no machine can satisfy.

use agentd_core::{IsolationError, Network, Root, SandboxSpec, Writable};

/// Memory of the guest's kernel and of the agent, in addition to the memory of the sandbox, MiB.
const OWN_MIB: u64 = 96;
/// Memory of a sandbox without a memory limit, MiB.
const DEFAULT_MIB: u64 = 512;
/// The maximum number of vCPUs of a machine (`MAX_SUPPORTED_VCPUS`).
const MAX_VCPUS: u32 = 32;
/// vCPUs of a sandbox without a CPU quota, if the host has that many.
const DEFAULT_VCPUS: u32 = 2;
/// The size of the machine's own disk in bytes, unless the spec sets one. Unused blocks take no space on the host.
const DEFAULT_DISK: u64 = 8 << 30;

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// The number of vCPUs.
    pub vcpus: u8,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The size of the machine's own disk, in bytes.
    pub disk: u64,
}

impl Size {
    /// Computes the size of a machine for `spec`, on a host with `processors` CPUs. `program` is the size of the agent's program
    /// in bytes.
    pub(super) fn for_spec(spec: &SandboxSpec, processors: u32, program: u64) -> Result<Self, IsolationError> {
        let refuse = |what: &str, reason: &str| Err(IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() });
        if spec.network == Network::Host {
            return refuse(
                "network",
                "not supported: firecracker machines do not have the host's network — grant hosts, or use the container backend",
            );
        }
        if spec.root != Root::Host {
            return refuse(
                "root file system",
                "not supported: all machines use the root of `agentd vm build` — use the container backend for an image",
            );
        }
        let disk = match &spec.writable {
            Writable::Memory | Writable::TemporaryLayers => DEFAULT_DISK,
            Writable::Volume(bytes) => bytes.0,
            Writable::KeptLayers(_) => {
                return refuse(
                    "storage of changes",
                    "not supported: the firecracker backend stores no layers on the host — use snapshots, or the container \
                     backend",
                );
            }
        };
        let wanted = spec.limits.memory.map_or(DEFAULT_MIB, |bytes| bytes.0.div_ceil(1 << 20));
        let cpu = spec.limits.cpu_quota.map_or(0, |quota| quota.0);
        let vcpus = if cpu > 0 { cpu.div_ceil(1000) } else { DEFAULT_VCPUS };
        let vcpus = vcpus.min(processors).clamp(1, MAX_VCPUS);
        // The agent's program is in memory twice: the running program, and the copy that the probe executes in the sandbox.
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
        let size = Size::for_spec(&SandboxSpec { limits, ..SandboxSpec::default() }, 4, 9 << 20).unwrap();
        (size.memory_mib, size.vcpus)
    }

    #[test]
    fn machine_size_adds_guest_overhead_to_sandbox_limits() {
        assert_eq!(size(None, None), (626, 2));
        assert_eq!(size(Some(1 << 20), Some(500)), (115, 1));
        assert_eq!(size(Some((1 << 30) + 1), Some(2500)), (1139, 3));
        assert_eq!(size(None, Some(64_000)), (626, 4));
    }

    #[test]
    fn spec_with_the_hosts_network_or_image_root_is_refused() {
        for spec in [
            SandboxSpec { network: Network::Host, ..SandboxSpec::default() },
            SandboxSpec { root: Root::Layers(Vec::new()), ..SandboxSpec::default() },
        ] {
            assert!(matches!(Size::for_spec(&spec, 4, 0), Err(IsolationError::Invalid { .. })), "{spec:?}");
        }
    }
}
