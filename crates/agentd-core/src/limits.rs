//! The limits of a sandbox and of an exec.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes. Parsed from and printed with binary suffixes: `512M` is 512 × 2²⁰.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size in bytes — use a value such as 1048576, 512K, 64M or 1.5G");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            "e" | "eb" | "eib" => 60,
            _ => return Err(bad()),
        };
        scaled(digits, 1 << shift).map(Self).ok_or_else(bad)
    }
}

/// Parses a decimal number such as `1.5` and multiplies it by `unit`, rounding down. Returns `None` for other text and if the
/// result exceeds `u64`.
pub fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let number = whole.parse::<u128>().ok()?.checked_mul(scale)?.checked_add(fraction.parse().ok()?)?;
    u64::try_from(number.checked_mul(unit.into())? / scale).ok()
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
        match units.iter().find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Processor time per wall-clock time, in thousandths of one CPU: `1.5` is 1500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CpuQuota(pub u32);

impl FromStr for CpuQuota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a number of CPUs between 0.01 and 4096 — use a value such as 1.5");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| bad())?;
        let quota = whole.checked_mul(1000).and_then(|w| w.checked_add(thousandths)).ok_or_else(bad)?;
        if (10..=4_096_000).contains(&quota) { Ok(Self(quota)) } else { Err(bad()) }
    }
}

/// Limits of a sandbox and of the commands in it. `None` means that agentd itself sets no limit.
///
/// `memory`, `processes`, `cpu_quota` and `cpu_weight` apply to the sandbox as a whole; a command that requests more of them than
/// its sandbox has is refused. The other limits apply to each command.
///
/// If the sandbox was created with a `cpu_time` limit and a cgroup counts its processor time, the limit of a command covers all
/// processes of the sandbox while that command runs. Otherwise the limit applies to each process of the command separately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time of a command.
    pub wall: Option<Duration>,
    /// Time between `SIGTERM` to the command's process group, at the end of `wall`, and the kill of its whole process tree. When
    /// absent, the tree is killed at the end of `wall`.
    pub grace: Option<Duration>,
    /// Processor time, user and system together.
    pub cpu_time: Option<Duration>,
    /// Memory, page cache and tmpfs included; swap is off.
    pub memory: Option<Bytes>,
    /// Processes and threads alive at once.
    pub processes: Option<u32>,
    /// Open file descriptors of one process (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// Size of each written file (`RLIMIT_FSIZE`).
    pub file_size: Option<Bytes>,
    /// Bytes written to stdout and stderr together.
    pub output: Option<Bytes>,
    /// Share of the machine's processors.
    pub cpu_quota: Option<CpuQuota>,
    /// Relative weight when processors are contended, 1–10000; the default is 100 (`cgroup-v2.rst`, `cpu.weight`).
    pub cpu_weight: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_cpu_quotas_in_usual_notations_are_parsed() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512K", 512 << 10),
            ("64m", 64 << 20),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("1.5G", 3 << 29),
            ("0.5k", 512),
            ("10P", 10 << 50),
            ("2E", 2 << 60),
            ("0.1b", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1.G", ".5G", "1.5.5G", "1X", "1 G", "99999999999999999999", "99999999T", "16E"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for (text, thousandths) in [("1", 1000), ("1.5", 1500), ("0.01", 10), ("4096", 4_096_000), ("2.125", 2125)] {
            assert_eq!(text.parse(), Ok(CpuQuota(thousandths)), "{text}");
        }
        for text in ["", "0", "0.001", "1.", ".5", "1.2345", "-1", "4097", "1e3"] {
            assert!(text.parse::<CpuQuota>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_size_parses_to_the_same_value(bytes in any::<u64>()) {
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn parse_of_any_text_does_not_panic(text in ".{0,24}") {
            text.parse::<Bytes>().ok();
            text.parse::<CpuQuota>().ok();
        }
    }
}
