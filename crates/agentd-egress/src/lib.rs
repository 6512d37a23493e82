//! The gateway outside of the boundary, through which a sandbox reaches the hosts that it was granted. In this crate, a *grant*
//! is a network grant.
//!
//! In the sandbox's network namespace every address is local, so no packet leaves the namespace. Sockets that were created there
//! listen on the granted ports and on port 53; their descriptors are passed to this crate. The kernel's own TCP ends the
//! connections of the sandbox, so the gateway parses no packets and needs no privilege.
//!
//! Data flow of a connection:
//!
//! 1. [`dns`] assigns each granted name a separate address ([`synthetic`]). Other names do not exist.
//! 2. `listen` accepts; the local address of the connection states which name, or which address, the program wanted.
//! 3. [`grant`] decides. `flow` reads what the protocol shows of the name ([`hello`], [`http`]) and compares it.
//! 4. `reach` waits for an [`approval`] if the grant needs one, and finds the destination: `resolve` asks the host's resolver,
//!    [`address`] refuses addresses to which the name may not lead, and `connect` or [`proxy`] connects.
//! 5. `relay` carries the bytes. `datagram` carries UDP. If grants or secrets need the content of TLS, [`inspect`] carries the
//!    requests instead.
//! 6. [`record`] describes the attempt, whether it was granted or refused. `attempts` adds those that no
//!    socket accepts.
//!
//! A sandbox in a virtual machine has the same path: the [`agent`] in the machine holds the listening sockets, and passes what
//! they receive to the gateway's [`guest`] port. The agent does not carry UDP, so grants of UDP are refused there.
//!
//! [`gateway`] runs this in a thread for each sandbox, within the bounds of [`limits`] and of `budget`. All input from the
//! sandbox is hostile.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use agentd_egress::{Gateway, GatewayConfig, GatewaySockets};
//! # let sockets = GatewaySockets::default();
//! let gateway = Gateway::start(sockets, GatewayConfig::new("pypi.example,*.files.example:443".parse()?)).await?;
//! while let Some(record) = gateway.log().next(std::time::Duration::from_secs(1)) {
//!     println!("{record:?}");
//! }
//! # Ok(())
//! # }
//! ```

pub mod address;
pub mod agent;
pub mod approval;
mod attempts;
mod budget;
mod config;
mod connect;
mod datagram;
pub mod dns;
mod error;
mod flow;
#[doc(hidden)]
pub mod fuzz;
mod gate;
pub mod gateway;
pub mod grant;
pub mod guest;
pub mod hello;
pub mod http;
pub mod inspect;
pub mod limits;
mod listen;
pub mod name;
mod pktinfo;
pub mod preset;
mod progress;
pub mod proxy;
mod reach;
pub mod record;
mod relay;
mod resolve;
mod socket;
mod sockets;
pub mod synthetic;

pub use config::{GatewayConfig, GatewaySockets};
pub use error::GatewayError;
pub use gateway::Gateway;
pub use grant::{NetGrant, NetGrants};
pub use inspect::Inspection;
pub use resolve::{HostResolver, Resolve};
