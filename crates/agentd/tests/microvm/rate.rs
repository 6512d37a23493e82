//! The disk rate of a machine is limited. The payload is root of its file system and bypasses all caches.

use crate::support::script;
use agentd::isolation::{
    Bytes, DiskRate, EndReason, FirecrackerBackend, FirecrackerConfig, IsolationBackend, Limits, Sandbox, SandboxSpec,
    data_directory,
};
use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

/// The rates per second, which are also the burst sizes.
const BYTES: u64 = 8 * MIB;
const REQUESTS: u64 = 200;

/// The amounts that are written and read.
const AMOUNT: u64 = 64 * MIB;
const COUNT: u64 = 1600;

async fn takes(sandbox: &Arc<dyn Sandbox>, text: &str) -> Duration {
    let begin = Instant::now();
    let outcome = sandbox.exec(script(text)).await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code), (EndReason::Exited, Some(0)), "{outcome:?}");
    begin.elapsed()
}

pub async fn disk_rate_of_machine_is_limited() {
    let number = |number| NonZeroU64::new(number).unwrap();
    let rate = |bytes, requests| DiskRate { bytes: number(bytes), requests: number(requests) };
    let limits = Limits { memory: Some(Bytes(96 << 20)), ..Limits::default() };
    let spec = SandboxSpec { limits, ..SandboxSpec::default() };
    let unbounded = DiskRate::default();
    let large = format!("dd if=/dev/zero of=/root/large bs=1M count={} oflag=direct", AMOUNT / MIB);
    let again = "dd if=/root/large of=/dev/null bs=1M iflag=direct".to_owned();
    // A file on the other disk: the root that all machines share.
    let shared = format!(
        "size=$(stat -Lc %s /usr/bin/python3); read=0; while [ $read -lt {AMOUNT} ]; do \
         dd if=/usr/bin/python3 of=/dev/null bs=1M iflag=direct || exit 1; read=$((read + size)); done"
    );
    let small = format!("dd if=/dev/zero of=/root/small bs=4k count={COUNT} oflag=direct");
    for (rate, texts, least) in [
        (rate(BYTES, unbounded.requests.get()), vec![large, again, shared], (AMOUNT - BYTES) / BYTES),
        (rate(unbounded.bytes.get(), REQUESTS), vec![small], (COUNT - REQUESTS) / REQUESTS),
    ] {
        let mut config = FirecrackerConfig::in_data_dir(&data_directory().unwrap());
        config.disk_rate = rate;
        let backend = FirecrackerBackend::new(config).unwrap();
        // A machine that booted, and one that starts from the template of that machine.
        for _ in 0..2 {
            let sandbox = backend.create_sandbox(spec.clone()).await.unwrap();
            for text in &texts {
                let took = takes(&sandbox, text).await;
                // Firecracker's clock differs from that of the test, so allow 10%.
                assert!(
                    took >= Duration::from_secs(least).mul_f32(0.9),
                    "{rate:?}: {text}: took {took:?}, expected at least {least} s"
                );
            }
            sandbox.destroy().await.unwrap();
        }
    }
}
