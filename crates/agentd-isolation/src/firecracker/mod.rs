//! `firecracker`: hardware isolation by the Firecracker virtual machine monitor.

mod config;

pub use config::FirecrackerConfig;
