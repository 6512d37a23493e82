//! CPU affinity (`sched_setaffinity(2)`): limits the processors that a sandbox may run on, because programs size their thread
//! pools by the number of allowed processors.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError, CpuQuota};
use rustix::thread::sched_getcpu;

/// Restricts this process and its future children to as many processors as `quota` can use, starting with the current one. The
/// scheduler has just placed this process there, so that processor is among the least busy. A command may change its own
/// affinity; the control group enforces the quota.
///
/// # Errors
/// The errno of `sched_getaffinity(2)` or `sched_setaffinity(2)`.
pub fn limit(quota: CpuQuota) -> Result<(), ControlError> {
    let processors = syscall::scheduling::affinity().during(Control::Cgroup, || "sched_getaffinity".to_owned())?;
    let Some(chosen) = choose(&processors, sched_getcpu(), quota) else { return Ok(()) };
    syscall::scheduling::set_affinity(&chosen).during(Control::Cgroup, || "sched_setaffinity".to_owned())
}

/// Returns as many of `processors` as `quota` needs, starting at `present` and wrapping around, or `None` if it needs all of
/// them.
fn choose(processors: &[usize], present: usize, quota: CpuQuota) -> Option<Vec<usize>> {
    let wanted = usize::try_from(quota.0.div_ceil(1000)).ok().filter(|wanted| (1..processors.len()).contains(wanted))?;
    let first = processors.iter().position(|number| *number == present).unwrap_or(0);
    Some(processors.iter().cycle().skip(first).take(wanted).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_quota_is_rounded_up_to_allowed_processors() {
        for (quota, present, chosen) in [
            (1, 4, Some(vec![4])),
            (1000, 2, Some(vec![2])),
            (1001, 6, Some(vec![6, 2])),
            (2000, 5, Some(vec![2, 4])),
            (2001, 2, None),
            (64_000, 2, None),
        ] {
            assert_eq!(choose(&[2, 4, 6], present, CpuQuota(quota)), chosen, "{quota}");
        }
        assert_eq!(choose(&[], 0, CpuQuota(1000)), None);
    }
}
