//! Tests of the sandbox store through its public interface, for root and for an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod collect;
mod copy;
mod crash;
mod diff;
mod fork;
mod fsck;
mod layers;
mod model;
mod named;
mod overlay;
mod place;
mod snapshot;
mod squash;
mod volumes;
