//! Tests of the image store through its public interface. They run as root and as an ordinary user.
#![allow(clippy::result_large_err, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod collect;
mod crash;
mod damage;
mod fake_server;
mod fixtures;
mod hold;
mod hostile;
mod import;
mod overlay;
mod place;
mod pull;
mod registry;
mod unpack;
