//! Sandboxes in virtual machines. The agentd program itself runs in the machine as its *agent*. The agent creates one sandbox
//! over the machine's own root, in the same way as the `container` backend, and serves that sandbox over one byte stream, the
//! *transport*.
//!
//! Limits, exits, terminals and files are therefore handled by the same code in every kind of machine and on the host. A backend
//! only adds a [`Machine`]: how to kill, stop and save the virtual machine.
//!
//! - `frame`, `protocol`, `sanitize`: the messages; `transport`, `mux`, `flow`, `stream`: how they are sent and received.
//! - `sync`: copies of granted files, for a machine that has no access to the host's files; `pull`: copies changes back to the
//!   host.
//! - `agent`, `warm_up`, `serve`, `work`, `freezer`, `inside`: the guest's side.
//! - `network`: connections to granted hosts, both sides.
//! - `session`, `host`, `exec`, `frozen`, `sandbox`: the host's side. Everything received from a guest is untrusted.

mod agent;
mod exec;
mod flow;
mod frame;
mod freezer;
mod frozen;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod identity;
mod inside;
mod machine;
mod mux;
mod network;
mod protocol;
mod pull;
mod sandbox;
mod sanitize;
mod serve;
mod session;
mod stream;
mod sync;
mod transport;
mod warm_up;
mod work;

pub use frozen::Frozen;
pub use host::{Guest, ResumedToSave};
pub use identity::MachineIdentity;
pub use machine::{Attach, GuestSpec, Machine};
pub use sandbox::GuestSandbox;
pub use serve::serve;
pub use sync::Copies;
pub use warm_up::warm_up;

use agentd_isolation::Handler;
use agentd_supervisor::role::Role;

/// Role handler of an agent that runs as a separate process with its transport on standard input and output.
pub const HANDLER: Handler = Handler { role: Role::Guest, main: |arguments| agent::main(arguments) };
